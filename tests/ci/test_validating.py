"""`ci validate`: what a hook says of targets, tables and lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgenas.cli.main import main
from tests.ci.conftest import BOARD, OTHER, change, remeasure, told


def test_what_is_stale_is_no_mistake(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    remeasure(1.5)
    change("run.toml", "trials = 24", "trials = 25")
    document = told(capfd, "validate")
    assert document["schema"] == "edgenas.ci-validate/1"
    assert (document["targets"], document["locked"]) == (["board", "both"], ["board", "both"])
    files = [Path(table["file"]).name for table in document["tables"]]
    assert files == [f"{BOARD}.json", f"{OTHER}.json"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("targets.toml", "bounds", "bouds", "did you mean 'bounds'"),
        ("run.toml", "trials = 24", "trails = 24", "did you mean 'trials'"),
        ("targets.toml", OTHER, "no-such-board", "target both: search.devices: no device"),
        (
            "edgenas.lock",
            "[target.board]",
            "<<<<<<< ours\n[target.board]",
            "edgenas.lock, line 5: ",
        ),
        (f"devices/{BOARD}.toml", "threads = 1", "threds = 1", "threds: unknown key"),
        (f"latency_tables/{BOARD}.json", '"n": 50', '"n": 0', "greater than or equal to 1"),
        (f"latency_tables/{BOARD}.json", '"invented": true', "", "conditions: a table says how"),
    ],
)
def test_what_is_broken_is_named(
    locked: Path, capfd: pytest.CaptureFixture[str], file: str, old: str, new: str, message: str
) -> None:
    change(file, old, new)
    capfd.readouterr()
    assert main(["ci", "validate"]) == 3
    assert message in "".join(capfd.readouterr())


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_energy_of_a_device_whose_table_tells_none_is_refused(
    locked: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    change("targets.toml", '"latency_ms <= 0.028"', '"energy_mj <= 3"')
    capfd.readouterr()
    assert main(["ci", command]) == 3
    said = capfd.readouterr().err
    assert f"target board: objective 'energy_mj@{BOARD} <= 3': the table of {BOARD} states" in said
    assert "try: " in said


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_a_target_to_be_measured_needs_a_device_that_can_be(
    locked: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    change(f"devices/{BOARD}.toml", 'runtime = "litert"', 'runtime = "armnn"')
    change("targets.toml", "[target.board]", "[target.board]\nmeasure = true")
    capfd.readouterr()
    assert main(["ci", command]) == 3
    said = capfd.readouterr().err
    assert f"target board: measure = true: {BOARD} cannot be measured: edgenas does not run" in said
    assert "try: measure = false in [target.board]: the table predicts" in said


def test_a_supernet_without_its_sidecar_is_told_with_what_to_do(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("supernet/supernet.json").unlink()
    capfd.readouterr()
    assert main(["ci", "plan"]) == 3
    said = capfd.readouterr().err
    assert "supernet/supernet.json: there is no such file" in said
    assert "try: copy it from where supernet.safetensors was trained" in said


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_devices_beside_the_targets_are_found_from_anywhere(
    locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], command: str,
) -> None:  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    document = told(capfd, command, "--targets", f"../{locked.name}/targets.toml")
    if command == "plan":
        assert document["stale"] == []
    else:
        assert [Path(table["file"]).parent.parent for table in document["tables"]] == [locked] * 2
    assert main(["devices", "show", BOARD]) == 2, "only where they are asked for"


def test_it_loads_no_torch(locked: Path) -> None:
    code = (
        "import sys\nfrom edgenas.cli.main import main\nassert main(['ci', 'validate']) == 0\n"
        "heavy = 'torch optuna onnxruntime sqlalchemy moocore'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
