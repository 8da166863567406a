"""Which networks are exported."""

from __future__ import annotations

import random

from edgenas.objectives import parse_objectives
from edgenas.pareto import Candidate, Metric, ParetoFront
from edgenas.pipeline.selection import choose
from edgenas.testing.fakes import tiny_space

OBJECTIVES = parse_objectives(["max top1", "min latency_ms"])


def front_of(points: list[tuple[float, float]]) -> ParetoFront:
    rng, space = random.Random(0), tiny_space()
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(200)))
    return ParetoFront(
        OBJECTIVES,
        tuple(
            Candidate(arch, {"top1": Metric(a, "supernet"), "latency_ms": Metric(b, "predicted")})
            for arch, (a, b) in zip(archs, points, strict=False)
        ),
    )


def chosen(points: list[tuple[float, float]], top: int) -> list[tuple[str, float]]:
    return [(why, c.values["top1"]) for why, c in choose(front_of(points), top)]


def test_best_knee_fastest_then_spread() -> None:
    points = [(0.5, 1.0), (0.8, 1.4), (0.85, 3.0), (0.88, 5.0), (0.9, 9.0)]
    assert chosen(points, 3) == [("best top1", 0.9), ("knee", 0.8), ("best latency_ms", 0.5)]
    assert chosen(points, 4)[3] == ("spread", 0.88)
    assert len(chosen(points, 99)) == 5


def test_one_candidate_stands_once() -> None:
    assert chosen([(0.9, 1.0)], 3) == [("best top1", 0.9)]


def test_fewer_than_three() -> None:
    assert [why for why, _ in chosen([(0.5, 1.0), (0.9, 2.0)], 1)] == ["best top1"]
    assert len(chosen([(0.5, 1.0), (0.9, 2.0)], 3)) == 2


def test_the_order_of_the_front_does_not_matter() -> None:
    points = [(0.1 * i, float(i * i)) for i in range(1, 10)]
    shuffled = points[:]
    random.Random(1).shuffle(shuffled)
    assert chosen(points, 5) == chosen(shuffled, 5)


def test_the_most_accurate_is_so_by_the_accuracy_that_is_searched_for() -> None:
    archs = [tiny_space().smallest(), tiny_space().largest()]
    objectives = parse_objectives(["min latency_ms", "max robustness"])
    candidates = tuple(
        Candidate(arch, {"latency_ms": Metric(ms, "predicted"), "robustness": Metric(r, "x")})
        for arch, ms, r in zip(archs, (1.0, 2.0), (0.4, 0.8), strict=True)
    )
    ((why, best),) = choose(ParetoFront(objectives, candidates), 1)
    assert (why, best.architecture) == ("best robustness", tiny_space().largest())
