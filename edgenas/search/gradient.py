"""Differentiable search: architecture parameters learned on the supernet for a target of a cost.

Every proposal aims at one value of a cheap metric (the bound where there is one, else a point of
the range, so that trials spread over the front). For the first `LESSONS` aims it learns: each gene
has a categorical distribution, and a step draws an architecture, asks the supernet how its loss
changes with every choice (a straight-through gradient, as of ProxylessNAS, arXiv:1812.00332, and
FBNetV2, or the loss itself where a choice has no gradient), and the table for what every choice
would do to the logarithm of the cost: for one gene after the other that is exact, and over draws it
is the gradient of the expected cost. Their sum, the cost times a multiplier that rises while the
cost is above the target, moves the distributions. The weights of the supernet stay. A lesson begins
with what the nearest one before it found.

A slope is taken at the value that is chosen, and its size says little of the whole step to another
value: from the narrow side widening looks good, from the wide side narrowing does. So a gene's
values are judged by the mean over the values it was seen at, each counting alike, and draws keep
some chance that any value is the chosen one.

Later proposals, each with an aim of its own, use the lesson that lies nearest, so that the time
the gradients take does not grow with the trials. It is counted as the strategy's own. Lessons
depend on the problem and the seed alone: a process that resumes a study learns them anew.

The most probable architecture, or one that is drawn near the best trial, is then moved, one choice
at a time, to between 95 % and 100 % of the target, by what a choice was seen to do to the loss for
its share of the cost. That is also the guard against collapse: a network that saved blocks without
need grows until the target is used up.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import derive_seed
from edgenas.errors import SpecError
from edgenas.search.moves import Params, untried
from edgenas.search.problem import Gradients, History, Problem, Trial
from edgenas.spaces import Choice

Values = npt.NDArray[np.float64]

TOLERANCE = 0.05
"""How far below its target a proposal's cost may lie."""
LESSONS = 8
"""Aims that are learned for."""
NEAR = 0.1
"""Logarithm of the cost up to which a trial is near a target."""
RATE = 1.0
START = 2.0
"""Logit that the choices of a known architecture begin with."""
TAUGHT = 0.1
"""Share of a lesson's logits that draws near a trial are led by."""
EXPLORE = 0.3
"""Share of the genes that a lesson draws without regard to what it has learned."""
KEPT = 0.9
"""Of what a lesson saw choices do to loss and cost, the share that the next one begins with."""
DUAL_RATE = 0.5
"""By how much a cost one logarithm too high multiplies the price of cost, in each step."""
_NONE = 1e-9
"""Steps that stand for none where one divides by their number."""


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
    check_gradients(problem.gradients)
    i, known = len(history), problem.evaluated(history)
    aim = next_aim(problem, i)
    nearest = _nearest(problem, aim, min(i + 1, LESSONS)) or 0
    made = _Offers(_Costs(problem, aim), _lesson(problem, nearest), rng)
    offers = made.later(known) if i >= LESSONS and known else made.first()
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


@dataclass(slots=True)
class _Lesson:
    """What gradients taught for one aim; arrays are by gene, with an entry a value."""

    logits: dict[str, Values]
    """Of the distributions."""
    slopes: dict[str, Values]
    """(chosen, value): the loss's by each value, summed over the steps with that one chosen."""
    seen: dict[str, Values]
    """In how many steps each value was chosen."""
    costs: dict[str, Values]
    """What each value did to the logarithm of the cost, summed over the steps."""

    def next(self) -> _Lesson:
        """One that has not begun, but knows what this one found."""
        return _Lesson(
            {gene: START * (x == x.max()) for gene, x in self.logits.items()},
            {gene: KEPT * x for gene, x in self.slopes.items()},
            {gene: KEPT * x for gene, x in self.seen.items()},
            {gene: KEPT * x for gene, x in self.costs.items()},
        )

    def harms(self, gene: str) -> Values:
        """What each value of it does to the loss; differences count.

        The mean over the values it was seen at; those it was not seen at count as saying nothing,
        so that what was seen from one side alone moves little.
        """
        told = self.slopes[gene] / np.maximum(self.seen[gene], _NONE)[:, None]
        return np.asarray(told.mean(0), dtype=np.float64)

    def dearness(self, gene: str) -> Values:
        """What each value of it does to the logarithm of the cost; differences count."""
        return self.costs[gene] / max(float(self.seen[gene].sum()), _NONE)


