"""`edgenas profile DEVICE --models N` on this machine, in the real runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.latency import read_table
from edgenas.testing.fakes import tiny_space, write_tiny_run

LOCAL = "local-onnxruntime-fp32-t1"


@pytest.mark.slow
def test_ten_networks_make_a_table_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgenas.pipeline.tables.cache_folder", lambda: tmp_path / "cache")
    write_tiny_run(tmp_path, device=LOCAL)
    argv = ["profile", LOCAL, "--run", "run.toml", "--models", "10", "--quick"]
    assert main([*argv, "--quiet", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["tables"][0]
    assert told["source"] in ("calibrated", "analytic")
    table = read_table(tmp_path / "latency_tables" / f"{LOCAL}.json")
    assert set(table.entries) == set(tiny_space().units())
    assert table.validation is not None
    assert table.validation["n"] == 10
    assert set(table.validation["baselines"]) == {"macs_constant", "nearest_device"}
    assert table.conditions["failed"] == {}
    assert main(["predict", LOCAL, "largest", "--run", "run.toml"]) == 0
    assert f"rests on {told['source']} units" in capfd.readouterr().out

    # Its units were never timed: a full profile times them all.
    assert main(["profile", LOCAL, "--run", "run.toml", "--quick", "--quiet", "--json"]) == 0
    measured = read_table(tmp_path / "latency_tables" / f"{LOCAL}.json")
    assert measured.source == "measured"
    assert all(entry.n >= 3 for entry in measured.entries.values())
