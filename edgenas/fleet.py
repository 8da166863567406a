"""A fleet: at most K networks for N devices, which device runs which, and what each K costs.

The bounds of a device (`latency_ms@DEVICE <= 12.5`) hold for what runs on that device alone. A
search for a fleet therefore takes networks that at least one device can run (`fleet_objectives`);
of all that were evaluated, `choose_fleets` picks the best few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgenas.errors import EdgenasError, InfeasibleError, SpecError
from edgenas.objectives import Objective, total_violation
from edgenas.pareto import Metric

LEAST_LOAD, MEAN_LOAD = "least_load", "mean_load"
"""Metrics of a search for a fleet: see `loads`."""

_UNIT = 1e-6
"""Accuracies that lie closer together count as equal."""
_FEW = 200_000
"""So many choices are tried one by one."""
_NONE = 2
"""What scipy calls a programme without a solution."""
_PATIENCE_S = 60.0
"""For each goal of an integer programme."""


@dataclass(frozen=True, slots=True)
class Option:
    """A network that may be chosen, with its latency on each device whose bounds it meets."""

    digest: str
    accuracy: float
    latencies: Mapping[str, Metric]

    @property
    def units(self) -> int:
        """The accuracy as a whole number, so that ties are ties."""
        return round(self.accuracy / _UNIT)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a device runs. `loss`: how much more accurate the best network for it alone would be."""

    device: str
    digest: str
    accuracy: float
    loss: float
    latency: Metric


@dataclass(frozen=True, slots=True)
class Fleet:
    """The best choice of at most `k` networks; `assignments` are in the order of the devices.

    `gap`: by how much the mean accuracy of another choice could be greater, where the solver's time
    ran out before it had proved this one the best.
    """

    k: int
    assignments: tuple[Assignment, ...]
    gap: float = 0.0

    @property
    def networks(self) -> dict[str, tuple[str, ...]]:
        """By digest the devices that run it; the network that the most run comes first."""
        found: dict[str, tuple[str, ...]] = {}
        for a in self.assignments:
            found[a.digest] = (*found.get(a.digest, ()), a.device)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    @property
    def mean_accuracy(self) -> float:
        """Over the devices."""
        return math.fsum(a.accuracy for a in self.assignments) / len(self.assignments)

    @property
    def mean_loss(self) -> float:
        """Over the devices."""
        return math.fsum(a.loss for a in self.assignments) / len(self.assignments)

    @property
    def worst(self) -> Assignment:
        """The device that loses the most."""
        return max(self.assignments, key=lambda a: a.loss)

    def to_table(self) -> dict[str, Any]:
        """As it stands in `result.json` and `report.json`."""
        return {
            "k": self.k,
            "mean_accuracy": self.mean_accuracy,
            "mean_loss": self.mean_loss,
            "worst_loss": self.worst.loss,
            "gap": self.gap,
            "assignments": [
                {
                    "device": a.device,
                    "digest": a.digest,
                    "accuracy": a.accuracy,
                    "loss": a.loss,
                    "latency_ms": a.latency.to_table(),
                }
                for a in self.assignments
            ],
        }


def device_bounds(
    objectives: Sequence[Objective], devices: Sequence[str]
) -> dict[str, tuple[Objective, ...]]:
    """By device the objectives that bound what may run on it.

    Raises:
        SpecError: a single device, or one without a bound: it could run anything.
    """
    if len(devices) < 2:
        raise SpecError(
            f"a fleet is for several devices, and search.devices names {len(devices)}",
            hint="name more devices in [search], or leave out --fleet",
        )
    found = {
        device: tuple(o for o in objectives if o.device == device and o.bound is not None)
        for device in devices
    }
    if free := [device for device, bounds in found.items() if not bounds]:
        raise SpecError(
            f"a fleet needs a bound for each device, and none says what {free[0]} may take"
            + (f" (nor {', '.join(free[1:])})" if free[1:] else ""),
            hint=f'add "latency_ms@{free[0]} <= NUMBER" to the objectives in [search]',
        )
    return found


