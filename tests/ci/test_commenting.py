"""The comment: within GitHub's limits however many targets, nothing in it taken for Markdown."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.ci import comment, posting, read_lock
from edgenas.ci.checking import Finding, Judged
from edgenas.ci.commenting import COMMENT_BYTES, MARK, SUMMARY_BYTES, _view, markdown, picture
from edgenas.ci.lock import Network
from edgenas.cli.main import main
from edgenas.errors import ArtifactError
from edgenas.spaces.mobile import default_space
from tests.ci.conftest import change, told

GITHUB_CHARACTERS = 65_536


@pytest.mark.long
def test_what_changed_and_why(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("base.lock").write_bytes(Path("edgenas.lock").read_bytes())
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.024")
    assert main(["ci", "run", "--quiet", "--target", "board"]) == 0
    document = told(capfd, "comment", "--base", "base.lock", "--out", "told")
    assert document["schema"] == "edgenas.ci-comment/1"
    text = document["comment"]
    assert text == Path("told/comment.md").read_text("utf-8")
    assert text.startswith(MARK)
    assert "&lt;= 0.028 became &lt;= 0.024" in text.replace("&#60;", "&lt;")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("|")[1].strip() for row in rows[:2]] == ["`board`", "`both`"]
    before, now = (read_lock(Path(p))["board"].front for p in ("base.lock", "edgenas.lock"))
    for digest in {*before, *now}:
        state = "kept" if digest in before and digest in now else "new" if digest in now else "gone"
        assert re.search(rf"\| `{digest}` \| {state}", text)
    for name in ("board", "both"):
        drawn = ET.parse(f"told/{name}.svg").getroot()
        assert len(drawn.findall(".//{http://www.w3.org/2000/svg}circle")) >= len(now)
    assert main(["ci", "comment"]) == 0
    assert capfd.readouterr().out.startswith(MARK)


def test_a_committed_lock_that_is_out_of_date_is_told_first(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = Path("committed.json")
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.024")
    document = told(capfd, "check", "--gate", "lock", code=5)
    assert {gate["gate"] for target in document["targets"] for gate in target["gates"]} == {"lock"}
    said.write_text(json.dumps(document), "utf-8")
    text = told(capfd, "comment", "--committed", "committed.json")["comment"]
    assert "\n**The committed edgenas.lock is out of date.** `edgenas ci run` makes a new" in text
    (line,) = re.findall(r"(?m)^- out of date: board: \w+ is stale: bound .*", text)
    assert text.index(line) < text.index("| target |")
    change("targets.toml", "latency_ms <= 0.024", "latency_ms <= 0.028")  # as after a run
    text = comment(committed=said).comment
    assert "out of date.** Commit the one in the job's artefact." in text
    assert posting.refused(text.encode()) == ""
    said.write_text(json.dumps(told(capfd, "check", "--gate", "lock")), "utf-8")
    assert "out of date" not in comment(committed=said).comment
    said.write_text('{"schema": "edgenas.ci-check/1", "targets": [{}]}', "utf-8")
    with pytest.raises(ArtifactError, match=r"committed\.json: damaged"):
        comment(committed=said)
    assert main(["ci", "check", "--gate", "locks"]) == 2


def test_the_worst_stands_first(locked: Path) -> None:
    model = next(Path("runs/both/models").glob("*/model.onnx"))
    model.unlink()
    found = comment()
    assert found.exit_code == 5
    assert "## edgenas: gates failed for 1 of 2 targets" in found.comment
    assert found.comment.index("### `both`: failed") < found.comment.index("### `board`")


@pytest.mark.parametrize("n", [30, 2000])
def test_many_targets_stay_under_the_limits(locked: Path, n: int) -> None:
    """Each with a large front, a long list of changes and of failures."""
    import random

    from edgenas.ci import read_targets

    target = read_targets(Path("targets.toml"))[0]
    entry = read_lock(Path("edgenas.lock"))["board"]
    space, rng = default_space(image_size=28, in_channels=1, n_classes=10), random.Random(0)
    metrics = next(iter(entry.front.values())).metrics
    archs = [space.sample(rng) for _ in range(60)]
    front = {arch.digest: Network(str(arch), metrics) for arch in archs}
    entry = replace(entry, front=front)
    before = replace(entry, facts={}, front=dict(list(front.items())[30:]))
    findings = tuple(
        Finding("accuracy", "failed", f"models/x/{i}", "figure |@you* " * 40, "limit")
        for i in range(60)
    )
    judged = [Judged(f"target-{i:04}", findings if i % 2 else ()) for i in range(n)]
    views = [_view(j, target, before, entry) for j in judged]
    for limit in (COMMENT_BYTES, SUMMARY_BYTES):
        text = markdown(views, limit=limit)
        assert len(text.encode()) <= limit
        assert "target-0000" in text
        told_of = len(re.findall("^### ", text, re.MULTILINE))
        left = re.search(r"for want of room: ([\d,]+) target", text)
        assert told_of + (int(left[1].replace(",", "")) if left else 0) == n
    assert COMMENT_BYTES < GITHUB_CHARACTERS


def test_nothing_is_taken_for_markdown(locked: Path) -> None:
    from edgenas.ci import read_targets

    nasty = "a|b <img src=x> @team `code` *bold* [x](http://y) #1 \\ \n| c |"
    judged = Judged("board", (Finding("lock", "failed", nasty, nasty, nasty),))
    target = read_targets(Path("targets.toml"))[0]
    view = _view(judged, target, None, read_lock(Path("edgenas.lock"))["board"])
    text = markdown([view], limit=COMMENT_BYTES)
    assert not re.search(r"<img|@team|(?<!\\)`code|(?<!\\)\*bold|(?<!\\)\[x\]|(?<!&)#1", text)
    row = next(line for line in text.splitlines() if line.startswith("| `board`"))
    assert row.count("|") == 7


def test_a_target_without_two_axes_has_no_picture_to_draw(locked: Path) -> None:
    assert picture(None, None, None).startswith("<svg")
