"""Latency tables: what units take on one device, with where it comes from and how good it is.

A file is JSON, sorted, one unit a line. A table is refused as a whole for any value that cannot
be a latency: it would win every search that reads it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas import artifacts
from edgenas.errors import ArtifactError, SpecError, nearest
from edgenas.hardware import DeviceProfile, find, listing, on_this_chip
from edgenas.hardware.device import DeviceClass, Precision, RuntimeName
from edgenas.hardware.folders import Found
from edgenas.latency.cost import CostModel
from edgenas.latency.fit import Fit, Granularity
from edgenas.spaces.ops import KEY_VERSION, OpSpec

SCHEMA = "edgenas.table/1"
Source = Literal["measured", "estimated", "calibrated", "analytic"]
SOURCES: tuple[str, ...] = get_args(Source)
IMPLAUSIBLE = 100.0
"""A latency this many times off what the rest of the table says is an error of the file."""

ROUGH_ERROR = 0.20
"""A table whose median error on whole networks left out is larger is called rough."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One unit's latency: the minimum over rounds of the round's median, and what is beside it.

    Where a compiler plans the device's memory: `sram_bytes` of activations and buffers, and
    `flash_bytes` of weights and commands.
    """

    latency_ms: float
    p10_ms: float
    p50_ms: float
    p90_ms: float
    n: int
    sram_bytes: int | None = None
    flash_bytes: int | None = None

    def __post_init__(self) -> None:
        values = self.latency_ms, self.p10_ms, self.p50_ms, self.p90_ms
        if not all(isinstance(v, float) and 0 < v < math.inf for v in values) or self.n < 1:
            raise SpecError(f"a latency must be positive and finite, from n >= 1: {self}")
        if not self.p10_ms <= self.p50_ms <= self.p90_ms or self.latency_ms > self.p90_ms:
            raise SpecError(f"quantiles out of order: {self}")


@dataclass(frozen=True, slots=True)
class TableDevice:
    """The measurement context that a table holds for; see `DeviceProfile`."""

    name: str
    title: str
    device_class: DeviceClass
    chip: str
    runtime: RuntimeName
    runtime_version: str
    precision: Precision
    threads: int | None
    batch: int = 1

    @classmethod
    def of(cls, device: DeviceProfile, *, runtime_version: str) -> TableDevice:
        """The context of a profile, with the version that really ran."""
        return cls(
            name=device.name,
            title=device.title,
            device_class=device.device_class,
            chip=device.chip,
            runtime=device.runtime,
            runtime_version=runtime_version,
            precision=device.precision,
            threads=device.threads,
            batch=device.batch,
        )


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Latencies of units on one device, the fits that make networks of them, and their origin.

    `conditions`: how it was measured, or which published figures it was fitted to. `validation`:
    whole networks, predicted against measured. A *calibrated* or *analytic* table may have no
    entry, only a cost model.
    `excluded`: units that could not be timed, with the reason. `created` is an ISO date.
    """

    device: TableDevice
    source: Source
    created: str
    entries: Mapping[OpSpec, Entry]
    fits: tuple[Fit, ...] = ()
    cost_model: CostModel | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, Any] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    key_version: int = KEY_VERSION

    def __post_init__(self) -> None:
        if len({fit.granularity for fit in self.fits}) < len(self.fits):
            raise SpecError(f"table {self.name}: two fits of one granularity")
        published = self.source in ("calibrated", "analytic") and self.cost_model is not None
        if not self.entries and not published:
            raise SpecError(f"table {self.name}: no unit at all")
        object.__setattr__(self, "entries", MappingProxyType(dict(self.entries)))

    @property
    def name(self) -> str:
        """The device's name, which is the file's stem."""
        return self.device.name

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over the whole content."""
        return artifacts.digest(_document(self))

    def holds(self, op: OpSpec) -> bool:
        """Whether `op` was timed, whole or as all of its primitives."""
        return op in self.entries or all(node.op in self.entries for node in op.primitives())

    @property
    def error_median(self) -> float | None:
        """Median error on what the fit has not seen; None where nobody checked."""
        value = (self.validation or {}).get("error_median")
        return float(value) if isinstance(value, int | float) else None

    @property
    def rough(self) -> bool:
        """Whether it is too far off to choose by a small difference; every output says so."""
        return self.error_median is not None and self.error_median > ROUGH_ERROR

    @property
    def word(self) -> str:
        """Its source, and *rough* where it is."""
        return f"{self.source}, rough" if self.rough else self.source

    def fit(self, granularity: Granularity) -> Fit | None:
        """The fit for parts of this granularity."""
        return next((fit for fit in self.fits if fit.granularity == granularity), None)

    def check_device(self, device: DeviceProfile, *, runtime_version: str | None = None) -> None:
        """Whether the table holds for `device`; a chip's table holds for that local machine.

        Raises:
            ArtifactError: another runtime, version, precision, thread count or chip.
        """
        wanted = {
            "runtime": device.runtime,
            "precision": device.precision,
            "threads": device.threads,
            "batch": device.batch,
            "chip": device.chip,
            "runtime_version": device.runtime_version or runtime_version,
        }
        for name, value in wanted.items():
            found = getattr(self.device, name)
            if value is not None and found != value:
                raise ArtifactError(
                    f"table {self.path or self.name}: {name} is {found!r}, "
                    f"device {device.name} has {value!r}",
                    hint=f"edgenas profile {device.name}",
                )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_Ms = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(ge=0)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Constant = Annotated[float, Field(ge=-1e5, le=1e5)]
_Count = Annotated[int, Field(ge=1)]
_Size = Annotated[int, Field(ge=0)]


class _EntryFile(_Strict):
    latency_ms: _Ms
    p10_ms: _Ms
    p50_ms: _Ms
    p90_ms: _Ms
    n: _Count
    sram_bytes: _Size | None = None
    flash_bytes: _Size | None = None


class _DeviceFile(_Strict):
    name: str
    title: str
    class_: Annotated[DeviceClass, Field(alias="class")]
    chip: str
    runtime: RuntimeName
    runtime_version: str
    precision: Precision
    threads: _Count | None
    batch: _Count = 1


class _FitFile(_Strict):
    granularity: Granularity
    scale: Annotated[float, Field(gt=0, le=1e6)]
    per_part_ms: _Constant
    per_network_ms: _Constant = 0.0
    call_ms: Annotated[_Constant, Field(ge=0)] = 0.0
    n_networks: _Count
    error_mean: _Share
    error_max: _Share
    interval: Annotated[float, Field(ge=0, le=1e4)]
    plain_sum_error_mean: _Share


class _CostFile(_Strict):
    coefficients: dict[str, Annotated[float, Field(ge=0)]]
    ranges: dict[str, Annotated[list[_Share], Field(min_length=2, max_length=2)]]
    n_units: _Count
    error_median: _Share
    low: Annotated[float, Field(gt=0, le=1)]
    high: Annotated[float, Field(ge=1)]


class _Told(BaseModel):
    """A part that may say more than what is read of it."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


