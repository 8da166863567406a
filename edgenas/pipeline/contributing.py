"""Latency tables that others wrote: whether they may be read at all, and whether they can be true.

`read_table` refuses what is no table. What is looked at here is whether a well-formed one can be
what it says: a device's file beside it that agrees, milliseconds and not another unit, units that
its own cost model knows, no copy of another table, and a word on where it comes from. Nothing is
timed, and no heavy library is loaded.
"""

from __future__ import annotations

import datetime
import functools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import read_json
from edgenas.errors import EdgenasError, SpecError
from edgenas.hardware import DeviceProfile, find, load_device_file, on_this_chip
from edgenas.hardware.folders import check_name, shipped_folder
from edgenas.latency.files import read_table, table_text
from edgenas.latency.table import SCHEMA as TABLE_SCHEMA
from edgenas.latency.table import LatencyTable

if TYPE_CHECKING:
    from edgenas.latency.cost import CostModel
    from edgenas.spaces import Lowering, OpSpec

SCHEMA = "edgenas.table-check/1"

PACES_MS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "cpu": (0.689, 12.7),
        "mobile": (2.06, 36.2),
        "gpu": (0.0110, 13.8),
        "tpu": (0.273, 0.379),
        "npu": (0.916, 4.59),
        "mcu": (208.0, 1210.0),
    }
)
"""By class of device, what the fastest and the slowest shipped table say that an image takes in the
largest default network of `mobile/1` for images of 96 x 96 pixels (113 M MACs). A test compares."""
PACE_FACTOR = 30.0
"""So far outside of it a table is refused: seconds or microseconds are off by a thousand."""
UNIT_FACTOR = 10.0
"""A unit may be so far off its table's cost model; shipped tables stay below 2.5."""
HELD_OUT_FACTOR = 25.0
"""Or, where its table has no cost model, off what a fit to its other units says of it, which is
rough where they are few."""
MODEL_FACTOR = 2.0
"""So far off may the cost model be from the units in the middle."""
_SHOWN = 5
MIN_SHARED = 10
"""Units that two tables share, all with the same latencies, from which on one is a copy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a table is refused: the key it is about ("" for the file), the value, what to do."""

    key: str
    value: str
    problem: str
    hint: str

    def __str__(self) -> str:
        where = f"{self.key}: " if self.key else ""
        value = f" (found {self.value})" if self.value else ""
        return f"{where}{self.problem}{value}"


@dataclass(frozen=True, slots=True)
class CheckedTable:
    """One file: what is wrong with it, and what could not be looked at."""

    path: Path
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "file": str(self.path),
            "passed": not self.problems,
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """For people, every line with the file's name."""
        lines = [f"{self.path}: {'refused' if self.problems else 'fine'}"]
        for problem in self.problems:
            lines += [f"{self.path}: {problem}", f"  try: {problem.hint}"]
        return "\n".join(lines + [f"{self.path}: note: {note}" for note in self.notes])


