"""Dominance, hypervolume and the Pareto front as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import read_json, write_atomic
from edgenas.errors import ArtifactError, SpecError
from edgenas.objectives import (
    Direction,
    Objective,
    check_objectives,
    directed,
    total_violation,
)
from edgenas.spaces import Architecture, Choice
from edgenas.spaces.architecture import split_line

FRONT_SCHEMA = "edgenas.front/1"

Points = Sequence[Sequence[float]]
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """A value and where it came from: `measured`, `predicted`, `supernet`, `computed`, ...

    `low` and `high` are an interval around it, `n` the number of samples it rests on. `rough`: from
    a table so far off that small differences say nothing.
    """

    value: float
    origin: str
    low: float | None = None
    high: float | None = None
    n: int | None = None
    rough: bool = False

    def __post_init__(self) -> None:
        numbers = [x for x in (self.value, self.low, self.high) if x is not None]
        if not all(map(math.isfinite, numbers)):
            raise SpecError(f"metric {self.value} [{self.low}, {self.high}] is not finite")
        if not self.origin:
            raise SpecError(f"metric {self.value} does not say where it came from")
        low, high = self.bounds
        if not low <= self.value <= high:
            raise SpecError(f"metric {self.value} lies outside its interval [{low}, {high}]")
        if self.n is not None and self.n < 1:
            raise SpecError(f"metric {self.value} rests on {self.n} samples")

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends of the interval; the value itself where one is not known."""
        low = self.value if self.low is None else self.low
        return low, self.value if self.high is None else self.high

    def to_table(self) -> dict[str, float | int | str]:
        """As it stands in JSON files; what is not known is left out."""
        values = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        told = {"origin": self.origin} | {k: v for k, v in values.items() if v is not None}
        return told | ({"rough": True} if self.rough else {})


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture with its metrics by name."""

    architecture: Architecture
    metrics: Mapping[str, Metric]

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    @property
    def values(self) -> dict[str, float]:
        """The metrics' values by name."""
        return {name: metric.value for name, metric in self.metrics.items()}

    def to_table(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        return {
            "architecture": str(self.architecture),
            "digest": self.architecture.digest,
            "metrics": {name: metric.to_table() for name, metric in self.metrics.items()},
        }


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The feasible candidates that no other one dominates, each architecture once.

    Whatever candidates it is built from, in whatever order, it keeps those alone, the best in the
    first objective first. Of several entries for one architecture the first in that order stays.
    `parents` names what it was made from by digest (supernet, data, table, ...).

    Raises:
        SpecError: where a candidate lacks an objective's metric.
    """

    objectives: tuple[Objective, ...]
    candidates: tuple[Candidate, ...]
    parents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_objectives(self.objectives)
        axes = directed(self.objectives)

        def place(candidate: Candidate) -> tuple[Any, ...]:
            values = candidate.values
            losses = tuple(axis.loss(values) for axis in axes)
            return losses, str(candidate.architecture), str(candidate.to_table())

        once: dict[Architecture, Candidate] = {}
        for candidate in sorted(self.candidates, key=place):
            values = candidate.values
            for objective in self.objectives:
                objective.value(values)
            if total_violation(self.objectives, values) == 0:
                once.setdefault(candidate.architecture, candidate)
        points = [[axis.loss(c.values) for axis in axes] for c in once.values()]
        keep = nondominated(points, ["min"] * len(axes))
        front = tuple(c for c, kept in zip(once.values(), keep, strict=True) if kept)
        object.__setattr__(self, "objectives", tuple(self.objectives))
        object.__setattr__(self, "candidates", front)
        object.__setattr__(self, "parents", MappingProxyType(dict(self.parents)))

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Of the objectives that have one."""
        return tuple(o.direction for o in self.objectives if o.direction)

    @property
    def points(self) -> list[list[float]]:
        """A row for each candidate, a column for each directed objective."""
        axes = directed(self.objectives)
        return [[axis.value(c.values) for axis in axes] for c in self.candidates]

    def write(self, path: Path) -> None:
        """Writes `front.json`, one candidate a line so that differences read well."""
        write_atomic(path, self.to_json())

    def to_json(self) -> str:
        """The text of `front.json`."""

        def line(value: object) -> str:
            return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)

        rows = ",\n    ".join(line(c.to_table()) for c in self.candidates)
        candidates = f"[\n    {rows}\n  ]" if rows else "[]"
        return (
            "{\n"
            f'  "candidates": {candidates},\n'
            f'  "objectives": {line([str(o) for o in self.objectives])},\n'
            f'  "parents": {line(dict(self.parents))},\n'
            f'  "schema": {line(FRONT_SCHEMA)}\n'
            "}\n"
        )

    @classmethod
    def read(cls, path: Path, *, parse: Callable[[str], Architecture] | None = None) -> ParetoFront:
        """The front in `path`; `parse` (a space's own) checks each architecture against the space.

        Raises:
            ArtifactError: damaged, of another version, or holding what is no front: a dominated,
                infeasible or repeated candidate, a digest that does not fit.
        """
        table = read_json(path, schema=FRONT_SCHEMA)
        try:
            if extra := sorted(set(table) - {"schema", "objectives", "candidates", "parents"}):
                raise SpecError(f"unknown field {extra[0]!r}")
            objectives = tuple(Objective.parse(text) for text in table["objectives"])
            listed = tuple(_candidate(row, parse or _plain) for row in table["candidates"])
            parents = {str(name): str(value) for name, value in table["parents"].items()}
            front = cls(objectives, listed, parents)
        except KeyError as error:
            raise ArtifactError(f"{path}: {error.args[0]!r} is missing") from error
        except (SpecError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: {error}") from error
        if len(front) != len(listed):
            raise ArtifactError(
                f"{path}: {len(listed) - len(front)} of {len(listed)} candidates are dominated, "
                "infeasible or repeated"
            )
        return front


def dominates(a: Sequence[float], b: Sequence[float], directions: Sequence[Direction]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    signs = [-1.0 if d == "max" else 1.0 for d in directions]
    pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def nondominated(points: Points, directions: Sequence[Direction]) -> list[bool]:
    """For each point whether no other one dominates it; equal points stay or go together.

    Raises:
        ValueError: NaN or infinity, or a point of another length than `directions`.
    """
    _check(points, directions)
    if not points:
        return []
    if len(directions) == 1:
        best = (max if directions[0] == "max" else min)(p[0] for p in points)
        return [p[0] == best for p in points]
    import moocore
    import numpy as np

    kept = moocore.is_nondominated(
        np.asarray(points, dtype=float),
        maximise=[d == "max" for d in directions],
        keep_weakly=True,
    )
    return [bool(k) for k in kept]


def hypervolume(
    points: Points, directions: Sequence[Direction], reference: Sequence[float]
) -> float:
    """The volume between `reference` and the points, in the product of the axes' units.

    A point that is not better than the reference on every axis adds nothing.

    Raises:
        ValueError: NaN or infinity (for which the library underneath would say 0), or lengths
            that do not fit.
    """
    _check([*points, reference], directions)
    if not points:
        return 0.0
    if len(directions) == 1:
        sign = 1.0 if directions[0] == "max" else -1.0
        return max(0.0, *(sign * (p[0] - reference[0]) for p in points))
    import moocore
    import numpy as np

    return float(
        moocore.hypervolume(
            np.asarray(points, dtype=float),
            ref=np.asarray(reference, dtype=float),
            maximise=[d == "max" for d in directions],
        )
    )


def improvements(points: Floats, front: Floats, reference: Floats) -> Floats:
    """What each point alone would add to the front's hypervolume; less is better on every axis.

    Args:
        points: (n, axes).
        front: (m, axes), in any order, dominated points among them or not.
        reference: (axes).

    Returns:
        (n), 0 for a point that is dominated or not better than the reference.
    """
    import numpy as np

    front = front[(front < reference).all(axis=1)]
    room = np.prod(np.maximum(reference - points, 0.0), axis=1)
    if not len(front):
        return np.asarray(room)
    if len(reference) > 2:
        found = np.zeros(len(points))
        import moocore

        _check([*points.tolist(), *front.tolist()], ["min"] * len(reference))
        for i in np.flatnonzero(room > 0):
            # The part of the point's box that the front has already.
            covered = moocore.hypervolume(np.maximum(front, points[i]), ref=reference)
            found[i] = max(0.0, room[i] - covered)
        return found
    if len(reference) == 1:
        return np.asarray(np.maximum(front.min() - points[:, 0], 0.0))
    # Two axes: strips between the front's places on the first, each with the best of the second.
    front = front[np.argsort(front[:, 0], kind="stable")]
    ends = np.append(front[1:, 0], reference[0])
    best = np.minimum.accumulate(front[:, 1])
    x, y = points[:, :1], points[:, 1:]
    first = np.maximum(front[0, 0] - x, 0.0) * np.maximum(reference[1] - y, 0.0)
    width = np.maximum(ends - np.maximum(x, front[:, 0]), 0.0)
    return np.asarray(first[:, 0] + (width * np.maximum(best - y, 0.0)).sum(axis=1))


def _check(points: Points, directions: Sequence[Direction]) -> None:
    if not directions:
        raise ValueError("at least one direction is needed")
    for point in points:
        if len(point) != len(directions):
            raise ValueError(f"point {list(point)} has not {len(directions)} values")
        if not all(map(math.isfinite, point)):
            raise ValueError(f"point {list(point)} is not finite")


def _candidate(row: Mapping[str, Any], parse: Callable[[str], Architecture]) -> Candidate:
    if extra := sorted(set(row) - {"architecture", "digest", "metrics"}):
        raise SpecError(f"candidate: unknown field {extra[0]!r}")
    architecture = parse(row["architecture"])
    if row["digest"] != architecture.digest:
        raise SpecError(f"digest {row['digest']!r} does not fit {str(architecture)!r}")
    metrics = {str(name): _metric(name, value) for name, value in row["metrics"].items()}
    return Candidate(architecture, metrics)


def _metric(name: str, table: Mapping[str, Any]) -> Metric:
    if extra := sorted(set(table) - {"value", "origin", "low", "high", "n", "rough"}):
        raise SpecError(f"metric {name!r}: unknown field {extra[0]!r}")
    for key in ("value", "low", "high", "n"):
        # bool is an int, and "0.9" would only fail later, without a name
        if key in table and (
            isinstance(table[key], bool) or not isinstance(table[key], int | float)
        ):
            raise SpecError(f"metric {name!r}: {key} is {table[key]!r}, not a number")
    if not isinstance(table["origin"], str):
        raise SpecError(f"metric {name!r}: origin is {table['origin']!r}, not text")
    if not isinstance(table.get("rough", False), bool):
        raise SpecError(f"metric {name!r}: rough is {table['rough']!r}, neither true nor false")
    return Metric(**table)


def _plain(line: str) -> Architecture:
    """The architecture that `line` spells, unchecked; whole numbers are numbers."""
    space, texts = split_line(line)
    choices: tuple[tuple[str, Choice], ...] = tuple(
        (name, int(text) if text.isascii() and text.isdigit() else text)
        for name, text in texts.items()
    )
    return Architecture(space, choices)
