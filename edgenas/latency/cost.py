"""A cost model for units that were never timed, fitted on those of the same table that were.

A unit takes what a timed model costs whatever computes in it (a call of the runtime; its input and
output, which kernels may want in another order), and the sum over its primitives of coefficients
x features (calls, MACs, those computed in vain, pixels, elements read and written, weights), none
negative, one set for each group of primitives that runs in a kernel of its own: depthwise 3x3 and
7x7, for instance, have little in common. Fitted by relative least squares; its interval comes from
units held out in five folds.
"""

from __future__ import annotations

import functools
import math
import re
import statistics
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgenas.spaces.ops import OpSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]

FEATURES = ("call", "macs", "elements", "weights")
BLOCKS = (8, 16)
"""Output channels that kernels compute at a time. On this project's tables of x86 (AVX2) and of
Ethos-U both lower the error of units held out; 4 adds nothing to them, 32 little."""
FINER = ("reads", "writes", "pixels", *(f"padding{block}" for block in BLOCKS))
"""What units timed one by one tell apart, and whole networks do not.

Elements in and out, pixels out, and the MACs by which output channels are short of whole blocks.
"""
CALL = "run.call"
"""What a timed model costs once, whatever it holds."""
MIN_UNITS = 12
MIN_OF_KERNEL = 8
"""Units that convolutions of one kernel width must be in; rarer widths share the nearest one's."""
_FOLDS = 5
MAX_HELD_OUT = 40
"""Fits that `held_out` makes at most."""
_SLACK = 1.25  # beyond the fitted range by this factor counts as inside
LEAST_MS = 1e-6
"""No operator is free, also where the fit gives all its features nothing."""
MAX_KERNEL = 15
"""Rows and columns of the widest kernel that a narrower one speaks for."""
_KERNEL = re.compile(r"(dense|depthwise)(\d+)(|_hard|_stem|_stem_hard)")
_FAMILIES = (
    ("dense", ""), ("dense", "_hard"), ("dense", "_stem"), ("dense", "_stem_hard"),
    ("depthwise", ""), ("depthwise", "_hard"),
)  # fmt: skip

STAND_INS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pointwise": ("pointwise_hard", "dense1_stem", "dense3"),
        "pointwise_hard": ("pointwise",),
        "dense3": ("dense3_hard", "pointwise", "pointwise_hard"),
        "dense3_hard": ("dense3", "pointwise_hard", "pointwise"),
        "dense3_stem": ("dense3_stem_hard", "dense3", "pointwise"),
        "dense3_stem_hard": ("dense3_stem", "dense3", "pointwise"),
        "depthwise3": ("depthwise3_hard", "depthwise5", "depthwise5_hard"),
        "depthwise5": ("depthwise5_hard", "depthwise3", "depthwise3_hard"),
        "depthwise7": ("depthwise7_hard", "depthwise5", "depthwise5_hard", "depthwise3"),
        "depthwise3_hard": ("depthwise3", "depthwise5_hard"),
        "depthwise5_hard": ("depthwise5", "depthwise3_hard", "depthwise3"),
        "depthwise7_hard": ("depthwise7", "depthwise5_hard", "depthwise5", "depthwise3"),
        "squeeze_excite": ("linear", "pointwise"),
        "linear": ("pointwise",),
        "pool": ("add", "pointwise"),
        "add": ("pool", "pointwise"),
        # operators of foreign model files
        "binary": ("add", "pool", "pointwise"),
        "scale": ("add", "pool", "pointwise"),
        "copy": ("add", "pool", "pointwise"),
        "activate": ("add", "pool", "pointwise"),
        "function": ("add", "pool", "pointwise"),
        "resize": ("add", "pool", "pointwise"),
        "pool2d": ("pool", "add", "pointwise"),
        "matmul": ("linear", "pointwise"),
        "deconv": ("dense3", "dense5", "pointwise"),
    }
)
"""What speaks for a group of primitives where none of it was ever timed, best first.

Kernels of other widths are spoken for by the nearest width: see `stand_ins`.
"""


