"""Why a network is as it is, in sentences: plain text, which the page and the Markdown both print.

Nothing is computed here that is not in the run's files: differences along the front are exact,
those of single changes are told by the search (`explanation.json`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgenas.objectives import Objective
from edgenas.pareto import Metric, nondominated
from edgenas.report.model import (
    Change,
    Cut,
    DeviceLatency,
    Evaluated,
    ExportedModel,
    Importance,
    RunView,
)
from edgenas.report.numbers import capital, counted, ms, percent, reading

ORIGINS = {
    "measured": "timed on the device",
    "predicted": "a sum of units, timed on the device or told by a cost model of those that were",
    "extrapolated": "outside the shapes that the table's fit has seen",
    "estimated": "by the vendor's compiler, not on the chip",
    "calibrated": "fitted to latencies of whole networks, measured or published",
    "analytic": "fitted, but no better than MACs, or another device, times a constant",
}
"""What the words beside a latency mean."""


def sentences(view: RunView, model: ExportedModel) -> list[str]:
    """All that is said of a network, in the order it is read."""
    told = [f"{capital(model.weights)}." if model.weights else ""]
    told += [time_spent(latency, model) for latency in model.latencies if model.units]
    told += [*neighbours(view, model), *best_steps(view, model), *certainty(view, model)]
    return [text for text in told if text]


def time_spent(latency: DeviceLatency, model: ExportedModel) -> str:
    """Which stages a network's time goes to, and its slowest unit."""
    total = sum(time.ms for time in latency.units)
    if total <= 0:
        return ""
    stages: dict[str, float] = {}
    for unit, time in zip(model.units, latency.units, strict=True):
        stage = unit.name.partition(".")[0]
        stages[stage] = stages.get(stage, 0.0) + time.ms
    ranked = sorted(stages, key=lambda stage: -stages[stage])[:3]
    shares = [f"{stage} takes {percent(stages[stage] / total, 0)}" for stage in ranked]
    slowest, time = max(zip(model.units, latency.units, strict=True), key=lambda p: p[1].ms)
    return (
        f"Where the time goes on {latency.device}: of {ms(latency.latency_ms)} "
        f"{', '.join(shares)}. The slowest unit is {slowest.name}: {ms(time.ms)}, "
        f"{percent(time.ms / total, 0)}."
    )


def neighbours(view: RunView, model: ExportedModel) -> list[str]:
    """The next cheaper and the next better network of the front, and what they cost or save.

    The first objective is weighed against each of the others.
    """
    told = []
    for x, y in view.pairs():
        if view.objectives[0] not in (x, y) or not {x.name, y.name} <= model.metrics.keys():
            continue
        others = [c for c in view.front if c.digest != model.digest]
        others = [c for c in others if {x.name, y.name} <= c.metrics.keys()]
        own = {goal.name: goal.loss(_values(model)) for goal in (x, y)}
        for goal, other in ((x, y), (y, x)):
            word = "cheaper" if goal.direction == "min" else "better"
            ahead = [c for c in others if goal.loss(_values(c)) < own[goal.name]]
            label = reading(goal.name).label
            if not ahead:
                told.append(f"Nothing on the front is {word} in {label}.")
                continue
            best = min(ahead, key=lambda c: (other.loss(_values(c)), goal.loss(_values(c))))
            gaps = (moved(g, _values(best)[g.name] - _values(model)[g.name]) for g in (goal, other))
            told.append(
                f"The next {word} in {label} is {best.digest}, which {' and '.join(gaps)} of "
                f"{reading(other.name).label}."
            )
    return list(dict.fromkeys(told))


def _values(c: Evaluated | ExportedModel) -> dict[str, float]:
    return {name: metric.value for name, metric in c.metrics.items()}


def moved(goal: Objective, value: float) -> str:
    """A difference in a goal's metric as a verb and an amount.

    >>> moved(Objective.parse("max top1"), -0.0014)
    'loses 0.14 points'
    """
    rises = goal.direction == "max" or (goal.direction is None and goal.relation == ">=")
    verbs = ("loses", "gains") if rises else ("saves", "costs")
    return f"{verbs[value > 0]} {reading(goal.name).difference(value).lstrip('+-')}"