def check_tables(paths: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """What is wrong with the tables in these files, as `edgenas.table-check/1` and as text."""
    raw = functools.cache(_raw)
    found = [_checked(path, raw) for path in paths]
    passed = not any(checked.problems for checked in found)
    tables = [checked.document() for checked in found]
    document = {"schema": SCHEMA, "passed": passed, "tables": tables}
    return document, "\n".join(checked.text() for checked in found)


def _checked(path: Path, raw: Callable[[Path], Mapping[str, Any]]) -> CheckedTable:
    """What is wrong with the table in `path`. Whatever the file holds, nothing is raised for it."""
    name = path.name.removesuffix(".json")
    try:
        if not path.name.endswith(".json"):
            raise SpecError("a table's file is called NAME.json", hint=f"rename it: {name}.json")
        check_name(name)
        table = read_table(path)
    except EdgenasError as error:
        hint = error.hint or "edgenas profile DEVICE writes one; edgenas table show NAME reads it"
        told = str(error).removeprefix(f"{path}: ")
        return CheckedTable(path, (Problem("", "", told, hint),))
    device, problems = _device(path, name)
    problems += [*_context(table, name, device), *_origin(table), *_copies(path, table, raw)]
    model = _model(table)
    expected = _expected(table)
    problems += _units(table, expected)
    notes = [] if device is None else [*_alike(device)]
    notes += [] if table.validation else ["nobody has compared it with whole networks"]
    if left := len(table.entries) - len(expected):
        notes.append(f"{left} of its {len(table.entries)} units could not be held against others")
    pace = pace_ms(table if table.cost_model else replace(table, cost_model=model))
    if pace is None:
        notes.append("its unit of time was not checked: it does not know the units of mobile/1")
    else:
        problems += _pace(table, pace)
    return CheckedTable(path, tuple(problems), tuple(notes))


def pace_ms(table: LatencyTable) -> float | None:
    """What an image takes in the network of `PACES_MS`; None where the table does not know it."""
    from edgenas.errors import MissingUnitsError
    from edgenas.latency import Predictor

    try:
        return Predictor(table).predict(_reference()).latency_ms / table.device.batch
    except MissingUnitsError:
        return None


def _reference() -> Lowering:
    from edgenas.spaces.registry import space_from

    space = space_from("mobile/1", image_size=96, in_channels=3, n_classes=10)
    return space.lower(space.largest())


def _device(path: Path, name: str) -> tuple[DeviceProfile | None, list[Problem]]:
    """The profile of the table's device: in `devices` beside its folder, else a known one."""
    beside = path.resolve().parent.parent / "devices" / f"{name}.toml"
    known = find("devices", name)
    file = beside if beside.is_file() else None if known is None else known.path
    if file is None:
        told = f"there is no {beside.parent.name}/{beside.name} beside its folder"
        hint = (
            "write it; one to begin with: "
            f"edgenas devices show amd-epyc-f25m1-avx2-litert-int8-t1 --toml > {beside}"
        )
        return None, [Problem("device.name", repr(name), told, hint)]
    try:
        return load_device_file(file), []
    except EdgenasError as error:
        return None, [Problem("device", "", str(error), error.hint or f"mend {file}")]


def _context(table: LatencyTable, name: str, device: DeviceProfile | None) -> Iterator[Problem]:
    """Whether it is the table of the device that its file is named after."""
    if table.name != name:
        told = f"it is not the file's name, {name!r}"
        yield Problem("device.name", repr(table.name), told, "give both the name of the device")
    if name.startswith("local-"):
        chip = f"{table.device.chip}-{name.removeprefix('local-')}"
        told = "'local-' means another machine everywhere: a table that is shared bears its chip"
        yield Problem("device.name", repr(name), told, f"call table and device {chip}")
    if device is None:
        return
    here = {"class": table.device.device_class} | {
        key: getattr(table.device, key)
        for key in ("chip", "runtime", "precision", "threads", "batch")
    }
    if device.runtime_version is not None:
        here["runtime_version"] = table.device.runtime_version
    for key, value in here.items():
        wanted = getattr(device, "device_class" if key == "class" else key)
        if value != wanted:
            told = f"the device's file {device.path} says {wanted!r}"
            hint = f"edgenas profile {device.name}, or mend the one that is wrong"
            yield Problem(f"device.{key}", repr(value), told, hint)


def _alike(device: DeviceProfile) -> Iterator[str]:
    """Notes on other devices beside it that differ in nothing that decides a latency."""
    if device.path is not None:
        for other in sorted(device.path.parent.glob("*.toml")):
            if other.name != device.path.name and _digest(other) == device.digest:
                yield f"{other.name} too is of {on_this_chip(device)}: is it the same device?"


def _digest(path: Path) -> str:
    try:
        return load_device_file(path).digest
    except EdgenasError:
        return ""  # it is checked by itself, with its own table


def _origin(table: LatencyTable) -> Iterator[Problem]:
    """Whether it says when and how its figures came about."""
    hint = f"edgenas profile {table.name} writes it; for published figures: tools/calibrate"
    try:
        day = datetime.date.fromisoformat(table.created)
        # the first place on Earth to see a day is 14 hours ahead
        now = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=14))).date()
        if day > now:
            yield Problem("created", repr(table.created), "this day is still to come", hint)
    except ValueError:
        yield Problem("created", repr(table.created), "there is no such day", hint)
    if not table.conditions:
        told = "a table says how it was measured, or which figures it was fitted to"
        yield Problem("conditions", "{}", told, hint)
    if table.source in ("measured", "estimated") and not table.entries:
        told = f"no unit was {table.source}"
        yield Problem("source", repr(table.source), told, hint)
    if not table.fits:
        told = "no fit makes a network's latency of its units'"
        yield Problem("fits", "[]", told, hint)


