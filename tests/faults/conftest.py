"""A finished tiny run, made once and copied for each test that wants to damage it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.testing.fakes import tiny_space, write_invented_device, write_tiny_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an invented device, a run file and its finished run `runs/tiny`."""
    folder = tmp_path_factory.mktemp("finished")
    write_invented_device(folder, tiny_space())
    write_tiny_run(folder, trials=4)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["search", "run.toml", "--quiet"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def work(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a copy of the finished run in it."""
    folder = tmp_path / "work"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def clean(work: Path) -> Path:
    """The same, but for the run's study and results: its supernet is trained."""
    for path in (work / "runs" / "tiny").iterdir():
        if path.name != "supernet":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return work
