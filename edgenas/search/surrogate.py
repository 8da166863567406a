"""A surrogate of the costly metrics, exact cheap ones, and expected hypervolume: the default.

After a first design a Gaussian process learns each costly metric from all trials. Candidates are
bred from the best trials by an inner evolution, for which no trial is spent: cheap metrics are
exact, costly ones predicted. The next trials are those that are expected to add the most
hypervolume, chosen one after the other as if the ones before had come out as predicted (so they
lie apart), in batches that share one model.

All of it is a function of the finished trials, so a killed search goes on as it would have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgenas.objectives import Objective, directed, total_violation
from edgenas.pareto import improvements
from edgenas.search.gaussian import GaussianProcess, Inputs, evenly
from edgenas.search.moves import Params, designed, drawn, untried
from edgenas.search.nsga2 import offspring, ranks, survivors
from edgenas.search.problem import History, Problem, Trial, params_of, reference_point, repair
from edgenas.spaces import Architecture, Choice, descriptors

Values = npt.NDArray[np.float64]

FIRST = 12
"""Trials of the first design."""
BATCH = 3
"""Trials that share one model, at first; one where a prior tells, as few trials are to do then."""
SHARE = 0.05
"""Later batches are this share of the trials before them, as a model costs more and more."""
GENERATIONS = 4
OFFSPRING = 150
"""Candidates of each inner generation."""
PARENTS = 30
"""Candidates that the next inner generation is bred from."""
CROSSOVER = 0.5
"""Share of candidates with two parents."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
"""Of the quadrature over what a costly metric may be."""


