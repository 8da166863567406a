"""A cost model fitted to published latencies of whole networks, where no unit was ever timed.

The model is that of `cost`: non-negative coefficients on calls, MACs, elements and weights of each
group of primitives, and a constant for each network. There are more coefficients than networks, so
that they are found in two steps. A pooled model has six: MACs of dense and of depthwise
convolutions, elements, weights, calls, networks. Then each group may leave the pooled coefficients
as far as the networks insist (ridge towards the pooled model, its strength by cross-validation).
Both are relative least squares.

Errors are of networks left out, a whole group of related networks at a time, and so are those of
the two baselines: MACs x constant, and the most similar device whose latencies of the same networks
are known, times a constant. All constants and the choice of the device come from the other groups.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenas.errors import SpecError
from edgenas.latency.baselines import Baselines, baselines, summary
from edgenas.latency.cost import CostModel, features, non_negative, shape_ranges
from edgenas.latency.fit import Fit, conformal
from edgenas.spaces.ops import OpSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

MIN_NETWORKS = 4
MIN_FREE = 12
MIN_FREE_GROUPS = 6
"""Networks, and groups of them, from which on primitives may have coefficients of their own."""
LEAST = 0.25
"""Share of the pooled coefficient below which none may fall: what collinear networks cannot tell
from something else is not free, and other networks hold more of it."""
FOLDS = 20
"""At most so many parts are held out in turn; with fewer groups each group is one."""
MANY = 100
"""Networks from which on fewer folds tell as much."""
_INNER_FOLDS = 5
_STRENGTHS = (math.inf, 1.0, 0.1, 0.01, 0.001)
_NETWORK = "network.call"
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Observed:
    """A network that somebody timed. Those of one `group` stand on one side of every split."""

    name: str
    group: str
    ops: Sequence[OpSpec]
    latency_ms: float

    def __post_init__(self) -> None:
        if not self.ops or not 0 < self.latency_ms < math.inf:
            raise SpecError(f"network {self.name}: {len(self.ops)} units, {self.latency_ms} ms")


@dataclass(frozen=True, slots=True)
class WholeFit:
    """A cost model with its error on networks left out, and what the baselines reach on them.

    `errors`: |predicted / measured - 1| in the order of the networks.
    """

    model: CostModel
    fit: Fit
    strength: float
    errors: tuple[float, ...]
    baselines: Baselines
    n_groups: int

    @property
    def analytic(self) -> bool:
        """Whether it beats neither baseline, and may not be called calibrated."""
        return not self.baselines.beaten_by(self.errors)

    def to_json(self, kind: str) -> dict[str, Any]:
        """As the `validation` of a table's file."""
        return {
            "kind": kind,
            "n": len(self.errors),
            "n_groups": self.n_groups,
            **summary(self.errors),
            "baselines": self.baselines.to_json(),
        }


