"""Cells: which choices are one, and that cells which compute the same are described the same."""

from __future__ import annotations

import pytest

from edgenas.search.cells import describe, read_edges

OPS = ("none", "skip_connect", "conv")
GENES = {
    f"arch.{i}": tuple(f"{op}~{node}" for op in OPS) for i, node in enumerate((0, 0, 1, 0, 1, 2))
}
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def test_edges_are_read_from_the_values() -> None:
    assert read_edges(GENES) == EDGES


@pytest.mark.parametrize(
    "genes",
    [
        {"k": (3, 5)},
        {"a": ("conv~0", "conv~1")},
        {"a": ("conv~0",), "b": ("pool~3",)},
        {"a": ("~0", "conv~0")},
        {"a": ("conv~x",)},
    ],
)
def test_other_choices_are_no_cell(genes: dict[str, tuple[str | int, ...]]) -> None:
    assert read_edges(genes) is None


def row(*ops: str) -> list[str]:
    return [f"{op}~{source}" for op, (source, _) in zip(ops, EDGES, strict=True)]


def test_only_what_lies_on_a_path_counts() -> None:
    found = describe(EDGES, row("conv", "none", "conv", "none", "none", "conv"))
    assert found == {"n conv": 3, "cut": 0, "longest": 3, "shortest": 3}
    # node 1 leads nowhere: its operators do nothing
    dead = describe(EDGES, row("conv", "none", "none", "conv", "none", "conv"))
    assert dead == {"n conv": 1, "cut": 0, "longest": 1, "shortest": 1}
    assert describe(EDGES, row(*["none"] * 6))["cut"] == 1


def test_the_same_network_spelled_twice_is_described_alike() -> None:
    one = describe(EDGES, row("skip_connect", "none", "conv", "none", "none", "conv"))
    other = describe(EDGES, row("conv", "none", "skip_connect", "none", "none", "conv"))
    assert one == other
