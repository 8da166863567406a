"""What a strategy sees: the space, the objectives, the cheap metrics, and the trials so far."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgenas.errors import InfeasibleError
from edgenas.objectives import Objective, directed, total_violation
from edgenas.pareto import Metric
from edgenas.spaces import Architecture, Choice, Choices

MetricFunction = Callable[[Architecture], Mapping[str, float]]
"""Metrics of an architecture by name, such as `{"latency_ms": 1.9, "size_bytes": 83000}`."""

Correct = Callable[[str, Mapping[Architecture, Metric]], Callable[[Architecture], float] | None]
"""From what was measured of a metric: what it is predicted as of other architectures; None: as it
was."""

Slopes = Mapping[str, Mapping[Choice, float]]
LossGradient = Callable[[Mapping[str, Choice], int], Slopes]
"""(a value for every gene, seed) -> by active gene and value, the loss's gradient, or what the loss
would be: differences between the values of a gene count."""

SAMPLES = 64
"""Random architectures that the check of the bounds begins with."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of the study, read back from its storage.

    `params` has every gene, the inactive ones too. `metrics` has the cheap metrics alone where a
    cheap bound is violated, and nothing where the trial failed or is still running in some worker.
    """

    number: int
    architecture: Architecture
    params: Mapping[str, Choice]
    metrics: Mapping[str, float]


History = Sequence[Trial]
"""The trials in the order of their numbers, failed and running ones too (they have no metrics)."""


@dataclass(frozen=True, slots=True)
class Gradients:
    """The supernet's gradients, and how they are used."""

    of: LossGradient
    steps: int = 8
    """Gradients a lesson."""
    progressive_depth: bool = False
    """Whether deeper stages become possible only in the course of the steps (after P-DARTS,
    arXiv:1904.12760)."""
    seed: int = 0
    """Of what is drawn in lessons; a search puts its own."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A space with what is to be optimised over it; `cheap` is remembered, so calls are free."""

    space: Choices
    objectives: tuple[Objective, ...]
    cheap: MetricFunction
    earlier: tuple[Trial, ...] = ()
    """What other studies evaluated by the same costly metrics; numbered below 0. It stands before
    the study's own trials in every history."""
    prior: Mapping[Architecture, Mapping[str, float]] = field(default_factory=dict)
    """Costly metrics of architectures elsewhere (other images, another supernet): a hint, whose
    worth is for the strategy to find out."""
    gradients: Gradients | None = field(default=None, compare=False)
    """What the strategy `gradient` learns from."""
    memory: dict[Any, Any] = field(default_factory=dict, compare=False)
    """What was computed from finished trials, which never change, kept so that the time of a trial
    does not grow with their number. Nothing depends on what is in it. (What is measured meanwhile
    counts from the next batch on.)"""
    measured: dict[tuple[str, Architecture], Metric | str] = field(
        default_factory=dict, compare=False
    )
    """What a measuring worker found, by metric and architecture, or why it found nothing."""
    correct: Correct | None = field(default=None, compare=False)
    """What measured architectures say of those that were not measured."""

    def evaluated(self, history: History) -> list[Trial]:
        """The trials that have every objective's metric."""
        return [t for t in history if all(o.name in t.metrics for o in self.objectives)]

    def overlaid(self, arch: Architecture, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """`metrics` of `arch` with measured values in place of predicted ones."""
        found = {
            name: told.value
            for name in metrics
            if isinstance(told := self.measured.get((name, arch)), Metric)
        }
        return {**metrics, **found} if found else metrics

    def corrected(self, history: History) -> list[Trial]:
        """The trials that have every objective's metric, predicted ones by what was measured."""
        trials = self.evaluated(history)
        if self.correct is None:
            return trials
        for metric in sorted({name for name, _ in self.measured}):
            told = {t.architecture: self.measured.get((metric, t.architecture)) for t in trials}
            known = {arch: found for arch, found in told.items() if isinstance(found, Metric)}
            before, predict = self.memory.get(("corrected", metric), ({}, None))
            if before.keys() != known.keys():
                predict = self.correct(metric, known)
                self.memory["corrected", metric] = known, predict
            if predict is not None:
                trials = [
                    t
                    if t.architecture in known
                    else replace(t, metrics={**t.metrics, metric: predict(t.architecture)})
                    for t in trials
                ]
        return trials

    def violation(self, params: Mapping[str, Choice]) -> float:
        """By how much the cheap bounds are exceeded (see `total_violation`); 0 is feasible."""
        bounds = [objective for objective in self.objectives if objective.bound is not None]
        if not bounds:
            return 0.0
        return total_violation(bounds, self.cheap(self.space.architecture(params)))


Propose = Callable[[Problem, History, random.Random], Mapping[str, Choice]]
"""A strategy of ours: names the next architecture by its genes. All it knows it reads from the
history; it keeps no state between calls and may call `problem.cheap` freely."""


def reference_point(
    objectives: Sequence[Objective], evaluated: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """By directed objective its bound, or else the worst value among the evaluated metrics."""
    point = {}
    for axis in directed(objectives):
        worst = axis.value(max(evaluated, key=axis.loss)) if evaluated else 0.0
        point[axis.name] = worst if axis.bound is None else axis.bound
    return point


def params_of(space: Choices, arch: Architecture, rng: random.Random) -> dict[str, Choice]:
    """A value for every gene: those of `arch`, and random ones where a gene is inactive."""
    active = arch.params
    return {n: active[n] if n in active else rng.choice(v) for n, v in space.genes.items()}


def repair(problem: Problem, params: Mapping[str, Choice], rng: random.Random) -> dict[str, Choice]:
    """`params` with single choices replaced until the cheap bounds hold, or none helps any more.

    Genes are tried in random order and the first replacement that lowers the violation is taken,
    so that repaired architectures lie near the bounds rather than at the smallest one.
    """
    space, params = problem.space, dict(params)
    violation = problem.violation(params)
    improved = True
    while violation > 0 and improved:
        improved = False
        for name in rng.sample(sorted(space.genes), len(space.genes)):
            for value in space.genes[name]:
                changed = {**params, name: value}
                found = problem.violation(changed)
                if found < violation:
                    params, violation, improved = changed, found, True
            if violation == 0:
                break
    return params


def check_reachable(problem: Problem, rng: random.Random) -> None:
    """Tries to meet the cheap bounds before anything costly is done.

    Starts from the smallest, the largest and some random architectures, and repairs the nearest
    ones. It is no proof: a space where only scattered architectures meet a bound may be refused.

    Raises:
        InfeasibleError: no start leads to an architecture that meets them; per bound it names the
            nearest value that was reached.
    """
    space, objectives, cheap = problem.space, problem.objectives, problem.cheap
    starts = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(SAMPLES))]
    starts.sort(key=lambda arch: total_violation(objectives, cheap(arch)))
    if total_violation(objectives, cheap(starts[0])) == 0:
        return
    reached = {arch: cheap(arch) for arch in starts}
    bounds = [o for o in objectives if o.relation and o.name in reached[starts[0]]]
    for start in starts[:2]:
        # Together, then each bound by itself, so that the message can say which is out of reach.
        for aims in (objectives, *([o] for o in bounds)):
            aimed = replace(problem, objectives=tuple(aims))
            arch = space.architecture(repair(aimed, params_of(space, start, rng), rng))
            reached[arch] = cheap(arch)
            if total_violation(objectives, reached[arch]) == 0:
                return
    raise infeasible(objectives, reached)


