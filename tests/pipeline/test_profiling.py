"""`profile` with a kit whose times are invented, and models that nobody converts."""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import digest, read_json
from edgenas.cli.main import main
from edgenas.errors import SpecError
from edgenas.hardware import FORMATS, DeviceProfile, Transport, load_device
from edgenas.latency import LatencyTable, Predictor, read_table, table_for, write_table
from edgenas.pipeline import bench_latency, profile, profile_kit
from edgenas.pipeline.profiling import space_of
from edgenas.profiling import Converter, Run, agent
from edgenas.profiling.settings import STANDARD
from edgenas.spaces import Lowering, OpSpec
from edgenas.spaces.mobile import MobileSpace
from edgenas.testing.fakes import INVENTED_DEVICE, invented_table, write_tiny_run
from tests.profiling.conftest import OracleDevice

TABLE = Path("latency_tables") / f"{INVENTED_DEVICE}.json"
HERE = ("local-onnxruntime-fp32-t1", "local-litert-int8-t1")
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


@pytest.fixture
def timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Two devices of this machine, with tables; by device, what a prediction is of the truth.

    Everything takes 1.5 times as long as in the tables: the machine drifted.
    """
    ratios = dict.fromkeys(HERE, 1.0)
    (folder / "models").mkdir()
    for name in HERE:
        table = invented_table(load_device(name), space_of(None))
        write_table(table, folder / "latency_tables" / f"{name}.json")

    def converter(device: DeviceProfile, **_: object) -> Converter:
        table = table_for(device)
        predictor = Predictor(table)

        def put(name: str, ms: float) -> Path:
            path = folder / "models" / digest([device.name, name])
            path.write_text(repr(ms), "utf-8")
            return path

        def units(ops: Sequence[OpSpec]) -> Mapping[str, Path]:
            return {op.key: put(op.key, table.entries[op].latency_ms) for op in ops}

        def networks(nets: Mapping[str, Lowering]) -> Mapping[str, Path]:
            ratio = ratios[device.name]
            return {n: put(n, predictor.predict(nets[n]).latency_ms / ratio) for n in nets}

        return Converter(units, networks)

    def transport(_: object) -> Transport:
        return OracleDevice(slow=(1.5,))

    def others(name: str) -> list[LatencyTable]:  # of all that ship, reading takes seconds
        return [table_for(load_device(other)) for other in HERE if other != name]

    monkeypatch.setattr("edgenas.pipeline.profiling.converter_for", converter)
    monkeypatch.setattr("edgenas.profiling.session.transport_for", transport)
    monkeypatch.setattr("edgenas.latency.other_tables", others)
    return ratios


@pytest.mark.parametrize(("error", "code"), [(0.05, 0), (0.2, 5)])
def test_a_table_that_is_far_off_ends_with_5(
    timed: dict[str, float], error: float, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    timed[HERE[0]] = 1 + error
    assert main(["table", "validate", HERE[0], "--networks", "8", "--json", "--quiet"]) == code
    told = json.loads(capfd.readouterr().out)
    assert told["schema"] == "edgenas.table-validate/1"
    assert (told["device"], told["passed"]) == (HERE[0], code == 0)
    assert (told["n"], len(told["networks"])) == (8, 8)
    assert told["error_median"] == told["error_max"] == pytest.approx(error, abs=1e-3)
    assert told["error_within_10"] == (code == 0)
    assert told["drift"] == pytest.approx(1.5, abs=0.01)
    assert told["baselines"]["nearest_device"]["device"] == HERE[1]


def test_the_benchmark_of_predictions_tells_each_device(
    timed: dict[str, float], capfd: pytest.CaptureFixture[str]
) -> None:
    timed[HERE[1]] = 1.2
    argv = ["bench", "latency", "--device", HERE[0], "--device", HERE[1], "--networks", "8"]
    argv += ["--seed", "3", "--quick"]
    assert main([*argv, "--json", "--quiet"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["schema"] == "edgenas.bench-latency/1"
    assert [row["device"] for row in told["devices"]] == list(HERE)
    errors = [row["error_median"] for row in told["devices"]]
    assert errors == pytest.approx([0, 0.2], abs=1e-3)
    assert told["command"] == shlex.join(["edgenas", *argv])
    again = bench_latency(HERE, networks=8, seed=3, quick=True, save=Path("bench.json"))
    assert read_json(Path("bench.json"), schema="edgenas.bench-latency/1")
    assert again == {k: v for k, v in told.items() if k != "schema"}


@pytest.mark.slow
def test_a_table_of_this_machine_is_held_against_its_clock(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All real but the table, which is a formula: how far it is off is not judged."""
    table = invented_table(load_device(HERE[0]), space_of(None))
    write_table(table, folder / "latency_tables" / f"{HERE[0]}.json")
    argv = ["bench", "latency", "--device", HERE[0], "--networks", "8", "--quick", "--quiet"]
    assert main([*argv, "--json"]) == 0
    (told,) = json.loads(capfd.readouterr().out)["devices"]
    assert told["n"] == 8
    assert told["spearman"] > 0.7
    for network in told["networks"]:
        assert min(network["measured_ms"], network["again_ms"]) > 0


def test_profile_local_is_all_four_of_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def here(
        device: DeviceProfile, space: MobileSpace, *, earlier: object, run: Run
    ) -> LatencyTable:
        assert earlier is None
        assert run.settings == STANDARD
        return invented_table(device, space)

    monkeypatch.setattr("edgenas.pipeline.profiling.profile_here", here)
    assert main(["profile", "local", "--json", "--quiet"]) == 0
    rows = json.loads(capfd.readouterr().out)["tables"]
    names = [f"local-{r}-{p}-t1" for r, p in FORMATS]
    assert [row["device"] for row in rows] == names
    assert len(names) == 4
    space = space_of(None)
    for name in names:
        table = read_table(Path("latency_tables") / f"{name}.json")
        assert table.name == name
        assert set(table.entries) == set(space.units())


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
