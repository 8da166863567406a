"""NSGA-II as a function of the stored history (Deb et al. 2002, doi:10.1109/4235.996017).

Steady state: the parents are the best `POPULATION` of everything evaluated so far, by constrained
domination, rank and crowding. Three things differ from the textbook, since a search has hundreds of
evaluations and not ten thousands: the first population is spread over size rather than drawn
uniformly (uniform draws crowd in the middle of every cheap metric), no architecture is proposed
twice, and offspring that violate a cheap bound are drawn again, then repaired.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from edgenas.objectives import Objective, directed, total_violation
from edgenas.pareto import nondominated
from edgenas.search.problem import History, MetricFunction, Trial, params_of, repair
from edgenas.spaces import Architecture, Choice, Choices

POPULATION = 20
CROSSOVER = 0.9
"""Share of offspring with two parents."""
MUTATION = 0.1
"""Share of genes that change, at least one."""
DRAWS = 32
"""Draws for one stratum of the first population, and for one offspring."""


def propose(
    space: Choices,
    objectives: Sequence[Objective],
    history: History,
    cheap: MetricFunction,
    rng: random.Random,
) -> Mapping[str, Choice]:
    """The next architecture's genes: of the first population, then offspring of the best."""
    seen = {trial.architecture for trial in history}
    evaluated = {t.architecture: t for t in history if _evaluated(t, objectives)}
    if len(history) < POPULATION or len(evaluated) < 2:
        params = first(space, objectives, cheap, rng, len(history) % POPULATION)
        if _fresh(space, objectives, cheap, params, seen):
            return params
    params = {}
    ranked = survivors(list(evaluated.values()), objectives, POPULATION)
    for _ in range(DRAWS):
        params = offspring(space, ranked, rng) if len(ranked) > 1 else _random(space, rng)
        if _fresh(space, objectives, cheap, params, seen):
            return params
        fixed = repair(space, objectives, cheap, params, rng)
        if _fresh(space, objectives, cheap, fixed, seen):
            return fixed
    return params


def first(
    space: Choices,
    objectives: Sequence[Objective],
    cheap: MetricFunction,
    rng: random.Random,
    i: int,
) -> dict[str, Choice]:
    """Member `i` of the first population: the smallest, the largest, then one a stratum.

    Strata divide the logarithm of the first cheap objective between smallest and largest.
    """
    low, high = space.smallest(), space.largest()
    if i < 2:
        params = params_of(space, (low, high)[i], rng)
        return repair(space, objectives, cheap, params, rng)
    axis = _cheap_axis(objectives, cheap(low))
    if axis is None:
        return _random(space, rng)
    ends = [cheap(arch)[axis] for arch in (low, high)]
    share = (i - 2 + rng.random()) / (POPULATION - 2)
    target = _level(ends[0]) + share * (_level(ends[1]) - _level(ends[0]))

    def distance(params: Mapping[str, Choice]) -> tuple[float, float]:
        metrics = cheap(space.architecture(params))
        return total_violation(objectives, metrics), abs(_level(metrics[axis]) - target)

    drawn = [_random(space, rng, lean=rng.random()) for _ in range(DRAWS)]
    return repair(space, objectives, cheap, min(drawn, key=distance), rng)


def offspring(space: Choices, ranked: Sequence[Trial], rng: random.Random) -> dict[str, Choice]:
    """A child of two tournament winners: uniform crossover, then mutation.

    `ranked` is best first, so the winner of a tournament is the one that stands earlier.
    """
    mother, father = (ranked[min(rng.randrange(len(ranked)) for _ in range(2))] for _ in "12")
    if rng.random() >= CROSSOVER:
        father = mother
    child = {name: rng.choice((mother, father)).params[name] for name in space.genes}
    names = [name for name in child if rng.random() < MUTATION]
    for name in names or [rng.choice(list(child))]:
        child[name] = rng.choice([value for value in space.genes[name] if value != child[name]])
    return child


def survivors(trials: Sequence[Trial], objectives: Sequence[Objective], size: int) -> list[Trial]:
    """The best `size`, best first: feasible before infeasible, then by rank, then by crowding.

    Infeasible ones are ordered by their total violation (Deb's constrained domination).
    """
    axes = directed(objectives)
    left = [t for t in trials if total_violation(objectives, t.metrics) == 0]
    chosen: list[Trial] = []
    while left and len(chosen) < size:
        points = [[axis.loss(t.metrics) for axis in axes] for t in left]
        keep = nondominated(points, ["min"] * len(axes))
        rank = [(t, p) for t, p, kept in zip(left, points, keep, strict=True) if kept]
        left = [t for t, kept in zip(left, keep, strict=True) if not kept]
        spread = crowding([p for _, p in rank])
        order = sorted(range(len(rank)), key=lambda i: -spread[i])
        chosen += [rank[i][0] for i in order]
    if len(chosen) < size:
        rest = [t for t in trials if total_violation(objectives, t.metrics) > 0]
        chosen += sorted(rest, key=lambda t: total_violation(objectives, t.metrics))
    return chosen[:size]


def crowding(points: Sequence[Sequence[float]]) -> list[float]:
    """Crowding distance of each point: its neighbours' gaps as shares of the range, added up."""
    distance = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        span = points[order[-1]][axis] - points[order[0]][axis]
        distance[order[0]] = distance[order[-1]] = math.inf
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            if span > 0:
                distance[i] += (points[after][axis] - points[before][axis]) / span
    return distance


def _evaluated(trial: Trial, objectives: Sequence[Objective]) -> bool:
    return all(objective.name in trial.metrics for objective in objectives)


def _fresh(
    space: Choices,
    objectives: Sequence[Objective],
    cheap: MetricFunction,
    params: Mapping[str, Choice],
    seen: set[Architecture],
) -> bool:
    arch = space.architecture(params)
    return arch not in seen and total_violation(objectives, cheap(arch)) == 0


def _random(space: Choices, rng: random.Random, *, lean: float | None = None) -> dict[str, Choice]:
    """Random genes; with `lean`, dear values have about that probability."""
    if lean is None:
        return {name: rng.choice(values) for name, values in space.genes.items()}
    return {
        name: values[sum(rng.random() < lean for _ in values[1:])]
        for name, values in space.genes.items()
    }


def _cheap_axis(objectives: Sequence[Objective], cheap: Mapping[str, float]) -> str | None:
    """The cheap metric that the first population is spread over: the first with a direction."""
    names = [o.name for o in objectives if o.name in cheap]
    return next((o.name for o in directed(objectives) if o.name in cheap), next(iter(names), None))


def _level(value: float) -> float:
    return math.log(value) if value > 0 else value
