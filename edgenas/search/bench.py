"""How many evaluations strategies need: the same problem, budgets and seeds for each of them."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import edgenas
from edgenas.errors import SpecError, UsageError
from edgenas.events import Event, Report, silent
from edgenas.objectives import Objective, directed
from edgenas.pareto import hypervolume
from edgenas.search.problem import MetricFunction
from edgenas.search.study import run_search
from edgenas.search.tabulated import read_table
from edgenas.spaces import Architecture, Choices

BENCH_SCHEMA = "edgenas.bench-search/1"


@dataclass(frozen=True, slots=True)
class BenchProblem:
    """A search that strategies are compared on.

    `reference` is the hypervolume's reference point by objective. `best` is the hypervolume of the
    exact front, where every architecture is known; else results are relative to the union of all
    fronts that were found.
    """

    name: str
    space: Choices
    objectives: tuple[Objective, ...]
    cheap: MetricFunction
    costly: MetricFunction
    reference: Mapping[str, float]
    best: float | None = None


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One strategy, seed and budget. `hypervolume` is a share of the best; `regret` what lacks."""

    strategy: str
    budget: int
    seed: int
    hypervolume: float
    regret: float
    n_evaluated: int


@dataclass(frozen=True, slots=True)
class BenchSummary:
    """Over the seeds: the share of the best hypervolume, and how often `random` was beaten."""

    strategy: str
    budget: int
    n: int
    mean: float
    sd: float
    low: float
    high: float
    beats_random: int | None
    """Seeds on which it has more than the random sampler with the same seed; None without it."""
    trial_s: float
    """Time of a trial, mean: the strategy's own and storage, as evaluations are shared."""


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All rows with their summary, and what they were made with."""

    problem: str
    relative_to: str
    reference: Mapping[str, float]
    rows: tuple[BenchRow, ...]
    summary: tuple[BenchSummary, ...]
    command: str
    versions: Mapping[str, str]

    def to_table(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        return {
            "schema": BENCH_SCHEMA,
            "problem": self.problem,
            "relative_to": self.relative_to,
            "reference": dict(self.reference),
            "n": len({row.seed for row in self.rows}),
            "summary": [asdict(row) for row in self.summary],
            "rows": [asdict(row) for row in self.rows],
            "command": self.command,
            "versions": dict(self.versions),
        }


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
    return BenchProblem(
        f"{path.name}: {accuracy} x {latency}",
        space,
        objectives,
        cheap,
        costly,
        {"accuracy": reference[0], "log_latency": reference[1]},
        hypervolume(points, ["max", "min"], reference),
    )


def run_bench(
    problem: BenchProblem,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int],
    *,
    command: str = "",
    report: Report = silent,
) -> BenchResult:
    """Every strategy with every seed, up to the largest budget, read off at each budget (trials).

    Costly metrics are shared between the runs, so an architecture is evaluated once.

    Raises:
        UsageError: no strategy, budget or seed, or one twice.
    """
    for what, values in {"strategies": strategies, "budgets": budgets, "seeds": seeds}.items():
        if not values or len(set(values)) < len(values):
            raise UsageError(f"{what}: {list(values)}: at least one, and none twice")
    axes = directed(problem.objectives)
    directions = [axis.direction for axis in axes if axis.direction]
    reference = [problem.reference[axis.name] for axis in axes]
    shared: dict[Architecture, Mapping[str, float]] = {}

    def costly(arch: Architecture) -> Mapping[str, float]:
        if arch not in shared:
            shared[arch] = dict(problem.costly(arch))
        return shared[arch]

    found: list[tuple[str, int, int, float, int]] = []
    fronts: list[list[float]] = []
    seconds: dict[str, float] = {}
    runs = [(strategy, seed) for strategy in strategies for seed in seeds]
    for i, (strategy, seed) in enumerate(runs):
        report(Event("bench", i, len(runs), f"{strategy}, seed {seed}"))
        started = time.monotonic()
        result = run_search(
            problem.space,
            problem.objectives,
            cheap=problem.cheap,
            costly=costly,
            strategy=strategy,
            trials=max(budgets),
            seed=seed,
            reference=problem.reference,
        )
        seconds[strategy] = seconds.get(strategy, 0.0) + time.monotonic() - started
        fronts += result.front.points
        history = result.hypervolume_history
        for budget in sorted(budgets):
            # A search that tried the whole space ends before its budget does.
            n = min(budget, len(history))
            found.append((strategy, budget, seed, history[n - 1], result.n_evaluated))
    report(Event("bench", len(runs), len(runs)))
    best = problem.best or hypervolume(fronts, directions, reference)
    if best <= 0:
        raise SpecError(f"{problem.name}: no architecture is better than {problem.reference}")
    rows = tuple(
        BenchRow(strategy, budget, seed, hv / best, 1 - hv / best, n)
        for strategy, budget, seed, hv, n in found
    )
    trial_s = {name: total / len(seeds) / max(budgets) for name, total in seconds.items()}
    return BenchResult(
        problem.name,
        "the exact front" if problem.best else "the union of all fronts found",
        problem.reference,
        rows,
        tuple(_summary(rows, s, b, trial_s[s]) for s in strategies for b in sorted(budgets)),
        command,
        _versions(),
    )


def _summary(rows: Sequence[BenchRow], strategy: str, budget: int, trial_s: float) -> BenchSummary:
    mine = {r.seed: r.hypervolume for r in rows if (r.strategy, r.budget) == (strategy, budget)}
    chance = {r.seed: r.hypervolume for r in rows if (r.strategy, r.budget) == ("random", budget)}
    values = list(mine.values())
    return BenchSummary(
        strategy,
        budget,
        len(values),
        statistics.fmean(values),
        statistics.stdev(values) if len(values) > 1 else 0.0,
        min(values),
        max(values),
        sum(mine[seed] > chance[seed] for seed in mine) if chance else None,
        trial_s,
    )


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("optuna", "moocore", "numpy")}
    return {"edgenas": edgenas.__version__, "python": platform.python_version(), **packages}
