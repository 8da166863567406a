"""One run of a measurement: its models by their keys, and how each device is measured.

Conversion needs torch, which this package does not know: the caller passes it in.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.errors import ArtifactError, SpecError
from edgenas.events import Report, silent
from edgenas.hardware import DeviceProfile, Transport, installed_version
from edgenas.profiling.estimate import estimate_models
from edgenas.profiling.kit import read_results
from edgenas.profiling.session import check_version, measure
from edgenas.profiling.settings import STANDARD, Settings
from edgenas.profiling.timings import Measurements
from edgenas.spaces import Lowering, OpSpec

N_ANCHORS = 16
"""Units of a table that are timed again beside others, to bring these to its time."""


@dataclass(frozen=True, slots=True)
class Converter:
    """Makes model files in the device's format; both cache what they made.

    `units` gives a file for each `op.key`, `networks` one for each name.
    """

    units: Callable[[Sequence[OpSpec]], Mapping[str, Path]]
    networks: Callable[[Mapping[str, Lowering]], Mapping[str, Path]]


@dataclass(frozen=True, slots=True)
class Run:
    """How a measurement is done: where its files lie, how long it takes, who is told."""

    workdir: Path
    settings: Settings = STANDARD
    seed: int = 0
    resume: bool = True
    transport: Transport | None = None
    report: Report = silent
    results: Path | None = None
    """What a kit's agent wrote elsewhere: read instead of reaching the device."""
    table_version: str | None = None
    """The runtime's version in the table that is to be extended."""


def today() -> str:
    """The date, UTC, as in a table's `created`."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def unit_key(op: OpSpec) -> str:
    """What a unit's model is called in a measurement."""
    return f"unit {op.key}"


def network_key(name: str) -> str:
    """What a whole network's model is called in a measurement."""
    return f"network {name}"


def named_models(keys: Iterable[str]) -> tuple[list[OpSpec], list[str]]:
    """The units, and the names of the networks, whose models have these keys.

    Raises:
        ArtifactError: a key that no model has.
    """
    units, networks = [], []
    for key in keys:
        kind, _, name = key.partition(" ")
        if kind == "network":
            networks.append(name)
            continue
        try:
            units.append(OpSpec.parse(name))
        except SpecError as error:
            raise ArtifactError(f"{key!r} is no model of a kit: {error}") from error
    return units, networks


def unit_models(ops: Sequence[OpSpec], converter: Converter) -> dict[str, Path]:
    """The units' model files, by key."""
    files = converter.units(ops)
    return {unit_key(op): files[op.key] for op in ops}


def network_models(networks: Mapping[str, Lowering], converter: Converter) -> dict[str, Path]:
    """The networks' model files, by key."""
    if not networks:
        return {}
    files = converter.networks(networks)
    return {network_key(name): files[name] for name in networks}


def measure_models(models: Mapping[str, Path], device: DeviceProfile, run: Run) -> Measurements:
    """The models timed on the device; estimated by its compiler, or read from a kit's results.

    Raises:
        MeasurementError, DeviceError: see `edgenas.profiling.measure`.
        OtherVersionError: the device runs another version of its runtime than is asked for.
    """
    if device.is_estimated:
        if (installed := installed_version(device.runtime)) is not None:
            check_version(device, installed, table_version=run.table_version)
        return estimate_models(
            models, device, workdir=run.workdir, resume=run.resume, report=run.report
        )
    if run.results is not None:
        found = read_results(models, device, run.results, settings=run.settings, seed=run.seed)
        version = str(found.conditions["runtime_version"])
        check_version(device, version, table_version=run.table_version)
        return found
    return measure(
        models,
        device,
        workdir=run.workdir,
        settings=run.settings,
        seed=run.seed,
        resume=run.resume,
        transport=run.transport,
        table_version=run.table_version,
        report=run.report,
    )
