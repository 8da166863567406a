"""Dominance and hypervolume against naive ones; the front in any order; its file."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import ArtifactError, SpecError
from edgenas.objectives import Direction, parse_objectives
from edgenas.pareto import (
    Candidate,
    Metric,
    ParetoFront,
    dominates,
    hypervolume,
    improvements,
    nondominated,
)
from edgenas.spaces import Architecture

OBJECTIVES = parse_objectives(["max top1", "min latency_ms <= 8", "size_bytes <= 100"])


def candidate(i: int, top1: float, latency: float, size: float = 10.0) -> Candidate:
    return Candidate(
        Architecture("tiny/1", (("depth", i), ("kind", f"k{i}"))),
        {
            "top1": Metric(top1, "supernet", n=100),
            "latency_ms": Metric(latency, "predicted", low=latency * 0.9, high=latency * 1.1),
            "size_bytes": Metric(size, "computed"),
        },
    )


# Few distinct values, so that ties and repeated points are common.
coordinate = st.integers(0, 6).map(float)


@st.composite
def points_and_directions(draw: st.DrawFn) -> tuple[list[list[float]], list[str]]:
    width = draw(st.integers(1, 4))
    points = draw(st.lists(st.lists(coordinate, min_size=width, max_size=width), max_size=12))
    return points, draw(st.lists(st.sampled_from(["max", "min"]), min_size=width, max_size=width))


@given(points_and_directions())
def test_nondominated_is_what_no_other_point_dominates(case: tuple) -> None:
    points, directions = case
    naive = [not any(dominates(q, p, directions) for q in points) for p in points]
    assert nondominated(points, directions) == naive


@given(points_and_directions())
@settings(max_examples=60)
def test_hypervolume_counts_unit_cells(case: tuple) -> None:
    points, directions = case
    reference = [0.0 if d == "max" else 6.0 for d in directions]
    cells = itertools.product(range(6), repeat=len(directions))
    naive = 0
    for cell in cells:
        centre = [x + 0.5 for x in cell]
        naive += any(dominates(p, centre, directions) for p in points)
    assert hypervolume(points, directions, reference) == pytest.approx(naive)


def test_points_beyond_the_reference_add_nothing() -> None:
    directions = ["max", "min"]
    assert hypervolume([[0.5, 3.0]], directions, [0.6, 9.0]) == 0
    assert hypervolume([[0.5, 3.0]], directions, [0.0, 2.0]) == 0
    assert hypervolume([[0.2]], ["max"], [0.5]) == 0
    assert hypervolume([], directions, [0.0, 1.0]) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        hypervolume([[bad, 1.0]], ["max", "min"], [0.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        hypervolume([[1.0, 1.0]], ["max", "min"], [0.0, bad])
    with pytest.raises(ValueError, match="not finite"):
        nondominated([[1.0, bad]], ["max", "min"])
    with pytest.raises(ValueError, match="has not 2 values"):
        nondominated([[1.0]], ["max", "min"])
    with pytest.raises(ValueError, match="direction"):
        nondominated([], [])
    with pytest.raises(SpecError, match="not finite"):
        Metric(bad, "measured")


@pytest.mark.parametrize(
    "fields",
    [
        {"value": 1.0, "origin": ""},
        {"value": 1.0, "origin": "measured", "low": 2.0},
        {"value": 1.0, "origin": "measured", "high": 0.5},
        {"value": 1.0, "origin": "measured", "n": 0},
    ],
)
def test_a_metric_is_valid_once_built(fields: dict) -> None:
    with pytest.raises(SpecError):
        Metric(**fields)


def test_the_front_is_feasible_undominated_and_unique() -> None:
    dominated = candidate(1, 0.5, 3.0)
    best = candidate(2, 0.9, 7.0)
    too_slow = candidate(3, 0.99, 8.5)
    too_big = candidate(4, 0.95, 1.0, size=101)
    equal = candidate(5, 0.9, 7.0)
    fast = candidate(6, 0.6, 1.0)
    given_ = [dominated, best, too_slow, too_big, equal, fast, best]
    front = ParetoFront(OBJECTIVES, tuple(given_), {"table": "abc"})
    assert front.candidates == (best, equal, fast)
    assert front.points == [[0.9, 7.0], [0.9, 7.0], [0.6, 1.0]]
    assert front.directions == ("max", "min")
    metrics = {"top1": Metric(0.9, "a"), "latency_ms": Metric(1, "a")}
    partial = Candidate(best.architecture, metrics)
    with pytest.raises(SpecError, match="'size_bytes' is missing"):
        ParetoFront(OBJECTIVES, (partial,))


@given(
    st.lists(
        st.tuples(st.integers(0, 5), coordinate, coordinate, st.sampled_from([10.0, 200.0])),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60)
def test_any_order_gives_the_same_front(rows: list, rng: random.Random) -> None:
    candidates = [candidate(*row) for row in rows]
    shuffled = rng.sample(candidates, len(candidates))
    front = ParetoFront(OBJECTIVES, tuple(candidates))
    assert front.to_json() == ParetoFront(OBJECTIVES, tuple(shuffled)).to_json()
    assert ParetoFront(OBJECTIVES, front.candidates).candidates == front.candidates
    feasible = [
        c for c in candidates if c.values["latency_ms"] <= 8 and c.values["size_bytes"] < 100
    ]
    for c in front.candidates:
        assert c in feasible
    assert len({c.architecture for c in front.candidates}) == len(front)


def test_the_file_round_trips_byte_for_byte(tmp_path: Path) -> None:
    rng = random.Random(0)
    candidates = tuple(candidate(i, rng.random(), rng.uniform(1, 9)) for i in range(30))
    front = ParetoFront(OBJECTIVES, candidates, {"table": "abc", "supernet": "def"})
    path = tmp_path / "front.json"
    front.write(path)
    again = ParetoFront.read(path)
    assert again == front
    assert again.to_json().encode() == path.read_bytes()
    lines = path.read_text().splitlines()
    assert sum('"architecture"' in line for line in lines) == len(front)
    assert json.loads(path.read_text())["schema"] == "edgenas.front/1"
    empty = ParetoFront(OBJECTIVES, ())
    empty.write(path)
    assert ParetoFront.read(path) == empty


def _broken() -> dict[str, tuple]:
    def row(table: dict) -> dict:
        return table["candidates"][0]

    return {
        "newer": (lambda t: t.update(schema="edgenas.front/2"), "newer"),
        "no objectives": (lambda t: t.pop("objectives"), "'objectives' is missing"),
        "unknown field": (lambda t: t.update(extra=1), "unknown field 'extra'"),
        "unknown in candidate": (lambda t: row(t).update(extra=1), "unknown field 'extra'"),
        "digest": (lambda t: row(t).update(digest="0" * 12), "does not fit"),
        "text for number": (
            lambda t: row(t)["metrics"]["top1"].update(value="0.9"),
            "'top1': value is '0.9'",
        ),
        "bool for number": (lambda t: row(t)["metrics"]["top1"].update(value=True), "is True"),
        "no origin": (lambda t: row(t)["metrics"]["top1"].pop("origin"), "'origin' is missing"),
        "infeasible": (
            lambda t: row(t)["metrics"]["latency_ms"].update(value=9, high=9),
            "infeasible or repeated",
        ),
        "repeated": (lambda t: t["candidates"].append(row(t)), "infeasible or repeated"),
        "candidates a number": (lambda t: t.update(candidates=3), "not iterable"),
        "metrics a list": (lambda t: row(t).update(metrics=[]), "items"),
    }


@pytest.mark.parametrize("what", _broken())
def test_damaged_files_are_refused(tmp_path: Path, what: str) -> None:
    spoil, message = _broken()[what]
    table = json.loads(ParetoFront(OBJECTIVES, (candidate(1, 0.9, 3.0),)).to_json())
    spoil(table)
    path = tmp_path / "front.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ArtifactError, match=message) as caught:
        ParetoFront.read(path)
    assert str(path) in str(caught.value)


def test_a_space_checks_its_architectures(tmp_path: Path) -> None:
    path = tmp_path / "front.json"
    ParetoFront(OBJECTIVES, (candidate(1, 0.9, 3.0),)).write(path)

    def parse(line: str) -> Architecture:
        raise SpecError(f"{line} is not of this space")

    with pytest.raises(ArtifactError, match="not of this space"):
        ParetoFront.read(path, parse=parse)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_an_improvement_is_the_difference_of_two_hypervolumes(axes: int) -> None:
    rng = np.random.default_rng(axes)
    directions: list[Direction] = ["min"] * axes
    for m in (0, 1, 8):
        front, points = rng.random((m, axes)) * 1.3, rng.random((40, axes)) * 1.3
        reference = np.ones(axes)
        before = hypervolume(front.tolist(), directions, reference)
        for point, found in zip(points, improvements(points, front, reference), strict=True):
            after = hypervolume([*front.tolist(), point.tolist()], directions, reference)
            assert found == pytest.approx(after - before, abs=1e-12)
