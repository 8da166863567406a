import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import ArtifactError, EdgenasError, SpecError, UsageError
from edgenas.hardware import load_device, on_this_chip, user_folder
from edgenas.latency import (
    Entry,
    LatencyTable,
    energy_mj,
    load_table,
    named,
    nearest_table,
    read_table,
    table_for,
    table_names,
    write_table,
)
from edgenas.latency.files import table_text
from edgenas.spaces import OpSpec
from edgenas.spaces.mobile import SMALL

NAME = "board-litert-fp32-t1"


@pytest.fixture
def small(tables: Callable[..., LatencyTable], truth: Callable[[OpSpec], float]) -> LatencyTable:
    return tables({op: truth(op) for op in SMALL.units()[:20]})


def test_a_table_comes_back_byte_for_byte(tmp_path: Path, costed: LatencyTable) -> None:
    path = tmp_path / f"{NAME}.json"
    write_table(costed, path)
    again = read_table(path)
    assert table_text(again) == path.read_text()
    assert again.digest == costed.digest
    assert set(again.entries) == set(costed.entries)
    assert again.fits[0].scale == pytest.approx(costed.fits[0].scale, rel=1e-5)
    assert again.path == path


def test_one_unit_a_line_sorted_and_the_order_of_entries_changes_nothing(
    small: LatencyTable,
) -> None:
    text = table_text(small)
    lines = [line for line in text.splitlines() if '"latency_ms"' in line]
    assert len(lines) == 20
    assert lines == sorted(lines)
    turned = replace(small, entries=dict(reversed(small.entries.items())))
    assert table_text(turned) == text
    assert turned.digest == small.digest
    assert json.loads(text)["schema"] == "edgenas.table/1"


def corrupt(key: str, value: str) -> Callable[[str], str]:
    """Replaces the value of `key` in the first unit's line."""

    def change(text: str) -> str:
        lines = text.splitlines(keepends=True)
        i = next(i for i, line in enumerate(lines) if '"latency_ms"' in line)
        head, _, rest = lines[i].partition(f'"{key}": ')
        stop = min(rest.index(c) for c in ",}" if c in rest)
        lines[i] = f'{head}"{key}": {value}{rest[stop:]}'
        return "".join(lines)

    return change


def scaled(factor: float) -> Callable[[str], str]:
    def change(text: str) -> str:
        document = json.loads(text)
        unit = sorted(document["entries"])[3]
        for name in ("latency_ms", "p10_ms", "p50_ms", "p90_ms"):
            document["entries"][unit][name] *= factor
        return json.dumps(document)

    return change


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return apply


