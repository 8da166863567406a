"""Size of the files that a network becomes, before any of them is written. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from edgenas.errors import SpecError, nearest
from edgenas.spaces.ops import Lowering, OpSpec


@dataclass(frozen=True, slots=True)
class Counts:
    """What a file's size depends on.

    `weighted` operators have constants (convolutions, matrix products), `plain` ones have none.
    """

    weights: int
    biases: int
    weighted: int
    plain: int


@dataclass(frozen=True, slots=True)
class _Cost:
    """Bytes of each thing that `Counts` counts, and of an empty file."""

    weight: float
    bias: float
    weighted: float
    plain: float
    file: float


def size_bytes(lowering: Lowering, file_format: str) -> int:
    """Predicted size of the network as one file of `file_format` (`tflite-int8`, `onnx`, ...).

    Weights have 4, 2 or 1 bytes; what a bias (in int8 with its channel's scale and zero point), an
    operator and the file itself cost was fitted to files of random networks of `mobile/1`.

    Raises:
        SpecError: the format is unknown.
    """
    if file_format not in _COSTS:
        raise SpecError(f"no size for format {file_format!r}; {nearest(file_format, _COSTS)}")
    cost = _COSTS[file_format]
    n = count(lowering, file_format)
    return round(
        n.weights * cost.weight
        + n.biases * cost.bias
        + n.weighted * cost.weighted
        + n.plain * cost.plain
        + cost.file
    )


def count(lowering: Lowering, file_format: str) -> Counts:
    """What the file holds: operators as the format writes them."""
    family = file_format.split("-")[0]
    weighted = plain = 0
    for op in lowering.primitive():
        with_constants, without = _operators(op, family)
        weighted += with_constants
        plain += without
    return Counts(
        weights=sum(op.weights for op in lowering),
        biases=sum(op.biases for op in lowering),
        weighted=weighted,
        plain=plain,
    )


def _operators(op: OpSpec, family: str) -> tuple[int, int]:
    """Operators with and without constants that a primitive becomes."""
    if op.kind == "squeeze_excite":
        return 2, 4
    if op.kind == "linear":
        return 1, 0
    if op.kind != "conv":
        return 0, 1
    if family == "tflite":  # ReLU is part of the convolution; padding before a stride is not
        padded = op["s"] > 1 and op["k"] > 1
        return 1, int(padded) + int(op.act.startswith("h"))
    return 1, int(op.act != "none")


_COSTS = MappingProxyType(
    {
        "onnx": _Cost(4, 4.263, 325.2, 208.3, 2452),  # held out: 0.16% at most
        "onnx-int8": _Cost(1, 17.18, 742.4, 1052, 3899),  # held out: 0.65% at most
        "tflite": _Cost(4, 4.238, 228.7, 144.4, 2959),  # held out: 0.15% at most
        "tflite-fp16": _Cost(2, 4.392, 273.5, 164.2, 4349),  # held out: 0.48% at most
        "tflite-int8": _Cost(1, 28.37, 261.4, 188.3, 4769),  # held out: 0.76% at most
    }
)
"""Printed by `tools/fit_size --networks 32`: 16 networks fitted, 16 held out."""
