from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import SpecError
from edgenas.spaces import Lowering, Node, OpSpec, chain, conv
from edgenas.spaces.ops import ACTIVATIONS

sides = st.integers(1, 40)
channels = st.integers(1, 64)


@st.composite
def operators(draw: st.DrawFn) -> OpSpec:
    """Any valid operator."""
    kind = draw(
        st.sampled_from(
            ["conv", "add", "squeeze_excite", "pool", "linear", "inverted", "fused", "head"]
        )
    )
    act = draw(st.sampled_from(ACTIVATIONS))
    c, h, w = draw(channels), draw(sides), draw(sides)
    cout = draw(channels)
    match kind:
        case "conv":
            g = draw(st.integers(1, 8))
            k, s = draw(st.sampled_from((1, 3, 5, 7))), draw(st.integers(1, 2))
            return conv(c * g, cout * g, h, w, k, s=s, g=g, act=act)
        case "add" | "pool":
            return OpSpec.of(kind, c=c, h=h, w=w)
        case "squeeze_excite":
            return OpSpec.of(kind, c=c, h=h, w=w, r=draw(channels))
        case "linear":
            return OpSpec.of(kind, cin=c, cout=cout)
        case "head":
            return OpSpec.of(kind, act=act, cin=c, hidden=draw(channels), cout=cout, h=h, w=w)
    s = draw(st.integers(1, 2))
    skip = draw(st.booleans()) and s == 1
    return OpSpec.of(
        kind,
        act=act,
        cin=c,
        hidden=c * draw(st.integers(1, 6)),
        cout=c if skip else cout,
        h=h,
        w=w,
        k=draw(st.sampled_from((3, 5, 7))),
        s=s,
        se=draw(st.sampled_from((0, 8))),
        skip=int(skip),
    )


@given(operators())
def test_key_reads_back(op: OpSpec) -> None:
    assert OpSpec.parse(op.key) == op
    assert "\n" not in op.key


@given(operators())
def test_primitives_fit_and_add_up(op: OpSpec) -> None:
    nodes = op.primitives()
    if not op.is_block:
        assert [node.op for node in nodes] == [op]
        return
    inside = Lowering(op.in_chw, nodes)  # raises where shapes do not fit
    assert inside.out_chw == op.out_chw
    assert not any(inner.is_block for inner in inside)
    assert op.macs == sum(inner.macs for inner in inside) == inside.macs
    assert op.params == op.weights + op.biases == inside.params


@given(st.text(max_size=60))
def test_any_text_is_an_operator_or_our_error(text: str) -> None:
    try:
        op = OpSpec.parse(text)
    except SpecError:
        return
    assert op.key == text


@pytest.mark.parametrize(
    "key",
    [
        "",
        "conv",
        "unheard cin=1",
        "pool c=1 h=1",
        "pool c=1 h=1 w=0",
        "pool c=1 h=1 w=-1",
        "pool c=1 h=1 w=1.5",
        "pool c=1 h=1 w=\u0663",  # a digit, but not of ASCII
        "pool c=1 h=1 w=" + "9" * 5000,
        "pool c=01 h=1 w=1",
        "pool h=1 c=1 w=1",
        "pool c=1 c=1 h=1 w=1",
        "pool  c=1 h=1 w=1",
        "pool c=1 h=1 w=1 act=relu",
        "pool c=1 h=1 w=1 kind=3",
        "pool c=1 h=1 w=1 cls=3",
        "pool c=1 h=1 w=1\n",
        "linear cin=2 cout=2 act=none",
        "conv cin=4 cout=4 h=8 w=8 k=3 s=1 g=3 act=none",
        "conv cin=4 cout=4 h=8 w=8 k=3 s=1 g=1 act=gelu",
        "conv cin=4 cout=4 h=8 w=8 k=3 s=1 g=1",
        "inverted cin=8 hidden=16 cout=9 h=8 w=8 k=3 s=1 se=0 skip=1 act=relu6",
        "inverted cin=8 hidden=16 cout=8 h=8 w=8 k=3 s=2 se=0 skip=1 act=relu6",
        "fused cin=8 hidden=16 cout=8 h=8 w=8 k=3 s=1 se=0 skip=2 act=relu6",
    ],
)
def test_bad_keys(key: str) -> None:
    with pytest.raises(SpecError):
        OpSpec.parse(key)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'linear'"):
        OpSpec.of("linaer", cin=1, cout=1)


def test_wrong_number_of_integers() -> None:
    with pytest.raises(SpecError, match="takes c, h, w"):
        OpSpec("pool", (1, 2))


