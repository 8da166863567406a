"""Tabulated results as a space: a CSV whose rows are architectures with their metrics."""

from __future__ import annotations

import fnmatch
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import digest, read_csv
from edgenas.errors import SpecError, nearest
from edgenas.search.cells import Edges, describe, read_edges
from edgenas.spaces import Architecture, Choice
from edgenas.spaces.architecture import split_line
from edgenas.spaces.space import read_choice

_TOKEN = re.compile(r"[^\s|+,;:()\[\]]+")
FAMILY = "table/1"

Row = tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class TabulatedSpace:
    """The architectures of a table's rows, by the distinct values of its architecture columns.

    A setting that no row has stands for the nearest row (fewest choices that differ, the first of
    equals), so that tables which hold a part of a space can be searched as well.
    """

    genes: Mapping[str, tuple[Choice, ...]]
    rows: Mapping[Row, Mapping[str, float]]
    """Metrics by the row's values, in the order of `genes`."""
    edges: Edges | None = field(init=False, repr=False)
    """Where rows are cells (see `edgenas.search.cells`)."""
    _codes: npt.NDArray[np.intp] = field(init=False, repr=False, compare=False)
    """(rows, genes): each value's place in its gene."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", read_edges(self.genes))
        object.__setattr__(self, "_codes", np.array([self._code(row) for row in self.rows]))

    @property
    def name(self) -> str:
        """Of the family of spaces that are tables."""
        return FAMILY

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over choices and metrics."""
        return digest([[list(row), sorted(m.items())] for row, m in self.rows.items()])

    @property
    def size(self) -> int:
        """The number of rows, repeated architectures counted once."""
        return len(self.rows)

    def metrics(self, arch: Architecture) -> Mapping[str, float]:
        """What the table says of `arch`."""
        return self.rows[tuple(value for _, value in arch.choices)]

    def architecture(self, params: Mapping[str, Choice]) -> Architecture:
        """The row with these values, or the nearest."""
        if unknown := sorted(set(params) ^ set(self.genes)):
            raise SpecError(f"table: no such column {unknown[0]!r}; {nearest('', self.genes)}")
        wanted = tuple(params[name] for name in self.genes)
        row = wanted if wanted in self.rows else self._nearest(wanted)
        return Architecture(FAMILY, tuple(zip(self.genes, row, strict=True)))

    def parse(self, line: str) -> Architecture:
        """The architecture that `line` (its `str`) names."""
        family, texts = split_line(line)
        if family != FAMILY:
            raise SpecError(f"architecture {line!r} belongs to {family!r}, not to {FAMILY!r}")
        params: dict[str, Choice] = {}
        for name, text in texts.items():
            value = read_choice(text, self.genes.get(name, ()))
            if value is None:
                raise SpecError(f"architecture {line!r}: {name}={text} is not in the table")
            params[name] = value
        return self.architecture(params)

    def sample(self, rng: random.Random) -> Architecture:
        """A random setting of the genes."""
        return self.architecture({name: rng.choice(v) for name, v in self.genes.items()})

    def smallest(self) -> Architecture:
        """Every choice at its cheapest."""
        return self.architecture({name: values[0] for name, values in self.genes.items()})

    def largest(self) -> Architecture:
        """Every choice at its dearest."""
        return self.architecture({name: values[-1] for name, values in self.genes.items()})

    def descriptors(self, arch: Architecture) -> Mapping[str, float]:
        """Where rows are cells, what they compute (see `edgenas.search.cells`); else nothing."""
        if self.edges is None:
            return {}
        return describe(self.edges, [value for _, value in arch.choices])

    def _nearest(self, wanted: Row) -> Row:
        differences = (self._codes != self._code(wanted)).sum(1)
        return next(itertools.islice(self.rows, int(differences.argmin()), None))

    def _code(self, row: Row) -> list[int]:
        return [v.index(value) for v, value in zip(self.genes.values(), row, strict=True)]


def read_table(
    path: Path, *, architecture: Sequence[str], metrics: Mapping[str, str], cost: str
) -> TabulatedSpace:
    """The space that a CSV (also gzip-compressed) holds.

    Args:
        path: a file with a header line.
        architecture: the columns that make up the architecture. One whose texts all split into the
            same number (> 1) of tokens at spaces, commas, bars, plus signs, ... is that many genes.
            A pattern with `*` or `?` stands for all others that match it, of which there must be
            some.
        metrics: column by metric name. Rows with a blank among them are left out; of several
            rows of one architecture the first counts.
        cost: the metric by which a gene's values are ordered, the cheapest on average first.

    Raises:
        SpecError: a column is missing, a value is no finite number, no row is left.
    """
    known, found_rows = read_csv(path)
    others = [column for column in known if column not in metrics.values()]
    architecture = [column for name in architecture for column in _matching(name, others)]
    for column in (*architecture, *metrics.values()):
        if column not in known:
            raise SpecError(f"{path}: no column {column!r}; {nearest(column, known)}")
    wanted = (*architecture, *metrics.values())
    numbered = {i: row for i, row in enumerate(found_rows, 2) if all(row[c] for c in wanted)}
    table = list(numbered.values())
    if not table or not architecture:
        raise SpecError(f"{path}: no row has all of {[*architecture, *metrics.values()]}")
    columns: dict[str, list[str]] = {}
    for column in architecture:
        tokens = [_TOKEN.findall(row[column]) for row in table]
        count = len(tokens[0])
        if count > 1 and all(len(found) == count for found in tokens):
            columns |= {f"{column}.{i + 1}": [found[i] for found in tokens] for i in range(count)}
        else:
            columns[column] = ["_".join(found) for found in tokens]
    choices = {name: _typed(values) for name, values in columns.items() if len(set(values)) > 1}
    if not choices:
        raise SpecError(f"{path}: the columns {list(architecture)} hold one architecture only")
    rows: dict[Row, Mapping[str, float]] = {}
    for (i, row), *values in zip(numbered.items(), *choices.values(), strict=True):
        found = {name: _number(path, i, column, row[column]) for name, column in metrics.items()}
        rows.setdefault(tuple(values), found)
    return TabulatedSpace(_ordered(list(choices), rows, cost), rows)


def _matching(name: str, known: Sequence[str]) -> Sequence[str]:
    """The columns that a pattern stands for; a name, and a pattern without any, for itself."""
    if name in known or not {"*", "?"} & set(name):
        return [name]
    return fnmatch.filter(known, name) or [name]


def _typed(values: Sequence[str]) -> list[Choice]:
    if all(value.isascii() and value.isdigit() and str(int(value)) == value for value in values):
        return [int(value) for value in values]
    return list(values)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpecError(f"{path}: row {line}, {column}: {text!r} is not a finite number")
    return value


def _ordered(
    names: Sequence[str], rows: Mapping[Row, Mapping[str, float]], cost: str
) -> dict[str, tuple[Choice, ...]]:
    """Each gene's values, those with the lowest mean cost first."""
    genes = {}
    for i, name in enumerate(names):
        costs: dict[Choice, list[float]] = {}
        for row, metrics in rows.items():
            costs.setdefault(row[i], []).append(metrics[cost])
        means = {value: math.fsum(found) / len(found) for value, found in costs.items()}
        genes[name] = tuple(sorted(means, key=lambda value: (means[value], str(value))))
    return genes
