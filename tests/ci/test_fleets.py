"""A target that is a fleet: at most K networks for all of its devices, each held to its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from edgenas.ci import LOCK, Entry, plan, read_lock
from edgenas.cli.main import main
from edgenas.errors import ArtifactError
from edgenas.testing.fakes import tiny_space, write_second_device
from tests.ci.conftest import BOARD, OTHER, change, named, remeasure, told, write_repository

pytestmark = pytest.mark.long

SELECT = ("select", "export", "verify")
BOUNDS = {BOARD: 0.03, OTHER: 0.04}
TARGETS = f"""schema = "edgenas.targets/1"
run = "run.toml"

[target.all]
devices = ["{BOARD}", "{OTHER}"]
fleet = 2
bounds = ["latency_ms@{BOARD} <= {BOUNDS[BOARD]}", "latency_ms@{OTHER} <= {BOUNDS[OTHER]}"]
"""


@pytest.fixture(scope="module")
def fleet_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fleet, locked: the second board takes twice as long as the first."""
    folder = tmp_path_factory.mktemp("fleet")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_repository(folder)
        write_second_device(folder, tiny_space())
        Path("targets.toml").write_text(TARGETS, "utf-8")
        assert main(["ci", "run", "--quiet"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def fleet(fleet_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """What is locked of it, in the working folder."""
    folder = tmp_path / "repository"
    shutil.copytree(fleet_once, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return read_lock(LOCK)["all"]


def latency(entry: Entry, device: str) -> float:
    return entry.front[entry.fleet[device]].metrics[f"latency_ms@{device}"]


def test_each_device_runs_what_meets_its_bound(
    fleet: Entry, capfd: pytest.CaptureFixture[str]
) -> None:
    assert set(fleet.fleet) == set(BOUNDS)
    assert set(fleet.fleet.values()) == set(fleet.exported)
    assert fleet.fleet[BOARD] != fleet.fleet[OTHER], "else nothing below is shown"
    for device, ms in BOUNDS.items():
        assert latency(fleet, device) <= ms
    quick = fleet.front[fleet.fleet[BOARD]].metrics[f"latency_ms@{OTHER}"]
    assert quick > BOUNDS[OTHER], "one network would break the other device's bound"
    gates = told(capfd, "check")["targets"][0]["gates"]
    subjects = {gate["subject"] for gate in gates if gate["gate"] == "bound"}
    assert subjects == {f"latency_ms@{d} of {n}" for d, n in fleet.fleet.items()}
    assert all(gate["verdict"] != "failed" for gate in gates)
    assert main(["ci", "comment"]) == 0
    assert f"- fleet: {BOARD} runs {fleet.fleet[BOARD]}" in capfd.readouterr().out.replace("\\", "")
    assert main(["ci", "plan", "--exit-code"]) == 0


def test_the_number_of_networks_chooses_again_without_a_trial(
    fleet: Entry, capfd: pytest.CaptureFixture[str]
) -> None:
    change("targets.toml", "fleet = 2", "fleet = 1")
    found = named(plan(), "all")
    assert found.stale == SELECT
    assert [c.text for c in found.changes] == ["select fleet: 2 became 1"]
    (made,) = told(capfd, "run", "--quiet")["targets"]
    assert (made["trials"], made["evaluated"]) == (0, 0)
    after = read_lock(LOCK)["all"]
    (only,) = set(after.fleet.values())
    assert only == fleet.fleet[OTHER], "what the slower board can run, both can"
    assert main(["ci", "check"]) == 0
    assert main(["ci", "plan", "--exit-code"]) == 0


def test_a_bound_stales_what_its_own_device_runs_alone(fleet: Entry) -> None:
    ms = latency(fleet, BOARD)
    text = f"{BOARD} <= {BOUNDS[BOARD]}"
    change("targets.toml", text, f"{BOARD} <= {1.0001 * ms:.6f}")
    found = named(plan(), "all")
    assert found.stale == SELECT
    assert "all of the fleet's 1 networks meet it" in found.changes[0].text
    change("targets.toml", f"{BOARD} <= {1.0001 * ms:.6f}", f"{BOARD} <= {0.99 * ms:.6f}")
    found = named(plan(), "all")
    assert found.stale[0] == "search"
    assert "1 of the fleet's 1 networks miss it" in found.changes[0].text


def test_a_slower_table_of_one_device_fails_its_own_bound(
    fleet: Entry, capfd: pytest.CaptureFixture[str]
) -> None:
    remeasure(1.5, OTHER)
    gates = told(capfd, "check", code=5)["targets"][0]["gates"]
    failed = {g["subject"] for g in gates if g["gate"] == "bound" and g["verdict"] == "failed"}
    assert failed == {f"latency_ms@{OTHER} of {fleet.fleet[OTHER]}"}


def test_a_fleet_is_made_again_from_the_lock_alone(fleet: Entry) -> None:
    shutil.rmtree("runs")
    assert main(["ci", "run", "--quiet"]) == 0
    after = read_lock(LOCK)["all"]
    assert (after.fleet, after.files) == (fleet.fleet, fleet.files)


def test_a_lock_whose_fleet_names_an_unknown_network_is_refused(fleet: Entry) -> None:
    key = json.dumps(fleet.fleet[BOARD])
    change(LOCK, f"{json.dumps(BOARD)[1:-1]} = {key}", f'{BOARD} = "0123456789ab"')
    with pytest.raises(ArtifactError, match=f"{BOARD} runs '0123456789ab', of which nothing"):
        read_lock(LOCK)