def stated(part: str, value: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update({part: value})


def fitted(name: str, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["fits"][0].update({name: value})


def renamed(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "NaN": (corrupt("latency_ms", "NaN"), "NaN"),
    "infinity": (corrupt("latency_ms", "Infinity"), "Infinity"),
    "1e999": (corrupt("latency_ms", "1e999"), "1e999"),
    "zero": (corrupt("latency_ms", "0.0"), "latency_ms"),
    "integer zero": (corrupt("latency_ms", "0"), "latency_ms"),
    "negative": (corrupt("latency_ms", "-1.5"), "-1.5"),
    "a string": (corrupt("latency_ms", '"0.5"'), "'0.5'"),
    "a bool": (corrupt("latency_ms", "true"), "True"),
    "null": (corrupt("latency_ms", "null"), "None"),
    "a list": (corrupt("latency_ms", "[0.1]"), "latency_ms"),
    "no samples": (corrupt("n", "0"), ": n: Input should be greater than or equal to 1"),
    "n as float": (corrupt("n", "1.5"), ": n: Input should be a valid integer"),
    "quantiles out of order": (corrupt("p90_ms", "1e-9"), "quantiles"),
    "1000 x too slow": (scaled(1000), "implausible"),
    "1000 x too fast": (scaled(1 / 1000), "implausible"),
    "unknown field": (renamed('"created"', '"made": 1, "created"'), "made"),
    "unknown field of an entry": (renamed('"n": 100', '"n": 100, "mean_ms": 1.0'), "mean_ms"),
    "missing field": (edited(lambda d: d.pop("source")), "source"),
    "entry without n": (renamed('"n": 100, ', ""), ": n: Field required"),
    "no unit": (edited(lambda d: d["entries"].clear()), "no unit"),
    "newer schema": (renamed("edgenas.table/1", "edgenas.table/2"), "newer"),
    "another schema": (renamed("edgenas.table/1", "edgenas.front/1"), "edgenas.front/1"),
    "newer key grammar": (renamed('"key_version": 1', '"key_version": 2'), "newer"),
    "no schema": (renamed('"schema"', '"scheme"'), "schema"),
    "a key that is no unit": (renamed('"conv cin=', '"convolution cin='), "convolution"),
    "a key out of order": (
        lambda text: re.sub(r'"conv (cin=\d+) (cout=\d+)', r'"conv \2 \1', text, count=1),
        "canonical",
    ),
    **{
        f"{part}: {value}": (edited(stated(part, value)), told)
        for part, value, told in [
            ("conditions", {"power": 5}, "power"),
            ("conditions", {"power": {}}, "mean_mw"),
            ("conditions", {"power": {"mean_mw": -100.0}}, "-100"),
            ("conditions", {"power": {"mean_mw": "abc"}}, "'abc'"),
            ("conditions", {"memory": [1]}, "memory"),
            ("conditions", {"memory": {"sram_factor": 0.0}}, "sram_factor"),
            ("conditions", {"data": {"upstream": 5}}, "upstream"),
            ("conditions", {"grade": ["x"]}, "grade"),
            ("validation", {"error_median": "0.1"}, "error_median"),
            ("validation", {"error_median": -1.0}, "error_median"),
            ("validation", {"error_median": True}, "error_median"),
            ("validation", {"within_10": 1.5}, "within_10"),
            ("validation", {"n": "many"}, "'many'"),
            ("validation", {"baselines": 5}, "baselines"),
            ("validation", {"baselines": {"macs_constant": "x"}}, "macs_constant"),
            ("validation", {"baselines": {"nearest_device": {"device": 7}}}, "device"),
        ]
    },
    **{
        f"fits: {name} {value}": (edited(fitted(name, value)), name)
        for name, value in [
            ("scale", 1e308),
            ("per_part_ms", -1e6),
            ("per_network_ms", 1e308),
            ("interval", 1e308),
        ]
    },
    "half a character": (edited(stated("created", "\ud800")), "half a character"),
    "duplicate key": (
        lambda text: text.replace('  "entries": {\n', '  "entries": {\n' + _line(text) + "\n", 1),
        "twice",
    ),
    "HTML": (lambda text: "<!DOCTYPE html><html>404</html>", "line 1"),
    "empty": (lambda text: "", "line 1"),
    "a list of tables": (lambda text: f"[{text}]", "schema"),
    "truncated": (lambda text: text[: len(text) // 2], "line"),
    "deeply nested": (lambda text: "[" * 200_000, "nested"),
    "negative scale": (edited(lambda d: d["fits"][0].update(scale=-1.0)), "scale"),
    "two fits of one kind": (edited(lambda d: d["fits"].append(d["fits"][0])), "two fits"),
    "unknown source": (renamed('"source": "measured"', '"source": "guessed"'), "guessed"),
    "unknown runtime": (renamed('"runtime": "litert"', '"runtime": "abacus"'), "abacus"),
}


def _line(text: str) -> str:
    return next(line for line in text.splitlines() if '"latency_ms"' in line)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_table_is_refused_by_name_and_place(
    tmp_path: Path, small: LatencyTable, fault: str
) -> None:
    change, said = FAULTS[fault]
    text = table_text(small)
    damaged = change(text)
    assert damaged != text
    path = tmp_path / f"{NAME}.json"
    path.write_text(damaged)
    with pytest.raises(ArtifactError) as caught:
        read_table(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 3


def test_an_implausible_unit_is_found_by_the_cost_model_too(
    tmp_path: Path, costed: LatencyTable
) -> None:
    path = tmp_path / f"{NAME}.json"
    path.write_text(scaled(1000)(table_text(costed)))
    with pytest.raises(ArtifactError, match="implausible"):
        read_table(path)


def test_cut_anywhere_or_flipped_only_our_errors_come_out(
    tmp_path: Path, small: LatencyTable
) -> None:
    path = tmp_path / f"{NAME}.json"
    data = table_text(small).encode()
    rng = random.Random(0)
    for _ in range(100):
        path.write_bytes(data[: rng.randrange(len(data) - 2)])
        with pytest.raises(ArtifactError):
            read_table(path)
    for _ in range(100):
        i = rng.randrange(len(data))
        path.write_bytes(data[:i] + bytes([data[i] ^ (1 << rng.randrange(8))]) + data[i + 1 :])
        try:
            read_table(path)
        except EdgenasError as error:
            assert error.exit_code == 3  # noqa: PT017


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ArtifactError, match="larger"):
        read_table(path)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), True])
def test_an_entry_cannot_hold_what_is_no_latency(bad: float) -> None:
    with pytest.raises(SpecError):
        Entry(bad, 0.1, 0.2, 0.3, 1)


def put(table: LatencyTable, name: str, folder: Path) -> Path:
    path = folder / f"{name}.json"
    write_table(named(table, name), path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with tables of its own, and a user's folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    (tmp_path / "latency_tables").mkdir()
    return tmp_path / "latency_tables"


def test_the_working_folders_table_hides_the_users(here: Path, small: LatencyTable) -> None:
    user = put(replace(small, created="2025-01-01"), NAME, user_folder("latency_tables"))
    assert load_table(NAME).path == user
    mine = put(small, NAME, here)
    assert load_table(NAME).path == mine
    assert table_names()[NAME].shadows == (user,)


def test_a_table_that_is_not_there_names_the_command_that_makes_it(here: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_table("no-such-litert-fp32-t1")
    assert caught.value.hint == "edgenas profile no-such-litert-fp32-t1"
    with pytest.raises(UsageError):
        load_table("../secret")


def test_a_table_of_another_device_under_this_name_is_refused(
    here: Path, small: LatencyTable
) -> None:
    write_table(small, here / "other-litert-fp32-t1.json")
    with pytest.raises(ArtifactError, match=NAME):
        load_table("other-litert-fp32-t1")


def test_a_local_device_uses_its_own_table_and_else_its_chips(
    here: Path, small: LatencyTable
) -> None:
    device = load_device("local-litert-fp32-t3")
    with pytest.raises(SpecError, match="no latency table"):
        table_for(device)
    fitting = replace(small, device=replace(small.device, chip=device.chip, threads=3))
    put(fitting, on_this_chip(device), here)
    assert table_for(device).name == on_this_chip(device)
    put(fitting, device.name, here)
    assert table_for(device).name == device.name


@pytest.mark.parametrize(
    "change",
    [{"chip": "other"}, {"runtime": "onnxruntime"}, {"precision": "int8"}, {"threads": 2}],
)
def test_a_table_of_another_context_is_refused(
    here: Path, small: LatencyTable, change: dict[str, Any]
) -> None:
    device = load_device("local-litert-fp32-t1")
    table = replace(small, device=replace(small.device, chip=device.chip))
    table.check_device(device)
    with pytest.raises(ArtifactError, match=next(iter(change))) as caught:
        replace(table, device=replace(table.device, **change)).check_device(device)
    assert caught.value.hint == "edgenas profile local-litert-fp32-t1"
    with pytest.raises(ArtifactError, match="runtime_version"):
        table.check_device(device, runtime_version="9.9")


def test_the_nearest_table_has_the_same_runtime_and_precision(
    here: Path, small: LatencyTable
) -> None:
    device = load_device("local-litert-fp32-t1")

    def like(**change: Any) -> LatencyTable:
        return replace(small, device=replace(small.device, **change))

    put(like(chip="a", threads=4), "a-litert-fp32-t4", here)
    put(like(chip="b"), "b-litert-fp32-t1", here)
    put(like(chip=device.chip, precision="int8"), "c-litert-int8-t1", here)
    found = nearest_table(device)
    assert found is not None
    assert (found.device.runtime, found.device.precision) == ("litert", "fp32")
    put(like(chip=device.chip, threads=2), "d-litert-fp32-t2", here)
    found = nearest_table(device)
    assert found is not None
    assert found.device.chip == device.chip
    lacking = OpSpec.of("add", c=7, h=3, w=3)
    entries = {**small.entries, lacking: next(iter(small.entries.values()))}
    put(replace(like(chip="e"), entries=entries), "e-litert-fp32-t1", here)
    found = nearest_table(device, [lacking])
    assert found is not None
    assert found.device.chip == "e"


def test_every_shipped_table_loads_and_has_a_device(root: Path) -> None:
    paths = sorted((root / "latency_tables").glob("*.json"))
    assert paths
    for path in paths:
        table = read_table(path)
        assert table.name == path.stem
        assert not table.name.startswith("local-")
        device = load_device(table.name)
        table.check_device(device)
        assert table.fits


def test_a_calibrated_table_may_hold_a_cost_model_only(
    tmp_path: Path, costed: LatencyTable, truth: Callable[[OpSpec], float]
) -> None:
    device = replace(
        costed.device, name="v100-unstated-b32", runtime="unstated", threads=None, batch=32
    )
    table = replace(costed, device=device, source="calibrated", entries={})
    path = tmp_path / "v100-unstated-b32.json"
    write_table(table, path)
    again = read_table(path)
    assert table_text(again) == path.read_text()
    assert (again.device.threads, again.device.batch) == (None, 32)
    op = OpSpec.parse("conv cin=20 cout=32 h=14 w=14 k=7 s=1 g=1 act=relu6")
    near = OpSpec.parse("conv cin=20 cout=32 h=14 w=14 k=3 s=1 g=1 act=relu6")
    assert again.cost_model is not None
    assert again.cost_model.unit_ms(op) > again.cost_model.unit_ms(near) > 0
    assert not again.cost_model.covers(op)
    with pytest.raises(SpecError, match="no unit at all"):
        replace(table, source="measured")
    with pytest.raises(SpecError, match="no unit at all"):
        replace(table, cost_model=None)


def test_energy_is_mean_power_times_latency_where_power_is_stated(small: LatencyTable) -> None:
    assert energy_mj(small, 10.0) is None
    stated = replace(small, conditions={"power": {"mean_mw": 42.0}})
    assert energy_mj(stated, 10.0) == pytest.approx(0.42)


def test_what_is_new_in_the_format_leaves_older_files_as_they_were(
    small: LatencyTable, costed: LatencyTable
) -> None:
    assert "batch" not in table_text(small)
    assert "sram_bytes" not in table_text(costed)
