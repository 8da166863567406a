"""Cells as NAS-Bench-201 spells them (Dong and Yang 2020, arXiv:2001.00326): what one computes.

A cell is a list of edges, each an operator and the node that it reads: `|conv~0|+|pool~0|conv~1|`.
`none` cuts an edge and `skip_connect` is the identity, so cells that differ on paper often compute
the same; what is counted here is the same for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from edgenas.spaces import Choice

Edges = tuple[tuple[int, int], ...]
"""For each choice the node that its operator reads and the one it adds to; node 0 is the input."""


def read_edges(genes: Mapping[str, Sequence[Choice]]) -> Edges | None:
    """The edges of a space of cells, or None where the choices are no such cell.

    Every value is `operator~node`, one node for all values of a choice; a node's edges are listed
    by the node they read, and the last node is the output.
    """
    edges: list[tuple[int, int]] = []
    target, before = 1, -1
    for values in genes.values():
        parts = [str(value).rpartition("~") for value in values]
        nodes = {node for _, _, node in parts}
        if len(nodes) != 1 or not all(op for op, _, _ in parts) or not min(nodes).isdigit():
            return None
        source = int(min(nodes))
        target, before = target + (source <= before), source
        if source >= target:
            return None
        edges.append((source, target))
    return tuple(edges)


def describe(edges: Edges, row: Sequence[Choice]) -> dict[str, float]:
    """How often each operator stands on a path from input to output, and how long the paths are.

    `row` has a value for every edge, as `read_edges` took them.
    """
    operators = [str(value).rpartition("~")[0] for value in row]
    paths = list(_paths(edges, operators, 0, max(target for _, target in edges)))
    live = {edge for path in paths for edge in path}
    lengths = [sum(operators[e] != "skip_connect" for e in path) for path in paths]
    return {
        **{f"n {name}": float(n) for name, n in Counter(operators[e] for e in live).items()},
        "cut": float(not paths),
        "longest": float(max(lengths, default=0)),
        "shortest": float(min(lengths, default=0)),
    }


def _paths(
    edges: Edges, operators: Sequence[str], node: int, output: int
) -> Iterator[tuple[int, ...]]:
    if node == output:
        yield ()
    for i, (source, target) in enumerate(edges):
        if source == node and operators[i] != "none":
            for rest in _paths(edges, operators, target, output):
                yield (i, *rest)
