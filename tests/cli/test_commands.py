"""Commands that read: devices, tables, predictions, benchmarks; and profile, slowly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.cli.main import main
from edgenas.hardware import load_device
from edgenas.latency import read_table, write_table
from edgenas.testing.fakes import (
    INVENTED_DEVICE,
    invented_table,
    tiny_space,
    write_invented_device,
    write_tiny_run,
)

LOCAL = "local-onnxruntime-fp32-t1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    write_tiny_run(tmp_path)
    return tmp_path


def document(capfd: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


@pytest.mark.long
def test_devices_show_where_their_table_came_from(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    devices = document(capfd, "devices", "list")["devices"]
    row = next(d for d in devices if d["name"] == INVENTED_DEVICE)
    assert (row["class"], row["source"], row["date"]) == ("cpu", "measured", "2026-01-01")
    facts = document(capfd, "devices", "show", INVENTED_DEVICE)
    assert facts["format"] == "tflite-int8"
    assert facts["entries"] == len(tiny_space().units())
    assert main(["devices"]) == 0
    assert INVENTED_DEVICE in capfd.readouterr().out


@pytest.mark.long
def test_a_rough_calibrated_table_is_called_so_wherever_it_is_used(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder / "latency_tables" / f"{INVENTED_DEVICE}.json"
    good = read_table(path)
    baselines = {
        "macs_constant": {"error_median": 0.4},
        "nearest_device": {"device": "a-board", "error_median": 0.3},
    }
    stated = {"kind": "each left out", "n": 9, "error_median": 0.25, "within_10": 0.1}
    data = {"upstream": "someone/results@1"}
    write_table(
        replace(
            good,
            source="calibrated",
            validation={**stated, "baselines": baselines},
            conditions={"data": data},
        ),
        path,
    )
    devices = document(capfd, "devices", "list")["devices"]
    row = next(d for d in devices if d["name"] == INVENTED_DEVICE)
    assert (row["rough"], row["error_median"], row["n_validation"]) == (True, 0.25, 9)
    assert (row["macs_constant_error"], row["nearest_device_error"]) == (0.4, 0.3)
    assert main(["devices", "list"]) == 0
    (line,) = (x for x in capfd.readouterr().out.splitlines() if x.startswith(INVENTED_DEVICE))
    for said in ("calibrated, rough", "25.0 %", "40.0 %", "30.0 %"):
        assert said in line
    facts = document(capfd, "predict", INVENTED_DEVICE, "largest", "--run", "run.toml")
    assert facts["rough"]
    assert "published figures (someone/results@1) and rough: 25 % off" in facts["note"]
    assert main(["predict", INVENTED_DEVICE, "largest", "--run", "run.toml"]) == 0
    assert "rough" in capfd.readouterr().out
    assert document(capfd, "table", "show", INVENTED_DEVICE)["rough"]
    assert document(capfd, "devices", "show", INVENTED_DEVICE)["rough"]


def test_tables_are_shown_and_compared(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    facts = document(capfd, "table", "show", INVENTED_DEVICE)
    assert facts["entries"] == len(tiny_space().units())
    write_table(
        invented_table(load_device(LOCAL), tiny_space()),
        folder / "latency_tables" / f"{LOCAL}.json",
    )
    facts = document(capfd, "table", "diff", INVENTED_DEVICE, f"latency_tables/{LOCAL}.json")
    assert facts["ratio_median"] == pytest.approx(1.0)
    assert facts["shared"] == len(tiny_space().units())
    assert main(["table", "show", INVENTED_DEVICE]) == 0
    assert "units" in capfd.readouterr().out


def test_a_prediction_adds_up(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    facts = document(capfd, "predict", INVENTED_DEVICE, "largest", "--run", "run.toml")
    assert sum(unit["ms"] for unit in facts["units"]) == pytest.approx(facts["latency_ms"])
    assert facts["measured_share"] == 1.0
    line = facts["architecture"]
    again = document(capfd, "predict", INVENTED_DEVICE, line, "--run", "run.toml")
    assert again == facts


@pytest.mark.long
def test_strategies_compared_on_a_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = ["a,b,top1,ms"]
    rows += [f"{a},{b},{0.5 + 0.03 * a + 0.01 * b},{1 + a + b}" for a in range(8) for b in range(8)]
    Path("nets.csv").write_text("\n".join(rows) + "\n", "utf-8")
    columns = ["--architecture", "a,b", "--accuracy", "top1", "--latency", "ms"]
    budget = ["--budget", "10,20", "--seeds", "2", "--quiet", "--plots", "plots"]
    budget += ["--work", "kept"]
    facts = document(capfd, "bench", "search", "--table", "nets.csv", *columns, *budget)
    kept = {path: path.stat().st_mtime_ns for path in Path("kept").iterdir()}
    assert len(kept) == 3 * 2
    again = document(capfd, "bench", "search", "--table", "nets.csv", *columns, *budget)
    assert again["summary"] == facts["summary"]
    assert {path: path.stat().st_mtime_ns for path in Path("kept").iterdir()} == kept
    assert {row["strategy"] for row in facts["summary"]} == {"surrogate", "nsga2", "random"}
    assert {row["budget"] for row in facts["summary"]} == {10, 20}
    assert all(0 < row["mean"] <= 1 for row in facts["summary"])
    assert Path("plots/search.png").read_bytes().startswith(b"\x89PNG")
    assert "nets.csv" in Path("plots/search.html").read_text("utf-8")
    assert main(["bench", "search", "--table", "nets.csv", *columns, "--budget", "9,x"]) == 2
    assert main(["bench", "search", "--table", "nets.csv", *columns, "--seeds", "2"]) == 0
    shown = capfd.readouterr().out
    assert "evaluations to reach" in shown
    assert main(["bench", "search", "--table", "nets.csv"]) == 2
    assert main(["bench", "search"]) == 2


def test_a_new_device_from_few_networks(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = ["a,b,x_1_ms,x_8_ms,y_ms,z_ms"]
    rows += [
        f"{a},{b},{1 + a + b},{5 + 4 * a + 6 * b},{2 + a + 2 * b},{3 + 2 * a + b}"
        for a in range(8)
        for b in range(8)
    ]
    Path("nets.csv").write_text("\n".join(rows) + "\n", "utf-8")
    argv = ["bench", "few-shot", "--table", "nets.csv", "--architecture", "a,b", "--quiet"]
    facts = document(capfd, *argv, "--samples", "4,8", "--samples", "8", "--draws", "1")
    assert facts["schema"] == "edgenas.bench-few-shot/1"
    assert {row["samples"] for row in facts["summary"]} == {4, 8}
    assert facts["command"].endswith("--samples 4,8 --draws 1 --seed 0")
    assert main([*argv, "--draws", "1", "--target", "z_ms"]) == 0
    assert "few-shot, chosen" in capfd.readouterr().out
    assert main([*argv, "--devices", "x_1_ms,yy"]) == 2
    assert facts["chips"] == 3
    apart = document(capfd, *argv, "--draws", "1", "--target", "z_ms", "--group", "$^")
    assert apart["chips"] == 4
    assert "--group '$^'" in apart["command"]
    assert main([*argv, "--samples", "ten"]) == 2
    Path("nets.csv").write_text("\n".join([*rows, "9,9,0,1,1,1"]), "utf-8")
    assert main(argv) == 3
    assert "'0' is not a positive latency" in capfd.readouterr().err


def test_strategies_compared_on_a_runs_supernet(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    budget = ["--budget", "6", "--seeds", "1", "--quiet"]
    assert main(["bench", "search", "--run", "run.toml", *budget]) == 0
    shown = capfd.readouterr().out
    assert "nsga2" in shown
    assert "random" in shown
    assert main(["train", "run.toml", "--quiet"]) == 0
    capfd.readouterr()
    again = ["bench", "search", "--run", "run.toml", *budget[:-1], "--strategies", "random"]
    assert main(again) == 0
    assert "train:" not in capfd.readouterr().err, "the run's own supernet is searched"


def test_what_a_benchmark_cannot_end_with_is_refused_at_its_start(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["bench", "search", "--run", "run.toml", "--budget", "6", "--seeds", "1"]
    Path("plots").write_text("a file")
    for more, code, told in (
        (["--strategies", "random,nsga4"], 2, "--strategies: no 'nsga4'; did you mean 'nsga"),
        (["--plots", "plots"], 6, "plots"),
    ):
        assert main([*argv, *more]) == code
        shown = capfd.readouterr().err
        assert told in shown
        assert "bench: 0/" not in shown


@pytest.mark.slow
def test_profile_this_machine_for_a_run_file(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["profile", LOCAL, "--run", "run.toml", "--quick", "--quiet"]
    table = document(capfd, *arguments)["tables"][0]
    assert table["source"] == "measured"
    assert table["entries"] == len(tiny_space().units())
    facts = document(capfd, "devices", "show", LOCAL)
    assert facts["source"] == "measured"