def certainty(view: RunView, model: ExportedModel) -> list[str]:
    """How sure the figures are: images, intervals, what the words beside them mean."""
    told = []
    for name in dict.fromkeys([*(goal.name for goal in view.goals), *model.metrics]):
        read = reading(name)
        if (metric := model.metrics.get(name)) is None:
            continue
        if read.unit == "%" and metric.n and 0 <= metric.value <= 1:
            told.append(f"{capital(read.label)} {read.text(metric.value)}: {sampled(metric)}.")
        if read.is_latency:
            told.append(
                f"{capital(read.label)} {read.text(metric.value)}: {_timed(view, name, metric)}."
            )
    if told and (tried := view.n_trials):
        told.append(
            f"It was picked among {counted(tried, 'trial')} by these figures, which flatters it a "
            "little; those of the files are from the test split, which picked nothing."
        )
    return told


def sampled(metric: Metric) -> str:
    """The standard error of a share of `n` images, sqrt(p (1 - p) / n)."""
    n = metric.n or 1
    error = math.sqrt(metric.value * (1 - metric.value) / n)
    return f"standard error {error * 100:.2f} points, from {counted(n, 'image')}"


def _timed(view: RunView, name: str, metric: Metric) -> str:
    origin, read = metric.origin, reading(name)
    words = [f"{origin}, {ORIGINS[origin]}" if origin in ORIGINS else origin]
    if metric.low is not None and metric.high is not None:
        which = "p10 and p90 of it" if origin == "measured" else "90 % interval"
        words.append(f"{which} {read.bare(metric.low)} to {read.text(metric.high)}")
    device = name.partition("@")[2] or (view.tables[0].device if view.tables else "")
    table = next((t for t in view.tables if t.device == device), None)
    if table and table.error_median is not None:
        of = f" of {table.n_validation}" if table.n_validation else ""
        words.append(
            f"its table ({table.source}) misses whole networks by "
            f"{percent(table.error_median, 1)} (median{of})"
            + (", so it ranks networks at best" if table.rough else "")
        )
    return "; ".join(words)


def best_steps(view: RunView, model: ExportedModel) -> list[str]:
    """The single changes that save the most of a cost, and that gain the most for all one knows."""
    told = []
    for x, y in view.pairs()[:1]:
        inside = [c for c in model.changes if not c.outside and x.name in c.differences]
        saving = [c for c in inside if _loss(x, c) < 0]
        if saving:
            best = min(saving, key=lambda c: _loss(x, c))
            told.append(f"The single change that saves the most, {step(view, best, first=x)}.")
        known = [c for c in inside if y.name in c.differences]
        if known:
            best = min(known, key=lambda c: _loss(y, c))
            found = best.differences[y.name]
            sure = found.low is None or found.high is None or not found.low <= 0 <= found.high
            if _loss(y, best) < 0 and sure:
                told.append(f"The one that gains the most, {step(view, best, first=y)}.")
            else:
                told.append(
                    f"No single change is known to gain {reading(y.name).label}; the most "
                    f"promising, {step(view, best, first=y)}."
                )
    return told


def _loss(goal: Objective, change: Change) -> float:
    value = change.differences[goal.name].value
    return -value if goal.direction == "max" else value


def step(view: RunView, change: Change, *, first: Objective) -> str:
    """A single change with what it does to each goal; what is estimated has its interval."""
    told = []
    for goal in sorted(view.goals, key=lambda goal: goal.name != first.name):
        metric = change.differences.get(goal.name)
        if metric is None or (metric.value == 0 and metric.low is None):
            continue
        text = f"{moved(goal, metric.value)} of {reading(goal.name).label}"
        if metric.low is not None and metric.high is not None:
            text += f" ({metric.origin}, {interval(goal.name, metric)})"
        told.append(text)
    return f"{change.gene} from {change.value} to {change.new}, {', '.join(told)}"


def interval(name: str, metric: Metric) -> str:
    """The interval of a difference, without its unit."""
    low, high = (
        reading(name).difference(value).partition(" ")[0]
        for value in (metric.low or 0.0, metric.high or 0.0)
    )
    return f"{low} to {high}"


