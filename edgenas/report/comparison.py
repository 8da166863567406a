"""Two runs compared: what changed between them, how their fronts differ, and why.

`compare` is a function of two `RunView`s. The first run is the later one: an architecture *came*
where it is on its front alone, *went* where it is on the other's alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from edgenas.artifacts import derive_seed
from edgenas.errors import UsageError
from edgenas.fleet import MEAN_LOAD
from edgenas.objectives import Objective, directed
from edgenas.pareto import Metric, dominates, hypervolume
from edgenas.report.model import Evaluated, RunView
from edgenas.report.numbers import capital, reading

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 1000
"""Times that the figures are drawn anew."""
_QUANTILE_90, _QUANTILE_80 = (NormalDist().inv_cdf(p) for p in (0.95, 0.9))
"""Of the normal distribution: what half of an interval of 90 % and of 80 % is in deviations."""

Passing = Literal["came", "went", "moved", "stayed"]
Kind = Literal["supernet", "data", "evaluation", "table", "bound", "setting", "version"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that the runs do not share; empty where one of them has it not."""

    kind: Kind
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.before and self.after:
            return f"{self.what}: {self.before} became {self.after}"
        if self.after:
            return f"{self.what}: {self.after} is new"
        return f"{self.what}: {self.before} is gone"


