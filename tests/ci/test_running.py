"""`ci run`: only what is stale, from what the last run knows; whole or not at all."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import check_manifest
from edgenas.ci import read_lock, running
from edgenas.cli.main import main
from edgenas.pareto import ParetoFront, hypervolume
from tests.ci.conftest import BOARD, OTHER, change, planned, remeasure, told, write_other_supernet


def evaluations() -> int:
    """Accuracies that were evaluated so far, by any search."""
    connection = sqlite3.connect("runs/evaluations.db")
    try:
        return int(connection.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])
    finally:
        connection.close()


def ran(capfd: pytest.CaptureFixture[str], name: str, *argv: str) -> dict[str, Any]:
    document = told(capfd, "run", "--quiet", "--target", name, *argv)
    assert document["schema"] == "edgenas.ci-run/1"
    (found,) = document["targets"]
    assert planned(name).state == "fresh"
    assert main(["ci", "check", "--target", name]) == 0
    run = Path("runs") / read_lock(Path("edgenas.lock"))[name].run
    check_manifest(run)
    assert (Path("runs") / name).resolve() == run.resolve()
    assert [p.name for p in Path("runs").glob(f"{name}-*")] == [run.name], "others are deleted"
    return dict(found)


def volume(folder: Path) -> float:
    front = ParetoFront.read(folder / "front.json")
    return hypervolume(front.points, front.directions, [0.0, 0.05])


def test_another_lock_is_read_and_written_in_place_of_the_one_beside_the_targets(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    beside, other = locked / "edgenas.lock", locked / "other.lock"
    beside.rename(other)
    beside.write_text("damaged", "utf-8")
    option = ("--lock", "other.lock")
    assert {t["state"] for t in told(capfd, "plan", *option)["targets"]} == {"fresh"}
    assert told(capfd, "check", *option)["passed"]
    assert told(capfd, "validate", *option)["locked"] == ["board", "both"]
    assert told(capfd, "comment", *option)["gates_exit_code"] == 0
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.02799")
    before = read_lock(other)["board"]
    told(capfd, "run", "--quiet", "--target", "board", *option)
    assert read_lock(other)["board"].facts != before.facts
    assert beside.read_text("utf-8") == "damaged"


@pytest.mark.long
def test_what_is_locked_is_deterministic_and_names_no_machine(locked: Path) -> None:
    lock = (locked / "edgenas.lock").read_bytes()
    assert str(locked).encode() not in lock
    told = [line for line in lock.decode().splitlines() if not line.startswith("#")]
    allowed = ("models/", "mobile/1", "edgenas.lock/1")
    assert not [line for line in told if "/" in line and not any(a in line for a in allowed)]
    before = read_lock(Path("edgenas.lock"))["board"]
    shutil.rmtree("runs")
    Path("edgenas.lock").unlink()
    assert main(["ci", "run", "--target", "board", "--quiet"]) == 0
    assert read_lock(Path("edgenas.lock")) == {"board": before}


def test_a_device_that_cannot_be_measured_ends_with_4_and_the_lock_stays(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = Path("edgenas.lock").read_bytes()
    change("targets.toml", "[target.board]", "[target.board]\nmeasure = true")
    assert "search" in planned("board").stale
    assert main(["ci", "run", "--target", "board", "--quiet"]) == 4
    assert f"{BOARD} is not this machine" in capfd.readouterr().out
    assert Path("edgenas.lock").read_bytes() == before


def test_nothing_stale_runs_nothing(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*.json")}
    lock = Path("edgenas.lock").stat().st_mtime_ns
    document = told(capfd, "run", "--quiet")
    assert [t["state"] for t in document["targets"]] == ["fresh", "fresh"]
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*.json")} == before
    assert Path("edgenas.lock").stat().st_mtime_ns == lock


@pytest.mark.long
def test_a_tighter_bound_is_searched_on_from_what_is_known(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = evaluations()
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.024")
    made = ran(capfd, "board")
    assert made["trials"] == 2, "a tenth of the first search's 24"
    assert evaluations() - known <= 2
    front = read_lock(Path("edgenas.lock"))["board"].front
    assert front
    assert all(n.metrics[f"latency_ms@{BOARD}"] <= 0.024 for n in front.values())
    warm = volume(Path("runs/board"))
    shutil.rmtree("runs")
    Path("edgenas.lock").unlink()
    assert ran(capfd, "board")["trials"] == 24
    assert warm >= 0.98 * volume(Path("runs/board")), "no worse than from the start"


def test_a_front_that_meets_the_new_bound_is_chosen_from_without_a_trial(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = evaluations()
    before = read_lock(Path("edgenas.lock"))["board"]
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.02799")
    made = ran(capfd, "board")
    assert (made["trials"], made["evaluated"], evaluations()) == (0, 0, known)
    after = read_lock(Path("edgenas.lock"))["board"]
    assert after.front == before.front
    assert after.files == before.files, "the same bytes, taken over"


def test_all_the_work_of_a_target_is_timed_not_its_search_alone(
    locked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = running.search

    def slow(*arguments: Any, **rest: Any) -> object:
        time.sleep(1)  # as exporting and verifying take
        return search(*arguments, **rest)

    monkeypatch.setattr(running, "search", slow)
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.02799")
    made = ran(capfd, "board", "--jobs", "1")
    searched = json.loads(Path("runs/board/result.json").read_text("utf-8"))["elapsed_s"]
    assert made["elapsed_s"] >= 1 + searched


def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Filled from here on with what is exported: a network's digest and the formats."""
    from edgenas.export import certified

    found: list[tuple[str, tuple[str, ...]]] = []
    export = certified.export_networks

    def counted(requests: Any, *, formats: Any, **rest: Any) -> Any:
        found.extend((request.digest, tuple(formats)) for request in requests)
        return export(requests, formats=formats, **rest)

    monkeypatch.setattr(certified, "export_networks", counted)
    return found