def _raw(path: Path) -> Mapping[str, Any]:
    """The document in `path`; empty where it is none, which is told when it is checked itself."""
    try:
        return read_json(path, schema=TABLE_SCHEMA)
    except EdgenasError:
        return {}


def _copies(
    path: Path, table: LatencyTable, raw: Callable[[Path], Mapping[str, Any]]
) -> Iterator[Problem]:
    """Other tables, in the same folder or shipped, that say the same, whatever they are of.

    A table that was calibrated keeps the units of another one that shipped, and has its own fits.
    """
    own = json.loads(table_text(table))
    beside, shipped = path.resolve().parent, shipped_folder("latency_tables").resolve()
    for other in [f for folder in sorted({beside, shipped}) for f in sorted(folder.glob("*.json"))]:
        if other.name == path.name:
            continue
        found = raw(other)
        if other.parent != beside and table.source == "calibrated" and _fits(own) != _fits(found):
            continue
        hint = f"measure it: edgenas profile {table.name}"
        shared = set(own["entries"]) & set(_part(found, "entries"))
        if len(shared) >= MIN_SHARED and all(
            own["entries"][k] == found["entries"][k] for k in shared
        ):
            told = f"{len(shared)} units have to the last digit the latencies of {other.name}"
            yield Problem("entries", "", told, hint)
        fitted = _part(own, "cost_model")
        if not own["entries"] and fitted and fitted == _part(found, "cost_model"):
            told = f"it is to the last digit that of {other.name}"
            yield Problem("cost_model", "", told, hint)


def _fits(document: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    return [(fit["scale"], fit["per_part_ms"]) for fit in document.get("fits", ())]


def _part(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if isinstance(part, dict) else {}


def _model(table: LatencyTable) -> CostModel | None:
    """The table's cost model, else one of its units; None where there are too few for one."""
    from edgenas.latency.cost import fit_cost

    return table.cost_model or fit_cost({op: e.latency_ms for op, e in table.entries.items()})


def _expected(table: LatencyTable) -> dict[OpSpec, float]:
    """What its units should take (ms) by its cost model, or without one by all other units."""
    from edgenas.latency.cost import held_out

    model = table.cost_model
    if model is None:
        return held_out({op: entry.latency_ms for op, entry in table.entries.items()})
    return {op: ms for op in table.entries if (ms := model.unit_ms(op)) is not None}


def _units(table: LatencyTable, expected: Mapping[OpSpec, float]) -> Iterator[Problem]:
    """Units that the cost model contradicts, the worst first; without one, that the others do."""
    hint = f"time it again: edgenas profile {table.name}"
    who, factor = "the cost model", UNIT_FACTOR
    if table.cost_model is None:
        who, factor = "a cost model of the other units", HELD_OUT_FACTOR
    ratios = {op: table.entries[op].latency_ms / ms for op, ms in expected.items()}
    if not ratios:
        return
    middle = statistics.median(ratios.values())
    if table.cost_model is not None and not 1 / MODEL_FACTOR < middle < MODEL_FACTOR:
        told = f"units take {middle:.3g} times what it says in the median: it is of others"
        yield Problem("cost_model", "", told, f"edgenas profile {table.name} fits it again")
        return
    far = {op: max(r, 1 / r) for op, r in ratios.items() if not 1 / factor < r < factor}
    for op in sorted(far, key=lambda op: (-far[op], op.key))[:_SHOWN]:
        ms = table.entries[op].latency_ms
        told = f"{ratios[op]:.3g} times the {ms / ratios[op]:.3g} ms that {who} expects"
        yield Problem(f"entries: {op.key!r}: latency_ms", f"{ms:g}", told, hint)
    if len(far) > _SHOWN:
        told = f"{len(far) - _SHOWN} more units are {factor:g} times off {who}"
        yield Problem("entries", "", told, hint)


def _pace(table: LatencyTable, pace: float) -> Iterator[Problem]:
    """Whether the figures can be milliseconds, beside what is known of such devices."""
    low, high = PACES_MS[table.device.device_class]
    if low / PACE_FACTOR <= pace <= high * PACE_FACTOR:
        return
    told = (
        f"an image would take {pace:.3g} ms in the largest default network for 96 pixels, where "
        f"known devices of the class {table.device.device_class!r} take {low:g} to {high:g} ms"
    )
    hint = "all latencies are in milliseconds, of a whole batch; check batch and class too"
    yield Problem("entries" if table.entries else "cost_model", "", told, hint)
