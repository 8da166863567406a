from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import SpecError
from edgenas.spaces import Architecture, Choice, Lowering, conv
from edgenas.spaces.mobile import (
    LARGE,
    MEDIUM,
    SMALL,
    MobileSpace,
    Stage,
    default_space,
    from_table,
    space_for,
)

TINY = MobileSpace(
    resolutions=(8, 12),
    stem_width=4,
    head_width=8,
    in_channels=1,
    n_classes=3,
    stages=(
        Stage(2, widths=(4, 6), depths=(1, 2), kernels=(3, 5), expands=(1, 2),
              kinds=("inverted", "plain", "fused")),
        Stage(1, widths=(6,), depths=(1, 2), kernels=(3,), expands=(2, 3)),
    ),
)  # fmt: skip
"""Small enough for every setting of its genes to be tried."""


def settings_of(space: MobileSpace) -> Iterator[dict[str, Choice]]:
    for values in itertools.product(*space.genes.values()):
        yield dict(zip(space.genes, values, strict=True))


@pytest.fixture(scope="module")
def whole() -> list[tuple[Architecture, Lowering]]:
    """Every setting of TINY's genes: its architecture and lowering."""
    return [(arch, TINY.lower(arch)) for arch in map(TINY.architecture, settings_of(TINY))]


def test_canonical_form_over_the_whole_space(whole: list[tuple[Architecture, Lowering]]) -> None:
    assert len(whole) == 3072
    by_arch = dict(whole)
    assert len(by_arch) == TINY.size < len(whole)
    # the same network, the same value; another network, another value
    assert len(set(by_arch.values())) == len(by_arch)
    assert len({a.digest for a in by_arch}) == len(by_arch)
    assert all(by_arch[arch] == lowering for arch, lowering in whole)


def test_every_line_reads_back(whole: list[tuple[Architecture, Lowering]]) -> None:
    for arch, _ in set(whole):
        assert TINY.parse(str(arch)) == arch
        assert TINY.architecture(arch.params) == arch


def test_units_are_the_union_over_all_architectures(
    whole: list[tuple[Architecture, Lowering]],
) -> None:
    units = TINY.units()
    assert len(units) == len(set(units))
    assert set(units) == {op for _, lowering in whole for op in lowering}
    assert units == TINY.units()


def test_smallest_and_largest_bound_the_space(whole: list[tuple[Architecture, Lowering]]) -> None:
    macs = [lowering.macs for _, lowering in whole]
    assert TINY.lower(TINY.largest()).macs <= max(macs)
    # a fused block has one kernel, so that the last kind is not the dearest at every kernel
    plain = dataclasses.replace(
        TINY, stages=tuple(dataclasses.replace(s, kinds=("inverted",)) for s in TINY.stages)
    )
    macs = [plain.lower(plain.architecture(p)).macs for p in settings_of(plain)]
    assert plain.lower(plain.smallest()).macs == min(macs)
    assert plain.lower(plain.largest()).macs == max(macs)


def test_lowering_by_hand() -> None:
    arch = TINY.parse(
        "mobile/1 r=8 s1.kind=inverted s1.width=6 s1.depth=2 s1.1.kernel=3 s1.1.expand=1 "
        "s1.2.kernel=5 s1.2.expand=2 s2.depth=1 s2.1.expand=3"
    )
    lowering = TINY.lower(arch)
    assert lowering.in_chw == (1, 8, 8) == TINY.in_chw(arch)
    assert [(node.name, node.op.key) for node in lowering.nodes] == [
        ("stem", "conv cin=1 cout=4 h=8 w=8 k=3 s=2 g=1 act=relu6"),
        ("s1.1", "inverted cin=4 hidden=4 cout=6 h=4 w=4 k=3 s=2 se=0 skip=0 act=relu6"),
        ("s1.2", "inverted cin=6 hidden=12 cout=6 h=2 w=2 k=5 s=1 se=0 skip=1 act=relu6"),
        ("s2.1", "inverted cin=6 hidden=18 cout=6 h=2 w=2 k=3 s=1 se=0 skip=1 act=relu6"),
        ("head", "head cin=6 hidden=8 cout=3 h=2 w=2 act=relu6"),
    ]


def test_full_variant_has_squeeze_excite_and_hard_swish() -> None:
    full = default_space(image_size=28, in_channels=1, n_classes=10, variant="full")
    int8 = default_space(image_size=28, in_channels=1, n_classes=10)
    assert full.genes == int8.genes
    kinds = {node.op.kind for node in full.lower(full.largest()).primitive().nodes}
    assert "squeeze_excite" in kinds
    for op in full.units():
        assert op.act == "hswish"
        if op.kind in ("inverted", "fused"):
            assert op["se"] % 8 == 0
            assert op["se"] * 4 >= op["hidden"]
    assert {op.act for op in int8.units()} == {"relu6"}
    assert all(op["se"] == 0 for op in int8.units() if op.kind in ("inverted", "fused"))


