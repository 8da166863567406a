"""Problems that strategies are compared on: a table, whose front is exact, or a model."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgenas.errors import SpecError
from edgenas.events import Event, Report, silent
from edgenas.objectives import Objective, directed
from edgenas.pareto import nondominated
from edgenas.search.moves import drawn
from edgenas.search.nsga2 import offspring, ranks
from edgenas.search.problem import Gradients, MetricFunction, Trial
from edgenas.search.tabulated import read_table
from edgenas.spaces import Architecture, Choices

GENERATION = 500
"""Architectures between two selections of `evolved_front`."""


@dataclass(frozen=True, slots=True)
class BenchProblem:
    """A search that strategies are compared on.

    `reference` is the hypervolume's reference point by objective. `front` has the directed
    objectives' values of the exact front, where every architecture is known; else results are
    relative to the union of all fronts that were found.
    """

    name: str
    space: Choices
    objectives: tuple[Objective, ...]
    cheap: MetricFunction
    costly: MetricFunction
    reference: Mapping[str, float]
    front: tuple[tuple[float, ...], ...] | None = None
    gradients: Gradients | None = None
    """For the strategy `gradient`, where a supernet gives them."""
    relative_to: str = "the union of all fronts found"
    """Where `front` is from."""
    rests_on: Mapping[str, str] = field(default_factory=dict)
    """Digests of what the metrics rest on, where the space does not hold it itself."""


def table_problem(
    path: Path, *, architecture: Sequence[str], accuracy: str, latency: str
) -> BenchProblem:
    """Accuracy against the logarithm of latency over a table's rows, whose front is exact.

    The reference point is the table's worst accuracy and slowest architecture. Latency is the
    cheap metric.

    Raises:
        SpecError: what `read_table` refuses, and a latency that is not positive.
    """
    columns = {"accuracy": accuracy, "latency": latency}
    space = read_table(path, architecture=architecture, metrics=columns, cost="latency")
    if bad := [m["latency"] for m in space.rows.values() if m["latency"] <= 0]:
        raise SpecError(f"{path}: {latency} is {bad[0]}, not positive")

    def cheap(arch: Architecture) -> Mapping[str, float]:
        return {"log_latency": math.log(space.metrics(arch)["latency"])}

    def costly(arch: Architecture) -> Mapping[str, float]:
        return {"accuracy": space.metrics(arch)["accuracy"]}

    objectives = (Objective.parse("max accuracy"), Objective.parse("min log_latency"))
    points = [[m["accuracy"], math.log(m["latency"])] for m in space.rows.values()]
    reference = [min(p[0] for p in points), max(p[1] for p in points)]
    kept = nondominated(points, ["max", "min"])
    front = sorted({(p[0], p[1]) for p, keep in zip(points, kept, strict=True) if keep})
    return BenchProblem(
        f"{path.name}: {accuracy} x {latency}",
        space,
        objectives,
        cheap,
        costly,
        {"accuracy": reference[0], "log_latency": reference[1]},
        tuple(front),
        relative_to="the exact front",
    )


def evolved_front(
    problem: BenchProblem, n: int, *, seed: int = 0, report: Report = silent
) -> BenchProblem:
    """`problem` with the front of an evolution that evaluates `n` architectures, each once.

    The parents are all undominated architectures so far and the best of the rest, thousands of
    times more than a search of a supernet can afford: for problems whose metrics cost nothing.
    """
    rng = random.Random(f"evolved front {seed}")
    axes = directed(problem.objectives)
    best: dict[Architecture, Trial] = {}
    tried: set[Architecture] = set()
    while len(tried) < min(n, problem.space.size):
        young: dict[Architecture, Trial] = {}
        parents = list(best.values())
        for i in range(min(GENERATION, n - len(tried))):
            if parents and i % 20:
                params = offspring(problem.space, parents, rng)
            else:
                params = drawn(problem.space, rng, lean=rng.random())
            arch = problem.space.architecture(params)
            if arch not in tried:
                tried.add(arch)
                metrics = {**problem.cheap(arch), **problem.costly(arch)}
                young[arch] = Trial(len(tried), arch, params, metrics)
        together = {**best, **young}
        fronts = itertools.islice(ranks(list(together.values()), problem.objectives), 3)
        best = {trial.architecture: trial for front, _ in fronts for trial in front}
        report(Event("front", len(tried), n, f"{len(best)} parents"))
    front, _ = next(ranks(list(best.values()), problem.objectives))
    points = sorted({tuple(axis.value(t.metrics) for axis in axes) for t in front})
    told = f"the front of an evolution with {len(tried)} evaluations"
    return replace(problem, front=tuple(points), relative_to=told)
