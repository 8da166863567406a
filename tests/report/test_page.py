"""The HTML page: complete, escaped, self-contained, and an origin beside every latency."""

import html as htmllib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.report import RunView, document, front_svg, html, markdown
from edgenas.report.charts import pareto_figure
from edgenas.report.model import (
    Change,
    Cut,
    DeviceLatency,
    Estimate,
    Evaluated,
    ExportedFile,
    ExportedModel,
    Gains,
    Importance,
    Table,
    Unit,
    UnitTime,
)
from edgenas.report.numbers import duration
from edgenas.report.page import roles, warnings
from edgenas.spaces.ops import conv

EVIL = "<script>alert('x')</script>\"'&|`</title>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes; fails on tags that do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


@pytest.fixture(scope="module")
def text(view: RunView) -> str:
    return html(view)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def figures(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S)
    assert found
    return dict(json.loads(found[1]))


def test_the_page_loads_nothing_from_elsewhere(page: Page, text: str) -> None:
    assert not [a for tag, a in page.elements if "src" in a]
    assert not list(page.all("link"))
    links = [a["href"] or "" for a in page.all("a")]
    assert links
    assert not [link for link in links if "//" in link or ":" in link]
    assert "@import" not in text.split("</style>")[0]
    policies = [a["content"] or "" for a in page.all("meta") if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'")
    assert "http" not in policies[0]


def test_every_link_leads_somewhere(page: Page, run_folder: Path) -> None:
    places = {a["id"] for _, a in page.elements if "id" in a}
    for attributes in page.all("a"):
        link = attributes["href"] or ""
        if link.startswith("#"):
            assert link[1:] in places, link
        else:
            assert (run_folder / link).is_file()
            assert "download" in attributes
    downloads = [a for a in page.all("a") if "download" in a]
    assert len(downloads) == 15


def test_every_figure_has_its_place_and_is_one_that_plotly_takes(page: Page, text: str) -> None:
    import plotly.graph_objects as go

    found = figures(text)
    places = {a["id"] for a in page.all("div") if a.get("class") == "plot"}
    assert set(found) == places
    assert sum(name.startswith("pareto-") for name in found) == 3
    assert sum(name.startswith("units-") for name in found) == 6
    assert "hypervolume" in found
    colours = set(re.findall(r"var\((--[a-z0-9]+)\)", json.dumps(found)))
    defined = re.findall(r"(--[a-z0-9]+):", text.split("</style>")[0])
    assert colours <= set(defined)
    for figure in found.values():
        plain = json.loads(re.sub(r"var\(--[a-z0-9]+\)", "#123456", json.dumps(figure)))
        go.Figure(plain)  # raises ValueError for an unknown property or value


def test_all_candidates_are_drawn_once_a_pair(view: RunView) -> None:
    x, y = view.pairs()[0]
    traces = {t["name"].split(" (")[0]: t for t in pareto_figure(view, x, y)["data"]}
    on_front = {c.digest for c in view.front}
    assert set(traces["front"]["customdata"]) == on_front
    assert set(traces["exported"]["customdata"]) == view.exported
    others = [t for t in view.trials if t.digest not in on_front]
    drawn = traces["dominated"]["customdata"] + traces["outside a bound"]["customdata"]
    assert sorted(drawn) == sorted(t.digest for t in others)
    assert set(traces["outside a bound"]["customdata"]) == {
        t.digest for t in others if not t.feasible
    }
    best = max(view.front, key=lambda c: c.metrics["top1"].value)
    assert max(traces["front"]["y"]) == pytest.approx(best.metrics["top1"].value * 100)
    hover = traces["front"]["text"][0]
    assert view.front[0].digest in hover
    assert "predicted" in hover
    assert "supernet" in hover
    assert view.front[0].architecture.split()[-1] in hover


def test_bounds_are_lines_on_the_axis_of_their_metric(view: RunView) -> None:
    by_pair = [pareto_figure(view, x, y)["layout"] for x, y in view.pairs()]
    lines = [[(s["xref"], s["x0"], s["x1"]) for s in layout["shapes"]] for layout in by_pair]
    assert lines == [[("x", 2.0, 2.0)], [], [("x", 2.0, 2.0)]]
    goals = (Objective.parse("max top1 >= 0.93"), Objective.parse("min latency_ms"))
    (x, y) = RunView("r", goals, ()).pairs()[0]
    (shape,) = pareto_figure(view, x, y)["layout"]["shapes"]
    assert (shape["yref"], shape["y0"], shape["xref"]) == ("y", 93.0, "x domain")


def test_a_cost_of_many_sizes_has_a_logarithmic_axis(view: RunView) -> None:
    x, y = view.pairs()[0]
    assert x.bound is not None
    assert "type" not in pareto_figure(view, x, y)["layout"]["xaxis"]
    slow = replace(view.trials[0], metrics={**view.trials[0].metrics, x.name: Metric(99.0, "a")})
    layout = pareto_figure(replace(view, trials=(*view.trials, slow)), x, y)["layout"]
    assert layout["xaxis"]["type"] == "log"
    assert "type" not in layout["yaxis"]
    (shape,), (note,) = layout["shapes"], layout["annotations"]
    assert shape["x0"] == x.bound
    assert 10 ** note["x"] == pytest.approx(x.bound)


def test_every_latency_in_the_page_names_its_origin(text: str) -> None:
    body = text.split("<script")[0]
    body = re.sub(r"<title>.*?</title>|<style>.*?</style>", "", body, flags=re.S)
    cells = re.findall(r"<td[^>]*>(?:(?!</td>).)*? ms(?:(?!</td>).)*</td>", body, re.S)
    cells += re.findall(r"<dd>(?:(?!</dd>).)*? ms(?:(?!</dd>).)*</dd>", body, re.S)
    cells += re.findall(r"<figcaption>testchip.*?</figcaption>", body, re.S)
    cells += re.findall(r"Top-1 accuracy [\d.]+ %.*?</p>", body, re.S)
    assert len(cells) > 20
    words = ("predicted", "measured", "calibrated", "estimated", "extrapolated", "analytic")
    assert not [cell for cell in cells if not any(word in cell for word in words)]


def test_rough_stands_beside_the_rough_table_only(view: RunView, text: str) -> None:
    assert text.count('<span class="tag rough">rough</span>') == 3 + 3 + 1  # files, charts, table
    fine = replace(view, tables=tuple(replace(t, error_median=0.01) for t in view.tables))
    assert '<span class="tag rough">' not in html(fine)
    assert "rough" not in " ".join(warnings(fine))
    swapped = replace(view, tables=view.tables[::-1])  # now the bare latency rests on it
    assert "predicted, rough" in json.dumps(figures(html(swapped)))


def hostile() -> RunView:
    goals = (Objective.parse("max top1"), Objective.parse("min latency_ms"))
    metrics = {"top1": Metric(0.9, EVIL), "latency_ms": Metric(1.0, EVIL), EVIL: Metric(2.0, EVIL)}
    file = ExportedFile(EVIL, f"models/{EVIL}/x y.onnx", EVIL, 10, False, problems=(EVIL,))
    outside = ExportedFile("onnx", "../../etc/passwd", "0", 1, None)
    change = Change(EVIL, EVIL, EVIL, EVIL, metrics, (EVIL,))
    model = ExportedModel(
        EVIL,
        EVIL,
        metrics,
        (file, outside),
        units=(Unit(EVIL, conv(1, 8, 8, 8, 3), (-1,)),),
        latencies=(DeviceLatency(EVIL, EVIL, 1.0, 0.9, 1.1, (UnitTime(1.0, EVIL),)),),
        why=EVIL,
        failures=((EVIL, EVIL),),
        changes=(change,),
    )
    return RunView(
        name=EVIL,
        goals=goals,
        front=(Evaluated(EVIL, EVIL, metrics),),
        trials=(Evaluated(EVIL, "b", metrics, 1, feasible=False),),
        models=(model,),
        tables=(Table(EVIL, EVIL, EVIL, EVIL, 0.5),),
        hypervolume=((0, 0.0), (1, 0.0)),
        provenance=((EVIL, ((EVIL, EVIL),)),),
        notes=(EVIL,),
        version=EVIL,
        importances=(
            Importance(EVIL, 60, 0.25, ((EVIL, 0.7), ("b", 0.3)), 0.4),
            Importance("top1", 3, 0.0, (), 0.0, EVIL),
        ),
        estimates=(Estimate(EVIL, 60, 0.1), Estimate("top1", 3, 0.0, EVIL)),
        cuts=(Cut(goals[1], 9, 3, 1, 400, 40, 4),),
        stopped_because=EVIL,
        gains=Gains(20, 1, 0.2),
    )


def test_nothing_from_files_is_read_as_markup(tmp_path: Path) -> None:
    view = hostile()
    text = html(view)
    page = Page(text)
    assert len(list(page.all("script"))) == 3, "figures, plotly, the page's own"
    assert "alert('x')</script>" not in text
    for figure in figures(text).values():
        for trace in figure["data"]:
            for shown in [
                trace["name"],
                *trace.get("text", []),
                *trace.get("hovertext", []),
                *(y for y in trace.get("y", []) if isinstance(y, str)),
            ]:
                assert "<script" not in shown
                assert set(re.findall(r"</?(\w+)", shown)) <= {"b", "br"}
    links = [a["href"] or "" for a in page.all("a")]
    assert not [link for link in links if "passwd" in link]
    assert "x%20y.onnx" in next(a["href"] or "" for a in page.all("a") if "download" in a)
    ET.fromstring(front_svg(view))
    assert "<script" not in front_svg(view)
    assert not re.search(r"(?<!\\)<(?!br)", markdown(view))
    assert document(view)["run"] == EVIL


def test_a_view_with_nothing_in_it_still_renders() -> None:
    bare = RunView("empty", (Objective.parse("max top1"),), ())
    page = html(bare)
    Page(page)
    assert "No model was exported" in page
    assert "None was recorded" in page
    assert figures(page) == {}


def test_problems_come_first(view: RunView) -> None:
    model = view.models[0]
    bad = replace(model.files[0], verified=False, problems=("top1_drop: 0.03 > 0.01",))
    few = replace(model.files[1], verified=None, problems=("top1_drop: 120 images",))
    changed = replace(
        model, files=(bad, few, *model.files[2:]), failures=(("tflite", "no such module"),)
    )
    told = warnings(replace(view, models=(changed,)))
    assert f"{bad.path} failed verification: top1_drop: 0.03 > 0.01." in told
    assert any("1 of 5 files" in line and "top1_drop: 120 images" in line for line in told)
    assert f"{model.digest}: tflite was not written: no such module" in told
    text = html(replace(view, models=(changed,)))
    assert '<span class="tag no">failed</span>' in text
    assert '<span class="tag open">inconclusive</span>' in text
    assert "13 of 15" not in text
    assert "3 of 5" in text


def test_roles_name_the_best_of_the_exported(view: RunView) -> None:
    accurate = max(view.models, key=lambda m: m.metrics["top1"].value)
    small = min(view.models, key=lambda m: m.metrics["size_bytes"].value)
    n = len(view.models)
    assert f"highest top-1 accuracy of these {n}" in roles(view, accurate)
    assert f"lowest size of these {n}" in roles(view, small)
    assert roles(replace(view, models=view.models[:1]), view.models[0]) == ["knee"]


def test_the_same_view_gives_the_same_page(view: RunView, text: str) -> None:
    assert html(view) == text


def test_the_page_states_seed_data_and_versions(text: str) -> None:
    body = htmllib.unescape(re.sub(r"<[^>]+>", " ", text.split("<script")[0]))
    for fact in (
        "55000",
        "1f0e9d8c7b6a",
        "Invented CPU",
        "2.13.0",
        "26.0 %",
        "nsga2",
        "calibrated",
    ):
        assert fact in body
    assert re.search(r"virtualised\s+yes", body)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