@dataclass(frozen=True, slots=True)
class Spread:
    """A value and the interval that holds 95 % of what resampling makes of it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Passage:
    """An architecture of either front; `before` and `after` are its metrics where it was evaluated.

    `why` is a list of plain sentences, empty for one that stayed as it was.
    """

    digest: str
    architecture: str
    passing: Passing
    before: Mapping[str, Metric] | None
    after: Mapping[str, Metric] | None
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """`after` against `before`. Hypervolumes share the point `reference`, in plain units."""

    after: RunView
    before: RunView
    causes: tuple[Cause, ...]
    reference: Mapping[str, float]
    hypervolume_before: Spread
    hypervolume_after: Spread
    gain: Spread
    passages: tuple[Passage, ...]

    @property
    def verdict(self) -> Literal["better", "worse", "no difference beyond the noise"]:
        """Of the later front."""
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "no difference beyond the noise"

    def having(self, passing: Passing) -> tuple[Passage, ...]:
        """The architectures that came, went, moved or stayed."""
        return tuple(p for p in self.passages if p.passing == passing)


def compare(after: RunView, before: RunView, *, resamples: int = RESAMPLES) -> Comparison:
    """What the run `after` changes against the run `before`.

    The hypervolumes' intervals come from drawing every figure of the fronts anew, `resamples`
    times: an accuracy as a binomial share of the n images that it was read from, a latency from its
    interval (90 % where it is predicted, p10 to p90 where measured), both halves taken for those of
    a normal distribution. What both runs state alike is drawn once for both. Draws are independent
    otherwise; that networks of one run err alike is left out, and so is the choice of the front,
    whose flattery is the same for both. Intervals are centred on the values, as drawing anew
    by itself lifts a front.

    Raises:
        UsageError: the runs have other objectives, spaces or devices; the message says which.
    """
    check_comparable(after, before)
    reference = _reference(after, before)
    axes = after.objectives
    drawn = _drawn(after, before, reference, resamples)
    values = [_hypervolume(view.front, axes, reference) for view in (before, after)]
    return Comparison(
        after=after,
        before=before,
        causes=_causes(after, before),
        reference=reference,
        hypervolume_before=_spread(values[0], [b for b, _ in drawn]),
        hypervolume_after=_spread(values[1], [a for _, a in drawn]),
        gain=_spread(values[1] - values[0], [a - b for b, a in drawn]),
        passages=_passages(after, before),
    )


def check_comparable(after: RunView, before: RunView) -> None:
    """Raises `UsageError` where two runs are after something else, or in another space."""
    problems = []
    axes = [{f"{o.direction} {o.name}" for o in view.objectives} for view in (before, after)]
    if axes[0] != axes[1]:
        told = [", ".join(sorted(found)) for found in axes]
        problems.append(f"objectives: {told[0]} in {before.name}, {told[1]} in {after.name}")
    spaces = [view.parents.get("space") for view in (before, after)]
    if None not in spaces and spaces[0] != spaces[1]:
        problems.append(f"space: {spaces[0]} in {before.name}, {spaces[1]} in {after.name}")
    if any(o.device is None and o.metric not in _OF_NETWORK for o in after.goals):
        chips = [view.tables[0].device if view.tables else "" for view in (before, after)]
        if chips[0] != chips[1] and len(after.tables) == len(before.tables) == 1:
            problems.append(f"device: {chips[0]} in {before.name}, {chips[1]} in {after.name}")
    if any(o.name == MEAN_LOAD for o in after.objectives):
        bounds = [view.fleet and dict(view.fleet.bounds) for view in (before, after)]
        if bounds[0] != bounds[1]:
            problems.append("bounds of the devices, which mean_load is a share of")
    if problems:
        raise UsageError(
            f"the runs cannot be compared, as they differ in {'; in '.join(problems)}",
            hint="compare runs of one space with the same objectives and devices; bounds, tables, "
            "supernet and settings may differ",
        )


_OF_NETWORK = ("top1", "top1_int8", "robustness", "agreement", "macs", "params")
"""Metrics that are the same on every device."""


def _reference(after: RunView, before: RunView) -> dict[str, float]:
    """By objective the worst of both fronts and of what the runs measured hypervolume from."""
    found = {}
    for axis in after.objectives:
        values = [v.reference[axis.name] for v in (after, before) if axis.name in v.reference]
        values += [c.metrics[axis.name].value for v in (after, before) for c in v.front]
        found[axis.name] = (min if axis.direction == "max" else max)(values, default=0.0)
    return found


def _hypervolume(
    front: Sequence[Evaluated],
    axes: Sequence[Objective],
    reference: Mapping[str, float],
    value: Callable[[Evaluated, str], float] = lambda c, name: c.metrics[name].value,
) -> float:
    return hypervolume(
        [[value(c, axis.name) for axis in axes] for c in front],
        [axis.direction or "min" for axis in axes],
        [reference[axis.name] for axis in axes],
    )


def _drawn(
    after: RunView, before: RunView, reference: Mapping[str, float], n: int
) -> list[tuple[float, float]]:
    """The hypervolumes before and after, `n` times with every figure drawn anew."""
    import numpy as np

    axes = after.objectives
    rng = np.random.default_rng(derive_seed(0, "compare"))
    draws: dict[tuple[str, str, Metric], list[float]] = {}
    for c in sorted((*before.front, *after.front), key=lambda c: c.digest):
        for axis in axes:
            metric = c.metrics[axis.name]
            key = (c.digest, axis.name, metric)
            if key not in draws:
                draws[key] = _anew(axis.name, metric, rng, n)

    def at(i: int, view: RunView) -> float:
        return _hypervolume(
            view.front, axes, reference, lambda c, name: draws[c.digest, name, c.metrics[name]][i]
        )

    return [(at(i, before), at(i, after)) for i in range(n)]


def _anew(name: str, metric: Metric, rng: np.random.Generator, n: int) -> list[float]:
    """`n` values that the metric might have been."""
    import numpy as np

    if metric.n is not None and reading(name).unit == "%" and 0 <= metric.value <= 1:
        return [float(x) for x in rng.binomial(metric.n, metric.value, n) / metric.n]
    if metric.low is None or metric.high is None:
        return [metric.value] * n
    z = rng.standard_normal(n)
    half = np.where(z > 0, metric.high - metric.value, metric.value - metric.low)
    width = _QUANTILE_80 if metric.origin == "measured" else _QUANTILE_90
    return [max(0.0, float(x)) for x in metric.value + z * half / width]


def _spread(value: float, drawn: Sequence[float]) -> Spread:
    import numpy as np

    around = np.asarray(drawn) - np.mean(drawn)
    low, high = np.quantile(around, [0.025, 0.975])
    return Spread(value, value + min(0.0, float(low)), value + max(0.0, float(high)))


def _causes(after: RunView, before: RunView) -> tuple[Cause, ...]:
    """Everything that could have changed the front."""
    pairs: list[tuple[Kind, Mapping[str, str], Mapping[str, str]]] = [
        ("supernet", _only(before.parents, "supernet"), _only(after.parents, "supernet")),
        ("data", _only(before.parents, "data"), _only(after.parents, "data")),
        ("evaluation", _evaluation(before), _evaluation(after)),
        ("table", _tables(before), _tables(after)),
        ("bound", _bounds(before), _bounds(after)),
        ("setting", _settings(before), _settings(after)),
        ("version", {"edgenas": before.made_by}, {"edgenas": after.made_by}),
    ]
    return tuple(
        Cause(kind, what, old.get(what, ""), new.get(what, ""))
        for kind, old, new in pairs
        for what in dict.fromkeys([*old, *new])
        if old.get(what, "") != new.get(what, "")
    )


def _only(values: Mapping[str, str], name: str) -> dict[str, str]:
    return {name: values[name]} if name in values else {}


def _evaluation(view: RunView) -> dict[str, str]:
    """How accuracies are read, by digest: how many images, which, how BatchNorm is renewed."""
    common = {"supernet", "data", "space"}
    return {
        f"evaluation of {'top1' if name == 'images' else name}": value
        for name, value in view.rests_on.items()
        if name not in common and not name.startswith("table ")
    }


def _tables(view: RunView) -> dict[str, str]:
    told = {name: value for name, value in view.parents.items() if name.startswith("table ")}
    return told or {f"table {t.device}": t.digest for t in view.tables if t.digest}


def _bounds(view: RunView) -> dict[str, str]:
    """The bounds of the goals, and those of each device of a fleet."""
    goals = [*view.goals]
    if view.fleet:
        goals += [o for bounds in view.fleet.bounds.values() for o in bounds]
    return {
        f"bound on {o.name}": f"{o.relation} {reading(o.name).text(o.bound)}"
        for o in goals
        if o.bound is not None
    }


def _settings(view: RunView) -> dict[str, str]:
    """The run file but for what is told elsewhere."""
    told = ("name", "schema", "search.objectives")
    return {name: value for name, value in view.settings.items() if name not in told}


def _passages(after: RunView, before: RunView) -> tuple[Passage, ...]:
    """Came, moved, stayed, went; each in the order of its front."""
    then, now = _Side(before, "before"), _Side(after, "now")
    found: dict[Passing, list[Passage]] = {"came": [], "moved": [], "stayed": [], "went": []}
    for c in (*after.front, *(c for c in before.front if c.digest not in now.front)):
        old, new = then.known.get(c.digest), now.known.get(c.digest)
        why = _differences(after, before, new, old) if old and new else ()
        passing: Passing
        if c.digest not in then.front:
            passing, why = "came", (_absence(c, then, now), *why)
        elif c.digest not in now.front:
            passing, why = "went", (_absence(c, now, then), *why)
        else:
            passing = "moved" if why else "stayed"
        told = (old.metrics if old else None, new.metrics if new else None)
        found[passing].append(Passage(c.digest, c.architecture, passing, *told, why))
    return tuple(p for group in found.values() for p in group)


class _Side:
    """One of the two runs, with the word for it."""

    def __init__(self, view: RunView, word: str) -> None:
        self.view = view
        self.word = word
        self.front = {c.digest: c for c in view.front}
        self.known = {c.digest: c for c in (*view.trials, *view.front)}


def _differences(
    after: RunView, before: RunView, new: Evaluated, old: Evaluated
) -> tuple[str, ...]:
    """Which figures of an architecture changed, and why."""
    told = []
    for name in [o.name for o in after.goals if o.name in old.metrics.keys() & new.metrics.keys()]:
        values = [c.metrics[name].value for c in (old, new)]
        if values[0] != values[1]:
            read = reading(name)
            moved = f"{read.label} from {read.text(values[0])} to {read.text(values[1])}"
            told.append(capital(f"{moved}: {_reason(name, after, before, new, old)}."))
    return tuple(told)


def _reason(name: str, after: RunView, before: RunView, new: Evaluated, old: Evaluated) -> str:
    """Why a metric of one architecture differs between two runs."""
    words = [c.metrics[name].origin for c in (old, new)]
    if words[0] != words[1]:
        return f"{words[0]} before, {words[1]} now"
    if words[0] == "measured":
        return "measured anew"
    base, _, device = name.partition("@")
    if base in _OF_NETWORK:
        other = [k for k in ("supernet", "data") if before.parents.get(k) != after.parents.get(k)]
        if other:
            return f"other {' and '.join(other)}"
        same = _evaluation(before) == _evaluation(after)
        return "nothing that is recorded" if same else "evaluated in another way"
    old_tables, new_tables = _tables(before), _tables(after)
    asked = [f"table {device}"] if device else [*new_tables]
    changed = [table for table in asked if old_tables.get(table) != new_tables.get(table)]
    return f"another {', another '.join(changed)}" if changed else "nothing that is recorded"


def _absence(here: Evaluated, without: _Side, having: _Side) -> str:
    """Why an architecture of one front is not on the other, which is that of `without`."""
    word = without.word
    if (there := without.known.get(here.digest)) is None:
        broken = _broken(here, without.view)
        told = f"Not evaluated {word}"
        return f"{told}, and it would break {broken}." if broken else f"{told}."
    if broken := _broken(there, without.view):
        return f"Outside a bound {word}: {broken}."
    axes = directed(without.view.goals)
    directions = [axis.direction or "min" for axis in axes]

    def point(c: Evaluated) -> list[float]:
        return [c.metrics[axis.name].value for axis in axes]

    beating = (c for c in without.view.front if dominates(point(c), point(there), directions))
    if (rival := next(beating, None)) is None:
        return f"Not on the front {word}."
    told = f"Beaten {word} by {rival.digest}"
    if (elsewhere := having.known.get(rival.digest)) is None:
        return f"{told}, which was not evaluated {having.word}."
    if broken := _broken(elsewhere, having.view):
        return f"{told}, which is outside a bound {having.word}: {broken}."
    return f"{told}."


def _broken(c: Evaluated, view: RunView) -> str:
    """The bounds of `view` that the metrics break, with the values."""
    values = {name: metric.value for name, metric in c.metrics.items()}
    return ", ".join(
        f"'{o}' with {reading(o.name).text(values[o.name])}"
        for o in view.goals
        if o.name in values and not o.feasible(values)
    )