def infeasible(
    objectives: Sequence[Objective],
    reached: Mapping[Architecture, Mapping[str, float]],
    *,
    among: str = "",
) -> InfeasibleError:
    """The error for bounds that no architecture in `reached` meets together.

    It names the nearest one and how far its bounds had to be relaxed. `among` says what was tried
    (`20 trials`); without it the whole space is meant.
    """
    bounds = [o for o in objectives if o.bound is not None]
    alone, together = [], []
    for objective in bounds:
        values = [m[objective.name] for m in reached.values() if objective.name in m]
        if not values:
            continue
        best = min(values) if objective.relation == "<=" else max(values)
        bound = f"{objective.name} {objective.relation} {objective.bound:g}"
        if objective.feasible({objective.name: best}):
            together.append(bound)
        else:
            alone.append(f"{bound}: the nearest reached is {best:.6g}")
    who = f"none of {among}" if among else "no architecture"
    told = f"these bounds together: {', '.join(together)}"
    if alone:
        told = f"the bounds: {'; '.join(alone)}"

    def distance(arch: Architecture) -> tuple[int, float, str]:
        metrics = reached[arch]
        unknown = sum(o.name not in metrics for o in bounds)
        return unknown, total_violation(bounds, metrics), str(arch)

    nearest = min(reached, key=distance)
    metrics = reached[nearest]
    broken = [o for o in bounds if o.name in metrics and not o.feasible(metrics)]
    its = ", ".join(f"{o.name} = {metrics[o.name]:.6g}" for o in broken)
    relaxed = " and ".join(f"'{o}' to '{o.relaxed_to(metrics[o.name])}'" for o in broken)
    return InfeasibleError(
        f"{who} meets {told}; the nearest is {nearest}, with {its}",
        hint=f"relax {relaxed}" + (", or make more trials" if among else ""),
    )
