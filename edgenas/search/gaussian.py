"""A Gaussian process over architectures: choices that agree, and numbers that describe them.

Its covariance of two architectures is

    a s + b s^2 + exp(-(1 - s) / length - |f - g|^2 / (2 p reach^2)) + d <f, g> / p + e u v + noise

with s the share of genes on which they agree (one that is inactive in both agrees), f, g their p
descriptors and u, v what is expected of them from elsewhere. The first term is a linear model of
the genes, which is what a once-for-all network's accuracy nearly is; the second adds pairs of
genes; the third whatever is local; the last is linear in the expectation, and e is 0 where that
does not help. Scale and parameters have the greatest marginal likelihood over a grid (Rasmussen
and Williams 2006, chapter 5), found one after the other, so that nothing is random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

GRID: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "expected": (0.0, 1.0, 3.0, 10.0, 30.0),
        "linear": (0.0, 0.3, 1.0, 3.0, 10.0),
        "pairs": (0.0, 0.3, 1.0, 3.0, 10.0),
        "length": (0.1, 0.2, 0.4, 0.8),
        "reach": (0.5, 1.0, 2.0, 1e3),
        "described": (0.0, 0.3, 1.0, 3.0),
        "noise": (1e-3, 1e-2, 0.03, 0.1, 0.3),
    }
)
START: Mapping[str, float] = MappingProxyType(
    {
        "expected": 0.0,
        "linear": 1.0,
        "pairs": 0.0,
        "length": 0.8,
        "reach": 1.0,
        "described": 1.0,
        "noise": 0.01,
    }
)
SWEEPS = 2
MOST = 150
"""Points that the parameters are chosen on, evenly out of all: the choice costs their cube."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Architectures as numbers: `genes` (n, one column a choice, 0 or 1), `described` (n, p).

    `expected` (n) is what another model expects of them, where there is one.
    """

    genes: Values
    described: Values
    n_genes: int
    expected: Values | None = None

    @property
    def hint(self) -> Values:
        """`expected`, or zeros."""
        return np.zeros(len(self.genes)) if self.expected is None else self.expected


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Of two sets of inputs (n, m): share of equal genes, squared distance, inner product."""

    equal: Values
    apart: Values
    inner: Values
    expected: Values

    @classmethod
    def between(cls, one: Inputs, other: Inputs) -> _Pairs:
        inner = one.described @ other.described.T
        squares = (one.described**2).sum(1)[:, None] + (other.described**2).sum(1)
        equal = one.genes @ other.genes.T / one.n_genes
        p = max(1, one.described.shape[1])
        expected = np.outer(one.hint, other.hint)
        return cls(equal, np.maximum(squares - 2 * inner, 0.0) / p, inner / p, expected)

    def among(self, some: npt.NDArray[np.int_]) -> _Pairs:
        """Of these points alone."""
        square = np.ix_(some, some)
        parts = (self.equal, self.apart, self.inner, self.expected)
        return _Pairs(*(part[square] for part in parts))

    def covariance(self, at: Mapping[str, float]) -> Values:
        local = np.exp(-(1 - self.equal) / at["length"] - self.apart / (2 * at["reach"] ** 2))
        additive = at["linear"] * self.equal + at["pairs"] * self.equal**2
        told = at["described"] * self.inner + at["expected"] * self.expected
        return np.asarray(local + additive + told, dtype=np.float64)


class GaussianProcess:
    """Fitted to `y` (n) at `inputs`; `predict` gives means and standard deviations elsewhere."""

    def __init__(self, inputs: Inputs, y: Values) -> None:
        self.inputs = inputs
        self.mean, self.scale = float(y.mean()), max(float(y.std()), 1e-9)
        target = (y - self.mean) / self.scale
        pairs = _Pairs.between(inputs, inputs)
        some = np.array(evenly(len(y), MOST))
        self.at = _likeliest(pairs.among(some), target[some])
        _, self._inverse, self._spread = _evidence(pairs, target, self.at)
        self._weights = self._inverse @ target

    def predict(self, inputs: Inputs) -> tuple[Values, Values]:
        """Means and standard deviations (m) of the function itself, without noise."""
        k = _Pairs.between(inputs, self.inputs).covariance(self.at)
        p = max(1, inputs.described.shape[1])
        own = 1 + self.at["linear"] + self.at["pairs"]
        told = self.at["described"] * (inputs.described**2).sum(1) / p
        prior = own + told + self.at["expected"] * inputs.hint**2
        variance = np.maximum(prior - ((k @ self._inverse) * k).sum(1), 1e-9) * self._spread
        return self.mean + self.scale * (k @ self._weights), self.scale * np.sqrt(variance)

    def differences(self, one: Inputs, other: Inputs) -> tuple[Values, Values]:
        """Means and standard deviations (m) of the function at `other` less that at `one` (m each).

        Surer than two predictions: what the two have in common cancels out.
        """
        joined = Inputs(
            np.vstack([one.genes, other.genes]),
            np.vstack([one.described, other.described]),
            one.n_genes,
            np.concatenate([one.hint, other.hint]),
        )
        n = len(one.genes)
        k = _Pairs.between(joined, self.inputs).covariance(self.at)
        prior = _Pairs.between(joined, joined).covariance(self.at)
        apart = k[n:] - k[:n]
        itself = np.diag(prior)[n:] + np.diag(prior)[:n] - 2 * np.diag(prior[n:, :n])
        known = ((apart @ self._inverse) * apart).sum(1)
        variance = np.maximum(itself - known, 0.0) * self._spread
        return self.scale * (apart @ self._weights), self.scale * np.sqrt(variance)

    def left_out(self) -> Values:
        """By how much each point (n) is missed when it alone is left out, parameters as they are.

        Rasmussen and Williams 2006, equation 5.12.
        """
        return np.asarray(self.scale * self._weights / np.diag(self._inverse), dtype=np.float64)


def evenly(n: int, most: int) -> list[int]:
    """At most `most` of the places 0 to n - 1, first and last among them, evenly spread."""
    places: list[int] = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()
    return places


def _likeliest(pairs: _Pairs, target: Values) -> dict[str, float]:
    """The parameters of the grid with the greatest evidence, found one after the other."""
    at = dict(START)
    best, _, _ = _evidence(pairs, target, at)
    for _ in range(SWEEPS):
        before = best
        for name, values in GRID.items():
            for value in values:
                changed = {**at, name: value}
                evidence, _, _ = _evidence(pairs, target, changed)
                if evidence > best + 1e-9:
                    at, best = changed, evidence
        if best <= before:
            break
    return at


def _evidence(
    pairs: _Pairs, target: Values, at: Mapping[str, float]
) -> tuple[float, Values, float]:
    """Log marginal likelihood with the best scale, inverse covariance, squared scale."""
    n = len(target)
    factor = np.linalg.cholesky(pairs.covariance(at) + (at["noise"] + 1e-8) * np.eye(n))
    half = np.linalg.inv(factor)
    white = half @ target
    spread = float(white @ white + 1) / (n + 1)
    evidence = -0.5 * n * math.log(spread) - float(np.log(np.diag(factor)).sum())
    return evidence, half.T @ half, spread
