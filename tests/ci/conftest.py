"""A repository with two boards, a small supernet and its targets, locked once."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.ci import Plan, TargetPlan, plan
from edgenas.cli.main import main
from edgenas.latency import LatencyTable, read_table, write_table
from edgenas.pipeline import read_config, train
from edgenas.supernet import Supernet, save_supernet
from edgenas.testing.fakes import (
    INVENTED_DEVICE,
    tiny_space,
    write_invented_device,
    write_tiny_run,
)

BOARD = INVENTED_DEVICE
OTHER = "other-board-litert-int8-t1"
TARGETS = f"""schema = "edgenas.targets/1"
run = "run.toml"

[gates]
max_size_bytes = 100000

[target.board]
bounds = ["latency_ms <= 0.028"]

[target.both]
devices = ["{BOARD}", "{OTHER}"]
"""


def write_other_supernet(folder: Path, *, seed: int) -> None:
    """Another supernet in place of the repository's: untrained, which is enough to differ."""
    path = folder / "supernet" / "supernet.safetensors"
    save_supernet(path, Supernet(tiny_space(), seed=seed), data={}, recipe={}, log=())


def change(path: str | Path, old: str, new: str) -> None:
    text = Path(path).read_text("utf-8")
    assert old in text, (old, text)
    Path(path).write_text(text.replace(old, new), "utf-8")


def remeasure(factor: float, device: str = BOARD) -> LatencyTable:
    """The table of `device` with all its units slower by `factor`."""
    path = Path("latency_tables") / f"{device}.json"
    table = read_table(path)

    def slower(ms: float) -> float:
        return ms * factor

    entries = {
        op: replace(
            e,
            latency_ms=slower(e.latency_ms),
            p10_ms=slower(e.p10_ms),
            p50_ms=slower(e.p50_ms),
            p90_ms=slower(e.p90_ms),
        )
        for op, e in table.entries.items()
    }
    fits = tuple(replace(fit, per_part_ms=fit.per_part_ms * factor) for fit in table.fits)
    write_table(replace(table, entries=entries, fits=fits, created="2026-02-02"), path)
    return table


def write_repository(folder: Path) -> None:
    write_invented_device(folder, tiny_space())
    board = folder / "devices" / f"{BOARD}.toml"
    other = folder / "devices" / f"{OTHER}.toml"
    other.write_text(board.read_text("utf-8").replace("invented-board", "other-board"), "utf-8")
    table = read_table(folder / "latency_tables" / f"{BOARD}.json")
    device = replace(table.device, name=OTHER, chip="other-board")
    entries = {
        op: replace(e, latency_ms=1.01 * e.latency_ms, p50_ms=1.01 * e.p50_ms)
        for op, e in table.entries.items()
    }  # else one table would be a copy of the other
    table = replace(table, device=device, entries=entries)
    write_table(table, folder / "latency_tables" / f"{OTHER}.json")
    path = write_tiny_run(folder, trials=24)
    trained = train(read_config(path), folder / "training")
    shutil.move(Path(trained["checkpoint"]).parent, folder / "supernet")
    shutil.rmtree(folder / "training")
    change(path, "[search]", '[supernet]\ncheckpoint = "supernet/supernet.safetensors"\n\n[search]')
    (folder / "targets.toml").write_text(TARGETS, "utf-8")


@pytest.fixture(scope="session")
def locked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locked")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_repository(folder)
        assert main(["ci", "run", "--jobs", "1", "--quiet"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def locked(locked_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository as `ci run` left it, in the working folder."""
    folder = tmp_path / "repository"
    shutil.copytree(locked_once, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def planned(name: str = "board") -> TargetPlan:
    return named(plan(), name)


def named(found: Plan, name: str) -> TargetPlan:
    return next(t for t in found.targets if t.name == name)


def told(capfd: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    """The one JSON document of `edgenas ci ...`."""
    capfd.readouterr()
    assert main(["ci", *argv, "--json"]) == code, capfd.readouterr()
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found
