"""Many architectures at once: coded as numbers, and whatever is a sum over their units looked up.

A *code* is one row of integers, for each gene of the space the index of its value; what an inactive
gene says does not matter. Needs numpy, which is imported here and nowhere else in `spaces`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgenas.spaces.architecture import Architecture
from edgenas.spaces.ops import OpSpec
from edgenas.spaces.space import SearchSpace

Codes = npt.NDArray[np.int16]
Values = npt.NDArray[np.float64]


def encode(space: SearchSpace, architectures: Sequence[Architecture]) -> Codes:
    """The codes (n, genes) of these architectures; an inactive gene has its first value."""
    genes = space.genes
    codes = np.zeros((len(architectures), len(genes)), dtype=np.int16)
    for row, arch in enumerate(architectures):
        active = arch.params
        for column, (gene, values) in enumerate(genes.items()):
            if gene in active:
                codes[row, column] = values.index(active[gene])
    return codes


def decode(space: SearchSpace, codes: Codes) -> list[Architecture]:
    """The architectures of the codes (n, genes); the inverse of `encode`."""
    genes = list(space.genes.items())
    return [
        space.architecture({g: values[i] for (g, values), i in zip(genes, row, strict=True)})
        for row in codes.tolist()
    ]


def draw(space: SearchSpace, n: int, generator: np.random.Generator) -> Codes:
    """`n` codes, every gene drawn uniformly."""
    sizes = [len(values) for values in space.genes.values()]
    return generator.integers(0, sizes, size=(n, len(sizes)), dtype=np.int16)


class Sums:
    """`sums(codes)` is (n, q): for each architecture the sum over its units of `values(unit)`.

    `values` gives q numbers for a unit and is asked once for each of the space's.
    """

    def __init__(self, space: SearchSpace, values: Callable[[OpSpec], Sequence[float]]) -> None:
        genes = space.genes
        column = {gene: k for k, gene in enumerate(genes)}
        known = {op: np.asarray(values(op), dtype=np.float64) for op in space.units()}
        self._width = len(next(iter(known.values())))
        self._tables: list[tuple[list[int], list[int], Values]] = []
        for place in space.places():
            sizes = [len(genes[gene]) for gene in place.genes]
            table = np.zeros((int(np.prod(sizes)), self._width))
            for row, index in enumerate(np.ndindex(*sizes)):
                params = {g: genes[g][i] for g, i in zip(place.genes, index, strict=True)}
                if (op := place.unit(params)) is not None:
                    table[row] = known[op]
            self._tables.append(([column[gene] for gene in place.genes], sizes, table))

    def __call__(self, codes: Codes) -> Values:
        """The sums (n, q) of the architectures with these codes (n, genes)."""
        total = np.zeros((len(codes), self._width))
        for columns, sizes, table in self._tables:
            row = np.zeros(len(codes), dtype=np.int64)
            for column, size in zip(columns, sizes, strict=True):
                row = row * size + codes[:, column]
            total += table[row]
        return total
