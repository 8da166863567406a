"""Steps through a space that several strategies take: first designs, mutation, crossover."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from edgenas.objectives import directed
from edgenas.search.problem import History, Problem, Trial, params_of, repair
from edgenas.spaces import Choice, Choices

Params = dict[str, Choice]

MUTATION = 0.1
"""Share of genes that change, at least one."""
DRAWS = 32
"""Draws for one stratum of a first design, and for one proposal."""


def drawn(space: Choices, rng: random.Random, *, lean: float | None = None) -> Params:
    """Random genes; with `lean`, dear values have about that probability."""
    if lean is None:
        return {name: rng.choice(values) for name, values in space.genes.items()}
    return {
        name: values[sum(rng.random() < lean for _ in values[1:])]
        for name, values in space.genes.items()
    }


def spread(problem: Problem, rng: random.Random, i: int, n: int) -> Params:
    """Member `i` of a first design of `n`: the smallest, the largest, then one a stratum.

    Strata divide the logarithm of the first cheap objective between smallest and largest: uniform
    draws crowd in the middle of every cheap metric.
    """
    space = problem.space
    ends = space.smallest(), space.largest()
    if i < 2:
        return repair(problem, params_of(space, ends[i], rng), rng)
    axis = _cheap_axis(problem)
    if axis is None:
        return drawn(space, rng)
    low, high = (_level(problem.cheap(arch)[axis]) for arch in ends)
    target = low + (i - 2 + rng.random()) / max(1, n - 2) * (high - low)

    def distance(params: Mapping[str, Choice]) -> tuple[float, float]:
        level = _level(problem.cheap(space.architecture(params))[axis])
        return problem.violation(params), abs(level - target)

    found = [drawn(space, rng, lean=rng.random()) for _ in range(DRAWS)]
    return repair(problem, min(found, key=distance), rng)


def designed(problem: Problem, history: History, rng: random.Random, n: int) -> Params:
    """The next member of a first design of `n` that is new and meets the cheap bounds."""
    i = len(history) % n
    return untried(problem, history, lambda: spread(problem, rng, i, n), rng)


def crossed(space: Choices, mother: Trial, father: Trial, rng: random.Random) -> Params:
    """Each gene of one of the two."""
    return {name: rng.choice((mother, father)).params[name] for name in space.genes}


def mutated(space: Choices, params: Mapping[str, Choice], rng: random.Random) -> Params:
    """`params` with every gene changed with the probability `MUTATION`, at least one."""
    child = dict(params)
    names = [name for name in child if rng.random() < MUTATION]
    for name in names or [rng.choice(list(child))]:
        child[name] = rng.choice([value for value in space.genes[name] if value != child[name]])
    return child


def untried(
    problem: Problem, history: History, make: Callable[[], Params], rng: random.Random
) -> Params:
    """What `make` gives, drawn again and repaired until it is new and meets the cheap bounds.

    After `DRAWS` draws random genes are tried instead; after as many of those the last one is
    returned, whatever it is.
    """
    seen = {trial.architecture for trial in history}
    params: Params = {}
    for i in range(2 * DRAWS):
        params = repair(problem, make() if i < DRAWS else drawn(problem.space, rng), rng)
        if problem.space.architecture(params) not in seen and problem.violation(params) == 0:
            break
    return params


def _cheap_axis(problem: Problem) -> str | None:
    """The cheap metric that a first design is spread over: the first with a direction."""
    cheap = problem.cheap(problem.space.smallest())
    names = [o.name for o in problem.objectives if o.name in cheap]
    axes = (o.name for o in directed(problem.objectives) if o.name in cheap)
    return next(axes, next(iter(names), None))


def _level(value: float) -> float:
    return math.log(value) if value > 0 else value