def propose(problem: Problem, history: History, rng: random.Random) -> Mapping[str, Choice]:
    """The next architecture's genes: of the first design, then of the present batch."""
    known = problem.evaluated(history)
    tried = {trial.architecture for trial in history}
    first = design_size(problem)
    if len(known) < first:
        i = len(history)
        hints = hinted(problem) if i % 2 == 0 else []
        for params in hints[i // 2 :]:
            if problem.space.architecture(params) not in tried:
                return params
        return designed(problem, history, rng, first)
    n = len(problem.earlier)
    least = 1 if problem.prior else BATCH
    start, size = present_batch(len(known) - n, max(0, first - n), least)
    known = known[: n + start]
    key = ("surrogate", tuple(trial.number for trial in known))
    if key not in problem.memory:
        problem.memory[key] = batch(problem, known, 2 * size)
    for params in problem.memory[key]:
        if problem.space.architecture(params) not in tried:
            return dict(params)
    ranked = survivors(known, problem.objectives)
    return untried(problem, history, lambda: offspring(problem.space, ranked, rng), rng)


def design_size(problem: Problem) -> int:
    """Trials of the first design: half as many where a prior tells what is good elsewhere."""
    return FIRST // 2 if problem.prior else FIRST


def hinted(problem: Problem) -> list[Params]:
    """Half a first design of what was best elsewhere, spread over its front."""
    key = "surrogate hints"
    if key not in problem.memory:
        rng = random.Random(key)
        elsewhere = [
            Trial(-1, arch, params_of(problem.space, arch, rng), {**metrics, **problem.cheap(arch)})
            for arch, metrics in problem.prior.items()
        ]
        front = next(ranks(problem.evaluated(elsewhere), problem.objectives), ([], []))[0]
        axis, n = directed(problem.objectives)[-1], design_size(problem) // 2
        front.sort(key=lambda trial: axis.loss(trial.metrics))
        problem.memory[key] = [dict(front[i].params) for i in evenly(len(front), n)]
    found: list[Params] = problem.memory[key]
    return found


def present_batch(n: int, first: int = FIRST, least: int = BATCH) -> tuple[int, int]:
    """How many of `n` trials the present batch's model knows, and how many trials share it.

    The first `first` trials are a design, for which there is no model; no batch is smaller than
    `least`.
    """
    start, size = first, least
    while start + size <= n:
        start, size = start + size, max(least, round(SHARE * (start + size)))
    return start, size


def batch(problem: Problem, known: Sequence[Trial], n: int) -> list[Params]:
    """The `n` architectures to try next, most promising first.

    More than are needed: those that another worker tries meanwhile or that fail are passed over.
    """
    rng = random.Random(f"{len(known)} {known[-1].architecture.digest}")
    space, believed = problem.space, _Believed(problem, known)
    tried = {trial.architecture for trial in known}
    pool: dict[Architecture, Params] = {}

    def add(params: Params) -> None:
        params = repair(problem, params, rng)
        arch = space.architecture(params)
        if arch not in tried and problem.violation(params) == 0:
            pool.setdefault(arch, params)

    best = survivors(known, problem.objectives)
    for i in range(OFFSPRING):
        new = drawn(space, rng, lean=rng.random()) if i % 5 == 0 else None
        add(new or offspring(space, best, rng, crossover=CROSSOVER))
    for _ in range(GENERATIONS - 1):
        if not pool:
            return []
        gains = believed.gains(list(pool))
        ranked = [list(pool.items())[i] for i in np.argsort(-gains, kind="stable")[:PARENTS]]
        parents = [Trial(-1, arch, params, {}) for arch, params in ranked]
        for _ in range(OFFSPRING):
            add(offspring(space, parents, rng, crossover=CROSSOVER))
    archs = list(pool)
    return [pool[archs[i]] for i in believed.chosen(archs, n)]


@dataclass(frozen=True, slots=True)
class _Scale:
    """The logarithm of how much worse a loss is than a little better than the best one seen.

    What is bad lies closer together then, and the model spends its detail on what is good.
    """

    best: float
    margin: float

    @classmethod
    def of(cls, losses: Values) -> _Scale:
        best = float(losses.min())
        return cls(best, 2 * max(float(np.median(losses)) - best, 1e-9 * max(1.0, abs(best))))

    def forward(self, losses: Values) -> Values:
        return np.log(losses - self.best + self.margin)

    def back(self, values: Values) -> Values:
        return np.exp(values) + self.best - self.margin


class _Believed:
    """What the finished trials let one believe of all other architectures."""

    def __init__(self, problem: Problem, known: Sequence[Trial]) -> None:
        self.problem = problem
        self.axes = directed(problem.objectives)
        free = problem.cheap(known[0].architecture)
        self.costly = [o for o in problem.objectives if o.name not in free]
        learned = _some(known)
        self.reader = Reader(problem, [trial.architecture for trial in learned])
        archs = [trial.architecture for trial in learned]
        self.models: dict[str, tuple[_Scale, GaussianProcess]] = {}
        for objective in self.costly:
            losses = np.array([_loss(objective, trial.metrics) for trial in learned])
            scale = _Scale.of(losses)
            inputs = self.inputs(archs, objective)
            self.models[objective.name] = scale, GaussianProcess(inputs, scale.forward(losses))
        feasible = [t for t in known if total_violation(problem.objectives, t.metrics) == 0]
        self.front = np.array([[axis.loss(t.metrics) for axis in self.axes] for t in feasible])
        self.front = self.front.reshape(-1, len(self.axes))
        reference = reference_point(self.axes, [trial.metrics for trial in known])
        self.reference = np.array([axis.loss(reference) for axis in self.axes])

    def inputs(self, archs: Sequence[Architecture], objective: Objective) -> Inputs:
        """With what is expected of the objective from elsewhere, where there is a prior."""
        inputs = self.reader.inputs(archs)
        prior = _prior(self.problem, objective)
        return replace(inputs, expected=prior(archs)) if prior else inputs

    def outcomes(self, archs: Sequence[Architecture]) -> tuple[Values, Values]:
        """Losses (nodes, n, axes) at the quadrature's nodes, and (nodes, n) what they weigh.

        Costly metrics are taken to be good or bad together. What breaks a bound weighs nothing.
        """
        losses = np.zeros((len(NODES), len(archs), len(self.axes)))
        weights = np.repeat((WEIGHTS / WEIGHTS.sum())[:, None], len(archs), axis=1)
        values: dict[str, Values] = {}
        for objective in self.costly:
            scale, model = self.models[objective.name]
            mean, deviation = model.predict(self.inputs(archs, objective))
            found = scale.back(mean + NODES[:, None] * deviation)
            values[objective.name] = found
            if objective.bound is not None:
                weights = weights * (found <= _sign(objective) * objective.bound)
        for i, axis in enumerate(self.axes):
            if axis.name in values:
                losses[:, :, i] = values[axis.name]
            else:
                losses[:, :, i] = [axis.loss(self.problem.cheap(arch)) for arch in archs]
        return losses, weights

    def gains(self, archs: Sequence[Architecture]) -> Values:
        """The expected improvement of the front's hypervolume by each of them."""
        losses, weights = self.outcomes(archs)
        return _expected(losses, weights, self.front, self.reference)

    def chosen(self, archs: Sequence[Architecture], n: int) -> list[int]:
        """The `n` that are expected to add the most, each beside those before it."""
        losses, weights = self.outcomes(archs)
        middle = losses[len(NODES) // 2]
        front, found = self.front, list[int]()
        # A gain only shrinks as the front grows: whoever leads after an update leads for good.
        gains = _expected(losses, weights, front, self.reference)
        while len(found) < min(n, len(archs)):
            while True:
                i = int(np.argmax(gains))
                gains[i] = _expected(losses[:, [i]], weights[:, [i]], front, self.reference)[0]
                if i == int(np.argmax(gains)):
                    break
            gains[i] = -np.inf
            found.append(i)
            front = np.vstack([front, middle[i]])
        return found


MOST = 300
"""Trials that a model learns from, as it costs their cube: the last ones and some of the others."""


def _some(known: Sequence[Trial]) -> list[Trial]:
    if len(known) <= MOST:
        return list(known)
    old, new = known[: -MOST // 2], known[-MOST // 2 :]
    return [*(old[i] for i in evenly(len(old), MOST - len(new))), *new]


def _prior(
    problem: Problem, objective: Objective
) -> Callable[[Sequence[Architecture]], Values] | None:
    """What the prior's architectures make one expect of others, in its standard deviations."""
    told = [(arch, m) for arch, m in problem.prior.items() if objective.name in m]
    if len(told) < 2:
        return None
    key = ("prior", objective.name)
    if key not in problem.memory:
        told = [told[i] for i in evenly(len(told), MOST)]
        archs = [arch for arch, _ in told]
        losses = np.array([_loss(objective, metrics) for _, metrics in told])
        scaled = _Scale.of(losses).forward(losses)
        reader = Reader(problem, archs)
        scaled = (scaled - scaled.mean()) / max(float(scaled.std()), 1e-9)
        problem.memory[key] = reader, GaussianProcess(reader.inputs(archs), scaled), {}
    reader, model, seen = problem.memory[key]

    def expected(archs: Sequence[Architecture]) -> Values:
        if new := [arch for arch in archs if arch not in seen]:
            mean, _ = model.predict(reader.inputs(new))
            seen.update(zip(new, mean.tolist(), strict=True))
        return np.array([seen[arch] for arch in archs])

    return expected


def _expected(losses: Values, weights: Values, front: Values, reference: Values) -> Values:
    nodes, n, axes = losses.shape
    gains = improvements(losses.reshape(-1, axes), front, reference).reshape(nodes, n)
    return np.asarray((gains * weights).sum(0), dtype=np.float64)


def _sign(objective: Objective) -> int:
    """-1 where more is better: what turns the metric into a loss."""
    if objective.direction is None:
        return -1 if objective.relation == ">=" else 1
    return -1 if objective.direction == "max" else 1


def _loss(objective: Objective, metrics: Mapping[str, float]) -> float:
    return _sign(objective) * objective.value(metrics)


class Reader:
    """Architectures as a Gaussian process reads them, on the scale of those it is made from."""

    def __init__(self, problem: Problem, archs: Sequence[Architecture]) -> None:
        self.problem = problem
        self.columns: dict[tuple[str, Choice | None], int] = {}
        for gene, values in problem.space.genes.items():
            for value in (None, *values):
                self.columns[gene, value] = len(self.columns)
        rows = [self._described(arch) for arch in archs]
        self.names = sorted({name for row in rows for name in row})
        least = self._raw(rows).min(0)
        self.positive = least > 0
        self.least = np.where(self.positive, least, 0.0)
        table = self._table(rows)
        self.middle = np.median(table, axis=0)
        self.spread = np.where(table.std(axis=0) > 1e-9, table.std(axis=0), 1.0)

    def inputs(self, archs: Sequence[Architecture]) -> Inputs:
        """The inputs of these architectures."""
        genes = np.zeros((len(archs), len(self.columns)))
        for row, arch in enumerate(archs):
            active = arch.params
            for gene in self.problem.space.genes:
                genes[row, self.columns[gene, active.get(gene)]] = 1.0
        table = self._table([self._described(arch) for arch in archs])
        described = np.clip((table - self.middle) / self.spread, -3.0, 3.0)
        return Inputs(genes, described, len(self.problem.space.genes))

    def _described(self, arch: Architecture) -> Mapping[str, float]:
        key = ("described", arch)
        if key not in self.problem.memory:
            told = descriptors(self.problem.space, arch)
            self.problem.memory[key] = {**self.problem.cheap(arch), **told}
        found: Mapping[str, float] = self.problem.memory[key]
        return found

    def _table(self, rows: Sequence[Mapping[str, float]]) -> Values:
        """Logarithms of what is always positive, as ratios tell costs apart; others as they are."""
        raw = self._raw(rows)
        logs = np.log(np.maximum(raw, np.where(self.positive, self.least / 10, 1.0)))
        return np.where(self.positive, logs, raw)

    def _raw(self, rows: Sequence[Mapping[str, float]]) -> Values:
        return np.array([[row.get(name, 0.0) for name in self.names] for row in rows]).reshape(
            len(rows), len(self.names)
        )