def _lesson(problem: Problem, k: int) -> _Lesson:
    """Lesson `k`; it and those it begins with are learned once."""
    if ("lesson", k) not in problem.memory:
        before = _nearest(problem, next_aim(problem, k), k)
        if before is None:
            n = {gene: len(values) for gene, values in problem.space.genes.items()}
            logits, seen, costs = ({gene: np.zeros(k) for gene, k in n.items()} for _ in range(3))
            slopes = {gene: np.zeros((k, k)) for gene, k in n.items()}
            begun = _Lesson(logits, slopes, seen, costs)
        else:
            begun = _lesson(problem, before).next()
        _learn(begun, problem, k)
        problem.memory["lesson", k] = begun
    found: _Lesson = problem.memory["lesson", k]
    return found


def _nearest(problem: Problem, aim: Aim | None, n: int) -> int | None:
    """Of the first `n` lessons that whose target is nearest to that of `aim`, the last such."""
    if aim is None:
        return n - 1 if n else None
    aims = ((k, next_aim(problem, k)) for k in range(n))
    near = [
        (abs(math.log(a.target / aim.target)), -k)
        for k, a in aims
        if a is not None and a.metric == aim.metric
    ]
    return -min(near)[1] if near else None


def _learn(lesson: _Lesson, problem: Problem, k: int) -> None:
    """Makes the steps of lesson `k`."""
    genes, gradients = problem.space.genes, check_gradients(problem.gradients)
    rng = random.Random(derive_seed(gradients.seed, "lesson", k))
    at = _Costs(problem, next_aim(problem, k))
    price: float | None = None
    for step in range(gradients.steps):
        open_ = (step + 1) / gradients.steps if gradients.progressive_depth else 1.0
        params = _drawn(genes, lesson.logits, rng, open_=open_, explore=EXPLORE)
        slopes = gradients.of(params, rng.getrandbits(32))
        costs = {
            gene: np.log([at.cost({**params, gene: v}) for v in genes[gene]]) for gene in slopes
        }
        for gene in slopes:
            slope = np.array([slopes[gene][v] for v in genes[gene]])
            chosen = genes[gene].index(params[gene])
            lesson.slopes[gene][chosen] += slope - slope.mean()
            lesson.seen[gene][chosen] += 1
            lesson.costs[gene] += costs[gene] - costs[gene].mean()
        harms = {gene: lesson.harms(gene) for gene in genes}
        if price is None:
            price = _first_price(genes, params, harms, at)
        moves = {}
        for gene in slopes:
            p = _softmax(lesson.logits[gene])
            change = harms[gene] + price * costs[gene]
            moves[gene] = p * (change - p @ change)
        scale = max(float(np.sqrt(np.mean(np.concatenate(list(moves.values())) ** 2))), 1e-12)
        for gene, move in moves.items():
            lesson.logits[gene] = lesson.logits[gene] - RATE * move / scale
        if at.aim is not None:
            price *= (at.cost(params) / at.aim.target) ** DUAL_RATE


def _first_price(
    genes: Mapping[str, Sequence[Choice]],
    params: Params,
    harms: Mapping[str, Values],
    at: _Costs,
) -> float:
    """What a logarithm of cost buys of the loss, on the way from here to the largest values."""
    gain = sum(max(0.0, harms[g][v.index(params[g])] - harms[g][-1]) for g, v in genes.items())
    rise = math.log(at.cost({g: v[-1] for g, v in genes.items()}) / at.cost(params))
    return float(gain / rise) if rise > 0.05 else float(gain)


def _drawn(
    genes: Mapping[str, Sequence[Choice]],
    logits: Mapping[str, Values],
    rng: random.Random,
    *,
    open_: float = 1.0,
    temperature: float = 1.0,
    explore: float = 0.0,
) -> Params:
    """Genes drawn from the distributions, or with the probability `explore` any of the values.

    Of a depth only the share `open_` of its values.
    """
    params = {}
    for gene, values in genes.items():
        if gene.endswith("depth"):
            values = values[: max(1, math.ceil(open_ * len(values)))]
        n = len(values)
        weights = (1 - explore) * _softmax(logits[gene][:n] / temperature) + explore / n
        params[gene] = rng.choices(values, weights=list(weights))[0]
    return params


