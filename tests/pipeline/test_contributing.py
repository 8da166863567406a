"""Tables of strangers: what is refused, with file, key, value and what to do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.cli.main import main
from edgenas.hardware import load_device_file
from edgenas.hardware.folders import shipped_folder
from edgenas.latency import read_table
from edgenas.latency.cost import held_out
from edgenas.pipeline.contributing import HELD_OUT_FACTOR, PACES_MS, pace_ms
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_invented_device

NAME = "nucleo-h7a3zi-xcubeai-int8-t1"
TIMED = "ethos-u55-128-vela-int8"

Table = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two tables, taken from those that ship, and their devices."""
    for kind, suffix in (("devices", "toml"), ("latency_tables", "json")):
        (tmp_path / kind).mkdir()
        for name in (NAME, TIMED):
            file = shipped_folder(kind) / f"{name}.{suffix}"
            (tmp_path / kind / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(name: str, change: Callable[[Table], object], to: str = "") -> Path:
    path = Path("latency_tables") / f"{name}.json"
    table = json.loads(path.read_text("utf-8"))
    change(table)
    target = path.with_name(f"{to or name}.json")
    target.write_text(json.dumps(table), "utf-8")
    return target


def checked(capfd: pytest.CaptureFixture[str], *paths: Path, code: int) -> list[Table]:
    capfd.readouterr()
    assert main(["table", "check", *map(str, paths), "--json"]) == code
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "edgenas.table-check/1"
    assert document["passed"] == (code == 0)
    tables: list[Table] = document["tables"]
    assert [table["file"] for table in tables] == list(map(str, paths))
    assert all(p["hint"] and p["problem"] for table in tables for p in table["problems"])
    return tables


def test_tables_that_ship_are_fine(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = [Path("latency_tables") / f"{name}.json" for name in (NAME, TIMED)]
    for table in checked(capfd, *paths, code=0):
        assert table["problems"] == []


def slower(factor: float) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        for entry in table["entries"].values():
            for name in ("latency_ms", "p10_ms", "p50_ms", "p90_ms"):
                entry[name] *= factor
        fitted = table["cost_model"]["coefficients"]
        fitted.update({name: value * factor for name, value in fitted.items()})

    return change


def one_unit(factor: float) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        entry = table["entries"][sorted(table["entries"])[7]]
        for name in ("latency_ms", "p10_ms", "p50_ms", "p90_ms"):
            entry[name] *= factor

    return change


def half_a_model(table: Table) -> None:
    fitted = table["cost_model"]["coefficients"]
    fitted.update({name: value / 3 for name, value in fitted.items()})


CASES: dict[str, tuple[str, Callable[[Table], object], str, str, str]] = {
    "microseconds": (NAME, slower(1000), "cost_model", "", "known devices of the class 'mcu' take"),
    "seconds": (TIMED, slower(1e-3), "entries", "", "known devices of the class 'npu' take"),
    "a unit far off": (TIMED, one_unit(15), "entries: ", "ms", "times the"),
    "a unit 1000 times off": (TIMED, one_unit(1000), "", "", "is implausible"),
    "a cost model of other units": (TIMED, half_a_model, "cost_model", "", "it is of others"),
    "another chip": (NAME, lambda t: t["device"].update(chip="z80"), "device.chip", "'z80'", ""),
    "another class": (
        NAME, lambda t: t["device"].update({"class": "cpu"}), "device.class", "'cpu'", "says 'mcu'",
    ),
    "another name": (NAME, lambda t: t["device"].update(name="x"), "device.name", "'x'", "file's"),
    "no such day": (NAME, lambda t: t.update(created="2026-02-30"), "created", "'2026-02-30'", ""),
    "day to come": (NAME, lambda t: t.update(created="2999-01-01"), "created", "'2999-01-01'", ""),
    "from nowhere": (NAME, lambda t: t.update(conditions={}), "conditions", "{}", "measured"),
    "nothing measured": (
        NAME, lambda t: t.update(source="estimated"), "", "", "no unit at all",
    ),
    "no fit": (TIMED, lambda t: t.update(fits=[]), "fits", "[]", "no fit"),
    "a field": (NAME, lambda t: t.update(speed=3), "", "", "speed: unknown field, value 3"),
    "no latency": (TIMED, one_unit(-1), "", "", "greater than 0 (found -"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_refused(
    folder: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    name, change, key, value, message = CASES[case]
    (table,) = checked(capfd, edit(name, change), code=3)
    told = [p for p in table["problems"] if p["key"].startswith(key) and message in p["problem"]]
    assert told, table["problems"]
    if value.startswith(("'", "{", "[")):
        assert told[0]["value"] == value
    assert main(["table", "check", table["file"]]) == 3
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"{table['file']}: refused"
    assert lines[1].startswith(f"{table['file']}: ")
    assert lines[2].startswith("  try: ")


@pytest.mark.parametrize("name", [NAME, TIMED])
def test_a_copy_under_another_name_is_found_out(
    folder: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    copy = edit(name, lambda t: t["device"].update(name="mine", chip="mine"), to="mine")
    (table,) = checked(capfd, copy, code=3)
    problems = {p["key"]: p["problem"] for p in table["problems"]}
    key = "entries" if name == TIMED else "cost_model"
    assert problems[key].endswith(f"{name}.json")
    assert problems["device.name"] == "there is no devices/mine.toml beside its folder"
    (hint,) = [p["hint"] for p in table["problems"] if p["key"] == "device.name"]
    assert main(hint.partition(": edgenas ")[2].partition(" > ")[0].split()) == 0
    printed = capfd.readouterr().out.replace('"amd-epyc-f25m1-avx2-litert-int8-t1"', '"mine"')
    Path("devices/mine.toml").write_text(printed, "utf-8")
    assert load_device_file(Path("devices/mine.toml")).chip == "amd-epyc-f25m1-avx2"


@pytest.mark.parametrize("name", [NAME, TIMED])
def test_a_copy_of_one_that_ships_is_found_out_wherever_it_lies(
    folder: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    copy = edit(name, lambda t: t["device"].update(name="mine", chip="mine"), to="mine")
    for kind, suffix in (("latency_tables", "json"), ("devices", "toml")):
        (folder / kind / f"{name}.{suffix}").unlink()
    (table,) = checked(capfd, copy, code=3)
    key = "entries" if name == TIMED else "cost_model"
    (told,) = [p["problem"] for p in table["problems"] if p["key"] == key]
    assert told.endswith(f"{name}.json")
    if name == NAME:  # as one that was calibrated on other networks has its own
        fits = [
            {**fit, "scale": 1.1 * fit["scale"]} for fit in json.loads(copy.read_text())["fits"]
        ]
        (table,) = checked(capfd, edit("mine", lambda t: t.update(fits=fits)), code=3)
        assert not [p for p in table["problems"] if p["key"] == key]


@pytest.mark.parametrize("factor", [30, 1 / 30])
def test_a_unit_of_a_table_without_a_cost_model_is_held_against_the_others(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
) -> None:
    write_invented_device(tmp_path, tiny_space())
    monkeypatch.chdir(tmp_path)
    honest = Path("latency_tables") / f"{INVENTED_DEVICE}.json"
    checked(capfd, honest, code=0)
    table = json.loads(honest.read_text("utf-8"))
    assert "cost_model" not in table
    assert len(table["entries"]) == 12
    (far,) = [key for key in table["entries"] if "hidden=24 cout=16 h=4" in key]

    def change(table: Table) -> None:
        unit = table["entries"][far]
        unit.update({key: ms * factor for key, ms in unit.items() if key.endswith("_ms")})

    (found,) = checked(capfd, edit(INVENTED_DEVICE, change), code=3)
    assert found["problems"][0]["key"] == f"entries: {far!r}: latency_ms"
    assert "a cost model of the other units expects" in found["problems"][0]["problem"]


def test_a_table_of_the_machine_at_hand_is_not_shared(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "local-litert-int8-t1"
    (table,) = checked(capfd, edit(NAME, lambda t: t["device"].update(name=name), to=name), code=3)
    assert any("bears its chip" in p["problem"] for p in table["problems"])


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"[" * 100_000, b'{"schema": "x/1"}'])
def test_what_is_no_table_is_told_with_its_file(
    folder: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = Path("latency_tables/odd.json")
    path.write_bytes(content)
    missing = Path("latency_tables/none.json")
    fine = Path("latency_tables") / f"{NAME}.json"
    first, second, third = checked(capfd, path, missing, fine, code=3)
    assert (len(first["problems"]), len(second["problems"]), third["passed"]) == (1, 1, True)


def test_the_paces_are_those_of_the_shipped_tables() -> None:
    from edgenas.latency import read_table

    found: dict[str, list[float]] = {}
    for path in shipped_folder("latency_tables").glob("*.json"):
        table = read_table(path)
        if (pace := pace_ms(table)) is not None:
            found.setdefault(table.device.device_class, []).append(pace)
    assert found.keys() == PACES_MS.keys()
    for kind, paces in found.items():  # limits lie a factor of 30 beyond: rough figures will do
        assert PACES_MS[kind] == pytest.approx((min(paces), max(paces)), rel=0.25), kind


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_few_honest_units_are_not_off_each_other(runtime: str, precision: str) -> None:
    """A dozen or two of those that a table ships with, as who has no cost model may bring them."""
    name = f"amd-epyc-f25m1-avx2-{runtime}-{precision}-t1.json"
    table = read_table(shipped_folder("latency_tables") / name)
    ops = sorted(table.entries, key=lambda op: op.key)
    told = 0
    for seed in range(20):
        rng = random.Random(seed)
        units = {op: table.entries[op].latency_ms for op in rng.sample(ops, rng.randint(12, 25))}
        found = held_out(units)
        told += len(found)
        far = [
            op.key
            for op, ms in found.items()
            if not 1 / HELD_OUT_FACTOR < units[op] / ms < HELD_OUT_FACTOR
        ]
        assert not far, seed
    assert told > 20 * 3
