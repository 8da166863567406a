"""Aging evolution as a function of the stored history (Real et al. 2019, arXiv:1802.01548).

The population is the last `POPULATION` architectures evaluated: what is old leaves it, however good
it was. Of a few drawn from it the best by domination and crowding is mutated; there is no
crossover.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from edgenas.search.moves import Params, designed, mutated, untried
from edgenas.search.nsga2 import survivors
from edgenas.search.problem import History, Problem
from edgenas.spaces import Choice

FIRST = 20
"""Trials of the first design."""
POPULATION = 40
TOURNAMENT = 10
"""Members of the population that are drawn for one parent."""


def propose(problem: Problem, history: History, rng: random.Random) -> Mapping[str, Choice]:
    """The next architecture's genes: of the first population, then a mutated parent."""
    population = problem.evaluated(history)[-POPULATION:]
    if len(history) < FIRST or not population:
        return designed(problem, history, rng, FIRST)

    def make() -> Params:
        drawn = rng.sample(population, min(TOURNAMENT, len(population)))
        return mutated(problem.space, survivors(drawn, problem.objectives)[0].params, rng)

    return untried(problem, history, make, rng)
