"""Tables that rest on a few whole networks timed on a device, and on tables that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.hardware import DeviceProfile
from edgenas.latency import LatencyTable, TableDevice, rescale
from edgenas.profiling.runs import Run, measure_models, today
from edgenas.profiling.timings import Measurements
from edgenas.spaces import Lowering, OpSpec

if TYPE_CHECKING:
    from edgenas.latency.adapt import Adaptation


def calibrate_device(
    device: DeviceProfile,
    table: LatencyTable,
    networks: Mapping[str, tuple[Lowering, Path]],
    *,
    run: Run,
) -> LatencyTable:
    """`table`, measured on another machine, rescaled for `device` by timing whole networks on it.

    `networks` holds each one's lowering and model file in the device's format. Nothing is
    converted: with quick settings and eight small networks it takes seconds.

    Raises:
        SpecError: fewer than 3 networks could be timed.
    """
    found = measure_models({name: path for name, (_, path) in networks.items()}, device, run)
    times = found.latency_ms()
    rows = [(networks[name][0], times[name]) for name in sorted(times)]
    return rescale(table, rows, **_told(found))


def adapt_device(
    device: DeviceProfile,
    adaptation: Adaptation,
    networks: Mapping[int, Path],
    units: Iterable[OpSpec],
    *,
    run: Run,
) -> LatencyTable:
    """A table of `units` on `device`, from whole networks timed on it and all known tables.

    `networks` holds the model files of the rows that `adaptation.choose` named.

    Raises:
        SpecError: fewer than 4 networks could be timed.
    """
    found = measure_models({str(row): path for row, path in networks.items()}, device, run)
    times = found.latency_ms()
    rows = [row for row in networks if str(row) in times]
    return adaptation.table(rows, [times[str(row)] for row in rows], units, **_told(found))


def _told(found: Measurements) -> dict[str, Any]:
    """What a table made from a few networks says of where they were timed."""
    version = str(found.conditions["runtime_version"])
    return {
        "device": TableDevice.of(found.device, runtime_version=version),
        "created": found.measured_on or today(),
        "conditions": {**found.conditions, "failed": dict(found.failed)},
    }
