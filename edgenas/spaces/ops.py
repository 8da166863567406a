"""Operators and units: the waist of edgenas. Pure Python; everything else reads this.

A *primitive* is an operator as the runtimes fuse it (convolution + normalisation + activation). A
*block* (an inverted residual with all its shapes) is a small graph of primitives. Both are an
`OpSpec`; a *unit* is an `OpSpec` in its place in a network, a `Node` of a `Lowering`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from edgenas.errors import SpecError, nearest

KEY_VERSION = 1
"""Version of the grammar of `OpSpec.key`; a table names the one that it was written with."""

ACTIVATIONS = ("none", "relu", "relu6", "hswish", "hsigmoid")

_NUMBER = re.compile(r"[0-9]{1,9}")

Shape = tuple[int, int, int]
"""Channels, height, width of one image's tensor."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one kind of operator takes, and how it is counted."""

    integers: tuple[str, ...]
    activated: bool
    in_chw: Callable[[Mapping[str, int]], Shape]
    out_chw: Callable[[Mapping[str, int]], Shape]
    primitives: Callable[[OpSpec], tuple[Node, ...]] | None = None
    weights: Callable[[Mapping[str, int]], int] = lambda v: 0
    biases: Callable[[Mapping[str, int]], int] = lambda v: 0
    macs: Callable[[Mapping[str, int]], int] = lambda v: 0
    n_inputs: int = 1


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operator or block: a kind, the integers that this kind takes, and an activation.

    Equal by value; valid once built. `values` is in the kind's own order.

    >>> op = OpSpec.of("conv", cin=16, cout=32, h=28, w=28, k=3, s=2, g=1, act="relu6")
    >>> op.key
    'conv cin=16 cout=32 h=28 w=28 k=3 s=2 g=1 act=relu6'
    >>> op.out_chw, op.macs
    ((32, 14, 14), 903168)
    >>> OpSpec.parse(op.key) == op
    True

    Raises:
        SpecError: for an unknown kind, a missing, unknown or negative integer, shapes that a
            group or a skip does not fit.
    """

    kind: str
    values: tuple[int, ...]
    act: str = "none"

    @classmethod
    def of(cls, kind: str, *, act: str = "none", **values: int) -> OpSpec:
        """The operator of `kind` with these integers, in any order."""
        names = _kind(kind).integers
        if wrong := sorted(set(names) ^ set(values)):
            raise SpecError(
                f"operator {kind!r} takes {', '.join(names)}; wrong or missing: {wrong}"
            )
        return cls(kind, tuple(values[name] for name in names), act)

    @classmethod
    def parse(cls, key: str) -> OpSpec:
        """The operator that `key` names; the inverse of `OpSpec.key`."""
        kind, *fields = key.split(" ")
        known = _kind(kind).integers
        act = "none"
        values: dict[str, int] = {}
        for field in fields:
            name, _, value = field.partition("=")
            if name == "act":
                act = value
            elif name in known and _NUMBER.fullmatch(value) and name not in values:
                values[name] = int(value)
            else:
                raise SpecError(f"operator key {key!r}: cannot read {field!r}")
        op = cls.of(kind, act=act, **values)
        if op.key != key:
            raise SpecError(f"operator key {key!r} is not in canonical form; it reads {op.key!r}")
        return op

    def __post_init__(self) -> None:
        kind = _kind(self.kind)
        if len(self.values) != len(kind.integers):
            raise SpecError(f"operator {self.kind!r} takes {', '.join(kind.integers)}")
        if bad := [n for n, v in zip(kind.integers, self.values, strict=True) if v < _least(n)]:
            raise SpecError(f"operator {self.kind!r}: {bad[0]} is out of range in {self.values}")
        if self.act not in (ACTIVATIONS if kind.activated else ("none",)):
            raise SpecError(f"operator {self.kind!r}: activation {self.act!r}")
        v = self.integers
        if "g" in v and (v["cin"] % v["g"] or v["cout"] % v["g"]):
            raise SpecError(f"operator {self.kind!r}: groups {v['g']} do not divide the channels")
        if v.get("skip", 0) > int(self.in_chw == self.out_chw):
            raise SpecError(
                f"operator {self.kind!r}: skip {v['skip']} of {self.in_chw} to {self.out_chw}; "
                "a skip (1) needs equal shapes"
            )

    def __getitem__(self, name: str) -> int:
        return self.integers[name]

    @property
    def integers(self) -> Mapping[str, int]:
        """The named integers, in the order of the key."""
        return _integers(self)

    @property
    def key(self) -> str:
        """One readable line that names the operator in tables and files."""
        fields = [f"{name}={value}" for name, value in self.integers.items()]
        if _kind(self.kind).activated:
            fields.append(f"act={self.act}")
        return " ".join([self.kind, *fields])

    @property
    def is_block(self) -> bool:
        """Whether it is a graph of primitives rather than a primitive."""
        return _kind(self.kind).primitives is not None

    @property
    def n_inputs(self) -> int:
        """Number of input tensors, all of shape `in_chw`."""
        return _kind(self.kind).n_inputs

    @property
    def in_chw(self) -> Shape:
        """Shape of (each) input."""
        return _in_chw(self)

    @property
    def out_chw(self) -> Shape:
        """Shape of the output; a vector of n features is (n, 1, 1)."""
        return _out_chw(self)

    def primitives(self) -> tuple[Node, ...]:
        """The primitives inside, in execution order; input -1 is the unit's own input."""
        return _primitives(self)

    @property
    def convolves(self) -> bool:
        """Whether a convolution is in it."""
        return any(n.op.kind in ("conv", "conv2d") for n in self.primitives())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products for one image."""
        return _macs(self)

    @property
    def weights(self) -> int:
        """Multiplying parameters, as deployed (normalisation folded in)."""
        return _weights(self)

    @property
    def biases(self) -> int:
        """Additive parameters, as deployed; one per output channel."""
        return _biases(self)

    @property
    def params(self) -> int:
        """Parameters as deployed: normalisation is folded into weights and biases."""
        return self.weights + self.biases


@dataclass(frozen=True, slots=True)
class Node:
    """An operator in its place: which earlier nodes feed it (-1: the graph's input)."""

    op: OpSpec
    inputs: tuple[int, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Lowering:
    """A network as its units in execution order; the last one's output is the network's.

    Raises:
        SpecError: where a node reads a later one, or shapes do not fit.
    """

    in_chw: Shape
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise SpecError("a network needs at least one unit")
        for i, node in enumerate(self.nodes):
            if len(node.inputs) != node.op.n_inputs or any(j >= i or j < -1 for j in node.inputs):
                raise SpecError(f"unit {i} ({node.op.key}) reads {node.inputs}")
            for j in node.inputs:
                shape = self.in_chw if j < 0 else self.nodes[j].op.out_chw
                if shape != node.op.in_chw:
                    raise SpecError(
                        f"unit {i} ({node.op.key}) takes {node.op.in_chw}, gets {shape}"
                    )

    def __iter__(self) -> Iterator[OpSpec]:
        return (node.op for node in self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def out_chw(self) -> Shape:
        """Shape of the network's output."""
        return self.nodes[-1].op.out_chw

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(op.macs for op in self)

    @property
    def params(self) -> int:
        """Parameters as deployed."""
        return sum(op.params for op in self)

    def primitive(self) -> Lowering:
        """The same network with every block opened into its primitives."""
        nodes: list[Node] = []
        last: list[int] = []  # index of each unit's output in the opened list
        for unit in self.nodes:
            base = len(nodes)
            outer = tuple(-1 if j < 0 else last[j] for j in unit.inputs)
            for node in unit.op.primitives():
                inputs = (
                    outer
                    if not unit.op.is_block
                    else tuple(outer[0] if j < 0 else base + j for j in node.inputs)
                )
                name = f"{unit.name}.{node.name}" if node.name else unit.name
                nodes.append(Node(node.op, inputs, name))
            last.append(len(nodes) - 1)
        return Lowering(self.in_chw, tuple(nodes))

    def peak_memory_bytes(self, *, bytes_per_element: int = 1) -> int:
        """Largest sum of activations alive at once, primitive by primitive, without padding copies.

        An output lives from its operator to its last reader. Runtimes need more (alignment,
        scratch): this is the floor that no planner goes below without in-place operators.
        """
        graph = self.primitive()
        last_use = {-1: 0}
        for i, node in enumerate(graph.nodes):
            last_use[i] = i
            for j in node.inputs:
                last_use[j] = i
        sizes = {-1: _elements(self.in_chw)}
        sizes |= {i: _elements(node.op.out_chw) for i, node in enumerate(graph.nodes)}
        peak = max(
            sum(size for j, size in sizes.items() if j <= i <= last_use[j])
            for i in range(len(graph.nodes))
        )
        return peak * bytes_per_element


def chain(in_chw: Shape, ops: Sequence[tuple[str, OpSpec]]) -> Lowering:
    """The network in which each named unit reads the one before it."""
    return Lowering(in_chw, tuple(Node(op, (i - 1,), name) for i, (name, op) in enumerate(ops)))


def _elements(chw: Shape) -> int:
    return chw[0] * chw[1] * chw[2]


def _least(name: str) -> int:
    return 0 if name in ("skip", "se") else 1


def _kind(name: str) -> _Kind:
    try:
        return _KINDS[name]
    except KeyError:
        raise SpecError(f"unknown operator kind {name!r}; {nearest(name, _KINDS)}") from None


# A search asks for the same few hundred units hundreds of thousands of times.
_remembered = functools.lru_cache(maxsize=65536)


@_remembered
def _integers(op: OpSpec) -> Mapping[str, int]:
    return MappingProxyType(dict(zip(_kind(op.kind).integers, op.values, strict=True)))


@_remembered
def _in_chw(op: OpSpec) -> Shape:
    return _kind(op.kind).in_chw(op.integers)


@_remembered
def _out_chw(op: OpSpec) -> Shape:
    return _kind(op.kind).out_chw(op.integers)


@_remembered
def _primitives(op: OpSpec) -> tuple[Node, ...]:
    expand = _kind(op.kind).primitives
    return expand(op) if expand else (Node(op, tuple(range(-1, op.n_inputs - 1))),)


@_remembered
def _macs(op: OpSpec) -> int:
    return sum(_kind(n.op.kind).macs(n.op.integers) for n in op.primitives())


@_remembered
def _weights(op: OpSpec) -> int:
    return sum(_kind(n.op.kind).weights(n.op.integers) for n in op.primitives())


@_remembered
def _biases(op: OpSpec) -> int:
    return sum(_kind(n.op.kind).biases(n.op.integers) for n in op.primitives())


def _same(v: Mapping[str, int]) -> Shape:
    return v["c"], v["h"], v["w"]


def _conv_in(v: Mapping[str, int]) -> Shape:
    return v["cin"], v["h"], v["w"]


def _conv_out(v: Mapping[str, int]) -> Shape:
    s = v["s"]  # padded by k // 2 on every side, as torch does
    return v["cout"], -(-v["h"] // s), -(-v["w"] // s)


def _conv_weights(v: Mapping[str, int]) -> int:
    return v["cout"] * (v["cin"] // v["g"]) * v["k"] ** 2


def _conv_macs(v: Mapping[str, int]) -> int:
    _, h, w = _conv_out(v)
    return _conv_weights(v) * h * w


def _inverted(op: OpSpec) -> tuple[Node, ...]:
    """Expand 1x1, depthwise kxk, squeeze-excite, project 1x1, add (MobileNetV2/V3)."""
    v = op.integers
    hidden, act = v["hidden"], op.act
    nodes: list[Node] = []
    h, w = v["h"], v["w"]
    if hidden != v["cin"]:
        nodes.append(Node(conv(v["cin"], hidden, h, w, 1, act=act), (-1,), "expand"))
    depthwise = conv(hidden, hidden, h, w, v["k"], s=v["s"], g=hidden, act=act)
    nodes.append(Node(depthwise, (len(nodes) - 1,), "depthwise"))
    return _finish(op, nodes)


def _fused(op: OpSpec) -> tuple[Node, ...]:
    """Dense kxk that expands, project 1x1, add (EfficientNetV2's Fused-MBConv)."""
    v = op.integers
    expand = conv(v["cin"], v["hidden"], v["h"], v["w"], v["k"], s=v["s"], act=op.act)
    return _finish(op, [Node(expand, (-1,), "expand")])


def _finish(op: OpSpec, nodes: list[Node]) -> tuple[Node, ...]:
    v = op.integers
    hidden, h, w = nodes[-1].op.out_chw
    if v["se"]:
        excite = OpSpec.of("squeeze_excite", c=hidden, h=h, w=w, r=v["se"])
        nodes.append(Node(excite, (len(nodes) - 1,), "squeeze_excite"))
    nodes.append(Node(conv(hidden, v["cout"], h, w, 1), (len(nodes) - 1,), "project"))
    if v["skip"]:
        nodes.append(Node(OpSpec.of("add", c=v["cout"], h=h, w=w), (-1, len(nodes) - 1), "add"))
    return tuple(nodes)


def _head(op: OpSpec) -> tuple[Node, ...]:
    """Final 1x1 convolution, global average pooling, classifier."""
    v = op.integers
    return (
        Node(conv(v["cin"], v["hidden"], v["h"], v["w"], 1, act=op.act), (-1,), "expand"),
        Node(OpSpec.of("pool", c=v["hidden"], h=v["h"], w=v["w"]), (0,), "pool"),
        Node(OpSpec.of("linear", cin=v["hidden"], cout=v["cout"]), (1,), "classifier"),
    )


def conv(
    cin: int, cout: int, h: int, w: int, k: int, *, s: int = 1, g: int = 1, act: str = "none"
) -> OpSpec:
    """A fused convolution; `g` = `cin` = `cout` is depthwise. Padding is k // 2 on every side."""
    return OpSpec.of("conv", cin=cin, cout=cout, h=h, w=w, k=k, s=s, g=g, act=act)


def _conv2d_weights(v: Mapping[str, int]) -> int:
    return v["cout"] * (v["cin"] // v["g"]) * v["kh"] * v["kw"]


def _resized(v: Mapping[str, int]) -> Shape:
    return v["c"], v["oh"], v["ow"]


_BLOCK = ("cin", "hidden", "cout", "h", "w", "k", "s", "se", "skip")

_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "conv": _Kind(
            ("cin", "cout", "h", "w", "k", "s", "g"),
            activated=True,
            in_chw=_conv_in,
            out_chw=_conv_out,
            weights=_conv_weights,
            biases=lambda v: v["cout"],
            macs=_conv_macs,
        ),
        "add": _Kind(("c", "h", "w"), activated=False, in_chw=_same, out_chw=_same, n_inputs=2),
        "squeeze_excite": _Kind(
            ("c", "h", "w", "r"),
            activated=False,
            in_chw=_same,
            out_chw=_same,
            weights=lambda v: 2 * v["c"] * v["r"],
            biases=lambda v: v["c"] + v["r"],
            macs=lambda v: 2 * v["c"] * v["r"],
        ),
        "pool": _Kind(
            ("c", "h", "w"), activated=False, in_chw=_same, out_chw=lambda v: (v["c"], 1, 1)
        ),
        "linear": _Kind(
            ("cin", "cout"),
            activated=False,
            in_chw=lambda v: (v["cin"], 1, 1),
            out_chw=lambda v: (v["cout"], 1, 1),
            weights=lambda v: v["cin"] * v["cout"],
            biases=lambda v: v["cout"],
            macs=lambda v: v["cin"] * v["cout"],
        ),
        # Operators of model files that are in no space of ours.
        "conv2d": _Kind(  # any padding, kernel, stride and dilation
            ("cin", "cout", "h", "w", "kh", "kw", "oh", "ow", "g"),
            activated=True,
            in_chw=_conv_in,
            out_chw=lambda v: (v["cout"], v["oh"], v["ow"]),
            weights=_conv2d_weights,
            biases=lambda v: v["cout"],
            macs=lambda v: _conv2d_weights(v) * v["oh"] * v["ow"],
        ),
        "deconv": _Kind(
            ("cin", "cout", "h", "w", "kh", "kw", "oh", "ow"),
            activated=True,
            in_chw=_conv_in,
            out_chw=lambda v: (v["cout"], v["oh"], v["ow"]),
            weights=lambda v: v["cout"] * v["cin"] * v["kh"] * v["kw"],
            biases=lambda v: v["cout"],
            macs=lambda v: v["cout"] * v["cin"] * v["kh"] * v["kw"] * v["h"] * v["w"],
        ),
        "matmul": _Kind(  # `n` rows of `cin` by a matrix, `times` over
            ("cin", "cout", "n", "times"),
            activated=False,
            in_chw=lambda v: (v["cin"], v["n"], v["times"]),
            out_chw=lambda v: (v["cout"], v["n"], v["times"]),
            macs=lambda v: v["cin"] * v["cout"] * v["n"] * v["times"],
        ),
        "pool2d": _Kind(  # mean or maximum in a window
            ("c", "h", "w", "kh", "kw", "oh", "ow"),
            activated=False,
            in_chw=_same,
            out_chw=_resized,
        ),
        "resize": _Kind(
            ("c", "h", "w", "oh", "ow"), activated=False, in_chw=_same, out_chw=_resized
        ),
        "activate": _Kind(("c", "h", "w"), activated=True, in_chw=_same, out_chw=_same),
        "function": _Kind(  # sigmoid, softmax, square root, ...: element by element, costly
            ("c", "h", "w"), activated=False, in_chw=_same, out_chw=_same
        ),
        "scale": _Kind(  # a tensor and a constant, or one value a channel
            ("c", "h", "w"), activated=False, in_chw=_same, out_chw=_same
        ),
        "binary": _Kind(  # two tensors of one shape; `add` has a kind of its own
            ("c", "h", "w"), activated=False, in_chw=_same, out_chw=_same, n_inputs=2
        ),
        "copy": _Kind(  # concatenation, padding, transposition, slices: what is written
            ("c", "h", "w"),
            activated=False,
            in_chw=lambda v: (-(-v["c"] // 2), v["h"], v["w"]),  # timed as two of it side by side
            out_chw=_same,
        ),
        "inverted": _Kind(
            _BLOCK, activated=True, in_chw=_conv_in, out_chw=_conv_out, primitives=_inverted
        ),
        "fused": _Kind(
            _BLOCK, activated=True, in_chw=_conv_in, out_chw=_conv_out, primitives=_fused
        ),
        "head": _Kind(
            ("cin", "hidden", "cout", "h", "w"),
            activated=True,
            in_chw=_conv_in,
            out_chw=lambda v: (v["cout"], 1, 1),
            primitives=_head,
        ),
    }
)
