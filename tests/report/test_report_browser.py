"""The page in a real browser: charts are drawn, nothing is complained of, nothing overflows."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.report import RunView, compare, comparison_html, html, load_run
from edgenas.report.picture import front_svg

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")

# says in the page's own tree what a test wants to know; runs after the charts are drawn
PROBE = """<script>
const wait = setInterval(() => {
  const root = document.documentElement;
  if (!root.dataset.plots) return;
  clearInterval(wait);
  root.dataset.overflow = String(root.scrollWidth - root.clientWidth);
  root.dataset.titles = [...document.querySelectorAll("[data-title]")]
    .map((button) => button.dataset.title).join(";");
  root.dataset.small = String([...document.querySelectorAll("main *")].filter((e) =>
    e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 11).length);
}, 50);
</script></body>"""


def dump(page: Path, profile: Path, *, width: int) -> tuple[str, list[str]]:
    """The page's tree after its scripts ran, and what the console said."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={width},1200",
            "--virtual-time-budget=10000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.long
@pytest.mark.parametrize("width", [1400, pytest.param(520, marks=pytest.mark.slow)])
def test_the_page_draws_its_charts(explained: RunView, tmp_path: Path, width: int) -> None:
    view = replace(explained, models=explained.models[:1])
    page = tmp_path / "report.html"
    page.write_text(html(view).replace("</body>", PROBE), "utf-8")
    tree, console = dump(page, tmp_path / "profile", width=width)
    assert console == []
    drawn = re.search(r'<html[^>]* data-plots="(\d+)"', tree)
    assert drawn
    n = 3 + 1 + 2 + 1 + 1  # pairs, course, units on two devices, importance, changes
    assert int(drawn[1]) == n
    assert len(re.findall(r'<div class="plot js-plotly-plot', tree)) == n
    assert tree.count('class="main-svg"') >= n
    assert len(re.findall(r'class="point[ "]', tree)) > 3 * len(view.trials)
    assert 'data-overflow="0"' in tree, "the page is wider than the window"
    assert 'data-small="0"' in tree, "a text is smaller than 11 pixels"
    titles = re.search(r'data-titles="([^"]*)"', tree)
    assert titles
    assert ("Pan" in titles[1]) == (width > 600)
    assert not re.search("share|cloud|chart studio", titles[1], re.I), "data would leave"


@pytest.mark.long
def test_a_comparison_draws_its_charts(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    found = compare(*map(load_run, two_runs))
    page.write_text(comparison_html(found).replace("</body>", PROBE), "utf-8")
    tree, console = dump(page, tmp_path / "profile", width=1400)
    assert console == []
    assert re.search(r'<html[^>]* data-plots="3"', tree)
    assert len(re.findall(r'class="point[ "]', tree)) >= 3 * len(found.passages)
    assert 'data-overflow="0"' in tree, "the page is wider than the window"


def test_the_picture_opens_by_itself(view: RunView, tmp_path: Path) -> None:
    picture = tmp_path / "front.svg"
    picture.write_text(front_svg(view), "utf-8")
    tree, console = dump(picture, tmp_path / "profile", width=900)
    assert console == []
    assert "top-1 accuracy" in tree