def fleet_objectives(
    objectives: Sequence[Objective], devices: Sequence[str]
) -> tuple[Objective, ...]:
    """What a search for a fleet is after.

    A network may break the bounds of a device as long as it meets those of another one
    (`least_load <= 1`). Directions stay; devices none of whose metrics has one share an axis
    (`min mean_load`), since what all of them can run must be looked for as well.

    Raises:
        SpecError: as `device_bounds`.
    """
    device_bounds(objectives, devices)
    kept = [
        replace(o, relation=None, bound=None) if o.device else o
        for o in objectives
        if o.direction or not o.device
    ]
    if _without_axis(objectives, devices):
        kept.append(Objective(MEAN_LOAD, direction="min"))
    return (*kept, Objective(LEAST_LOAD, relation="<=", bound=1.0))


def loads(
    objectives: Sequence[Objective], devices: Sequence[str], metrics: Mapping[str, float]
) -> dict[str, float]:
    """How much of the devices' bounds a network takes, from its metrics by name.

    The load on a device is the greatest of metric / bound: up to 1 it can run there. `least_load`
    is that on the device which it loads least, `mean_load` the geometric mean over the devices that
    have no axis of their own (see `fleet_objectives`).
    """
    load = {
        device: max(1.0 + o.violation(metrics) for o in bounds)
        for device, bounds in device_bounds(objectives, devices).items()
    }
    found = {LEAST_LOAD: min(load.values())}
    if shared := _without_axis(objectives, devices):
        logs = [math.log(max(load[device], 1e-9)) for device in shared]
        found[MEAN_LOAD] = math.exp(math.fsum(logs) / len(logs))
    return found


def _without_axis(objectives: Sequence[Objective], devices: Sequence[str]) -> list[str]:
    """Devices of which no metric has a direction."""
    own = {o.device for o in objectives if o.direction}
    return [device for device in devices if device not in own]


def options_for(
    networks: Mapping[str, Mapping[str, Metric]],
    objectives: Sequence[Objective],
    devices: Sequence[str],
    *,
    accuracy: str,
) -> list[Option]:
    """Networks, by digest with their metrics, as `choose_fleets` takes them.

    `accuracy` names the metric that a fleet is chosen by. Who lacks a metric of the objectives, or
    breaks a bound that is no device's, is left out.

    Raises:
        SpecError: as `device_bounds`.
        InfeasibleError: a device whose bounds none meets; it names the nearest network.
    """
    bounds = device_bounds(objectives, devices)
    common = [o for o in objectives if o.device is None]
    wanted = {accuracy, *(o.name for o in objectives), *map(_latency, devices)}
    whole = {digest: m for digest, m in sorted(networks.items()) if wanted <= m.keys()}
    values = {d: {name: metric.value for name, metric in m.items()} for d, m in whole.items()}
    for device, own in bounds.items():
        violations = {d: total_violation((*common, *own), v) for d, v in values.items()}
        if not violations or min(violations.values()) > 0:
            raise _infeasible(device, (*common, *own), values, violations)
    return [
        Option(
            digest,
            values[digest][accuracy],
            {
                device: metrics[_latency(device)]
                for device, own in bounds.items()
                if total_violation((*common, *own), values[digest]) == 0
            },
        )
        for digest, metrics in whole.items()
    ]


def _latency(device: str) -> str:
    return f"latency_ms@{device}"