@pytest.mark.parametrize("space", [SMALL, MEDIUM, LARGE], ids=["small", "medium", "large"])
def test_shipped_spaces_are_large_but_can_be_profiled(space: MobileSpace) -> None:
    assert space.size > 10**12
    for resolution in space.resolutions:
        at_one_size = dataclasses.replace(space, resolutions=(resolution,))
        assert len(at_one_size.units()) <= 600
    lowered = [space.lower(space.smallest()), space.lower(space.largest())]
    assert lowered[1].macs >= 8 * lowered[0].macs


@settings(max_examples=60)
@given(
    space=st.sampled_from([SMALL, MEDIUM, LARGE, TINY]),
    seed=st.integers(0, 2**32),
)
def test_any_architecture(space: MobileSpace, seed: int) -> None:
    arch = space.sample(random.Random(seed))
    assert arch == space.sample(random.Random(seed))
    assert space.parse(str(arch)) == arch
    lowering = space.lower(arch)
    assert lowering.out_chw == (space.n_classes, 1, 1)
    assert lowering.primitive().macs == lowering.macs
    assert lowering.peak_memory_bytes() >= lowering.in_chw[0] * lowering.in_chw[1] ** 2


def test_sampled_units_are_listed() -> None:
    rng = random.Random(5)
    for space in (SMALL, MEDIUM, LARGE):
        units = set(space.units())
        for _ in range(40):
            assert units.issuperset(space.lower(space.sample(rng)))


def test_inactive_choices_do_not_matter() -> None:
    params = next(settings_of(TINY)) | {"s1.kind": "fused", "s1.depth": 1}
    arch = TINY.architecture(params)
    assert arch == TINY.architecture(params | {"s1.1.kernel": 5, "s1.2.expand": 2})
    assert "s1.1.kernel" not in arch.params
    assert "s1.2.expand" not in arch.params
    active_only = TINY.architecture(arch.params)
    assert active_only == arch


def test_a_plain_block_is_one_convolution() -> None:
    params = TINY.largest().params | {"s1.kind": "plain"}
    arch = TINY.architecture(params)
    assert not [name for name in arch.params if name.startswith("s1.") and name.count(".") > 1]
    units = {node.name: node.op for node in TINY.lower(arch).nodes}
    assert units["s1.1"] == conv(4, 6, 12 // 2, 12 // 2, 3, s=2, act="relu6")
    assert units["s1.2"] == conv(6, 6, 3, 3, 3, act="relu6")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s1.width": 5}, r"s1.width=5 is not one of \(4, 6\)"),
        ({"s1.width": "4"}, "s1.width='4' is not one of"),
        ({"s1.width": 4.0}, "s1.width=4.0 is not one of"),
        ({"s1.depth": True}, "s1.depth=True is not one of"),
        ({"s1.wdith": 4}, "no choice 's1.wdith'; did you mean 's1.width'"),
        ({"s2.width": 6}, "no choice 's2.width'"),
    ],
)
def test_wrong_choices(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TINY.architecture(next(settings_of(TINY)) | change)


def test_missing_choice() -> None:
    params = next(settings_of(TINY))
    del params["s1.1.expand"]
    with pytest.raises(SpecError, match=r"'s1.1.expand' is missing"):
        TINY.architecture(params)


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "vit/1 r=8",
        "mobile/1",
        "mobile/1 r",
        "mobile/1 r=8 r=8",
        "mobile/1 r=9",
        "mobile/1 =8",
        "mobile/1 r=8.0",
        "mobile/1 colour=blue",
    ],
)
def test_wrong_lines(line: str) -> None:
    with pytest.raises(SpecError):
        TINY.parse(line)


@given(st.text(max_size=80))
def test_any_line_is_an_architecture_or_our_error(text: str) -> None:
    for line in (text, f"mobile/1 {text}"):
        try:
            arch = TINY.parse(line)
        except SpecError:
            continue
        assert TINY.parse(str(arch)) == arch


@pytest.mark.parametrize(
    "arch",
    [
        Architecture("vit/1", TINY.smallest().choices),
        SMALL.smallest(),
        Architecture("mobile/1", (*TINY.smallest().choices, ("s1.2.expand", 1))),
        Architecture("mobile/1", TINY.smallest().choices[::-1]),
    ],
)
def test_lower_refuses_what_is_not_its_own(arch: Architecture) -> None:
    with pytest.raises(SpecError):
        TINY.lower(arch)


def test_default_space_for_any_image_size() -> None:
    for size in range(8, 300):
        space = default_space(image_size=size, in_channels=3, n_classes=7)
        assert (space.in_channels, space.n_classes) == (3, 7)
        assert space.lower(space.smallest()).out_chw == (7, 1, 1)
        if 48 <= size <= 112:
            assert max(space.resolutions) <= size


# Tables