@pytest.mark.long
def test_a_format_more_is_written_for_the_same_front(
    locked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_lock(Path("edgenas.lock"))["board"]
    exported = written(monkeypatch)
    change("targets.toml", "bounds =", 'formats = ["onnx-int8", "onnx"]\nbounds =')
    made = ran(capfd, "board")
    assert made["trials"] == 0
    assert exported == [(digest, ("onnx-int8",)) for digest in before.exported]
    after = read_lock(Path("edgenas.lock"))["board"]
    assert after.front == before.front
    assert {file.format for file in after.files.values()} == {"onnx", "onnx-int8"}
    for path, file in before.files.items():
        assert after.files[path] == file
    (certificate,) = Path("runs/board/models").glob("*/export.json")
    models = json.loads(certificate.read_text("utf-8"))["models"]
    assert [model["format"] for model in models] == ["onnx-int8", "onnx"], "in the file's order"
    exported.clear()
    change("targets.toml", '"onnx-int8", "onnx"', '"onnx-int8"')
    ran(capfd, "board")
    assert exported == []
    names = {path.name for path in certificate.parent.glob("model*")}
    assert names == {"model.int8.onnx"}, "what is no longer wanted is not left lying there"


@pytest.mark.long
def test_a_format_written_by_other_versions_of_its_tools_is_written_again(
    locked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgenas.export import jobs

    versions = jobs.tool_versions
    exported = written(monkeypatch)
    monkeypatch.setattr(jobs, "tool_versions", lambda name: {**versions(name), "onnx": "999"})
    change("targets.toml", "bounds =", 'formats = ["onnx", "onnx-int8"]\nbounds =')
    ran(capfd, "board")
    assert [formats for _, formats in exported] == [("onnx", "onnx-int8")]


@pytest.mark.long
def test_a_table_that_leaves_the_choice_as_it_was_writes_no_file(
    locked: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_lock(Path("edgenas.lock"))["board"]
    exported = written(monkeypatch)
    remeasure(1 / 1.2)
    ran(capfd, "board")
    after = read_lock(Path("edgenas.lock"))["board"]
    assert after.facts[f"table {BOARD}"] != before.facts[f"table {BOARD}"]
    assert [d for d, _ in exported] == [d for d in after.exported if d not in before.exported]
    assert set(before.exported) & set(after.exported), "else nothing was shown"
    for path, file in after.files.items():
        assert before.files.get(path, file) == file
    for digest in after.exported:
        folder = Path("runs/board/models") / digest
        certificate = json.loads((folder / "export.json").read_text("utf-8"))
        assert certificate["parents"][f"table {BOARD}"] == after.digests[f"table {BOARD}"]
    shutil.rmtree("runs")
    ran(capfd, "board")
    assert read_lock(Path("edgenas.lock"))["board"].files == after.files, "of a table no byte"


def test_another_table_scores_known_accuracies_anew(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = evaluations()
    before = read_lock(Path("edgenas.lock"))["board"].front
    remeasure(0.7)
    made = ran(capfd, "board")
    assert made["trials"] == 2
    assert evaluations() - known <= 2
    after = read_lock(Path("edgenas.lock"))["board"].front
    shared = set(before) & set(after)
    assert shared
    name = f"latency_ms@{BOARD}"
    for digest in shared:
        assert after[digest].metrics[name] == pytest.approx(0.7 * before[digest].metrics[name])
        assert after[digest].metrics["top1"] == before[digest].metrics["top1"]


@pytest.mark.long
def test_another_supernet_evaluates_the_front_first(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    front = read_lock(Path("edgenas.lock"))["board"].front
    write_other_supernet(Path(), seed=1)
    made = ran(capfd, "board")
    assert made["trials"] == 12, "half of the first search's"
    trials = json.loads(Path("runs/board/trials.json").read_text("utf-8"))["trials"]
    first = {trial["digest"] for trial in trials[: len(front)]}
    assert first == set(front)


@pytest.mark.slow
def test_a_device_more_and_a_device_less(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    known = evaluations()
    change("targets.toml", "[target.board]", f'[target.board]\ndevices = ["{BOARD}", "{OTHER}"]')
    assert ran(capfd, "board")["trials"] == 2
    assert evaluations() - known <= 2
    change("targets.toml", f'[target.board]\ndevices = ["{BOARD}", "{OTHER}"]', "[target.board]")
    change("targets.toml", f'devices = ["{BOARD}", "{OTHER}"]', f'devices = ["{BOARD}"]')
    assert ran(capfd, "both")["trials"] == 0


@pytest.mark.long
def test_what_the_lock_says_is_made_again_where_no_run_is_left(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a fresh clone: nothing is searched, since the front stands in the lock."""
    before = Path("edgenas.lock").read_bytes()
    shutil.copytree("runs", "elsewhere", symlinks=True)
    shutil.rmtree("runs")
    made = ran(capfd, "board")
    assert [entry["stage"] for entry in made["stale"]] == ["export", "verify"]
    assert made["trials"] == 0
    assert Path("edgenas.lock").read_bytes() == before
    model = next(Path("runs/board/models").glob("*/model.onnx"))
    model.write_bytes(b"something else")
    ran(capfd, "board")
    assert Path("edgenas.lock").read_bytes() == before, "nor does making it again once more"
    shutil.rmtree("runs")
    Path("elsewhere").rename("runs")
    assert planned().state == "fresh", "nothing to do where the first run is"


@pytest.mark.parametrize("name", ["trials.json", "run.toml"])
def test_a_damaged_last_run_leaves_the_front_in_the_lock(
    locked: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    before = read_lock(Path("edgenas.lock"))["board"]
    (Path("runs/board") / name).write_text("{", "utf-8")
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.02799")
    assert ran(capfd, "board")["trials"] == 0
    after = read_lock(Path("edgenas.lock"))["board"]
    assert (after.front, after.files) == (before.front, before.files)


@pytest.mark.long
def test_a_changed_file_is_made_again(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = Path("edgenas.lock").read_text("utf-8")
    model = next(Path("runs/board/models").glob("*/model.onnx"))
    model.write_bytes(b"something else")
    ran(capfd, "board")
    kept = read_lock(Path("edgenas.lock"))["board"]
    Path("old.lock").write_text(before, "utf-8")
    assert kept.files == read_lock(Path("old.lock"))["board"].files


def test_a_target_that_fails_leaves_the_others_and_its_lock(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_lock(Path("edgenas.lock"))
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.000001")
    change("targets.toml", f'devices = ["{BOARD}", "{OTHER}"]', f'devices = ["{BOARD}"]')
    document = told(capfd, "run", "--quiet", "--jobs", "1", code=7)
    board, both = document["targets"]
    assert (board["state"], board["exit_code"], both["state"]) == ("failed", 7, "made")
    assert "the nearest reached is" in board["failures"][0]
    after = read_lock(Path("edgenas.lock"))
    assert after["board"] == before["board"]
    assert after["both"] != before["both"]
    assert (Path("runs") / before["board"].run / "front.json").is_file()


@pytest.mark.slow
def test_targets_side_by_side_end_with_the_same_lock(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(locked, locked.with_name("alone"), symlinks=True)
    for folder, jobs in ((locked.with_name("alone"), "1"), (locked, "2")):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            change("run.toml", "top = 1", "top = 2")
            told(capfd, "run", "--quiet", "--jobs", jobs)
    assert (
        Path("edgenas.lock").read_bytes()
        == (locked.with_name("alone") / "edgenas.lock").read_bytes()
    )
    assert not list(Path("runs").glob(".*.log"))


@pytest.mark.slow
def test_a_failure_beside_others_is_told_as_it_is_alone(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.000001")
    change("run.toml", "top = 1", "top = 2")
    board, both = told(capfd, "run", "--quiet", "--jobs", "2", code=7)["targets"]
    assert (board["state"], board["exit_code"], both["state"]) == ("failed", 7, "made")
    assert "the nearest reached is" in board["failures"][0]


@pytest.mark.long
def test_what_a_check_fails_is_mended_by_a_run(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = next(Path("runs/board/models").glob("*/infer.py"))
    before = script.read_text("utf-8")
    script.write_text(before + "x", "utf-8")
    assert main(["ci", "check"]) == 5
    made = told(capfd, "run", "--quiet")["targets"][0]
    assert made["state"] == "made"
    assert next(Path("runs/board/models").glob("*/infer.py")).read_text("utf-8") == before
    assert main(["ci", "check"]) == 0


def test_a_target_that_is_gone_goes_from_the_lock(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = Path("targets.toml").read_text("utf-8")
    Path("targets.toml").write_text(text[: text.index("[target.both]")], "utf-8")
    document = told(capfd, "run", "--quiet")
    assert [t["state"] for t in document["targets"]] == ["fresh", "gone"]
    assert set(read_lock(Path("edgenas.lock"))) == {"board"}


@pytest.mark.slow
def test_a_supernet_is_trained_once_for_all_targets(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change("run.toml", 'checkpoint = "supernet/supernet.safetensors"', "")
    assert planned().stale[0] == "supernet"
    document = told(capfd, "run", "--quiet", "--jobs", "1")
    assert [t["state"] for t in document["targets"]] == ["made", "made"]
    assert len(list(Path("runs").glob("supernet.*"))) == 1
    assert main(["ci", "plan", "--exit-code"]) == 0
    shutil.rmtree(next(Path("runs").glob("supernet.*")))
    assert main(["ci", "plan", "--exit-code"]) == 0, "it is not here, but what came of it is"
    change("run.toml", "epochs = 1", "epochs = 2")
    assert planned().stale[0] == "supernet"