def _infeasible(
    device: str,
    bounds: Sequence[Objective],
    values: Mapping[str, Mapping[str, float]],
    violations: Mapping[str, float],
) -> InfeasibleError:
    if not violations:
        return InfeasibleError(f"no network was evaluated that {device} could run")
    nearest = min(violations, key=lambda digest: (violations[digest], digest))
    broken = [o for o in bounds if not o.feasible(values[nearest])]
    told = [f"{o.name} = {values[nearest][o.name]:.6g} for '{o}'" for o in broken]
    return InfeasibleError(
        f"no network that was evaluated meets the bounds of {device}: the nearest is {nearest}, "
        f"with {', '.join(told)}",
        hint=f"relax '{broken[0]}' to '{broken[0].relaxed_to(values[nearest][broken[0].name])}' "
        "or further, or go on with --resume and more --trials",
    )


def choose_fleets(options: Sequence[Option], devices: Sequence[str]) -> tuple[Fleet, ...]:
    """For K = 1, 2, ... up to the number of devices the best choice of at most K networks.

    The sum of the devices' accuracies is the greatest there is; among equal ones (to a millionth)
    the worst loss is the least, then the sum of the latencies, then the networks' place in the
    order of digests. A K for which no choice has a network for every device is left out.

    The choice is exact: few are all tried; else it is an integer programme (facility location),
    which HiGHS solves. One that takes it too long (dozens of devices that agree in nothing) is the
    best found, and its `gap` says how far from the best it may be.

    Raises:
        InfeasibleError: a device that none of the options can run on.
        EdgenasError: nothing was found in time.
    """
    kept = _undominated(options)
    for device in devices:
        if not any(device in option.latencies for option in kept):
            raise InfeasibleError(f"no network meets the bounds of {device}")
    own = _served(kept, devices)
    enough = len({option.digest for option in own})
    found = []
    for k in range(1, len(devices) + 1):
        gap = 0.0
        if k >= enough:
            chosen = own
        elif math.comb(len(kept), k) <= _FEW:
            chosen = _tried(k, kept, own, devices)
        else:
            chosen, gap = _solved(k, kept, own, devices)
        if chosen:
            rows = zip(devices, chosen, own, strict=True)
            found.append(Fleet(k, tuple(_assigned(d, o, best) for d, o, best in rows), gap))
    return tuple(found)