@dataclass(frozen=True, slots=True)
class _Costs:
    """The cheap metric that an aim names; 1 without an aim."""

    problem: Problem
    aim: Aim | None

    def cost(self, params: Params) -> float:
        """Of the architecture with these genes."""
        if self.aim is None:
            return 1.0
        return self.problem.cheap(self.problem.space.architecture(params))[self.aim.metric]

    def above(self, params: Params) -> bool:
        """Whether it exceeds the target."""
        return self.aim is not None and self.cost(params) > self.aim.target

    def away(self, params: Params) -> float:
        """How far it is from the middle of the window, as a logarithm; 0 inside."""
        if self.aim is None:
            return 0.0
        share = self.cost(params) / self.aim.target
        return 0.0 if 1 - TOLERANCE <= share <= 1 else abs(math.log(share / (1 - TOLERANCE / 2)))


@dataclass(frozen=True, slots=True)
class _Offers:
    """The proposals for one aim, by what a lesson taught."""

    at: _Costs
    lesson: _Lesson
    rng: random.Random

    @property
    def genes(self) -> Mapping[str, Sequence[Choice]]:
        """Of the space."""
        return self.at.problem.space.genes

    def first(self) -> Iterator[Params]:
        """The most probable architecture, then drawn ones, ever freer; each at the target."""
        logits = self.lesson.logits
        yield self.at_target({g: v[int(np.argmax(logits[g]))] for g, v in self.genes.items()})
        for i in itertools.count(1):
            yield self.at_target(_drawn(self.genes, logits, self.rng, temperature=1 + i / 4))

    def later(self, known: Sequence[Trial]) -> Iterator[Params]:
        """Drawn near the best of the trials near the target, ever freer; each at the target."""
        best = self.best(known)
        logits = {
            gene: TAUGHT * x + START * np.array([v == best.params[gene] for v in self.genes[gene]])
            for gene, x in self.lesson.logits.items()
        }
        for i in itertools.count():
            yield self.at_target(_drawn(self.genes, logits, self.rng, temperature=1 + i / 4))

    def best(self, known: Sequence[Trial]) -> Trial:
        """Of the trials whose cost is near the target, or else of the five that are nearest."""
        problem, aim = self.at.problem, self.at.aim
        free = problem.cheap(known[0].architecture)
        costly = [o for o in problem.objectives if o.direction and o.name not in free]

        def distance(trial: Trial) -> float:
            return 0.0 if aim is None else abs(math.log(trial.metrics[aim.metric] / aim.target))

        ranked = sorted(known, key=distance)
        near = [t for t in ranked if distance(t) < NEAR]
        return min(near or ranked[:5], key=lambda t: [o.loss(t.metrics) for o in costly[:1]])

    def at_target(self, params: Params) -> Params:
        """`params` with single choices changed until the cost lies in the window below the target.

        Of the changes that lead nearer, first those that harmed the loss least, or helped it most,
        for their share of the cost.
        """
        reached = self._nearer(params, crossing=True)
        if self.at.away(reached) == 0:
            return reached
        # Stuck: from the other side of the target, by each change that crosses it.
        above = self.at.above(reached)
        for changed in self._changes(reached):
            if self.at.above(changed) != above:
                found = self._nearer(changed, crossing=False)
                reached = min(reached, found, key=self.at.away)
                if self.at.away(reached) == 0:
                    break
        return reached

    def _nearer(self, params: Params, *, crossing: bool) -> Params:
        """`params` with single changes for as long as one leads nearer to the target.

        Unless `crossing`, to the window or on the same side of it.
        """
        while (away := self.at.away(params)) > 0:
            for changed in self._changes(params):
                now = self.at.away(changed)
                if now < away and (
                    crossing or now == 0 or self.at.above(changed) == self.at.above(params)
                ):
                    params = changed
                    break
            else:
                break
        return params

    def _changes(self, params: Params) -> Iterator[Params]:
        """`params` with single changes: those towards the target first, by harm for their cost."""
        sign = 1 if self.at.above(params) else -1
        ranked = []
        for gene, values in self.genes.items():
            harms, costs, now = (
                self.lesson.harms(gene),
                self.lesson.dearness(gene),
                values.index(params[gene]),
            )
            for i, value in enumerate(values):
                if i != now:
                    saved = sign * (costs[now] - costs[i])
                    worth = (harms[i] - harms[now]) / max(abs(saved), 1e-9)
                    ranked.append((saved <= 0, float(worth), gene, value))
        for _, _, gene, value in sorted(ranked, key=lambda r: r[:2]):
            yield {**params, gene: value}


def _softmax(logits: Values) -> Values:
    p = np.exp(logits - logits.max())
    return np.asarray(p / p.sum(), dtype=np.float64)
