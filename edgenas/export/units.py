"""Units of a network in its exported files: which operators are whose, and what they compute in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgenas.errors import ExportError
from edgenas.export import onnx, tflite
from edgenas.spaces import Lowering, OpSpec

UnitPrecision = Literal["fp32", "int8", "int4"]
"""What a unit computes in. `int4`: dense convolutions and the classifier have weights of 4 bits,
all else is in int8; LiteRT has no depthwise convolution with such weights."""
UNIT_PRECISIONS: tuple[UnitPrecision, ...] = get_args(UnitPrecision)

Precisions = tuple[UnitPrecision, ...]
"""Of each unit of a network, in execution order."""

_WEIGHTED = {"conv": 1, "linear": 1, "squeeze_excite": 2, "add": 0, "pool": 0}
"""How many operators of a file with weights each kind of primitive becomes."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What it costs, and what it saves, to have one unit alone in a lower precision.

    `top1_drop` and `noise` (the mean square of what the logits change by, over that of the logits)
    are of `n` images of the search split; `saved_ms` is what the word `origin` says (`predicted`,
    `extrapolated`, ...), None where no table tells.
    """

    precision: UnitPrecision
    top1_drop: float
    noise: float
    saved_bytes: int
    saved_ms: float | None = None
    origin: str = ""
    n: int = 0


@dataclass(frozen=True, slots=True)
class MixedUnit:
    """A unit of a file in mixed precision, which is `operators` convolutions or matrix products.

    `note` says why it stays in float, or that alone a lower precision saves nothing for it.
    """

    name: str
    key: str
    precision: UnitPrecision
    operators: int
    alone: tuple[Alone, ...] = ()
    note: str = ""


def units_of(kinds: Sequence[str], lowering: Lowering) -> list[int]:
    """For each operator of a float file, by its kind and in execution order, the unit's index.

    What has no weights belongs to the operator before it, padding to the one behind it.

    Raises:
        ExportError: the file has other operators than the network's.
    """
    owners = [i for i, node in enumerate(lowering.nodes) for _ in range(n_weighted(node.op))]
    n = sum(kind in WEIGHTED for kind in kinds)
    if n != len(owners) or not n:
        raise ExportError(
            f"mixed precision: the file has {n} convolutions and matrix products, "
            f"the network {len(owners)}"
        )
    found, seen = [], 0
    for kind in kinds:
        before = kind in WEIGHTED or kind in ("PAD", "Pad")
        found.append(owners[min(seen, n - 1) if before else max(seen - 1, 0)])
        seen += kind in WEIGHTED
    return found


WEIGHTED = frozenset({*onnx.WEIGHTED, *tflite.WEIGHTED})
"""Kinds of operators in files that have weights."""


def n_weighted(op: OpSpec) -> int:
    """How many operators with weights the unit becomes in a file.

    Raises:
        ExportError: mixed precision is not known for such a unit.
    """
    parts = [node.op.kind for node in op.primitives()]
    if unknown := [kind for kind in parts if kind not in _WEIGHTED]:
        raise ExportError(f"mixed precision: units with {unknown[0]!r} are not known")
    return sum(_WEIGHTED[kind] for kind in parts)


def weighted_precisions(path: Path) -> list[tuple[str, UnitPrecision]]:
    """Kind and precision of each operator with weights in the file, in execution order."""
    read = tflite if path.suffix == ".tflite" else onnx
    return [(kind, _PRECISIONS.get(name, "fp32")) for kind, name in read.weighted_operators(path)]


_PRECISIONS: dict[str, UnitPrecision] = {"INT8": "int8", "INT4": "int4"}


def differing(path: Path, units: Sequence[MixedUnit]) -> list[str]:
    """The units that the file does not compute in the precision stated, each with what it does."""
    rest = iter(weighted_precisions(path))
    found = []
    for unit in units:
        for _ in range(unit.operators):
            kind, precision = next(rest, ("nothing", "fp32"))
            wanted = unit.precision
            if wanted == "int4" and kind.startswith("DEPTHWISE"):
                wanted = "int8"
            if precision != wanted:
                found.append(f"{unit.name}: {kind} in {precision}, not {wanted}")
    more = sum(1 for _ in rest)
    return [*found, *([f"{more} operators more than stated"] if more else [])]
