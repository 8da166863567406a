"""A new device from few measurements: whole networks timed there, and what other devices take.

The latency of a network on the new device is modelled as a Gaussian process in ms:

    latency = scale x (anchor + deviation + noise)

The anchor is a known device, or the mean of all. The deviation is a constant, a multiple of the
mean device, what known devices do apart from their mean, and a function of the architecture;
noise grows with latency. Which anchor, and how large each part is, is averaged over by marginal
likelihood, so that a known device that misleads gets no weight and a noisy one little. All parts
are linear in a few columns, so nothing larger than k x k is ever inverted.

Known columns are *smoothed* first: each is replaced by its regression on the other chips' columns
and on the architecture, which removes the noise (and the whole milliseconds) of its measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgenas.errors import SpecError

Floats = npt.NDArray[np.float64]

MIN_SAMPLES = 3
_DEVICES = (0.03, 0.1, 0.3, 1.0)
"""How far the new device leaves its anchor in the directions in which known devices differ."""
_ARCHITECTURE = (0.0, 0.05, 0.15)
"""How far it leaves it as a function of the architecture."""
_OFFSET = (0.05, 0.2)
"""How far by a constant, and by a multiple of the mean device."""
_NOISE = (0.005, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Relative noise of a measurement."""
_DESIGN = (1.0, 0.05, 0.1, 0.1)
"""The one setting (as above, in log-latency) for which networks are chosen."""
_SMOOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Adapted:
    """Latency of every network on the new device, with an interval; row by row, all positive."""

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    weights: Floats
    """What each known device weighs as an anchor; the rest of 1 is the mean device's."""


