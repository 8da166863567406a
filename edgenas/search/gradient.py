"""Differentiable search: architecture parameters learned on the supernet for a target of a cost.

Every proposal aims at one value of a cheap metric (the bound where there is one, else a point of
the range, so that trials spread over the front). Each gene has a categorical distribution. A step
draws an architecture, asks the supernet for the gradient of its loss by every choice
(straight-through, as ProxylessNAS, arXiv:1812.00332, and FBNetV2 do), and the table for what every
choice would do to the logarithm of the cost: for one gene after the other that is exact, and over
draws it is the gradient of the expected cost. Their sum, the cost times a multiplier that rises
while the cost is above the target, moves the distributions. The weights of the supernet stay.

The most probable architecture is then moved, one choice at a time, to between 95 % and 100 % of
the target, by what a choice was seen to do to the loss for its share of the cost. That is also the
guard against collapse: a network that saved blocks without need grows until the target is used up.

The distributions start from the nearest trial so far, so later proposals refine earlier ones. The
gradients take most of the time of a trial, and it is counted as the strategy's own.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenas.errors import SpecError
from edgenas.search.moves import Params, untried
from edgenas.search.problem import Gradients, History, Problem, Trial
from edgenas.spaces import Choice

Values = npt.NDArray[np.float64]

TOLERANCE = 0.05
"""How far below its target a proposal's cost may lie."""
NEAR = 0.1
"""Logarithm of the cost up to which a trial is near a target."""
RATE = 1.0
START = 2.0
"""Logit of the nearest trial's choices at the start."""
DUAL_RATE = 0.5
"""By how much a cost one logarithm too high multiplies the price of cost, in each step."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A cheap metric and the value that it should come near from below."""

    metric: str
    target: float


def propose(problem: Problem, history: History, rng: random.Random) -> Mapping[str, Choice]:
    """The next architecture's genes.

    Raises:
        SpecError: nothing gives gradients.
    """
    gradients = check_gradients(problem.gradients)
    learned = _Learned(problem, gradients, next_aim(problem, len(history)), rng)
    learned.start(problem.evaluated(history))
    learned.run()
    offers = learned.offers()
    return untried(problem, history, lambda: next(offers), rng)


def check_gradients(gradients: Gradients | None) -> Gradients:
    """What was given, if it was.

    Raises:
        SpecError: it was not.
    """
    if gradients is None:
        raise SpecError(
            "the strategy 'gradient' needs a supernet, whose weights it learns from",
            hint="search a run with it, or choose another strategy for a table",
        )
    return gradients


def next_aim(problem: Problem, i: int) -> Aim | None:
    """What proposal `i` aims at; None where nothing cheap is to be small."""
    small, large = (problem.cheap(a) for a in (problem.space.smallest(), problem.space.largest()))
    axes = [
        o
        for o in problem.objectives
        if small.get(o.name, 0) > 0 and (o.direction == "min" or o.relation == "<=")
    ]
    if not axes:
        return None
    moving = [o for o in axes if o.direction == "min"]
    axis = moving[i % len(moving)] if moving else axes[0]
    low, high = sorted((small[axis.name], large[axis.name]))
    if axis.bound is not None:
        high = min(high, axis.bound)
    if not moving or high <= low:
        return Aim(axis.name, high)
    # Multiples of the golden ratio fill the range evenly, however many there will be.
    share = 1 - i // len(moving) * (math.sqrt(5) - 1) / 2 % 1
    return Aim(axis.name, low ** (1 - share) * high**share)


@dataclass(frozen=True, slots=True)
class _Change:
    """A choice changed: all genes, the distance from the target, what it does to loss and cost."""

    params: Params
    away: float
    harm: float
    share: float
    """Of the cost, as a logarithm, whatever its sign."""