@dataclass(frozen=True, slots=True)
class CostModel:
    """Coefficients in ms by `group.feature`, their range of validity, and their error.

    `ranges` holds the smallest and largest value of each feature of each group in the fitted
    units; beyond it a prediction is extrapolated. 90 % of held-out units had between `low` and
    `high` times the predicted latency; `error_median` is their median relative error. Groups of
    `stand_ins` never occurred in what was fitted: they are extrapolated with the coefficients of
    the group that each names, which follows from the groups in `ranges`.
    """

    coefficients: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    n_units: int
    error_median: float
    low: float
    high: float
    stand_ins: Mapping[str, str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        seen = {name.rsplit(".", 1)[0] for name in self.ranges}
        object.__setattr__(self, "stand_ins", MappingProxyType(stand_ins(seen)))

    @property
    def call_ms(self) -> float:
        """What a call of the runtime costs."""
        return self.coefficients.get(CALL, 0.0)

    @property
    def edges(self) -> dict[str, float]:
        """The coefficients that `edge_ms` takes."""
        found = self.coefficients.items()
        return {name: ms for name, ms in found if name.startswith("run.") and name != CALL}

    def unit_ms(self, op: OpSpec) -> float | None:
        """Latency of a unit timed alone; None where a primitive's group was never fitted."""
        total = self.call_ms + edge_ms(op, self.coefficients)
        for name, value in _all_features(op):
            group, feature = name.rsplit(".", 1)
            group = self.stand_ins.get(group, group)
            if f"{group}.call" not in self.ranges:
                return None
            total += self.coefficients.get(f"{group}.{feature}", 0.0) * value
        return max(total, LEAST_MS)

    def covers(self, op: OpSpec) -> bool:
        """Whether every primitive of `op` lies within the fitted range of shapes."""
        return _covers(self.ranges, op)


def edge_ms(op: OpSpec, edges: Mapping[str, float]) -> float:
    """What a model of `op` alone pays for its input and output, which in a network it does not.

    Runtimes keep activations in an order of their own (blocks of 8 or 16 channels in onnxruntime),
    and bring a model's input and output from and to the plain one.
    """
    return sum(edges.get(name, 0.0) * value for name, value in _edges(op))


def fit_cost(units: Mapping[OpSpec, float]) -> CostModel | None:
    """The cost model of these units (ms each); None for fewer than 12, which say too little."""
    if len(units) < MIN_UNITS:
        return None
    ops = sorted(units, key=lambda op: op.key)  # whatever the order they came in
    spoken_for = _rare_kernels(ops)
    rows = {op: _fitted_features(op, spoken_for) for op in ops}
    coefficients = _fit(rows, units)
    folds = [[op for op in ops if zlib.crc32(op.key.encode()) % _FOLDS == i] for i in range(_FOLDS)]
    predicted = _predicted(rows, units, folds)
    ratios = [units[op] / ms if ms > 0 else math.inf for op, ms in predicted.items()]
    ratios = sorted(r for r in ratios if math.isfinite(r)) or [1.0]
    edge = max(0, math.floor(0.05 * (len(ratios) + 1)) - 1)
    return CostModel(
        coefficients=coefficients,
        ranges={
            name: limits
            for name, limits in shape_ranges(ops).items()
            if name.rsplit(".", 1)[0] not in spoken_for
        },
        n_units=len(ops),
        error_median=statistics.median(abs(r - 1) for r in ratios),
        low=min(1.0, ratios[edge]),
        high=max(1.0, ratios[-1 - edge]),
    )


def _covers(ranges: Mapping[str, tuple[float, float]], op: OpSpec) -> bool:
    for node in op.primitives():
        for name, value in features(node.op):
            low, high = ranges.get(name, (math.inf, -math.inf))
            if not low / _SLACK <= value <= high * _SLACK:
                return False
    return True


def held_out(units: Mapping[OpSpec, float]) -> dict[OpSpec, float]:
    """What each unit would take (ms) by a fit to all others, or to the other folds of very many.

    A unit that lies outside of the shapes of those is left out, as is one that would take no time
    by them: they do not tell. So are all where they are fewer than 12, as in `fit_cost`.
    """
    if len(units) < MIN_UNITS:
        return {}
    ops = sorted(units, key=lambda op: op.key)
    spoken_for = _rare_kernels(ops)
    rows = {op: _fitted_features(op, spoken_for) for op in ops}
    count = min(len(ops), MAX_HELD_OUT)
    found = _predicted(rows, units, [ops[i::count] for i in range(count)], inside=True)
    return {op: ms for op, ms in found.items() if ms > LEAST_MS}


def shape_ranges(ops: Iterable[OpSpec]) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of each feature of each group in the primitives of `ops`."""
    ranges: dict[str, tuple[float, float]] = {}
    for op in ops:
        for node in op.primitives():
            for name, value in features(node.op):
                low, high = ranges.get(name, (value, value))
                ranges[name] = min(low, value), max(high, value)
    return ranges


def stand_ins(seen: Collection[str]) -> dict[str, str]:
    """For each group that is not in `seen`, the one that speaks for it, where there is one."""
    found = {}
    for group, candidates in STAND_INS.items():
        if group not in seen and (near := next((c for c in candidates if c in seen), None)):
            found[group] = near
    kernels = {group: match for group in seen if (match := _KERNEL.fullmatch(group))}
    for family, suffix in _FAMILIES:
        like = [(int(m[2]), m[3] != suffix, g) for g, m in kernels.items() if m[1] == family]
        for kernel in range(1, MAX_KERNEL + 1):
            group = f"{family}{kernel}{suffix}"
            if like and group not in seen and group not in found:
                found[group] = min((abs(k - kernel), other, g) for k, other, g in like)[2]
    return found


@functools.lru_cache(maxsize=65536)
def features(op: OpSpec) -> tuple[tuple[str, float], ...]:
    """The `FEATURES` of a unit by `group.feature`: sums over its primitives, zeros left out."""
    return tuple((n, v) for n, v in _all_features(op) if n.rsplit(".", 1)[1] in FEATURES)


@functools.lru_cache(maxsize=65536)
def _all_features(op: OpSpec) -> tuple[tuple[str, float], ...]:
    """`FEATURES` and `FINER`."""
    found: dict[str, float] = {}
    for node in op.primitives():
        group = _group(node.op)
        channels, height, width = node.op.out_chw
        reads = float(node.op.n_inputs * math.prod(node.op.in_chw))  # without weights
        writes = float(channels * height * width)
        values = [1.0, float(node.op.macs), reads + writes, float(node.op.weights)]
        values += [reads, writes, float(height * width)]
        for block in BLOCKS:
            values.append(node.op.macs * (-channels % block) / channels if node.op.weights else 0.0)
        for feature, value in zip((*FEATURES, *FINER), values, strict=True):
            if value:
                name = f"{group}.{feature}"
                found[name] = found.get(name, 0.0) + value
    return tuple(sorted(found.items()))


@functools.lru_cache(maxsize=65536)
def _edges(op: OpSpec) -> tuple[tuple[str, float], ...]:
    """Elements in, by the kernel that takes them, and out; and what both lack of whole blocks."""
    first = next(iter(op.primitives())).op
    kernels = ("depthwise", "pointwise", "dense")
    taker = next((k for k in kernels if _group(first).startswith(k)), "other")
    (cin, hin, win), (cout, hout, wout) = op.in_chw, op.out_chw
    block = BLOCKS[-1]
    values = {
        f"run.{taker}_reads": op.n_inputs * cin * hin * win,
        f"run.{taker}_padding": (-cin % block) * hin * win,
        "run.writes": cout * hout * wout,
        "run.padding": (-cout % block) * hout * wout,
    }
    return tuple((name, float(value)) for name, value in values.items() if value)


def _fitted_features(op: OpSpec, spoken_for: Mapping[str, str]) -> dict[str, float]:
    """What a fit on units knows of one; `spoken_for` names another group's for some."""
    found = {CALL: 1.0, **dict(_edges(op))}
    for name, value in _all_features(op):
        group, feature = name.rsplit(".", 1)
        if feature != "elements":  # the sum of two others
            name = f"{spoken_for.get(group, group)}.{feature}"
            found[name] = found.get(name, 0.0) + value
    return found


def _rare_kernels(ops: Sequence[OpSpec]) -> dict[str, str]:
    """Groups in too few of `ops` to be told apart, and that of the nearest width that is not."""
    counts: dict[str, Counter[int]] = {}
    for op in ops:
        for group in {name.rsplit(".", 1)[0] for name, _ in features(op)}:
            if match := _KERNEL.fullmatch(group):
                counts.setdefault(f"{match[1]}{{}}{match[3]}", Counter())[int(match[2])] += 1
    found = {}
    for group, widths in counts.items():
        common = [width for width, n in widths.items() if n >= MIN_OF_KERNEL]
        common = common or [max(widths, key=lambda width: (widths[width], -width))]
        for width in widths.keys() - set(common):
            nearest = min(common, key=lambda other: (abs(other - width), other))
            found[group.format(width)] = group.format(nearest)
    return found


def _group(op: OpSpec) -> str:
    """Primitives that run in the same kernel."""
    if op.kind not in ("conv", "conv2d"):
        return op.kind
    slow = "_hard" if op.act in ("hswish", "hsigmoid") else ""
    kernel = op["k"] if op.kind == "conv" else max(op["kh"], op["kw"])
    if op["g"] == op["cin"] == op["cout"] and op["g"] > 1:
        return f"depthwise{kernel}{slow}"
    if kernel == 1:
        return f"pointwise{slow}"
    return f"dense{kernel}{'_stem' if op['cin'] <= 4 else ''}{slow}"


def _predicted(
    rows: Mapping[OpSpec, Mapping[str, float]],
    targets_ms: Mapping[OpSpec, float],
    folds: Iterable[Sequence[OpSpec]],
    *,
    inside: bool = False,
) -> dict[OpSpec, float]:
    """Each fold's units by a fit to the others; with `inside`, those within their shapes alone."""
    result = {}
    for held in map(dict.fromkeys, folds):
        kept = {op: row for op, row in rows.items() if op not in held}
        if not held or not kept:
            continue
        found = _fit(kept, targets_ms)
        ranges = shape_ranges(kept) if inside else {}
        for op in held:
            if inside and not _covers(ranges, op):
                continue
            result[op] = sum(found.get(name, 0.0) * value for name, value in rows[op].items())
    return result


def _fit(
    rows: Mapping[OpSpec, Mapping[str, float]], targets_ms: Mapping[OpSpec, float]
) -> dict[str, float]:
    """Non-negative coefficients that minimise the sum of squared relative errors."""
    import numpy as np

    columns = sorted({name for row in rows.values() for name in row})
    names = {name: i for i, name in enumerate(columns)}
    design = np.zeros((len(rows), len(names)))
    for i, (op, row) in enumerate(rows.items()):
        for name, value in row.items():
            design[i, names[name]] = value / targets_ms[op]
    size = np.linalg.norm(design, axis=0)
    size[size == 0] = 1.0
    scaled = design / size
    # A little ridge: collinear features then share rather than fight.
    gram = scaled.T @ scaled + 1e-6 * np.eye(len(names))
    found = non_negative(gram, scaled.T @ np.ones(len(rows)))
    return {name: float(found[i] / size[i]) for name, i in names.items() if found[i] > 0}


def non_negative(gram: Matrix, aim: Matrix) -> Matrix:
    """The x >= 0 that minimises x'Gx/2 - a'x, G positive definite (Lawson and Hanson 1974)."""
    import numpy as np
    from scipy.linalg import solve_triangular
    from scipy.optimize import nnls

    low = np.linalg.cholesky(gram)  # least squares of low' x against low^-1 a
    found: Matrix = nnls(low.T, solve_triangular(low, aim, lower=True))[0]
    return found
