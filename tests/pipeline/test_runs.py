"""Run folders: found by name or path, cleared with care."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenas.errors import SpecError, UsageError
from edgenas.pipeline.runs import clear, find_run, open_run
from edgenas.testing.fakes import tiny_space, write_invented_device, write_tiny_run


def test_options_take_the_place_of_the_files_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_run(tmp_path)
    with pytest.raises(SpecError, match=r"run.toml: search.devices: no device 'invented-board"):
        open_run(path, runs=tmp_path / "runs")
    write_invented_device(tmp_path, tiny_space())
    monkeypatch.chdir(tmp_path)
    run = open_run(path, runs=tmp_path / "runs", name="other", minutes=2.0, strategy="tpe")
    assert run.folder == tmp_path / "runs" / "other"
    assert (run.config.search.minutes, run.config.search.trials) == (2.0, None)
    assert run.config.search.strategy == "tpe"
    assert not run.folder.exists(), "nothing is written"


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    write_tiny_run(folder)
    assert find_run("tiny", runs=tmp_path / "runs").folder == folder
    assert find_run(str(folder)).folder == folder
    with pytest.raises(UsageError, match="did you mean 'tiny'"):
        find_run("tyny", runs=tmp_path / "runs")


def test_clearing_spares_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", "utf-8")
    with pytest.raises(UsageError, match="holds no run"):
        clear(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_clearing_keeps_what_is_named(tmp_path: Path) -> None:
    write_tiny_run(tmp_path)
    (tmp_path / "supernet").mkdir()
    (tmp_path / "models" / "x").mkdir(parents=True)
    clear(tmp_path, "supernet")
    assert [p.name for p in tmp_path.iterdir()] == ["supernet"]