class FewShot:
    """Known devices' latencies of a pool of networks, made to speak for a new device.

    ```python
    known = FewShot(known_ms, chips=("a", "a", "b"), features=[features])
    rows = known.choose(10)
    found = known.adapt(rows, [measure(network) for network in rows])
    ```

    Args:
        known_ms: networks x devices; measured or predicted, positive.
        chips: which columns are one chip (in several batch sizes, say): together they weigh as
            much as any other chip. Default: each is its own.
        features: blocks of networks x features of the architecture, if any. Blocks weigh alike,
            and so do the features of one; their scale does not matter.

    Raises:
        SpecError: shapes that do not fit, fewer than two networks, no device, a latency that is
            not positive, a feature that is not finite.
    """

    def __init__(
        self,
        known_ms: npt.ArrayLike,
        *,
        chips: Sequence[str] | None = None,
        features: Sequence[npt.ArrayLike] = (),
    ) -> None:
        known = np.array(known_ms, dtype=np.float64)
        if known.ndim != 2 or known.shape[0] < 2 or known.shape[1] < 1:
            raise SpecError(f"known latencies must be networks x devices, not {known.shape}")
        if not (np.isfinite(known).all() and (known > 0).all()):
            raise SpecError("a known latency must be positive")
        n, m = known.shape
        names = list(map(str, range(m))) if chips is None else list(chips)
        blocks = [np.array(block, dtype=np.float64) for block in features]
        fit = all(b.ndim == 2 and len(b) == n and np.isfinite(b).all() for b in blocks)
        if len(names) != m or not fit:
            raise SpecError(
                f"{m} devices x {n} networks need as many chips and rows of finite features, "
                f"not {len(names)} and {[block.shape for block in blocks]}"
            )
        kept = [block for block in map(_standardised, blocks) if block.shape[1]]
        self._features = np.hstack([np.zeros((n, 0)), *kept]) / math.sqrt(len(kept) or 1)
        counts = np.array([names.count(name) for name in names])
        self._weights: Floats = 1 / counts / len(set(names))
        known /= np.exp(np.log(known).mean(0))
        smooth = _smoothed(known, known @ self._weights, names, self._features)
        self._known: Floats = smooth / np.exp(np.log(smooth).mean(0))
        self._mean: Floats = self._known @ self._weights

    @property
    def n_networks(self) -> int:
        """Size of the pool."""
        return len(self._mean)

    def choose(self, k: int, *, among: Sequence[int] | None = None) -> list[int]:
        """The `k` rows to be measured: each lowers the summed variance of all others the most.

        Knows nothing of the new device. `among`: the rows that can be measured; default: all.

        Raises:
            SpecError: fewer than 1, or more than can be measured.
        """
        rows = np.arange(self.n_networks) if among is None else np.unique(np.array(among, int))
        if not 1 <= k <= len(rows):
            raise SpecError(f"{k} networks cannot be chosen from {len(rows)}")
        devices, architecture, offset, noise = _DESIGN
        log = np.log(self._known)
        mean = log @ self._weights
        basis = np.column_stack(
            [
                np.ones(len(mean)),
                mean * offset,
                (log - mean[:, None]) * np.sqrt(self._weights) * devices,
                self._features * architecture,
            ]
        )
        gram = basis.T @ basis
        candidates = basis[rows]
        covariance = np.eye(basis.shape[1])
        free = np.ones(len(rows), dtype=bool)
        chosen: list[int] = []
        for _ in range(k):
            half = candidates @ covariance
            variance = np.einsum("ij,ij->i", half, candidates) + noise**2
            gain = np.einsum("ij,ij->i", half @ gram, half) / variance
            best = int(np.argmax(np.where(free, gain, -1.0)))
            free[best] = False
            chosen.append(int(rows[best]))
            covariance = covariance - np.outer(half[best], half[best]) / variance[best]
        return chosen

    def adapt(
        self, rows: Sequence[int], measured_ms: Sequence[float], *, coverage: float = 0.9
    ) -> Adapted:
        """All networks' latency on the device on which `rows` took `measured_ms`.

        A row may occur more than once. The interval is meant to hold a new *measurement* with
        probability `coverage`.

        Raises:
            SpecError: fewer than 3 networks, other than one latency for each, or none that is one.
        """
        at = np.array(rows, dtype=int)
        measured = np.array(measured_ms, dtype=np.float64)
        if len(at) < MIN_SAMPLES or at.shape != measured.shape:
            raise SpecError(
                f"at least {MIN_SAMPLES} networks with one latency each are needed, "
                f"not {len(at)} with {len(measured)}"
            )
        if at.min() < 0 or at.max() >= self.n_networks:
            raise SpecError(f"a row lies outside the pool of {self.n_networks} networks")
        if not (np.isfinite(measured).all() and (measured > 0).all()) or not 0 < coverage < 1:
            raise SpecError("measured latencies must be positive, coverage between 0 and 1")
        mean = self._mean
        anchors = np.column_stack([mean, self._known])
        prior = np.concatenate([[0.5], 0.5 * self._weights])
        apart = (self._known - mean[:, None]) * np.sqrt(self._weights)
        parts = [apart, self._features, np.column_stack([np.ones(len(mean)), mean - 1])]
        kernels = np.array([part @ part[at].T for part in parts])  # 3 x n x k
        spread = np.array([np.einsum("ij,ij->i", part, part) for part in parts])  # 3 x n
        scale = np.exp(np.median(np.log(measured)[:, None] - np.log(anchors[at]), axis=0))
        rest = measured[:, None] / scale - anchors[at]  # k x anchors

        steps = self._steps()
        squares = steps**2
        gram = np.einsum("hp,pij->hij", squares[:, :3], kernels[:, at])
        gram += squares[:, 3, None, None] * np.diag(mean[at] ** 2)
        inverse = np.linalg.inv(gram)
        alpha = inverse @ rest  # h x k x anchors
        evidence = -0.5 * (rest * alpha).sum(1) - 0.5 * np.linalg.slogdet(gram)[1][:, None]
        evidence = evidence + np.log(prior) - len(at) * np.log(scale)
        weight = np.exp(evidence - evidence.max())
        weight /= weight.sum()

        pulled = np.einsum("ha,hka,a->hk", weight, alpha, scale)
        predicted = anchors @ (weight.sum(0) * scale)
        predicted += np.einsum("pnk,pk->n", kernels, squares[:, :3].T @ pulled)
        variance = np.zeros(len(mean))
        for h in np.flatnonzero(weight.sum(1) > 0.01 * weight.sum(1).max()):
            cross = np.einsum("p,pnk->nk", squares[h, :3], kernels)
            own = squares[h, :3] @ spread - np.einsum("ij,ij->i", cross @ inverse[h], cross)
            own = np.maximum(own, 0) + squares[h, 3] * mean**2
            means = anchors * scale + cross @ alpha[h] * scale
            variance += (means - predicted[:, None]) ** 2 @ weight[h]
            variance += own * float(weight[h] @ scale**2)
        least = 0.01 * float((scale * weight.sum(0)).sum())
        predicted = np.maximum(predicted, least)
        half = NormalDist().inv_cdf(0.5 + coverage / 2) * np.sqrt(variance)
        low = np.maximum(predicted - half, 0.5 * least)
        return Adapted(predicted, low, predicted + half, weight.sum(0)[1:])

    def _steps(self) -> Floats:
        """All settings: devices, architecture, offset, noise."""
        architecture = _ARCHITECTURE if self._features.shape[1] else (0.0,)
        return np.array(
            [(d, a, o, s) for d in _DEVICES for a in architecture for o in _OFFSET for s in _NOISE]
        )


def _standardised(features: Floats) -> Floats:
    """Columns with mean 0, together of variance 1; constant ones are dropped."""
    sd = features.std(0)
    kept = features[:, sd > 1e-9 * (1 + np.abs(features).max(0, initial=0))]
    if not kept.shape[1]:
        return kept
    scaled: Floats = (kept - kept.mean(0)) / kept.std(0) / math.sqrt(kept.shape[1])
    return scaled


def _smoothed(known: Floats, mean: Floats, chips: Sequence[str], features: Floats) -> Floats:
    """Each column's regression on other chips' columns and on the architecture.

    Errors count relative to the `mean` device. A column is left as it is where there are too few
    networks for that or no two others, since the architecture alone does not tell noise from what
    is the device's own; none goes below 1 % of a typical latency.
    """
    n, m = known.shape
    found = known.copy()
    for j in range(m):
        others = [i for i in range(m) if chips[i] != chips[j]]
        basis = np.column_stack([np.ones(n), known[:, others], features]) / mean[:, None]
        if len(others) < 2 or n < 10 * basis.shape[1]:
            continue
        gram = basis.T @ basis + _SMOOTHING * n * np.eye(basis.shape[1])
        found[:, j] = basis @ np.linalg.solve(gram, basis.T @ (known[:, j] / mean)) * mean
    return np.maximum(found, 0.01)