def rests_on(view: RunView) -> list[str]:
    """What the estimates of single changes rest on, metric by metric."""
    told = []
    for e in view.estimates:
        label = reading(e.metric).label
        if e.problem:
            told.append(f"What a change does to {label} is not estimated: {e.problem}.")
        else:
            told.append(
                f"What a change does to {label} is estimated from {counted(e.n, 'trial')} by a "
                f"Gaussian process, with its 90 % interval; a trial that it has not seen it misses "
                f"by {reading(e.metric).difference(e.error).lstrip('+')} (root mean square)."
            )
    return told


def importance(found: Importance) -> str:
    """Which choices matter for a metric, and what that rests on."""
    label = reading(found.metric).label
    if found.problem:
        return f"What matters for {label} cannot be told: {found.problem}."
    basis = (
        f"{counted(found.n, 'network')}, of which the best {percent(found.top, 0)} are compared "
        "with all"
    )
    if not found.told:
        return f"For {label} no choice stands out from chance ({basis})."
    many = found.told[:6]
    more = len(found.told) - len(many)
    names = ", ".join(many) + (f" and {more} more" if more else "")
    return f"For {label} these matter more than chance explains: {names} ({basis})."


def ended(view: RunView) -> str:
    """Why the search stopped, and what going on would be likely to give."""
    told = [f"It stopped after {view.stopped_because}."] if view.stopped_because else []
    if (gains := view.gains) and gains.n >= 10:
        told.append(
            f"Of the last {gains.n} trials {gains.k} raised it: as long as later ones are no "
            f"better than these, a further one does with a chance of at most "
            f"{percent(gains.chance, 0)} (with a confidence of 95 %)."
        )
    return " ".join(told)


def excluded(view: RunView, cut: Cut) -> list[str]:
    """What a bound keeps out, as far as that is known."""
    goal, told = cut.goal, []
    if cut.drawn:
        outside, only = (percent(n / cut.drawn, 0) for n in (cut.drawn_outside, cut.drawn_only))
        told.append(
            f"Of {cut.drawn} random networks of the space it keeps out {outside}, {only} by itself "
            f"alone (give or take {100 / math.sqrt(cut.drawn):.0f} points)."
        )
    tried = f"{counted(cut.trials, 'network')} that the search tried"
    told.append(
        f"Of {tried} it kept out {cut.trials_outside:,}, {cut.trials_only:,} by itself alone."
        if cut.trials_outside
        else f"None of {tried} lies outside"
        + (": it keeps to bounds that cost nothing to check." if cut.drawn else ".")
    )
    axis = next((g for g in view.objectives if g.name != goal.name), None)
    if axis is None:
        return told
    label = reading(axis.name).label
    beyond = _only_outside(view, goal)
    if beyond:
        best = min(beyond, key=lambda c: axis.loss(_values(c)))
        value = best.metrics[axis.name].value
        told.append(
            f"The best {label} evaluated beyond it alone is {reading(axis.name).text(value)}; "
            f"{_on_front_without(view, beyond)} of {len(beyond)} such networks would be on the "
            "front without it."
        )
    steps = [
        (model, change)
        for model in view.models
        for change in model.changes
        if change.outside == (goal.name,) and axis.name in change.differences
    ]
    if steps:
        model, change = min(steps, key=lambda pair: _loss(axis, pair[1]))
        hope = "is expected to gain" if _loss(axis, change) < 0 else "is not expected to gain"
        told.append(
            f"A single step across it {hope} {label}; the best, {model.digest} with "
            f"{step(view, change, first=axis)}."
        )
    return told


def _only_outside(view: RunView, goal: Objective) -> list[Evaluated]:
    """Evaluated networks with every goal's metric that break this bound and no other."""
    found = []
    for trial in view.trials:
        values = _values(trial)
        if all(g.name in values for g in view.goals):
            broken = [g.name for g in view.goals if not g.feasible(values)]
            if broken == [goal.name]:
                found.append(trial)
    return found


def _on_front_without(view: RunView, beyond: Sequence[Evaluated]) -> int:
    points = [[g.loss(_values(c)) for g in view.objectives] for c in (*beyond, *view.front)]
    return sum(nondominated(points, ["min"] * len(view.objectives))[: len(beyond)])
