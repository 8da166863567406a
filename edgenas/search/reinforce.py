"""A policy-gradient controller as a function of the stored history (Williams 1992).

The policy is one categorical distribution a gene. Every proposal aims at another point of the front
and so learns another policy, always from the whole history: with one device at a latency drawn from
the range seen so far, by the reward of MnasNet (Tan et al. 2019, arXiv:1807.11626, equation 2 with
alpha = 0 and beta = -1: a miss costs in proportion); with other objectives by weights drawn for
them. Trials were proposed by other policies than the one that learns from them, and no importance
weights correct for that: with hundreds of trials their variance would be worse than their bias.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgenas.objectives import Objective, directed
from edgenas.search.moves import Params, designed, untried
from edgenas.search.problem import History, Problem, Trial
from edgenas.spaces import Choice

Values = npt.NDArray[np.float64]

FIRST = 20
"""Trials of the first design, before anything is learned."""
STEPS = 40
"""Gradient steps on the whole history."""
RATE = 0.5
ENTROPY = 0.3
"""Weight of the policy's entropy, which keeps genes open that say nothing."""


def propose(problem: Problem, history: History, rng: random.Random) -> Mapping[str, Choice]:
    """The next architecture's genes: of the first design, then drawn from a policy."""
    known = problem.evaluated(history)
    if len(known) < FIRST:
        return designed(problem, history, rng, FIRST)
    policy = learned(problem, known, rewards(problem.objectives, known, problem, rng))

    def make() -> Params:
        return {
            gene: rng.choices(values, weights=list(policy[gene]))[0]
            for gene, values in problem.space.genes.items()
        }

    return untried(problem, history, make, rng)


def rewards(
    objectives: Sequence[Objective], known: Sequence[Trial], problem: Problem, rng: random.Random
) -> Values:
    """A reward for every trial, by an aim that is drawn."""
    axes = directed(objectives)
    losses = np.array([[axis.loss(t.metrics) for axis in axes] for t in known])
    low, high = losses.min(0), losses.max(0)
    share = 1 - (losses - low) / np.maximum(high - low, 1e-12)  # 1 is the best seen, 0 the worst
    broken = np.array([sum(max(0.0, o.violation(t.metrics)) for o in objectives) for t in known])
    free = problem.cheap(known[0].architecture)
    costs = [i for i, axis in enumerate(axes) if axis.name in free]
    if len(axes) == 2 and len(costs) == 1 and axes[costs[0]].direction == "min":
        cost = np.array([t.metrics[axes[costs[0]].name] for t in known])
        if cost.min() > 0:
            aim = math.exp(rng.uniform(math.log(cost.min()), math.log(cost.max())))
            met = np.minimum(1.0, aim / cost)
        else:
            aim = rng.uniform(cost.min(), cost.max())
            met = np.exp(-np.maximum(0.0, cost - aim))
        reward = share[:, 1 - costs[0]] * met
    else:
        weights = np.array([rng.expovariate(1) for _ in axes])
        reward = -np.max((1 - share) * weights / weights.sum(), axis=1)
    return np.asarray(reward - broken, dtype=np.float64)


def advantages(reward: Values) -> Values:
    """What each trial weighs in the gradient: by the rank of its reward, mean 0, deviation 1.

    Logarithms of ranks, and the worse half all alike: the utilities of natural evolution strategies
    (Wierstra et al. 2014, JMLR 15, section 3.1). With rewards as they are, many poor trials speak
    louder than the few good ones. Trials of equal reward weigh the same.
    """
    from scipy.stats import rankdata

    n = len(reward)
    rank = rankdata(-reward, method="average")
    utility = np.maximum(0.0, math.log(n / 2 + 1) - np.log(rank))
    utility -= utility.mean()
    return np.asarray(utility / max(float(np.std(utility)), 1e-12), dtype=np.float64)


def learned(problem: Problem, known: Sequence[Trial], reward: Values) -> dict[str, Values]:
    """Each gene's probabilities after `STEPS` gradient steps from uniform ones.

    Genes that were inactive in a trial learn nothing from it.
    """
    advantage = advantages(reward)
    actives = [trial.architecture.params for trial in known]
    policy = {}
    for gene, values in problem.space.genes.items():
        taken = np.zeros((len(known), len(values)))
        for row, active_genes in enumerate(actives):
            if gene in active_genes:
                taken[row, values.index(active_genes[gene])] = 1.0
        active = taken.sum(1)
        logits = np.zeros(len(values))
        for _ in range(STEPS):
            p = np.exp(logits - logits.max())
            p /= p.sum()
            gradient = (advantage @ taken - (advantage @ active) * p) / len(known)
            surprise = np.log(np.maximum(p, 1e-12))
            gradient -= ENTROPY * p * (surprise - p @ surprise)
            logits += RATE * len(values) * gradient
        p = np.exp(logits - logits.max())
        policy[gene] = p / p.sum()
    return policy
