"""Latency tables: what units take on one device, with where it comes from and how good it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from edgenas import artifacts
from edgenas.errors import ArtifactError, SpecError
from edgenas.hardware import DeviceProfile
from edgenas.hardware.device import DeviceClass, Precision, RuntimeName
from edgenas.latency.cost import CostModel
from edgenas.latency.fit import Fit, Granularity
from edgenas.spaces.ops import KEY_VERSION, OpSpec

SCHEMA = "edgenas.table/1"
Source = Literal["measured", "estimated", "calibrated", "analytic"]
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
        return artifacts.digest(document(self))

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


def document(table: LatencyTable) -> dict[str, Any]:
    """The content of the table's file."""
    device = asdict(table.device)
    device["class"] = device.pop("device_class")
    if device["batch"] == 1:
        del device["batch"]
    content: dict[str, Any] = {
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
            {name: _short(v) for name, v in asdict(fit).items() if v is not None}
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
        content["cost_model"] = cost
    if table.validation is not None:
        content["validation"] = dict(table.validation)
    return content


def _short(value: Any) -> Any:
    """Floats with six significant digits: no measurement has more."""
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def named(table: LatencyTable, name: str, *, title: str = "") -> LatencyTable:
    """The same table under another device's name, as a chip's table is shipped."""
    device = replace(table.device, name=name, title=title or table.device.title)
    return replace(table, device=device)
