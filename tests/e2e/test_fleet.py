"""A fleet from a run file to exported networks: six devices of shipped tables, at most K."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import check_manifest
from edgenas.cli.main import main
from edgenas.testing.fakes import write_tiny_run

BOUNDS_MS = {
    "rpi4-tflite-int8": 0.6,
    "galaxy-note10": 0.08,
    "nucleo-u575zi-xcubeai-int8-t1": 1.5,
    "pixel3-tflite-int8-t4": 1.0,
    "v100": 10.0,
    "ethos-u55-128-vela-int8": 10.0,
}


def fleet_run(folder: Path, bounds: dict[str, float], *, trials: int = 16) -> None:
    path = write_tiny_run(folder, device="x", trials=trials)
    text = path.read_text("utf-8").replace('["x"]', json.dumps(list(bounds)))
    goals = ", ".join(f'"latency_ms@{d} <= {ms}"' for d, ms in bounds.items())
    path.write_text(text.replace('"min latency_ms"', goals), "utf-8")


@pytest.mark.slow
def test_six_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fleet_run(tmp_path, BOUNDS_MS)
    assert main(["search", "run.toml", "--fleet", "2", "--quiet", "--json"]) == 0
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    fleet = document["fleet"]
    assert [c["k"] for c in fleet["choices"]] == [1, 2, 3, 4, 5, 6]
    for one, more in itertools.pairwise(fleet["choices"]):
        assert more["mean_loss"] <= one["mean_loss"]
    assert fleet["choices"][-1]["worst_loss"] == 0
    trials = json.loads(Path("runs/tiny/trials.json").read_text("utf-8"))["trials"]
    networks = {t["digest"]: {name: m["value"] for name, m in t["metrics"].items()} for t in trials}
    assert _best_mean(networks, 2) == pytest.approx(fleet["choices"][1]["mean_accuracy"])
    chosen = fleet["choices"][1]
    for a in chosen["assignments"]:
        assert networks[a["digest"]][f"latency_ms@{a['device']}"] <= BOUNDS_MS[a["device"]]
    exported = {Path(row["path"]).parent.name for row in document["exports"]}
    assert exported == {a["digest"] for a in chosen["assignments"]}
    served = {(a["digest"], a["device"]) for a in chosen["assignments"]}
    asked = {(row["path"].split("/")[1], row["device"]) for row in document["targets"]}
    assert asked, "no device was asked whether it takes a file"
    assert asked <= served, "a device was asked about a network that another runs"
    run = Path("runs/tiny")
    check_manifest(run)
    assert main(["verify", "runs/tiny", "--quiet", "--json"]) == 0
    again = json.loads(capfd.readouterr().out)["targets"]
    assert {(row["path"].split("/")[1], row["device"]) for row in again} == asked
    assert '<section id="fleet">' in (run / "report.html").read_text("utf-8")
    # the same search with another number: nothing is evaluated, another choice is exported
    assert main(["search", "run.toml", "--fleet", "1", "--resume", "--quiet"]) == 0
    assert "with at most 1:" in capfd.readouterr().out
    assert main(["search", "run.toml", "--name", "again", "--fleet", "1", "--quiet"]) == 0
    capfd.readouterr()
    assert main(["report", "again", "--compare", "tiny", "--json"]) == 0
    compared = json.loads(capfd.readouterr().out)
    assert compared["schema"] == "edgenas.compare/1"
    check_manifest(Path("runs/again"))
    assert main(["report", "again", "--out", "x"]) == 2
    # loads are shares of the bounds: with another bound they are another search's
    text = (tmp_path / "run.toml").read_text("utf-8")
    (tmp_path / "run.toml").write_text(text.replace("<= 0.08", "<= 0.09"), "utf-8")
    assert main(["search", "run.toml", "--fleet", "2", "--resume", "--quiet"]) == 3
    assert "bounds" in capfd.readouterr().err


def _best_mean(networks: dict[str, dict[str, float]], k: int) -> float:
    """The greatest mean accuracy of all choices of `k` networks."""
    found = []
    for chosen in itertools.combinations(networks.values(), k):
        best = [
            max((m["top1"] for m in chosen if m[f"latency_ms@{d}"] <= ms), default=None)
            for d, ms in BOUNDS_MS.items()
        ]
        if None not in best:
            found.append(sum(x for x in best if x is not None) / len(best))
    return max(found)


@pytest.mark.long
def test_what_cannot_be_is_refused_before_anything_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fleet_run(tmp_path, {"rpi4-tflite-int8": 0.6, "galaxy-note10": 0.001})
    assert main(["search", "run.toml", "--fleet", "2", "--quiet"]) == 7
    told = capfd.readouterr().err
    assert "galaxy-note10: no architecture meets the bounds: latency_ms@galaxy-note10" in told
    assert "nearest reached" in told
    path = Path("run.toml")
    text = path.read_text("utf-8").replace(', "latency_ms@galaxy-note10 <= 0.001"', "")
    path.write_text(text, "utf-8")
    assert main(["search", "run.toml", "--fleet", "2", "--fresh", "--quiet"]) == 3
    told = capfd.readouterr().err
    assert "none says what galaxy-note10 may take" in told
    assert "latency_ms@galaxy-note10 <= NUMBER" in told
    assert main(["search", "run.toml", "--fleet", "0", "--quiet"]) == 2
