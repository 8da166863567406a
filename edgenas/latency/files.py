"""Files of latency tables: JSON, sorted, one unit a line.

A table is refused as a whole for any value that cannot be a latency: it would win every search that
reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas import artifacts
from edgenas.errors import ArtifactError, SpecError
from edgenas.hardware.device import DeviceClass, Precision, RuntimeName
from edgenas.latency.cost import CostModel
from edgenas.latency.fit import Fit, Granularity
from edgenas.latency.table import (
    SCHEMA,
    Entry,
    LatencyTable,
    Source,
    TableDevice,
    document,
    implausibility,
    implausible,
)
from edgenas.spaces.ops import KEY_VERSION, OpSpec


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
    edges: dict[str, Annotated[float, Field(ge=0, le=1e6)]] | None = None
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
    for name, value in sorted(document(table).items()):
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
