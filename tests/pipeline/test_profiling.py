"""`profile` with a kit whose times are invented, and models that nobody converts."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import digest
from edgenas.cli.main import main
from edgenas.errors import SpecError
from edgenas.hardware import DeviceProfile
from edgenas.latency import LatencyTable, read_table, write_table
from edgenas.pipeline import profile, profile_kit
from edgenas.profiling import Converter, agent
from edgenas.spaces import Lowering, OpSpec
from edgenas.testing.fakes import INVENTED_DEVICE, write_tiny_run

TABLE = Path("latency_tables") / f"{INVENTED_DEVICE}.json"
Import = Callable[..., dict[str, Any]]


def unit_ms(op: OpSpec) -> float:
    return 0.01 + op.macs * 2e-6


@pytest.fixture
def converted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was "converted": each model is a file that says how long it takes."""
    asked: list[str] = []

    def put(name: str, ms: float) -> Path:
        asked.append(name)
        path = folder / "models" / digest(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(repr(ms), "utf-8")
        return path

    def units(ops: Sequence[OpSpec]) -> Mapping[str, Path]:
        return {op.key: put(op.key, unit_ms(op)) for op in ops}

    def networks(nets: Mapping[str, Lowering]) -> Mapping[str, Path]:
        return {name: put(name, sum(map(unit_ms, net))) for name, net in nets.items()}

    def converter(device: DeviceProfile, **_: object) -> Converter:
        return Converter(units, networks)

    monkeypatch.setattr("edgenas.pipeline.tables.converter_for", converter)
    write_tiny_run(folder)
    return asked


def answer(kit: Path, *, version: str = "1.0", slow: float = 1.0) -> Path:
    """The results of a kit, as its agent would have written them."""
    with zipfile.ZipFile(kit) as archive:
        job = json.loads(archive.read("job.json"))
        times = {key: float(archive.read(name)) for key, name in job["models"].items()}
    records: list[dict[str, Any]] = [
        {"type": "start", "conditions": {}, "runtime_version": version, "agent_sha256": "0",
         "timer_resolution_ns": 1, "time_s": 1767225600}
    ]  # fmt: skip
    records += [{"type": "planned", "key": k, "name": v} for k, v in job["names"].items()]
    for key, ms in times.items():
        records.append({"type": "model", "key": key, "init_ms": 1.0, "first_ms": 1.0})
        records += [
            {"type": "visit", "key": key, "round": n, "final": True, "contended": False, "n": 9,
             "median_ms": slow * ms, "p10_ms": slow * ms, "p90_ms": slow * ms, "spread": 0.01}
            for n in range(3 if job["budget_s"] else job["rounds"])
        ]  # fmt: skip
    records.append({"type": "end", "complete": True, "conditions": {}})
    lines = [agent.encode({**record, "nonce": job["nonce"]}) for record in records]
    path = kit.with_suffix(".json")
    path.write_text("\n".join(lines), "utf-8")
    return path


def write_kit(name: str, **how: Any) -> Path:
    kit = Path(name)
    profile_kit(INVENTED_DEVICE, kit, back="", run_file=Path("run.toml"), **how)
    return kit


def imported(results: Path, **how: Any) -> tuple[dict[str, Any], LatencyTable]:
    (row,) = profile(INVENTED_DEVICE, run_file=Path("run.toml"), results=results, **how)
    return row, read_table(TABLE)


def test_a_damaged_table_is_set_aside_and_made_anew(converted: list[str]) -> None:
    TABLE.write_text(TABLE.read_text("utf-8")[:300], "utf-8")
    row, table = imported(answer(write_kit("kit.zip")))
    assert table.created == row["date"] == "2026-01-01"
    damaged = TABLE.with_name(f"{TABLE.name}.damaged")
    assert damaged.stat().st_size == 300
    TABLE.write_text("{", "utf-8")
    told = profile_kit(INVENTED_DEVICE, Path("k.zip"), back="", run_file=Path("run.toml"))["notes"]
    assert len(told) == 1
    assert str(damaged) in told[0]


def test_the_results_of_part_of_the_units_can_be_read_twice(converted: list[str]) -> None:
    TABLE.unlink()
    part = answer(write_kit("part.zip", minutes=0.25), slow=1.0)
    row, first = imported(part, minutes=0.25)
    assert row["grade"] == "fair"
    _, again = imported(part, minutes=0.25)
    assert again == first
    rest = answer(write_kit("rest.zip"))
    _, whole = imported(rest)
    assert set(first.entries) < set(whole.entries)
    _, still = imported(part, minutes=0.25)
    assert still.entries == whole.entries


def test_a_kit_can_leave_the_earlier_table_out(
    converted: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    fresh = write_kit("fresh.zip", fresh=True)
    row, table = imported(answer(fresh, slow=3.0), fresh=True)
    assert row["notes"] == []
    assert {e.latency_ms for e in table.entries.values()} >= {
        float(f"{3 * unit_ms(op):.6g}") for op in table.entries
    }
    argv = ["profile", INVENTED_DEVICE, "--run", "run.toml", "--kit", "k.zip", "--fresh", "-q"]
    assert main(argv) == 0
    with zipfile.ZipFile("k.zip") as archive:
        assert "--run run.toml --fresh --from-kit" in archive.read("README.txt").decode()


def test_a_new_version_of_the_runtime_is_measured_without_the_earlier_table(
    converted: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    part = answer(write_kit("part.zip", fresh=True, minutes=0.25), version="2.0")
    before = read_table(TABLE)
    write_table(replace(before, device=replace(before.device, runtime_version="1.0")), TABLE)
    argv = ["profile", INVENTED_DEVICE, "--run", "run.toml", "--minutes", "0.25", "--quiet"]
    assert main([*argv, "--from-kit", str(part)]) == 0
    assert "runs litert 2.0, its table has 1.0: the table is made anew" in capfd.readouterr().out
    after = read_table(TABLE)
    assert after.device.runtime_version == "2.0"
    assert len(after.entries) < len(before.entries)


def test_a_few_whole_networks_do_not_replace_measured_units(
    converted: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    imported(answer(write_kit("kit.zip")))
    before = TABLE.read_bytes()
    monkeypatch.setattr("edgenas.pipeline.profiling.check_here", lambda device: None)
    argv = ["profile", INVENTED_DEVICE, "--run", "run.toml", "--models", "10", "--quiet"]
    assert main(argv) == 2
    assert "was measured, unit by unit" in capfd.readouterr().err
    assert TABLE.read_bytes() == before


@pytest.mark.parametrize(
    "argv", [("table", "validate"), ("bench", "latency", "--device")], ids=lambda argv: argv[0]
)
def test_another_machine_is_not_timed_here(
    argv: tuple[str, ...], converted: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, INVENTED_DEVICE]) == 4
    assert f"{INVENTED_DEVICE} is not this machine" in capfd.readouterr().err


def test_results_that_are_none_are_told_before_anything_is_converted(
    converted: list[str],
) -> None:
    for text in (None, "nothing"):
        path = Path("results.json")
        if text is not None:
            path.write_text(text, "utf-8")
        with pytest.raises(SpecError, match=r"results\.json"):
            imported(path)
    assert converted == []