def fit_whole(
    networks: Sequence[Observed],
    *,
    shape: Mapping[str, float] | None = None,
    others: Mapping[str, Mapping[str, float]] | None = None,
) -> WholeFit:
    """The cost model of these networks, with its error on networks left out.

    Args:
        networks: at least 4, of at least 3 groups.
        shape: coefficients of like devices, up to a factor, in place of the pooled model.
        others: latencies of the same networks by name on other devices, for the baseline.

    Raises:
        SpecError: too few networks or groups.
    """
    import numpy as np

    groups = sorted({n.group for n in networks})
    if len(networks) < MIN_NETWORKS or len(groups) < 3:
        raise SpecError(
            f"{len(networks)} networks of {len(groups)} groups are too few for a cost model; "
            f"{MIN_NETWORKS} of 3 are needed"
        )
    columns, design = _design(networks)
    folds = _folds([n.group for n in networks], FOLDS if len(networks) <= MANY else FOLDS // 2)
    known = {
        device: values
        for device, values in (others or {}).items()
        if all(n.name in values for n in networks)
    }
    macs = np.array([float(sum(op.macs for op in n.ops)) for n in networks])
    measured = np.array([n.latency_ms for n in networks])
    columns_of_others = {d: np.array([v[n.name] for n in networks]) for d, v in known.items()}
    # Decided once, so that what is left out is predicted as the whole fit predicts.
    free = len(networks) >= MIN_FREE and len(groups) >= MIN_FREE_GROUPS
    errors = np.zeros(len(networks))
    for held in folds:
        kept = ~held
        groups_kept = [n.group for n, k in zip(networks, kept, strict=True) if k]
        strength = _choose(design[kept], groups_kept, columns, shape) if free else math.inf
        found = _solve(design[kept], columns, shape, strength)
        errors[held] = abs(design[held] @ found - 1)
    strength = _choose(design, [n.group for n in networks], columns, shape) if free else math.inf
    found = _solve(design, columns, shape, strength)
    inside = abs(design @ found - 1)
    coefficients = dict(zip(columns, map(float, found), strict=True))
    once = coefficients.pop(_NETWORK)
    ranges = shape_ranges(op for n in networks for op in n.ops)
    seen = {name.rsplit(".", 1)[0] for name in ranges}
    # Not even a group that the fit gives nothing may ever be free.
    least = 1e-4 * float(np.median(measured)) / max(len(n.ops) for n in networks)
    for group in seen:
        name = f"{group}.call"
        coefficients[name] = max(coefficients.get(name, 0.0), least)
    interval = conformal([float(e) for e in errors])
    return WholeFit(
        model=CostModel(
            coefficients={k: v for k, v in coefficients.items() if v > 0},
            ranges=ranges,
            n_units=len(networks),
            error_median=float(np.median(errors)),
            low=1.0,  # the interval of whole networks is the fit's
            high=1.0,
        ),
        fit=Fit(
            granularity="unit",
            scale=1.0,
            per_part_ms=0.0,
            per_network_ms=once,
            n_networks=len(networks),
            error_mean=float(errors.mean()),
            error_max=float(errors.max()),
            interval=interval,
            plain_sum_error_mean=float(inside.mean()),
        ),
        strength=strength,
        errors=tuple(map(float, errors)),
        baselines=baselines(macs, measured, columns_of_others, folds),
        n_groups=len(groups),
    )


def shape_of(networks: Sequence[Observed], *, strength: float = 0.01) -> dict[str, float]:
    """Coefficients by `group.feature`, for use as a like device's `shape`."""
    columns, design = _design(networks)
    found = _solve(design, columns, None, strength)
    return dict(zip(columns, map(float, found), strict=True))


def _design(networks: Sequence[Observed]) -> tuple[list[str], Matrix]:
    """Features of each network over its latency: a perfect model's product with it is 1."""
    import numpy as np

    rows: list[dict[str, float]] = []
    for network in networks:
        row: dict[str, float] = {_NETWORK: 1.0}
        for op in network.ops:
            for name, value in features(op):
                row[name] = row.get(name, 0.0) + value
        rows.append(row)
    columns = sorted({name for row in rows for name in row})
    place = {name: i for i, name in enumerate(columns)}
    design = np.zeros((len(rows), len(columns)))
    for i, (row, network) in enumerate(zip(rows, networks, strict=True)):
        for name, value in row.items():
            design[i, place[name]] = value / network.latency_ms
    return columns, design


def _folds(groups: Sequence[str], n: int) -> list[npt.NDArray[np.bool_]]:
    """Masks of what is held out: whole groups, each once."""
    import numpy as np

    names = sorted(set(groups), key=lambda g: (zlib.crc32(g.encode()), g))
    fold = {name: i % min(n, len(names)) for i, name in enumerate(names)}
    numbers = np.array([fold[g] for g in groups])
    return [numbers == i for i in range(min(n, len(names)))]


def _choose(
    design: Matrix,
    groups: Sequence[str],
    columns: Sequence[str],
    shape: Mapping[str, float] | None,
) -> float:
    """The strength of the pull to the pooled model that predicts groups left out best."""
    losses = dict.fromkeys(_STRENGTHS, 0.0)
    for held in _folds(groups, _INNER_FOLDS if len(design) <= MANY else 3):
        for strength in _STRENGTHS:
            found = _solve(design[~held], columns, shape, strength)
            losses[strength] += float(abs(design[held] @ found - 1).sum())
    return min(losses, key=lambda s: losses[s])


def _solve(
    design: Matrix,
    columns: Sequence[str],
    shape: Mapping[str, float] | None,
    strength: float,
) -> Matrix:
    import numpy as np

    if shape is None:
        prior = _pooled(design, columns)
    else:
        prior = np.array([shape.get(name, 0.0) for name in columns])
        guess = design @ prior
        prior = prior * float(guess.sum() / (guess @ guess))
    if math.isinf(strength):
        return prior
    size = np.linalg.norm(design, axis=0)
    used = size > 0
    scaled = design[:, used] / size[used]
    gram = scaled.T @ scaled + (strength + _RIDGE) * np.eye(int(used.sum()))
    aim = scaled.T @ np.ones(len(design)) + strength * prior[used] * size[used]
    least = LEAST * prior[used] * size[used]
    found = prior.copy()  # what these networks do not hold stays as the pooled model has it
    found[used] = (least + non_negative(gram, aim - gram @ least)) / size[used]
    return found


def _pooled(design: Matrix, columns: Sequence[str]) -> Matrix:
    """Coefficients that all groups share, by `_share`."""
    import numpy as np

    shares = [_share(name) for name in columns]
    names = sorted(set(shares))
    merge = np.array([[float(share == name) for name in names] for share in shares])
    small = design @ merge
    size = np.linalg.norm(small, axis=0)
    size[size == 0] = 1.0
    scaled = small / size
    gram = scaled.T @ scaled + 1e-3 * np.eye(len(names))
    found = non_negative(gram, scaled.T @ np.ones(len(design))) / size
    return np.asarray(merge @ found, dtype=np.float64)


def _share(column: str) -> str:
    """The pooled coefficient to which a group's feature belongs."""
    group, feature = column.rsplit(".", 1)
    if column == _NETWORK:
        return column
    if feature == "macs":
        return "depthwise.macs" if group.startswith("depthwise") else "dense.macs"
    return feature