@pytest.mark.parametrize(
    "space",
    [
        TINY,
        SMALL,
        MEDIUM,
        LARGE,
        default_space(image_size=64, in_channels=3, n_classes=5, variant="full"),
    ],
)
def test_table_reads_back(space: MobileSpace) -> None:
    table = space.to_table()
    again = json.loads(json.dumps(table))  # as a file would hold it: lists, no tuples
    for t in (table, again):
        read = from_table(t, in_channels=space.in_channels, n_classes=space.n_classes)
        assert read == space
        assert read.digest == space.digest
        assert hash(read) == hash(space)


def test_digest_sees_every_setting() -> None:
    digests = {
        TINY.digest,
        dataclasses.replace(TINY, n_classes=4).digest,
        dataclasses.replace(TINY, stem_stride=1).digest,
        dataclasses.replace(TINY, activation="relu").digest,
        dataclasses.replace(TINY, squeeze_excite=True).digest,
        dataclasses.replace(TINY, stages=TINY.stages[:1]).digest,
        dataclasses.replace(TINY, resolutions=(8,)).digest,
    }
    assert len(digests) == 7


WRONG: list[Any] = [
    True, 1.0, 3.5, "3", None, [], {}, [True], [3.0], ["3"], [[3]], -1, [-1], [4, 3],
    float("nan"), 10**12, [10**12], [3, 3], "", b"x", [{}], [None],
]  # fmt: skip


def tiny_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(json.dumps(TINY.to_table()))
    return table


SPACE_KEYS = sorted(set(tiny_table()) - {"family"})
STAGE_KEYS = sorted(tiny_table()["stages"][0])


@pytest.mark.parametrize("key", SPACE_KEYS)
def test_wrong_values_in_a_table(key: str) -> None:
    right = (bool,) if key == "squeeze_excite" else (int,)
    for value in WRONG:
        table = tiny_table() | {key: value}
        if type(value) in right and value == tiny_table()[key]:
            continue
        if key == "squeeze_excite" and value is True:
            continue
        with pytest.raises(SpecError, match=r"space|mobile/1"):
            from_table(table, in_channels=1, n_classes=3)


@pytest.mark.parametrize("key", STAGE_KEYS)
def test_wrong_values_in_a_stage(key: str) -> None:
    for value in WRONG:
        table = tiny_table()
        table["stages"][1][key] = value
        with pytest.raises(SpecError, match=r"space.stages\[2\]"):
            from_table(table, in_channels=1, n_classes=3)


def test_all_problems_of_a_table_at_once() -> None:
    table = tiny_table() | {"stem_widht": 3, "head_width": "wide", "n_classes": 9}
    del table["resolutions"]
    table["stages"][0] |= {"kernals": [3], "stride": 2.0}
    table["stages"][1] |= {"kernels": [4]}
    with pytest.raises(SpecError) as caught:
        from_table(table, in_channels=1, n_classes=3)
    message = str(caught.value)
    for part in (
        "space.stem_widht: unknown key; did you mean 'stem_width'?",
        "space.head_width: 'wide' is not an integer",
        "space.resolutions is missing",
        "space.n_classes is 9, but the data has 3",
        "space.stages[1].kernals: unknown key; did you mean 'kernels'?",
        "space.stages[1].stride: 2.0 is not an integer",
        "space.stages[2]: stage: kernels (4,) must be odd",
    ):
        assert part in message


def test_data_decides_channels_and_classes() -> None:
    table = tiny_table()
    del table["in_channels"], table["n_classes"]
    assert from_table(table, in_channels=1, n_classes=3) == TINY
    with pytest.raises(SpecError, match=r"space\.in_channels is 1, but the data has 3"):
        from_table(tiny_table(), in_channels=3, n_classes=3)


def test_settings_replace_the_defaults() -> None:
    space = space_for({"resolutions": [24]}, image_size=28, in_channels=1, n_classes=10)
    assert space == dataclasses.replace(SMALL, resolutions=(24,), in_channels=1)
    full = space_for(
        {"activation": "hswish", "squeeze_excite": True},
        image_size=28,
        in_channels=1,
        n_classes=10,
    )
    assert full == default_space(image_size=28, in_channels=1, n_classes=10, variant="full")


@pytest.mark.parametrize(
    "change",
    [
        {"stages": ()},
        {"stages": TINY.stages * 9},
        {"resolutions": ()},
        {"resolutions": (12, 8)},
        {"resolutions": (4,)},
        {"stem_width": 0},
        {"stem_stride": 3},
        {"head_width": 0},
        {"in_channels": 0},
        {"n_classes": 1},
        {"activation": "relu7"},
    ],
)
def test_no_space_is_built_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"widths": ()},
        {"widths": (0,)},
        {"widths": (8, 4)},
        {"depths": (1, 1)},
        {"depths": (1, 99)},
        {"kernels": (2,)},
        {"expands": (-1, 2)},
        {"stride": 3},
        {"kinds": ()},
        {"kinds": ("fused", "inverted")},
        {"kinds": ("inverted", "inverted")},
        {"kinds": ("dense",)},
    ],
)
def test_no_stage_is_built_wrong(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="stage"):
        dataclasses.replace(TINY.stages[0], **change)
