"""Targets of a run: what their memory allows, and what of a space they can run at all."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from edgenas.errors import InfeasibleError, SpecError
from edgenas.hardware import DeviceProfile
from edgenas.objectives import Objective
from edgenas.pipeline.metrics import CheapMetrics, at_device
from edgenas.spaces import SearchSpace
from edgenas.targets import MARGIN, check_space, plans_ram


def memory_bounds(
    objectives: Sequence[Objective],
    devices: Sequence[DeviceProfile],
    targets: Iterable[DeviceProfile],
) -> tuple[Objective, ...]:
    """`objectives` with a bound for each limit that a target's file states on its memory.

    Of the devices that are searched for, metrics have the names that the run file gives them. A
    bound that stands there already is kept where it is the tighter one. What a network takes of an
    Ethos-U's RAM is known by the table of a device that is searched for, and else not at all.

    Raises:
        SpecError: a least size or memory is wanted where the target has a limit.
    """
    found = {objective.name: objective for objective in objectives}
    for target in targets:
        ram_known = target in devices or plans_ram(target)
        limits = {
            "peak_memory_bytes": target.ram_bytes if ram_known else None,
            "size_bytes": target.flash_bytes,
        }
        for metric, limit in limits.items():
            if limit is None:
                continue
            name = metric_at(metric, target, devices)
            bound = float(math.floor(MARGIN * limit))
            given = found.get(name)
            if given is None:
                at = name.partition("@")[2] or None
                found[name] = Objective(metric, at, relation="<=", bound=bound)
            elif given.relation == ">=":
                raise SpecError(
                    f"objective '{given}': {target.name} holds {limit:,} bytes of it at most",
                    hint=f"leave it out, or write a bound from above, '{name} <= NUMBER'",
                )
            elif given.bound is None or given.bound > bound:
                found[name] = replace(given, relation="<=", bound=bound)
    return tuple(found.values())


def metric_at(metric: str, target: DeviceProfile, devices: Collection[DeviceProfile]) -> str:
    """What `metric` of `target` is called in a search for `devices`, which need not hold it."""
    if target in devices:
        return at_device(metric, target, tuple(devices))
    return f"{metric}@{target.name}"


def check_runnable(space: SearchSpace, targets: Iterable[DeviceProfile]) -> None:
    """Refuses a space that a target cannot run, before anything is trained or timed for it.

    Raises:
        SpecError: with the operators and the settings that leave them out.
        InfeasibleError: no network fits into its memory.
    """
    for target in targets:
        check_space(space, target)
        _check_memory(space, target)


def _check_memory(space: SearchSpace, target: DeviceProfile) -> None:
    from edgenas.search import Problem, check_reachable

    bounds = memory_bounds((), (), (target,))
    if not bounds:
        return
    cheap = CheapMetrics(space, (), {}, frozenset(o.name for o in bounds), (target,))
    try:
        check_reachable(Problem(space, bounds, cheap), random.Random(0))
    except InfeasibleError as error:
        raise InfeasibleError(
            f"{target.name}: {error}",
            hint="in [space]: smaller resolutions and widths; or more [memory], in bytes, in "
            f"{target.path or 'the file of the device'}",
        ) from error
