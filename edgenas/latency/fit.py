"""Whole networks from the times of their parts: scale x sum + constant x number of timed parts.

Timed alone, a part pays for a call of the runtime and starts with cold caches; inside a network
neighbours fuse and share. Both are captured by two numbers, fitted on whole networks by relative
errors: squared up to 2 %, absolute beyond, since a large network is hardly ever timed without a
disturbance. Fitted on networks of one depth a single offset would do as well, but it fails as soon
as depth is elastic. The constant is that of parts with a convolution, which every network of a fit
is made of; another part counts for what it took above the cheapest model that was timed, which is
what a call costs. Or all parts count for what they took above a call and above what a model of one
part pays for its input and output, both by the cost model of the parts; whichever has the lower
error on networks left out. What a network pays once (its own call, the conversion of its input) is
a third number, kept only where it lowers that error by a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgenas.errors import SpecError
from edgenas.latency.cost import edge_ms
from edgenas.spaces.ops import OpSpec

Granularity = Literal["unit", "primitive"]
MIN_NETWORKS = 8
EARNS = 0.9
"""A further number is kept where this share of the leave-one-out error, or less, is left."""
SQUARED_UP_TO = 0.02
LEAST_SHARE = 0.1
"""A network takes at least this share of its parts' sum, where constants outweigh tiny parts."""
LEAST_OF_PART = 0.02
"""A part takes at least this share of what it took alone, where call and edges outweigh it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole network: its `sum_of_parts`, and what it took itself."""

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
    """`scale` x sum of parts + `per_part_ms` x their number + `per_network_ms`, and its errors.

    `call_ms` and `edges` are those of `sum_of_parts`.
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
    per_network_ms: float = 0.0
    call_ms: float = 0.0
    edges: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        constants = self.per_part_ms, self.per_network_ms, self.call_ms
        if not 0 < self.scale < math.inf or not all(map(math.isfinite, constants)):
            raise SpecError(f"a fit needs a positive scale: {self}")

    def network_ms(self, sum_ms: float, n_parts: int) -> float:
        """Latency of a network with that `sum_of_parts`.

        Never below `LEAST_SHARE` of the plain sum.
        """
        return _apply((self.scale, self.per_part_ms, self.per_network_ms), sum_ms, n_parts)


def has_constant(op: OpSpec, *, call_ms: float) -> bool:
    """Whether a part is among those that `per_part_ms` is for; see `sum_of_parts`."""
    return not call_ms or op.convolves


def sum_of_parts(
    parts: Iterable[tuple[OpSpec, float]],
    *,
    call_ms: float = 0.0,
    edges: Mapping[str, float] | None = None,
) -> tuple[float, int]:
    """The sum of times in ms, and the number of parts that have a convolution.

    With `call_ms`, what a timed model costs at least, other parts count for what is above it. With
    `edges` (see `edgenas.latency.cost.edge_ms`) all count for what is above both.
    """
    total, n_parts = 0.0, 0
    for op, ms in parts:
        constant = has_constant(op, call_ms=call_ms)
        n_parts += constant
        if edges is not None:
            total += max(ms - call_ms - edge_ms(op, edges), LEAST_OF_PART * ms)
        else:
            total += ms if constant else max(ms - call_ms, 0.0)
    return total, n_parts


def fit_networks(
    samples: Sequence[Sample],
    *,
    granularity: Granularity = "unit",
    call_ms: float = 0.0,
    edges: Mapping[str, float] | None = None,
) -> Fit:
    """The fit on whole networks; leave-one-out errors stored in it.

    Raises:
        SpecError: fewer than 8 networks, or all with the same depth and sum.
    """
    if len(samples) < MIN_NETWORKS:
        raise SpecError(
            f"{len(samples)} whole networks are too few for a fit; {MIN_NETWORKS} are needed",
            hint="edgenas profile NAME",
        )
    errors = _left_out(samples, once=False)
    with_once = _left_out(samples, once=True)
    once = sum(with_once) < EARNS * sum(errors)
    errors = with_once if once else errors
    scale, per_part_ms, per_network_ms = _solve(samples, once=once)
    plain = [abs(x.sum_ms / x.measured_ms - 1) for x in samples]
    return Fit(
        granularity=granularity,
        scale=scale,
        per_part_ms=per_part_ms,
        n_networks=len(samples),
        error_mean=sum(errors) / len(errors),
        error_max=max(errors),
        interval=conformal(errors),
        plain_sum_error_mean=sum(plain) / len(plain),
        per_network_ms=per_network_ms,
        call_ms=call_ms,
        edges=edges,
    )


def conformal(errors: Sequence[float], *, coverage: float = 0.9) -> float:
    """The error that a new case exceeds with at most 1 - `coverage`; the largest if n is small.

    Split conformal prediction: the ceil((n + 1) coverage)-th smallest of n held-out errors.
    """
    ordered = sorted(errors)
    return ordered[min(len(ordered), math.ceil((len(ordered) + 1) * coverage)) - 1]


_ROUNDS = 50
_Numbers = tuple[float, float, float]  # scale, per part, per network


def _apply(numbers: _Numbers, sum_ms: float, n_parts: int) -> float:
    scale, per_part_ms, per_network_ms = numbers
    return max(scale * sum_ms + per_part_ms * n_parts + per_network_ms, LEAST_SHARE * sum_ms)


def _left_out(samples: Sequence[Sample], *, once: bool) -> list[float]:
    """Relative error of each network under a fit on the others."""
    errors = []
    for i, left in enumerate(samples):
        numbers = _solve([*samples[:i], *samples[i + 1 :]], once=once)
        errors.append(abs(_apply(numbers, left.sum_ms, left.n_parts) / left.measured_ms - 1))
    return errors


def _solve(samples: Sequence[Sample], *, once: bool) -> _Numbers:
    """Minimises Huber's loss of (scale sum + per_part n + per_network) / measured - 1.

    By iteratively reweighted least squares (Huber, Robust Statistics, 1981, section 7.8).
    """
    import numpy as np

    rows = [(x.sum_ms, x.n_parts, 1.0) if once else (x.sum_ms, x.n_parts) for x in samples]
    design = np.array(rows) / np.array([[x.measured_ms] for x in samples])
    target = np.ones(len(samples))
    found, _, rank, _ = np.linalg.lstsq(design, target, rcond=1e-9)
    if rank < design.shape[1] or found[0] <= 0:
        if once:
            return _solve(samples, once=False)
        design = design[:, :1]  # depth tells nothing here: one number
        found, *_ = np.linalg.lstsq(design, target, rcond=None)
    for _ in range(_ROUNDS):
        errors = np.abs(design @ found - 1)
        roots = np.sqrt(SQUARED_UP_TO / np.maximum(errors, SQUARED_UP_TO))
        before = found
        found, *_ = np.linalg.lstsq(design * roots[:, None], roots, rcond=None)
        if found[0] <= 0:
            found = before
        if np.allclose(found, before, rtol=1e-9, atol=0.0):
            break
    scale, per_part_ms, per_network_ms = [*map(float, found), 0.0, 0.0][:3]
    return scale, per_part_ms, per_network_ms