class _PowerFile(_Told):
    mean_mw: Annotated[float, Field(gt=0, le=1e9)]


class _MemoryFile(_Told):
    sram_factor: Annotated[float, Field(gt=0, le=1e6)]


class _DataFile(_Told):
    upstream: str


class _ConditionsFile(_Told):
    power: _PowerFile | None = None
    memory: _MemoryFile | None = None
    data: _DataFile | None = None
    calibrated_from: str | None = None
    latency_of: str | None = None
    not_stated: list[str] | None = None
    grade: str | None = None
    virtualised: bool | None = None


class _ErrorsFile(_Told):
    error_median: _Share | None = None
    error_mean: _Share | None = None
    error_max: _Share | None = None
    within_5: _Fraction | None = None
    within_10: _Fraction | None = None


class _NearestFile(_ErrorsFile):
    device: str


class _BaselinesFile(_Told):
    macs_constant: _ErrorsFile | None = None
    nearest_device: _NearestFile | None = None


class _ValidationFile(_ErrorsFile):
    kind: str | None = None
    n: _Count | None = None
    baselines: _BaselinesFile | None = None


class TableFile(_Strict):
    """The format of `latency_tables/*.json`; `model_json_schema()` is its JSON Schema."""

    schema_: Annotated[Literal["edgenas.table/1"], Field(alias="schema")]
    key_version: _Count
    device: _DeviceFile
    source: Source
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    conditions: _ConditionsFile
    entries: dict[str, _EntryFile]
    excluded: dict[str, str] = {}
    fits: list[_FitFile] = []
    cost_model: _CostFile | None = None
    validation: _ValidationFile | None = None


def read_table(path: Path) -> LatencyTable:
    """The table in `path`.

    Raises:
        ArtifactError: cut off, not JSON, newer schema or key grammar, unknown field, duplicate
            key, a value that is no latency or cannot be one beside the others.
    """
    return parse_table(artifacts.read_json(path, schema=SCHEMA), path)


def check_readable(table: LatencyTable) -> None:
    """Whether the file of `table` could be read again.

    Raises:
        ArtifactError: as `read_table` would.
    """
    parse_table(json.loads(table_text(table)), Path(f"{table.name}.json"))


