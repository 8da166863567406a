"""NSGA-III as a function of the stored history (Deb and Jain 2014, doi:10.1109/TEVC.2013.2281535).

As `edgenas.search.nsga2`, but what survives of the last front is chosen by reference directions
spread over all objectives and not by crowding, which is meant for three objectives and more.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from edgenas.objectives import Objective, directed
from edgenas.search.nsga2 import POPULATION, bred, ranks, violating
from edgenas.search.problem import History, Problem, Trial
from edgenas.spaces import Choice


def propose(problem: Problem, history: History, rng: random.Random) -> Mapping[str, Choice]:
    """The next architecture's genes: of the first population, then offspring of the best."""
    return bred(problem, history, rng, survivors)


def survivors(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The best `POPULATION`, best first: whole fronts, then the least crowded directions' nearest.

    Infeasible ones come last, ordered by their total violation.
    """
    chosen: list[Trial] = []
    points: list[list[float]] = []
    directions = list(reference_directions(len(directed(objectives))))
    for rank, losses in ranks(trials, objectives):
        if len(chosen) >= POPULATION:
            break
        if len(chosen) + len(rank) > POPULATION:
            rank = _niched(rank, losses, points, directions, POPULATION - len(chosen))
        chosen += rank
        points += losses
    return [*chosen, *violating(trials, objectives)][:POPULATION]


def reference_directions(axes: int) -> Iterator[tuple[float, ...]]:
    """At least `POPULATION` points of the unit simplex, evenly spread (Das and Dennis 1998)."""
    parts = 1
    while axes > 1 and math.comb(axes + parts - 1, parts) < POPULATION:
        parts += 1

    def split(left: int, n: int) -> Iterator[tuple[int, ...]]:
        if n == 1:
            yield (left,)
            return
        for first in range(left + 1):
            for rest in split(left - first, n - 1):
                yield (first, *rest)

    for shares in split(parts, axes):
        yield tuple(share / parts for share in shares)


def _niched(
    rank: Sequence[Trial],
    losses: Sequence[Sequence[float]],
    before: Sequence[Sequence[float]],
    directions: Sequence[Sequence[float]],
    n: int,
) -> list[Trial]:
    """`n` of `rank`, each the nearest to the direction that has the fewest survivors by then."""
    every = [*before, *losses]
    low = [min(column) for column in zip(*every, strict=True)]
    span = [(max(c) - least) or 1.0 for c, least in zip(zip(*every, strict=True), low, strict=True)]

    def niche(point: Sequence[float]) -> tuple[float, int]:
        at = [(x - least) / width for x, least, width in zip(point, low, span, strict=True)]
        return min((_distance(at, direction), i) for i, direction in enumerate(directions))

    crowd = Counter(niche(point)[1] for point in before)
    left = {i: niche(point) for i, point in enumerate(losses)}
    chosen: list[Trial] = []
    while left and len(chosen) < n:
        i = min(left, key=lambda i: (crowd[left[i][1]], left[i][0]))
        crowd[left.pop(i)[1]] += 1
        chosen.append(rank[i])
    return chosen


def _distance(point: Sequence[float], direction: Sequence[float]) -> float:
    """Squared distance of a point from the line through 0 and `direction`."""
    along = sum(x * d for x, d in zip(point, direction, strict=True))
    along /= sum(d * d for d in direction)
    return sum((x - along * d) ** 2 for x, d in zip(point, direction, strict=True))
