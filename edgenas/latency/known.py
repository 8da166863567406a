"""The known latency tables: found by name, by device, or as the nearest to one."""

from __future__ import annotations

from collections.abc import Iterable

from edgenas.errors import ArtifactError, SpecError, nearest
from edgenas.hardware import DeviceProfile, find, listing, on_this_chip
from edgenas.hardware.folders import Found
from edgenas.latency.files import read_table
from edgenas.latency.predictor import Predictor
from edgenas.latency.table import LatencyTable
from edgenas.spaces.ops import OpSpec


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

    Runtime and precision must be the same; then count whether it holds all `units`, whether it and
    its cost model know them, chip, class, threads.
    """
    units = tuple(units)
    best: tuple[tuple[bool, bool, bool, bool, int], LatencyTable] | None = None
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
        holds = all(map(table.holds, units))
        distance = (
            not holds,
            not holds and not all(map(Predictor(table).covers, units)),
            d.chip != device.chip,
            d.device_class != device.device_class,
            abs((d.threads or 0) - (device.threads or 0)),
        )
        if best is None or distance < best[0]:
            best = distance, table
    return best[1] if best else None


def _load(found: Found) -> LatencyTable:
    table = read_table(found.path)
    if table.name != found.name:
        raise ArtifactError(
            f"{found.path}: it holds the table of {table.name!r}, not of {found.name!r}"
        )
    return table