def parse_table(value: Mapping[str, Any], path: Path) -> LatencyTable:
    """The table in a document of `edgenas.table/1`; `path` is where it came from.

    Raises:
        ArtifactError: see `read_table`.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ArtifactError(f"{path}: {error.object[error.start]!r} is half a character") from error
    try:
        file = TableFile.model_validate(value)
    except ValidationError as error:
        shown = error.errors()[:5]
        more = f" and {error.error_count() - 5} more" if error.error_count() > 5 else ""
        raise ArtifactError(f"{path}: {'; '.join(map(_problem, shown))}{more}") from error
    if file.key_version > KEY_VERSION:
        raise ArtifactError(
            f"{path}: key_version {file.key_version} is newer than {KEY_VERSION}",
            hint="upgrade: pip install --upgrade edgenas",
        )
    entries: dict[OpSpec, Entry] = {}
    for key, entry in file.entries.items():
        try:
            entries[OpSpec.parse(key)] = Entry(**entry.model_dump())
        except SpecError as error:
            raise ArtifactError(f"{path}: entries: {key!r}: {error}") from error
    try:
        table = _table(file, entries, path)
        # as they stand: what is not read of them is kept too, and a digest is of every digit
        stated = {name: value[name] for name in ("conditions", "validation") if name in value}
        table = replace(table, **stated)
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}") from error
    if found := implausible(entries, table.cost_model):
        op, expected = found[0]
        raise ArtifactError(
            f"{path}: entries: {op.key!r}: {implausibility(entries[op], expected)}",
            hint=f"edgenas profile {table.name}",
        )
    return table


def write_table(table: LatencyTable, path: Path) -> None:
    """Writes the table, one unit a line, whole or not at all."""
    artifacts.write_atomic(path, table_text(table))


def table_text(table: LatencyTable) -> str:
    """The text of the table's file: keys sorted, one unit a line."""
    parts = []
    for name, value in sorted(_document(table).items()):
        if name == "entries":
            lines = [
                f"    {json.dumps(key)}: {json.dumps(entry, sort_keys=True)}"
                for key, entry in sorted(value.items())
            ]
            text = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        else:
            text = artifacts.to_json(value).rstrip("\n").replace("\n", "\n  ")
        parts.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def load_table(name: str) -> LatencyTable:
    """The table of the device called `name`: shipped, the user's or the working folder's.

    Raises:
        UsageError: `name` is no name.
        SpecError: there is none.
        ArtifactError: the file is damaged or holds another device's table.
    """
    found = find("latency_tables", name)
    if found is None:
        raise SpecError(
            f"no latency table for {name!r}; {nearest(name, table_names())}",
            hint=f"edgenas profile {name}",
        )
    return _load(found)


def table_names() -> dict[str, Found]:
    """All tables by name, with where each was found and what it hides."""
    return listing("latency_tables")


def other_tables(name: str) -> list[LatencyTable]:
    """All known tables but that of the device called `name`.

    Raises:
        ArtifactError: one is damaged.
    """
    return [_load(found) for found in table_names().values() if found.name != name]


def table_for(device: DeviceProfile) -> LatencyTable:
    """The table to predict `device` with: its own, else the one under its chip's name.

    Raises:
        SpecError: there is none.
        ArtifactError: it is damaged, or does not hold for the device.
    """
    table = _load(table_file(device))
    table.check_device(device)
    return table


def table_file(device: DeviceProfile) -> Found:
    """Where the table of `table_for` lies.

    Raises:
        SpecError: there is none.
    """
    for name in dict.fromkeys((device.name, on_this_chip(device))):
        if found := find("latency_tables", name):
            return found
    raise SpecError(
        f"no latency table for {device.name!r} (chip {device.chip})",
        hint=f"edgenas profile {device.name}; or name it in [export] targets, which need no table",
    )


def nearest_table(device: DeviceProfile, units: Iterable[OpSpec] = ()) -> LatencyTable | None:
    """The known table that most resembles `device`, to be rescaled by `calibrate`; None: none.

    Runtime and precision must be the same; then count whether it holds all `units`, chip, class,
    threads.
    """
    units = tuple(units)
    best: tuple[tuple[bool, bool, bool, int], LatencyTable] | None = None
    kind = f"-{device.runtime}-{device.precision}-t"
    for found in table_names().values():
        if kind not in found.name:
            continue
        table = _load(found)
        d = table.device
        if (d.runtime, d.precision) != (device.runtime, device.precision):
            continue
        if table.source == "calibrated" or not table.entries:
            continue  # a copy of a copy, or nothing measured in it
        distance = (
            not all(map(table.holds, units)),
            d.chip != device.chip,
            d.device_class != device.device_class,
            abs((d.threads or 0) - (device.threads or 0)),
        )
        if best is None or distance < best[0]:
            best = distance, table
    return best[1] if best else None


