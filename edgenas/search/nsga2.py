"""NSGA-II as a function of the stored history (Deb et al. 2002, doi:10.1109/4235.996017).

Steady state: the parents are the best `POPULATION` of everything evaluated so far, by constrained
domination, rank and crowding. Three things differ from the textbook, since a search has hundreds of
evaluations and not ten thousands: the first population is spread over size rather than drawn
uniformly, no architecture is proposed twice, and offspring that violate a cheap bound are drawn
again, then repaired.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from edgenas.objectives import Objective, directed, total_violation
from edgenas.pareto import nondominated
from edgenas.search.moves import Params, crossed, designed, mutated, untried
from edgenas.search.problem import History, Problem, Trial
from edgenas.spaces import Choice, Choices

POPULATION = 20
CROSSOVER = 0.9
"""Share of offspring with two parents."""

Rank = Callable[[Sequence[Trial], Sequence[Objective]], list[Trial]]
"""The best `POPULATION` trials, best first."""


def propose(problem: Problem, history: History, rng: random.Random) -> Mapping[str, Choice]:
    """The next architecture's genes: of the first population, then offspring of the best."""
    return bred(problem, history, rng, survivors)


def bred(problem: Problem, history: History, rng: random.Random, rank: Rank) -> Params:
    """A member of the first population, then offspring of the best `POPULATION` by `rank`."""
    parents = problem.evaluated(history)
    if len(history) < POPULATION or len(parents) < 2:
        return designed(problem, history, rng, POPULATION)
    ranked = rank(parents, problem.objectives)
    return untried(problem, history, lambda: offspring(problem.space, ranked, rng), rng)


def offspring(
    space: Choices, ranked: Sequence[Trial], rng: random.Random, *, crossover: float = CROSSOVER
) -> Params:
    """A child of two tournament winners: uniform crossover, then mutation.

    `ranked` is best first, so the winner of a tournament is the one that stands earlier.
    """
    mother, father = (ranked[min(rng.randrange(len(ranked)) for _ in range(2))] for _ in "12")
    if rng.random() >= crossover:
        father = mother
    return mutated(space, crossed(space, mother, father, rng), rng)


def survivors(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The best `POPULATION`, best first: feasible before infeasible, then by rank and crowding.

    Infeasible ones are ordered by their total violation (Deb's constrained domination).
    """
    chosen: list[Trial] = []
    for rank, points in ranks(trials, objectives):
        if len(chosen) >= POPULATION:
            break
        apart = crowding(points)
        chosen += [rank[i] for i in sorted(range(len(rank)), key=lambda i: -apart[i])]
    return [*chosen, *violating(trials, objectives)][:POPULATION]


def ranks(
    trials: Sequence[Trial], objectives: Sequence[Objective]
) -> Iterator[tuple[list[Trial], list[list[float]]]]:
    """The feasible trials front by front, the undominated first, each with its points' losses."""
    axes = directed(objectives)
    left = [t for t in trials if total_violation(objectives, t.metrics) == 0]
    while left:
        points = [[axis.loss(t.metrics) for axis in axes] for t in left]
        keep = nondominated(points, ["min"] * len(axes))
        both = list(zip(left, points, keep, strict=True))
        yield [t for t, _, kept in both if kept], [p for _, p, kept in both if kept]
        left = [t for t, _, kept in both if not kept]


def violating(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The infeasible trials, the nearest to their bounds first."""
    rest = [t for t in trials if total_violation(objectives, t.metrics) > 0]
    return sorted(rest, key=lambda t: total_violation(objectives, t.metrics))


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