class _Learned:
    """The distributions of one proposal."""

    def __init__(
        self, problem: Problem, gradients: Gradients, aim: Aim | None, rng: random.Random
    ) -> None:
        self._problem = problem
        self._gradients = gradients
        self._aim = aim
        self._rng = rng
        self._logits = {gene: np.zeros(len(v)) for gene, v in problem.space.genes.items()}
        self._slopes = {gene: np.zeros(len(v)) for gene, v in problem.space.genes.items()}
        """Of the loss, summed over the steps."""

    def start(self, known: Sequence[Trial]) -> None:
        """From the best of the trials whose cost is near the target, or else nearest to it."""
        if not known or self._aim is None:
            return
        metric, target = self._aim.metric, self._aim.target
        ranked = sorted(known, key=lambda t: abs(math.log(t.metrics[metric] / target)))
        near = [t for t in ranked if abs(math.log(t.metrics[metric] / target)) < NEAR]
        free = self._problem.cheap(ranked[0].architecture)
        costly = [o for o in self._problem.objectives if o.direction and o.name not in free]
        best = min(near or ranked[:5], key=lambda t: [o.loss(t.metrics) for o in costly[:1]])
        for gene, value in best.params.items():
            self._logits[gene][self._values(gene).index(value)] = START

    def run(self) -> None:
        """Makes the steps."""
        price: float | None = None
        for step in range(self._gradients.steps):
            open_ = (step + 1) / self._gradients.steps if self._gradients.progressive_depth else 1.0
            params = self._drawn(open_)
            slopes = self._gradients.of(params, self._rng.getrandbits(32))
            costs = self._costs(params)
            gains = {
                gene: np.array([slopes[gene][v] for v in self._values(gene)]) for gene in costs
            }
            if price is None:
                price = self._first_price(params, gains)
            moves = {}
            for gene, cost in costs.items():
                self._slopes[gene] += gains[gene] - gains[gene].mean()
                p = _softmax(self._logits[gene])
                change = gains[gene] + price * cost
                moves[gene] = p * (change - p @ change)
            scale = max(float(np.sqrt(np.mean(np.concatenate(list(moves.values())) ** 2))), 1e-12)
            for gene, move in moves.items():
                self._logits[gene] -= RATE * move / scale
            if self._aim is not None:
                price *= (self._cost(params) / self._aim.target) ** DUAL_RATE

    def offers(self) -> Iterator[Params]:
        """The most probable architecture, then drawn ones, ever freer; each at the target."""
        best = {g: self._values(g)[int(np.argmax(x))] for g, x in self._logits.items()}
        yield self._at_target(best)
        for i in itertools.count(1):
            yield self._at_target(self._drawn(1.0, temperature=1 + i / 4))

    def _values(self, gene: str) -> Sequence[Choice]:
        return self._problem.space.genes[gene]

    def _drawn(self, open_: float, *, temperature: float = 1.0) -> Params:
        """Genes drawn from the distributions; of a depth only the share `open_` of its values."""
        params = {}
        for gene, logits in self._logits.items():
            values = self._values(gene)
            if gene.endswith("depth"):
                values = values[: max(1, math.ceil(open_ * len(values)))]
            weights = list(_softmax(logits[: len(values)] / temperature))
            params[gene] = self._rng.choices(values, weights=weights)[0]
        return params

    def _cost(self, params: Params) -> float:
        if self._aim is None:
            return 1.0
        return self._problem.cheap(self._problem.space.architecture(params))[self._aim.metric]

    def _costs(self, params: Params) -> dict[str, Values]:
        """By gene the logarithm of the cost with each of its values in place of its own."""
        return {
            gene: np.log([self._cost({**params, gene: value}) for value in self._values(gene)])
            for gene in params
        }

    def _first_price(self, params: Params, gains: Mapping[str, Values]) -> float:
        """What a logarithm of cost buys of the loss, on the way from here to the largest values."""
        gain = sum(
            max(0.0, g[self._values(gene).index(params[gene])] - g[-1]) for gene, g in gains.items()
        )
        rise = math.log(self._cost({g: self._values(g)[-1] for g in params}) / self._cost(params))
        return float(gain / rise) if rise > 0.05 else float(gain)

    def _at_target(self, params: Params) -> Params:
        """`params` with single choices changed until the cost lies in the window below the target.

        Each change is, of those that lead nearer, the one that harms the loss least, or helps it
        most, for its share of the cost.
        """
        if self._aim is None:
            return params
        reached = self._nearer(params, crossing=True)
        if self._away(reached) == 0:
            return reached
        # Stuck: from the other side of the target, by each change that crosses it.
        crossing = [
            c for c in self._changes(reached) if self._above(c.params) != self._above(reached)
        ]
        for change in sorted(crossing, key=lambda c: c.harm / c.share):
            found = self._nearer(change.params, crossing=False)
            reached = min(reached, found, key=self._away)
            if self._away(reached) == 0:
                break
        return reached

    def _nearer(self, params: Params, *, crossing: bool) -> Params:
        """`params` with single changes for as long as one leads nearer to the target.

        Unless `crossing`, to the window or on the same side of it.
        """
        while (away := self._away(params)) > 0:
            nearer = [
                change
                for change in self._changes(params)
                if change.away < away
                and (
                    crossing
                    or change.away == 0
                    or self._above(change.params) == self._above(params)
                )
            ]
            if not nearer:
                break
            params = min(nearer, key=lambda c: c.harm / c.share).params
        return params

    def _above(self, params: Params) -> bool:
        return self._aim is not None and self._cost(params) > self._aim.target

    def _changes(self, params: Params) -> Iterator[_Change]:
        """Single changes that change the cost."""
        cost = self._cost(params)
        for gene, values in self._problem.space.genes.items():
            now = self._slopes[gene][values.index(params[gene])]
            for value, slope in zip(values, self._slopes[gene], strict=True):
                changed = {**params, gene: value}
                if share := abs(math.log(self._cost(changed) / cost)):
                    yield _Change(changed, self._away(changed), slope - now, share)

    def _away(self, params: Params) -> float:
        """How far the cost is from the middle of the window, as a logarithm; 0 inside."""
        if self._aim is None:
            return 0.0
        share = self._cost(params) / self._aim.target
        return 0.0 if 1 - TOLERANCE <= share <= 1 else abs(math.log(share / (1 - TOLERANCE / 2)))


def _softmax(logits: Values) -> Values:
    p = np.exp(logits - logits.max())
    return np.asarray(p / p.sum(), dtype=np.float64)
