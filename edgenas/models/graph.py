"""A model file as a graph of operators, each with the primitives that it costs."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgenas.errors import SpecError
from edgenas.spaces import OpSpec, Shape

Format = Literal["onnx", "tflite"]
Precision = Literal["fp32", "int8", "fp64", "fp16", "bf16", "int16"]

_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8,
    "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


_PRECISIONS: Mapping[str, Precision] = {
    "int8": "int8", "uint8": "int8", "int16": "int16", "uint16": "int16",
    "float64": "fp64", "float16": "fp16", "bfloat16": "bf16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value in the graph; `constant` ones are weights.

    `shape` has the batch in front; a size that the file does not tell is 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of an element; four where the type is not known."""
        return _BYTES.get(self.dtype, 4)

    @property
    def n_bytes(self) -> int:
        """Bytes of its elements."""
        return self.size * self.width


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the file, or several that the runtime fuses.

    `kind` is the file's own name for it. `op` is what it costs; None for a view, which costs
    nothing, and for what is `unsupported`: there it says why.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    op: OpSpec | None = None
    unsupported: str = ""

    @property
    def is_view(self) -> bool:
        """Whether its output is its first input by another name or shape."""
        return self.op is None and not self.unsupported and bool(self.inputs)


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """All operators in execution order; `inputs` and `outputs` are indices of `tensors`.

    `precision` is that of most arithmetic; fp32 also with fp16 weights. `other_share` is the share
    of multiply-accumulates in the other one.
    """

    format: Format
    precision: Precision
    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size_bytes: int
    other_share: float = 0.0

    @property
    def units(self) -> list[tuple[str, OpSpec]]:
        """What costs time, with the steps' names."""
        return [(step.name, step.op) for step in self.steps if step.op is not None]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one input, as far as operators are known."""
        return sum(op.macs for _, op in self.units)

    @property
    def unsupported(self) -> list[Step]:
        """Operators of which nothing is known; each says why."""
        return [step for step in self.steps if step.unsupported]

    def source(self, tensor: int) -> int:
        """The tensor that this one is a view of; itself where it is none."""
        for step in reversed(self.steps):
            if tensor in step.outputs and step.is_view:
                tensor = step.inputs[0]
        return tensor

    def lifetimes(self) -> list[tuple[int, int, int]]:
        """(bytes, first step, last step) of every tensor that is no constant and is used.

        A view shares its source's memory, as runtimes let it, unless elements are of other width.
        """
        home: dict[int, int] = {}
        first: dict[int, int] = dict.fromkeys(self.inputs, 0)
        last: dict[int, int] = {}
        for i, step in enumerate(self.steps):
            for t in step.inputs:
                last[home.get(t, t)] = i
            for t in step.outputs:
                if step.is_view:
                    source = home.get(step.inputs[0], step.inputs[0])
                    same = self.tensors[t].width == self.tensors[source].width
                    home[t] = source if same else t
                first.setdefault(home.get(t, t), i)
                last[home.get(t, t)] = i
        for t in self.outputs:
            last[home.get(t, t)] = len(self.steps) - 1
        return [
            (self.tensors[t].n_bytes, start, last.get(t, start))
            for t, start in sorted(first.items())
            if not self.tensors[t].constant
        ]


def readers_of(graph: ModelGraph) -> dict[int, list[int]]:
    """The steps that read each tensor, by their place."""
    readers: dict[int, list[int]] = {}
    for i, step in enumerate(graph.steps):
        for t in step.inputs:
            readers.setdefault(t, []).append(i)
    return readers


def chw(shape: Sequence[int], *, channels_last: bool) -> Shape:
    """Channels, height, width of a tensor with its batch in front; sequences have a height only.

    A batch other than 1, as it occurs within networks, makes for more rows.

    >>> chw((1, 28, 28, 8), channels_last=True), chw((1, 8, 28, 28), channels_last=False)
    ((8, 28, 28), (8, 28, 28))
    >>> chw((1, 50, 96), channels_last=True), chw((1, 10), channels_last=False)
    ((96, 50, 1), (10, 1, 1))
    >>> chw((4, 28, 28, 8), channels_last=True), chw((4, 50, 96), channels_last=False)
    ((8, 112, 28), (96, 200, 1))
    """
    if len(shape) < 2:
        return math.prod(shape), 1, 1
    if len(shape) < 4:  # (positions, features) in either layout
        return shape[-1], math.prod(shape[:-1]), 1
    if channels_last:
        return shape[-1], math.prod(shape[:-2]), shape[-2]
    return shape[1], shape[0] * math.prod(shape[2:-1]), shape[-1]


def told_shape(tensor: Tensor) -> tuple[int, ...]:
    """The tensor's shape.

    Raises:
        SpecError: the file does not tell it.
    """
    if 0 in tensor.shape:
        raise SpecError(
            f"the shape of {tensor.name!r} cannot be told", hint="export it with fixed shapes"
        )
    return tensor.shape


@contextlib.contextmanager
def reading(path: Path, otherwise: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a SpecError that names the file."""
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{path}: {error}", hint=error.hint) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise SpecError(f"{path}: {otherwise}: {error}") from error


def precision_of(work: Iterable[tuple[str, int]]) -> Precision:
    """What most multiply-accumulates are done in, of steps by the type that they compute in.

    Most steps decide where there are none.

    >>> precision_of([("float32", 0), ("float32", 90), ("int8", 100)])
    'int8'
    """
    macs: Counter[Precision] = Counter()
    steps: Counter[Precision] = Counter()
    for dtype, n in work:
        precision = _PRECISIONS.get(dtype, "fp32")
        macs[precision] += n
        steps[precision] += 1
    most = macs if any(macs.values()) else steps
    return max(most, key=lambda precision: most[precision], default="fp32")


