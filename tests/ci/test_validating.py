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


def test_it_loads_no_torch(locked: Path) -> None:
    code = (
        "import sys\nfrom edgenas.cli.main import main\nassert main(['ci', 'validate']) == 0\n"
        "heavy = 'torch optuna onnxruntime sqlalchemy moocore'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
