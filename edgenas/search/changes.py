"""Single changes to a network, and what the evaluated ones let one expect of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.search.gaussian import GaussianProcess, evenly
from edgenas.search.problem import MetricFunction, Problem
from edgenas.search.surrogate import FIRST, MOST, Reader
from edgenas.spaces import Architecture, Choice, Choices

SIGMAS = NormalDist().inv_cdf(0.95)
"""Standard deviations to either side of a 90 % interval."""


@dataclass(frozen=True, slots=True)
class Change:
    """`architecture` is another one but for `gene`, which has `new` in place of `value`."""

    gene: str
    value: Choice
    new: Choice
    architecture: Architecture


def single_changes(space: Choices, arch: Architecture) -> Iterator[Change]:
    """Each active choice of `arch` brought to the next value below and above, as far as there is.

    Choices that become active with it, such as those of a further block, take their cheapest value.
    """
    cheapest = {gene: values[0] for gene, values in space.genes.items()}
    for gene, value in arch.params.items():
        values = space.genes[gene]
        at = values.index(value)
        for new in values[max(0, at - 1) : at + 2]:
            changed = space.architecture({**cheapest, **arch.params, gene: new})
            if changed != arch:
                yield Change(gene, value, new, changed)


@dataclass(frozen=True, slots=True)
class Estimates:
    """A Gaussian process for one costly metric, for differences between architectures.

    It was fitted to `n` evaluated ones. `error` is the root mean square by which it misses each
    of them when that one is left out, `deviation` how far they lie from their mean: where the
    error is not the smaller, the trials tell nothing, and `problem` says so.
    """

    n: int
    error: float = 0.0
    deviation: float = 0.0
    problem: str = ""
    _reader: Reader | None = None
    _model: GaussianProcess | None = None

    @classmethod
    def of(
        cls,
        space: Choices,
        objectives: Sequence[Objective],
        cheap: MetricFunction,
        metric: str,
        evaluated: Mapping[Architecture, float],
    ) -> Estimates:
        """Fitted to the values of `metric`; from many, `MOST` of them evenly."""
        archs = [list(evaluated)[i] for i in evenly(len(evaluated), MOST)]
        n, y = len(archs), np.array([evaluated[arch] for arch in archs])
        if n < FIRST:
            return cls(n, problem=f"{n} trials are too few; {FIRST} are needed")
        if np.ptp(y) == 0:
            return cls(n, problem="it is the same in all trials")
        reader = Reader(Problem(space, tuple(objectives), cheap), archs)
        try:
            model = GaussianProcess(reader.inputs(archs), y)
        except np.linalg.LinAlgError as error:
            return cls(n, problem=f"no model could be fitted: {error}")
        error_, deviation = float(np.sqrt((model.left_out() ** 2).mean())), float(y.std())
        problem = "" if error_ < deviation else f"{n} trials tell too little of single choices"
        return cls(n, error_, deviation, problem, reader, model)

    def differences(
        self, before: Architecture, after: Sequence[Architecture]
    ) -> list[Metric] | None:
        """What each of `after` is expected to have more than `before`, with a 90 % interval.

        None where nothing can be told.
        """
        if self.problem or self._reader is None or self._model is None or not after:
            return None
        one, other = self._reader.inputs([before] * len(after)), self._reader.inputs(after)
        means, deviations = self._model.differences(one, other)
        return [
            Metric(mean, "estimated", mean - SIGMAS * sd, mean + SIGMAS * sd, self.n)
            for mean, sd in zip(means.tolist(), deviations.tolist(), strict=True)
        ]
