"""What a run file asks for: objectives, the devices of its search, and further targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgenas.errors import SpecError, UsageError
from edgenas.fleet import fleet_objectives, loads
from edgenas.hardware import DeviceProfile, load_device
from edgenas.objectives import Objective, parse_objectives
from edgenas.pipeline.config import RunConfig
from edgenas.pipeline.metrics import check_meaning, metric_names
from edgenas.pipeline.targets import memory_bounds


def objectives_of(config: RunConfig) -> tuple[Objective, ...]:
    """What the search of a run file is after; for a fleet see `edgenas.fleet.fleet_objectives`.

    Raises:
        SpecError: a text that is no objective, or an unknown metric; a fleet of devices one of
            which has no bound.
    """
    written = written_objectives(config)
    if config.search.fleet is None:
        return written
    return fleet_objectives(written, config.search.devices)


def written_objectives(config: RunConfig) -> tuple[Objective, ...]:
    """The objectives as they stand in a run file, within the memory of its targets.

    Raises:
        SpecError: a text that is no objective, or an unknown metric.
    """
    devices, targets = devices_of(config), targets_of(config)  # first: objectives name them
    known = metric_names(config.search.devices, config.export.targets)
    given = parse_objectives(config.search.objectives, known=known)
    check_meaning(given)
    return memory_bounds(given, devices, targets)


def loads_of(config: RunConfig) -> Callable[[Mapping[str, float]], dict[str, float]] | None:
    """What a search for a fleet derives from a network's other metrics."""
    if config.search.fleet is None:
        return None
    written, devices = written_objectives(config), config.search.devices
    return lambda metrics: loads(written, devices, metrics)


def devices_of(config: RunConfig) -> tuple[DeviceProfile, ...]:
    """The devices that a run file names.

    Raises:
        SpecError: one is unknown, or its file is wrong: what was typed is not at fault.
    """
    return tuple(_device(name, "search.devices") for name in config.search.devices)


def targets_of(config: RunConfig) -> tuple[DeviceProfile, ...]:
    """All devices that exported files are held against: those of the search, then the others.

    Raises:
        SpecError: as `devices_of`.
    """
    more = dict.fromkeys(config.export.targets)
    others = (_device(name, "export.targets") for name in more if name not in config.search.devices)
    return (*devices_of(config), *others)


def check_formats(config: RunConfig) -> None:
    """Refuses a target that none of the exported files is for.

    Raises:
        SpecError: naming it and the format of its files.
    """
    formats = config.export.formats
    for target in targets_of(config):
        if target.name not in config.search.devices and target.format not in formats:
            raise SpecError(
                f"export.targets: {target.name} runs {target.format} files, and export.formats has "
                f"only {', '.join(formats)}",
                hint=f'add "{target.format}" to formats, or leave the target out',
            )


def _device(name: str, key: str) -> DeviceProfile:
    try:
        return load_device(name)
    except UsageError as error:
        raise SpecError(f"{key}: {error}", hint=error.hint) from error
