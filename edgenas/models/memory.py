"""Memory that a model needs beside its weights, planned as TFLite's interpreters plan it.

Tensors are placed largest first (of equal ones the later of the file), each at the lowest offset
where it overlaps no tensor that lives at the same time (`GreedyMemoryPlanner` of TensorFlow Lite
Micro, `ArenaPlanner` of TFLite).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgenas.models.graph import ModelGraph, Step, Tensor, like
from edgenas.spaces import Lowering, OpSpec, Shape, conv

ALIGNMENT = 16
"""Bytes; of TFLite-Micro's arena."""


def planned_bytes(buffers: Iterable[tuple[int, int, int]], *, alignment: int = ALIGNMENT) -> int:
    """Bytes that hold all `buffers`, each (bytes, first step, last step), without overlaps.

    >>> planned_bytes([(64, 0, 1), (32, 1, 2), (64, 2, 3)])
    96
    """
    ordered = sorted(enumerate(buffers), key=lambda item: (-item[1][0], -item[0]))
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    total = 0
    for _, (size, first, last) in ordered:
        need = _aligned(size, alignment)
        offset = 0
        for start, end, begin, finish in sorted(placed):
            if finish < first or begin > last:
                continue
            if offset + need <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + need, first, last))
        total = max(total, offset + need)
    return total


def least_bytes(graph: ModelGraph) -> int:
    """Largest sum of activations alive at once, as `Lowering.peak_memory_bytes` counts them.

    `graph` is one that `read_model` gives. Activation functions and transpositions are done in
    place, or are part of what is beside them.
    """
    steps = tuple(
        replace(step, op=None) if step.op is not None and _in_place(step, step.op) else step
        for step in graph.steps
    )
    alive = replace(graph, steps=steps).lifetimes()
    return max(sum(n for n, a, b in alive if a <= i <= b) for i in range(len(steps)))


def _in_place(step: Step, op: OpSpec) -> bool:
    return op.kind == "activate" or step.kind == "Transpose"


@dataclass(frozen=True, slots=True)
class Arena:
    """What TFLite-Micro's interpreter takes for a model, apart from the model itself.

    `activations` are the planned tensors, `persistent` the interpreter's own records: as in its
    64-bit build. On a 32-bit microcontroller the records are smaller.
    """

    activations: int
    persistent: int

    @property
    def total(self) -> int:
        """The smallest arena that the interpreter starts with, in bytes."""
        return self.activations + self.persistent


_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


def micro_arena(graph: ModelGraph) -> Arena:
    """The arena of an int8 TFLite file that was read with its `pads`.

    The sizes of the interpreter's records were read off `print_allocations()` of the package
    tflite-micro 0.dev20261023182759 on six networks: 24 bytes a tensor, 88 an operator, 80 more and
    two words of 4 bytes a channel for one with weights, 64 more for any other, 672 for the whole.
    """
    persistent = 672 + 24 * len(graph.tensors) + 88 * len(graph.steps)
    for step in graph.steps:
        if step.kind in _WEIGHTED and step.op is not None:
            channels = step.op.out_chw[0]
            persistent += 80 + 2 * _aligned(4 * channels)
        else:
            persistent += 64
    return Arena(planned_bytes(graph.lifetimes()), persistent)


def tflite_graph(lowering: Lowering, *, dtype: str = "int8") -> ModelGraph:
    """The graph, padding kept, of the file that `lowering` is exported to; nothing is exported."""
    tensors = [Tensor("image", (1, *_hwc(lowering.in_chw)), dtype)]
    steps: list[Step] = []
    constants: set[str] = set()

    def step(kind: str, inputs: Sequence[int], op: OpSpec) -> int:
        tensors.append(Tensor(f"t{len(tensors)}", (1, *_hwc(op.out_chw)), dtype))
        steps.append(Step(str(len(steps)), kind, tuple(inputs), (len(tensors) - 1,), op))
        return len(tensors) - 1

    made: list[int] = []
    for node in lowering.primitive().nodes:
        op = node.op
        inputs = [0 if j < 0 else made[j] for j in node.inputs]
        if op.kind == "conv":
            around = 2 * (op["k"] // 2)
            if around and {_same_padding(op["h"], op), _same_padding(op["w"], op)} != {around}:
                c, h, w = op.in_chw
                padded = (c, h + around, w + around)
                inputs = [step("PAD", inputs, like("copy", padded))]
                constants.add(f"paddings {around}")
            depthwise = op["g"] == op["cin"]  # of one channel, too, any convolution
            kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
            made.append(step(kind, inputs, op))
            constants |= {f"{len(made)} weights", f"{len(made)} biases"}
            if op.act in ("hswish", "hsigmoid"):
                made[-1] = step("HARD_SWISH", [made[-1]], like("activate", op.out_chw, act=op.act))
        elif op.kind == "squeeze_excite":
            c, hidden = op["c"], op["r"]
            mean = step("MEAN", inputs, like("pool", op.in_chw))
            reduced = step("CONV_2D", [mean], conv(c, hidden, 1, 1, 1))
            gate = step("CONV_2D", [reduced], conv(hidden, c, 1, 1, 1))
            gate = step("MUL", [gate], like("scale", (c, 1, 1)))  # a hard sigmoid: 3 is in the bias
            made.append(step("MUL", [*inputs, gate], like("scale", op.out_chw)))
            constants |= {f"{len(made)} {name}" for name in ("w1", "b1", "w2", "b2", "6")}
        elif op.kind == "pool":
            made.append(step("MEAN", inputs, op))
            constants.add("axes")
        elif op.kind == "linear":
            made.append(step("FULLY_CONNECTED", inputs, op))
            constants |= {f"{len(made)} weights", f"{len(made)} biases"}
        else:
            made.append(step(op.kind.upper(), inputs, op))
    tensors += [Tensor(name, (), dtype, constant=True) for name in sorted(constants)]
    precision: Literal["fp32", "int8"] = "int8" if dtype == "int8" else "fp32"
    return ModelGraph("tflite", precision, tuple(tensors), tuple(steps), (0,), (made[-1],), 0)


def _same_padding(size: int, op: OpSpec) -> int:
    """Rows that TFLite's SAME adds; where it is not what torch adds, the file has a PAD."""
    return max(0, (-(-size // op["s"]) - 1) * op["s"] + op["k"] - size)


def _hwc(shape: Shape) -> tuple[int, int, int]:
    c, h, w = shape
    return h, w, c


def _aligned(n_bytes: int, alignment: int = ALIGNMENT) -> int:
    return -(-n_bytes // alignment) * alignment