def energy_mj(table: LatencyTable, latency_ms: float) -> float | None:
    """Energy of an inference at the device's mean power; None where its table states none."""
    power = table.conditions.get("power")
    return None if power is None else float(power["mean_mw"]) * latency_ms / 1000


def implausible(
    entries: Mapping[OpSpec, Entry], model: CostModel | None
) -> list[tuple[OpSpec, float]]:
    """Units whose latency is over 100 times more or less than expected, with the expectation (ms).

    Expected is the cost model's word, else the middle of what the others take for their
    work, for which at least three others are needed.
    """
    guesses: dict[OpSpec, float] = {}
    if model is not None:
        guesses = {op: ms for op in entries if (ms := model.unit_ms(op)) is not None}
    if len(entries) >= 4:
        rate = statistics.median(e.latency_ms / _work(op) for op, e in entries.items())
        guesses = {op: rate * _work(op) for op in entries} | guesses
    return sorted(
        (
            (op, guess)
            for op, guess in guesses.items()
            if not 1 / IMPLAUSIBLE < entries[op].latency_ms / guess < IMPLAUSIBLE
        ),
        key=lambda pair: pair[0].key,
    )


def implausibility(entry: Entry, expected_ms: float) -> str:
    """What is told of a unit that `implausible` found."""
    return (
        f"{entry.latency_ms:g} ms is implausible: the rest of the table says about "
        f"{expected_ms:g} ms"
    )


def _work(op: OpSpec) -> float:
    """A rough amount of work: a call costs as much as 20,000 MACs, an element as 4."""
    return 20_000 + op.macs + 4 * (math.prod(op.in_chw) + math.prod(op.out_chw))


def _load(found: Found) -> LatencyTable:
    table = read_table(found.path)
    if table.name != found.name:
        raise ArtifactError(
            f"{found.path}: it holds the table of {table.name!r}, not of {found.name!r}"
        )
    return table


def _document(table: LatencyTable) -> dict[str, Any]:
    device = asdict(table.device)
    device["class"] = device.pop("device_class")
    if device["batch"] == 1:
        del device["batch"]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "key_version": table.key_version,
        "device": device,
        "source": table.source,
        "created": table.created,
        "conditions": dict(table.conditions),
        "entries": {
            op.key: {name: _short(v) for name, v in asdict(entry).items() if v is not None}
            for op, entry in table.entries.items()
        },
        "excluded": dict(table.excluded),
        "fits": [
            {name: _short(v) for name, v in asdict(fit).items()}
            for fit in sorted(table.fits, key=lambda fit: fit.granularity)
        ],
    }
    if table.cost_model is not None:
        model = table.cost_model
        cost: dict[str, Any] = {
            "coefficients": {k: _short(v) for k, v in model.coefficients.items()},
            "ranges": {k: list(v) for k, v in model.ranges.items()},
            "n_units": model.n_units,
            "error_median": _short(model.error_median),
            "low": _short(model.low),
            "high": _short(model.high),
        }
        document["cost_model"] = cost
    if table.validation is not None:
        document["validation"] = dict(table.validation)
    return document


def _short(value: Any) -> Any:
    """Floats with six significant digits: no measurement has more."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _table(file: TableFile, entries: Mapping[OpSpec, Entry], path: Path) -> LatencyTable:
    device = file.device.model_dump()
    device["device_class"] = device.pop("class_")
    cost = file.cost_model
    return LatencyTable(
        device=TableDevice(**device),
        source=file.source,
        created=file.created,
        entries=entries,
        fits=tuple(Fit(**fit.model_dump()) for fit in file.fits),
        cost_model=CostModel(
            coefficients=cost.coefficients,
            ranges={name: (low, high) for name, (low, high) in cost.ranges.items()},
            n_units=cost.n_units,
            error_median=cost.error_median,
            low=cost.low,
            high=cost.high,
        )
        if cost
        else None,
        excluded=file.excluded,
        path=path,
        key_version=file.key_version,
    )


def _problem(error: Any) -> str:
    place = ": ".join(repr(part) if " " in str(part) else str(part) for part in error["loc"])
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown field, value {value!r:.60}"
    return f"{place}: {error['msg']} (found {value!r:.60})"


def named(table: LatencyTable, name: str, *, title: str = "") -> LatencyTable:
    """The same table under another device's name, as a chip's table is shipped."""
    device = replace(table.device, name=name, title=title or table.device.title)
    return replace(table, device=device)