def _assigned(device: str, option: Option, best: Option) -> Assignment:
    loss = max(0.0, best.accuracy - option.accuracy)
    return Assignment(device, option.digest, option.accuracy, loss, option.latencies[device])


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Those that can be part of a best choice, in the order of their digests.

    Who is used in one is not replaced by a better network that runs on as many devices.
    """
    once = {option.digest: option for option in options if option.latencies}
    ordered = sorted(once.values(), key=lambda o: (-o.units, o.digest))
    kept: list[Option] = []
    for o in ordered:
        rivals = (r for r in ordered if r is not o and r.units >= o.units)
        if not any(_replaces(r, o) for r in rivals):
            kept.append(o)
    return sorted(kept, key=lambda o: o.digest)


def _replaces(a: Option, b: Option) -> bool:
    """Whether any choice gains by `a` in place of `b`; `a` is at least as accurate."""
    if not b.latencies.keys() <= a.latencies.keys():
        return False
    if a.units > b.units:
        return True
    gaps = [a.latencies[d].value - b.latencies[d].value for d in b.latencies]
    return max(gaps) <= 0 and (min(gaps) < 0 or a.digest < b.digest)


def _tried(
    k: int, options: Sequence[Option], own: Sequence[Option], devices: Sequence[str]
) -> list[Option]:
    """What each device runs in the best choice of at most `k`; empty where there is none.

    All choices of `k` are tried: one of fewer is among them, as a network that none runs is free.
    """
    import numpy as np

    losses = np.full((len(options), len(devices)), np.inf)
    for i, option in enumerate(options):
        for d, device in enumerate(devices):
            if device in option.latencies:
                losses[i, d] = own[d].units - option.units
    choices = np.array(list(itertools.combinations(range(len(options)), k)))
    least = losses[choices[:, 0]]
    for column in choices.T[1:]:
        least = np.minimum(least, losses[column])
    total = least.sum(axis=1)
    if not np.isfinite(total.min(initial=np.inf)):
        return []
    worst = np.where(total == total.min(), least.max(axis=1), np.inf)
    ties = choices[worst == worst.min()]
    served = [_served([options[i] for i in choice], devices) for choice in ties]

    def place(used: Sequence[Option]) -> tuple[float, list[str]]:
        ms = math.fsum(o.latencies[d].value for o, d in zip(used, devices, strict=True))
        return ms, sorted({o.digest for o in used})

    return min(served, key=place)


def _served(chosen: Sequence[Option], devices: Sequence[str]) -> list[Option]:
    """What each device runs of those that were chosen."""
    return [
        min(
            (option for option in chosen if device in option.latencies),
            key=lambda option: (-option.units, option.latencies[device].value, option.digest),
        )
        for device in devices
    ]


def _solved(
    k: int, options: Sequence[Option], own: Sequence[Option], devices: Sequence[str]
) -> tuple[list[Option], float]:
    """As `_tried`, by a facility location problem, soon solved where `k` is not small; and the gap.

    The variables are: whether a network is chosen; whether a device runs it, for each pair that
    fits; and the worst loss. One goal is solved after the other, each within the optimum of those
    before it: the sum of the losses, the worst loss, the latencies, the order of digests.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    pairs = [
        (i, d)
        for i, option in enumerate(options)
        for d, device in enumerate(devices)
        if device in option.latencies
    ]
    n, at = len(options), {pair: len(options) + p for p, pair in enumerate(pairs)}
    size = n + len(pairs) + 1
    loss = [float(own[d].units - options[i].units) for i, d in pairs]

    def rows(cells: Iterator[tuple[int, int, float]], height: int) -> csr_array:
        r, c, v = zip(*cells, strict=True)
        return csr_array((v, (r, c)), shape=(height, size))

    one = rows(((d, at[i, d], 1.0) for i, d in pairs), len(devices))
    opened = rows(
        (cell for p, (i, _) in enumerate(pairs) for cell in ((p, n + p, 1.0), (p, i, -1.0))),
        len(pairs),
    )
    few = rows(((0, i, 1.0) for i in range(n)), 1)
    lost = [(d, n + p, loss[p]) for p, (_, d) in enumerate(pairs)]
    worst = rows(iter([*lost, *((d, size - 1, -1.0) for d in range(len(devices)))]), len(devices))
    constraints = [
        LinearConstraint(one, 1, 1),
        LinearConstraint(opened, -np.inf, 0),
        LinearConstraint(few, -np.inf, k),
        LinearConstraint(worst, -np.inf, 0),
    ]
    goals = np.zeros((4, size))
    goals[0, n:-1] = loss
    goals[1, -1] = 1.0
    goals[2, n:-1] = [options[i].latencies[devices[d]].value for i, d in pairs]
    goals[3, :n] = range(n)
    whole = np.append(np.ones(n), np.zeros(size - n))
    highest = np.append(np.ones(size - 1), np.inf)
    chosen: list[Option] = []
    gap = 0.0
    for goal, slack in zip(goals, (0.5, 0.5, 1e-6, 0.5), strict=True):
        result = milp(
            goal,
            constraints=constraints,
            integrality=whole,
            bounds=Bounds(np.zeros(size), highest),
            options={"mip_rel_gap": 0.0, "time_limit": _PATIENCE_S},
        )
        if result.x is None:
            if result.status == _NONE or chosen:
                break
            raise EdgenasError(
                f"no choice of {k} networks for {len(devices)} devices was found in time",
                hint="search for fewer devices at once",
            )
        if not chosen and result.status != 0:
            gap = (result.fun - result.mip_dual_bound) * _UNIT / len(devices)
        constraints.append(LinearConstraint(goal, -np.inf, result.fun + slack))
        chosen = [option for option, open_ in zip(options, result.x, strict=False) if open_ > 0.5]
    return (_served(chosen, devices) if chosen else []), gap
