"""A comment of an unprivileged job: what is posted, where, and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.ci import commenting, posting, read_lock, read_targets
from edgenas.ci.checking import Finding, Judged
from edgenas.ci.posting import MAX_BYTES, refused

FINE = f"{posting.MARK}\n## edgenas: no gate failed, 1 target\n"
GH = """#!{python}
import json, sys
from pathlib import Path
here = Path(__file__).parent
arguments = sys.argv[1:]
text = sys.stdin.read() if "--input" in arguments else ""
with (here / "calls").open("a") as file:
    file.write(json.dumps([arguments, text]) + "\\n")
name = arguments[-1].rpartition("/")[2]
print((here / f"{{name}}.json").read_text() if "GET" in arguments else "{{}}")
"""


def test_what_edgenas_writes_is_accepted() -> None:
    """However odd names and reasons are: they are escaped."""
    odd = "a @b <script> [x](y) #1 `c` | d & http://e \\ *f*"
    judged = Judged("phone", (Finding("lock", "failed", odd, odd, odd),))
    view = commenting._View(judged, None, None, None, (odd,))
    for limit in (commenting.COMMENT_BYTES, 2000):
        text = commenting.markdown([view], limit=limit)
        assert refused(text.encode()) == ""
    assert posting.MARK == commenting.MARK
    assert MAX_BYTES == commenting.COMMENT_BYTES


@pytest.mark.parametrize("name", ["gh-200-board", "GH-12", "a-gh-1", "www_board"])
def test_any_target_and_any_device_may_be_told_of(locked: Path, name: str) -> None:
    """Names that read like a reference or a link, in every place where names stand."""
    device = f"{name.lower()}.www.x-litert-int8-t1"
    target = next(t for t in read_targets(Path("targets.toml")) if t.name == "both")
    objectives = tuple(replace(o, device=o.device and device) for o in target.objectives)
    entry = replace(read_lock(Path("edgenas.lock"))["both"], fleet={device: "0" * 12})
    judged = Judged(name, (Finding("latency", "failed", f"x on {device}", device, device),))
    view = commenting._View(judged, replace(target, objectives=objectives), None, entry, (device,))
    text = commenting.markdown([view], limit=commenting.COMMENT_BYTES)
    assert refused(text.encode()) == ""
    assert text.replace("\u200b", "").count(f"`{name}`") == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "does not begin"),
        (f"{FINE}<img src=x>", "HTML"),
        (f"{FINE}<!-- x -->", "HTML"),
        (f"{FINE}[x](//example.com)", "link"),
        (f"{FINE}![x][y]", "link"),
        (f"{FINE}see HTTPS://example.com", "link"),
        (f"{FINE}www.example.com", "link"),
        (f"{FINE}@team", "name"),
        (f"{FINE}a\\*&#64;team", "name"),
        (f"{FINE}\\\\](x)", "link"),
        (f"{FINE}closes #12", "reference"),
        (f"{FINE}#12", "reference"),
        (f"{FINE}`gh-12`", "reference"),
        (f"{FINE}&lt;", "entity"),
        (f"{FINE}\u202egnp", "control"),
        (f"{FINE}\x1b[0m", "control"),
        (FINE + "x" * MAX_BYTES, "bytes"),
    ],
)
def test_anything_else_is_refused(text: str, why: str) -> None:
    assert why in refused(text.encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    assert "UTF-8" in refused(FINE.encode() + b"\xff")


class Hub:
    """A `gh` that answers from files and writes down what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        gh = folder / "gh"
        gh.write_text(GH.format(python=sys.executable), "utf-8")
        gh.chmod(0o700)
        self.answer("pulls", [{"number": 7, "head": {"sha": "aa"}}])
        self.answer("comments", [[]])
        (folder / "comment.md").write_text(FINE, "utf-8")

    def answer(self, name: str, value: object) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(value), "utf-8")

    def post(self, code: int = 0, **event: str) -> str:
        wanted = {
            "REPOSITORY": "team/models", "HEAD_OWNER": "stranger", "HEAD_BRANCH": "$(touch canary)",
            "HEAD_SHA": "aa", **event,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-I", posting.__file__, self.folder / "comment.md"],
            env={"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}", **wanted},
            cwd=self.folder, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert not (self.folder / "canary").exists()
        return done.stdout + done.stderr

    @property
    def written(self) -> list[tuple[str, str, str]]:
        """Method, path and body of what was not only read."""
        told = self.folder / "calls"
        lines = told.read_text("utf-8").splitlines() if told.is_file() else []
        calls = [json.loads(line) for line in lines]
        return [
            (a[a.index("-X") + 1], a[-1], json.loads(text)["body"]) for a, text in calls if text
        ]


def test_a_first_comment_is_new_and_a_second_replaces_it(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert hub.post() == "commented on pull request 7\n"
    assert hub.written == [("POST", "repos/team/models/issues/7/comments", FINE)]
    others = [
        {"id": 1, "user": {"login": "stranger"}, "body": FINE},
        {"id": 2, "user": {"login": posting.AUTHOR}, "body": "something else"},
        {"id": 3, "user": {"login": posting.AUTHOR}, "body": FINE},
    ]
    hub.answer("comments", [others[:1], others[1:]])
    assert hub.post() == "replaced the comment on pull request 7\n"
    assert hub.written[1:] == [("PATCH", "repos/team/models/issues/comments/3", FINE)]


def test_what_is_not_meant_is_not_posted(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert "no open pull request has this head" in hub.post(1, HEAD_SHA="bb")
    (tmp_path / "comment.md").write_text(f"{FINE}@everyone", "utf-8")
    assert "is not posted: it has somebody's name in it" in hub.post(1)
    (tmp_path / "comment.md").unlink()
    (tmp_path / "comment.md").symlink_to(tmp_path / "pulls.json")
    assert "is no file" in hub.post(1)
    assert hub.written == []
