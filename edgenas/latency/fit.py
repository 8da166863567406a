"""Whole networks from the times of their parts: scale x sum + constant x number of timed parts.

Timed alone, a part pays for a call of the runtime and starts with cold caches; inside a network
neighbours fuse and share. Both are captured by two numbers, fitted on whole networks by relative
least squares. Fitted on networks of one depth a single offset would do as well, but it fails as
soon as depth is elastic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgenas.errors import SpecError

Granularity = Literal["unit", "primitive"]
MIN_NETWORKS = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole network: the sum of its parts' times, how many they are, what it took itself."""

    sum_ms: float
    n_parts: int
    measured_ms: float

    def __post_init__(self) -> None:
        if not (
            0 < self.sum_ms < math.inf and 0 < self.measured_ms < math.inf and self.n_parts > 0
        ):
            raise SpecError(f"a network's times must be positive: {self}")


@dataclass(frozen=True, slots=True)
class Fit:
    """`scale` x sum of parts + `per_part_ms` x number of parts, and how well that does.

    Errors are relative, of each network predicted by a fit on the others. `interval` is the
    relative half-width that holds 90 % of new networks: the conformal quantile of those errors,
    or the largest where there are fewer than nine.
    """

    granularity: Granularity
    scale: float
    per_part_ms: float
    n_networks: int
    error_mean: float
    error_max: float
    interval: float
    plain_sum_error_mean: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf or not math.isfinite(self.per_part_ms):
            raise SpecError(f"a fit needs a positive scale: {self}")

    def network_ms(self, sum_ms: float, n_parts: int) -> float:
        """Latency of a network of `n_parts` parts that sum up to `sum_ms`.

        Never below a tenth of the plain sum, where a negative constant outweighs tiny parts.
        """
        return max(self.scale * sum_ms + self.per_part_ms * n_parts, 0.1 * sum_ms)


def fit_networks(samples: Sequence[Sample], *, granularity: Granularity = "unit") -> Fit:
    """The fit on whole networks; leave-one-out errors stored in it.

    Raises:
        SpecError: fewer than 8 networks, or all with the same depth and sum.
    """
    if len(samples) < MIN_NETWORKS:
        raise SpecError(
            f"{len(samples)} whole networks are too few for a fit; {MIN_NETWORKS} are needed",
            hint="edgenas profile NAME",
        )
    scale, constant = _solve(samples)
    errors = []
    for i, left in enumerate(samples):
        s, c = _solve([*samples[:i], *samples[i + 1 :]])
        predicted = max(s * left.sum_ms + c * left.n_parts, 0.1 * left.sum_ms)
        errors.append(abs(predicted / left.measured_ms - 1))
    plain = [abs(x.sum_ms / x.measured_ms - 1) for x in samples]
    return Fit(
        granularity=granularity,
        scale=scale,
        per_part_ms=constant,
        n_networks=len(samples),
        error_mean=sum(errors) / len(errors),
        error_max=max(errors),
        interval=conformal(errors),
        plain_sum_error_mean=sum(plain) / len(plain),
    )


def conformal(errors: Sequence[float], *, coverage: float = 0.9) -> float:
    """The error that a new case exceeds with at most 1 - `coverage`; the largest if n is small.

    Split conformal prediction: the ceil((n + 1) coverage)-th smallest of n held-out errors.
    """
    ordered = sorted(errors)
    return ordered[min(len(ordered), math.ceil((len(ordered) + 1) * coverage)) - 1]


def _solve(samples: Sequence[Sample]) -> tuple[float, float]:
    """Minimises the sum of ((scale sum + constant n) / measured - 1)^2."""
    import numpy as np

    design = np.array([[x.sum_ms / x.measured_ms, x.n_parts / x.measured_ms] for x in samples])
    target = np.ones(len(samples))
    (scale, constant), _, rank, _ = np.linalg.lstsq(design, target, rcond=1e-9)
    if rank < 2 or scale <= 0:
        # Depth tells nothing here: one number.
        column = design[:, 0]
        return float(column @ target / (column @ column)), 0.0
    return float(scale), float(constant)