# Counted by hand: (operator, MACs, weights, biases, output)
HAND = [
    # 32 filters of 16x3x3 over 14x14
    (conv(16, 32, 28, 28, 3, s=2), 32 * 16 * 9 * 14 * 14, 32 * 16 * 9, 32, (32, 14, 14)),
    # odd sizes round up with padding k // 2
    (conv(3, 8, 7, 5, 3, s=2), 8 * 3 * 9 * 4 * 3, 8 * 3 * 9, 8, (8, 4, 3)),
    (conv(24, 24, 10, 10, 5, g=24), 24 * 25 * 100, 24 * 25, 24, (24, 10, 10)),  # depthwise
    (conv(8, 4, 6, 6, 1, g=4), 4 * 2 * 36, 4 * 2, 4, (4, 6, 6)),  # grouped
    (OpSpec.of("linear", cin=256, cout=10), 2560, 2560, 10, (10, 1, 1)),
    (OpSpec.of("pool", c=5, h=7, w=7), 0, 0, 0, (5, 1, 1)),
    (OpSpec.of("add", c=5, h=7, w=7), 0, 0, 0, (5, 7, 7)),
    (OpSpec.of("squeeze_excite", c=32, h=7, w=7, r=8), 512, 512, 40, (32, 7, 7)),
    (  # expand 16 -> 64, depthwise 5x5 stride 2, project 64 -> 24
        OpSpec.of("inverted", act="relu6", cin=16, hidden=64, cout=24, h=28, w=28, k=5, s=2, se=0,
                  skip=0),
        16 * 64 * 784 + 64 * 25 * 196 + 64 * 24 * 196,
        16 * 64 + 64 * 25 + 64 * 24,
        64 + 64 + 24,
        (24, 14, 14),
    ),
    (  # without expansion there is no first 1x1; squeeze-excite 16 -> 8 -> 16
        OpSpec.of("inverted", act="hswish", cin=16, hidden=16, cout=16, h=8, w=8, k=3, s=1, se=8,
                  skip=1),
        16 * 9 * 64 + 2 * 16 * 8 + 16 * 16 * 64,
        16 * 9 + 2 * 16 * 8 + 16 * 16,
        16 + (8 + 16) + 16,
        (16, 8, 8),
    ),
    (  # dense 3x3 16 -> 32 stride 2, project 32 -> 24
        OpSpec.of("fused", act="relu6", cin=16, hidden=32, cout=24, h=9, w=9, k=3, s=2, se=0,
                  skip=0),
        16 * 32 * 9 * 25 + 32 * 24 * 25,
        16 * 32 * 9 + 32 * 24,
        32 + 24,
        (24, 5, 5),
    ),
    (  # 1x1 96 -> 256 at 4x4, then 256 -> 10
        OpSpec.of("head", act="relu6", cin=96, hidden=256, cout=10, h=4, w=4),
        96 * 256 * 16 + 2560,
        96 * 256 + 2560,
        256 + 10,
        (10, 1, 1),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op", "macs", "weights", "biases", "out"), HAND, ids=lambda v: str(v))
def test_counts(op: OpSpec, macs: int, weights: int, biases: int, out: object) -> None:
    assert (op.macs, op.weights, op.biases, op.out_chw) == (macs, weights, biases, out)


def test_squeeze_excite_and_add_stand_where_they_belong() -> None:
    block = OpSpec.of(
        "inverted", act="relu6", cin=8, hidden=16, cout=8, h=4, w=4, k=3, s=1, se=8, skip=1
    )
    nodes = block.primitives()
    assert [n.name for n in nodes] == ["expand", "depthwise", "squeeze_excite", "project", "add"]
    assert [n.inputs for n in nodes] == [(-1,), (0,), (1,), (2,), (-1, 3)]
    assert [n.op.act for n in nodes] == ["relu6", "relu6", "none", "none", "none"]


def test_lowering_refuses_what_does_not_fit() -> None:
    pool = OpSpec.of("pool", c=4, h=8, w=8)
    with pytest.raises(SpecError, match="at least one"):
        Lowering((4, 8, 8), ())
    with pytest.raises(SpecError, match="takes"):
        Lowering((4, 8, 9), (Node(pool, (-1,)),))
    with pytest.raises(SpecError, match="reads"):
        Lowering((4, 8, 8), (Node(pool, (0,)),))
    with pytest.raises(SpecError, match="reads"):
        Lowering((4, 8, 8), (Node(pool, (-2,)),))
    with pytest.raises(SpecError, match="reads"):
        Lowering((4, 8, 8), (Node(pool, (-1, -1)),))


def test_opened_network_is_the_same_network() -> None:
    block = OpSpec.of(
        "inverted", act="relu6", cin=8, hidden=16, cout=8, h=6, w=6, k=3, s=1, se=0, skip=1
    )
    head = OpSpec.of("head", act="relu6", cin=8, hidden=12, cout=3, h=6, w=6)
    net = chain((1, 12, 12), [("stem", conv(1, 8, 12, 12, 3, s=2)), ("a", block), ("head", head)])
    opened = net.primitive()
    assert [node.name for node in opened.nodes] == [
        "stem", "a.expand", "a.depthwise", "a.project", "a.add",
        "head.expand", "head.pool", "head.classifier",
    ]  # fmt: skip
    assert opened.nodes[4].inputs == (0, 3)  # the skip comes from the stem
    assert (opened.macs, opened.params, opened.out_chw) == (net.macs, net.params, (3, 1, 1))
    assert opened.primitive() == opened


def test_peak_memory_by_hand() -> None:
    block = OpSpec.of(
        "inverted", act="relu6", cin=8, hidden=16, cout=8, h=6, w=6, k=3, s=1, se=0, skip=1
    )
    net = chain((8, 6, 6), [("a", block)])
    area = 36  # input kept for the skip (8), expanded (16), depthwise output (16)
    assert net.peak_memory_bytes() == (8 + 16 + 16) * area
    assert net.peak_memory_bytes(bytes_per_element=4) == 4 * (8 + 16 + 16) * area
    wide = chain((3, 8, 8), [("c", conv(3, 5, 8, 8, 3))])
    assert wide.peak_memory_bytes() == (3 + 5) * 64


def test_values_are_hashable_and_read_only() -> None:
    op = OpSpec.of("pool", c=1, h=2, w=3)
    assert op == OpSpec("pool", (1, 2, 3))
    assert len({op, OpSpec.parse(op.key)}) == 1
    assert op["w"] == 3
    with pytest.raises(TypeError):
        op.integers["w"] = 4  # type: ignore[index]
    with pytest.raises(AttributeError):
        op.kind = "add"  # type: ignore[misc]