def other_share(work: Iterable[tuple[str, int]], precision: Precision) -> float:
    """The share of multiply-accumulates that is not in `precision`, of steps as `precision_of` has.

    >>> other_share([("float32", 10), ("int8", 90)], "int8")
    0.1
    """
    macs = [(n, _PRECISIONS.get(dtype, "fp32") == precision) for dtype, n in work]
    whole = sum(n for n, _ in macs)
    return sum(n for n, its in macs if not its) / whole if whole else 0.0


def untimed(dtype: str, op: OpSpec | None) -> str:
    """Why nothing is known of a product in this type; empty where something is."""
    if op is None or not op.macs or _PRECISIONS.get(dtype, "fp32") in ("fp32", "int8"):
        return ""
    return f"computes in {dtype}; tables hold float32 and int8"


def like(kind: str, shape: Shape, *, act: str = "none") -> OpSpec:
    """The operator of a kind that takes only the shape."""
    c, h, w = shape
    return OpSpec.of(kind, act=act, c=c, h=h, w=w)


def convolution(
    source: Shape,
    target: Shape,
    kernel: tuple[int, int],
    *,
    groups: int,
    strides: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    act: str = "none",
) -> OpSpec:
    """`conv` where that can say it (square, odd, padded to ceil(size / stride)), else `conv2d`.

    Which side the padding is on changes neither shape nor work, so it is not told apart.
    """
    (cin, h, w), (cout, oh, ow) = source, target
    (kh, kw), (s, sw) = kernel, strides
    plain = kh == kw and kh % 2 == 1 and s == sw and dilation == (1, 1)
    if plain and (oh, ow) == (-(-h // s), -(-w // s)):
        return OpSpec.of("conv", act=act, cin=cin, cout=cout, h=h, w=w, k=kh, s=s, g=groups)
    return OpSpec.of(
        "conv2d", act=act, cin=cin, cout=cout, h=h, w=w, kh=kh, kw=kw, oh=oh, ow=ow, g=groups
    )


def fused(graph: ModelGraph) -> ModelGraph:
    """The graph with what runtimes run as one operator made one.

    An activation behind a convolution joins it, as a ReLU behind a linear layer does, where it
    costs nothing; pooling, two 1x1 convolutions and the product with their source become one
    squeeze-excite. The last tensor of the group is the step's output.
    """
    steps: list[Step | None] = list(graph.steps)
    readers = readers_of(graph)

    def only_reader(i: int) -> int | None:
        step = steps[i]
        if step is None or len(step.outputs) != 1 or step.outputs[0] in graph.outputs:
            return None
        found = readers.get(step.outputs[0], [])
        return found[0] if len(found) == 1 else None

    for i in range(len(steps)):
        step, j = steps[i], only_reader(i)
        after = None if j is None else steps[j]
        if step is None or after is None or step.op is None or after.op is None or j is None:
            continue
        if after.op.kind != "activate":
            continue
        convolves = step.op.kind in ("conv", "conv2d") and step.op.act == "none"
        if convolves or (step.op.kind == "linear" and after.op.act == "relu"):
            op = replace(step.op, act=after.op.act) if convolves else step.op
            steps[i] = None
            steps[j] = replace(after, kind=f"{step.kind}+{after.kind}", inputs=step.inputs, op=op)
    producers = {t: i for i, s in enumerate(steps) if s is not None for t in s.outputs}
    for i, step in enumerate(steps):
        if step is not None and step.op is not None and step.op.kind in ("scale", "binary"):
            _excite(graph, steps, producers, i, step)
    return replace(graph, steps=tuple(step for step in steps if step is not None))


_IN_GATES = ("activate", "function", "scale")
"""What a hard sigmoid is written as."""


def _excite(
    graph: ModelGraph,
    steps: list[Step | None],
    producers: dict[int, int],
    i: int,
    product: Step,
) -> None:
    """Folds pool, reduce, expand (views between them) and `product` into one step, if they are."""
    for gate, source in (product.inputs, product.inputs[::-1]) if len(product.inputs) == 2 else ():
        chain = list(_upwards(steps, producers, graph.source(gate), graph.source(source)))
        found = [step.op for k in chain if (step := steps[k]) is not None]
        ops = [op for op in found if op is not None and op.kind not in _IN_GATES]
        if [op.kind for op in ops] not in (["conv", "conv", "pool"], ["linear", "linear", "pool"]):
            continue
        expand, reduce, pool = ops
        if expand.out_chw[0] != pool.in_chw[0] or reduce.in_chw[0] != pool.in_chw[0]:
            continue
        c, h, w = pool.in_chw
        op = OpSpec.of("squeeze_excite", c=c, h=h, w=w, r=reduce.out_chw[0])
        for k in chain:
            steps[k] = None
        steps[i] = replace(product, kind="squeeze-excite", inputs=(source,), op=op)
        return


def _upwards(
    steps: Sequence[Step | None], producers: dict[int, int], tensor: int, source: int
) -> Iterator[int]:
    """Steps from the one that makes `tensor` up to the one that reads `source`."""
    for _ in range(20):  # longer with quantisation between the operators
        k = producers.get(tensor)
        step = None if k is None else steps[k]
        if k is None or step is None or not step.inputs:
            return
        yield k
        tensor = step.inputs[0]
        if tensor == source:
            return
