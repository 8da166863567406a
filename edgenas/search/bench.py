"""How many evaluations strategies need: the same problem, budgets and seeds for each of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import edgenas
from edgenas.artifacts import digest, read_json, write_json
from edgenas.errors import ArtifactError, SpecError, UsageError
from edgenas.events import Event, Report, silent
from edgenas.objectives import directed
from edgenas.pareto import hypervolume, nondominated
from edgenas.search.bench_problems import BenchProblem
from edgenas.search.gradient import check_gradients
from edgenas.search.study import SearchResult, run_search
from edgenas.spaces import Architecture

BENCH_SCHEMA = "edgenas.bench-search/1"
RUN_SCHEMA = "edgenas.bench-search-run/2"

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
"""Shares of the best hypervolume of which it is told how many evaluations they need."""
MAKE_ANEW = "delete it: that search is made anew"
CURVE_POINTS = 60
"""Of each strategy's curve, at most."""


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One strategy, seed and budget (trials).

    `hypervolume` is a share of the best, `regret` what it lacks, `igd` the inverted generational
    distance: how far the best front's points are from the nearest found, on average, each axis as a
    share of that front's range.
    """

    strategy: str
    budget: int
    seed: int
    hypervolume: float
    regret: float
    igd: float
    n_evaluated: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds with its 95 % confidence interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Of one value the interval is that value."""
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean, mean, mean)
        from scipy.stats import t

        half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
        return cls(mean, mean - half, mean + half)


@dataclass(frozen=True, slots=True)
class BenchSummary:
    """A strategy after a budget, over the seeds."""

    strategy: str
    budget: int
    n: int
    mean: float
    sd: float
    low: float
    high: float
    confidence: Interval
    """Of the mean share of the best hypervolume; `low` and `high` are the worst and best seed."""
    igd: Interval
    beats_random: int | None
    """Seeds on which it has more than the random sampler with the same seed; None without it."""
    over_random: Interval | None
    """By how much it has more, seed by seed; more with confidence where `low` is above 0."""
    trial_s: float
    """CPU seconds of a trial, mean, without the costly metrics: the strategy's own and storage."""
    trial_share: float
    """That time as a share of the whole trial, costly metrics included."""
    at_equal_time: Interval | None
    """The share of the best hypervolume when the fastest strategy of this budget is done."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How many evaluations (distinct architectures) a strategy needs to reach a level.

    Seeds that never reached it count with all their evaluations, so `mean` is then too low:
    `reached` of `n` seeds did.
    """

    strategy: str
    level: float
    mean: float
    median: float
    reached: int
    n: int


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All rows with their summary, and what they were made with."""

    problem: str
    relative_to: str
    reference: Mapping[str, float]
    rows: tuple[BenchRow, ...]
    summary: tuple[BenchSummary, ...]
    reached: tuple[Reached, ...]
    curves: Mapping[str, tuple[tuple[int, Interval], ...]]
    """For each strategy the share of the best hypervolume after so many trials."""
    command: str
    versions: Mapping[str, str]
    rests_on: Mapping[str, str]
    """What the problem is made of, by digest: space, supernet, images, tables."""

    def to_table(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        curves = {
            name: [{"trials": n, **asdict(interval)} for n, interval in curve]
            for name, curve in self.curves.items()
        }
        return {
            "schema": BENCH_SCHEMA,
            "problem": self.problem,
            "rests_on": dict(self.rests_on),
            "relative_to": self.relative_to,
            "reference": dict(self.reference),
            "n": len({row.seed for row in self.rows}),
            "summary": [asdict(row) for row in self.summary],
            "reached": [asdict(row) for row in self.reached],
            "curves": curves,
            "rows": [asdict(row) for row in self.rows],
            "command": self.command,
            "versions": dict(self.versions),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        }


def run_bench(
    problem: BenchProblem,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int],
    *,
    command: str = "",
    work: Path | None = None,
    report: Report = silent,
) -> BenchResult:
    """Every strategy with every seed, up to the largest budget, read off at each budget (trials).

    Costly metrics are shared between the runs, so an architecture is evaluated once; its time is
    counted in every run that asks for it. Times are CPU time of this process: waiting
    for other programs does not change it, sharing caches and arithmetic units with them does.
    Finished runs are kept in the folder `work`, and read from there, so that a comparison that was
    killed goes on.

    Raises:
        UsageError: no strategy, budget or seed, or one twice.
        SpecError: `gradient` on a problem without a supernet.
        ArtifactError: a file in `work` is damaged.
        ResourceError: `work` cannot be written.
    """
    for what, values in {"strategies": strategies, "budgets": budgets, "seeds": seeds}.items():
        if not values or len(set(values)) < len(values):
            raise UsageError(f"{what}: {list(values)}: at least one, and none twice")
    if "gradient" in strategies:
        check_gradients(problem.gradients)
    shared: dict[Architecture, Mapping[str, float]] = {}
    spent_s: dict[Architecture, float] = {}

    def costly(arch: Architecture) -> Mapping[str, float]:
        if arch not in shared:
            started = time.process_time()
            shared[arch] = dict(problem.costly(arch))
            spent_s[arch] = time.process_time() - started
        return shared[arch]

    runs: list[_Run] = []
    todo = [(strategy, seed) for strategy in strategies for seed in seeds]
    for i, (strategy, seed) in enumerate(todo):
        report(Event("bench", i, len(todo), f"{strategy}, seed {seed}"))
        kept = work and work / f"{strategy}-{seed}-{_run_key(problem, max(budgets))}.json"
        if kept and kept.is_file():
            runs.append(_Run.read(kept))
            continue
        before = set(spent_s)
        clock = _Clock()
        result = run_search(
            problem.space,
            problem.objectives,
            cheap=problem.cheap,
            costly=costly,
            strategy=strategy,
            trials=max(budgets),
            seed=seed,
            reference=problem.reference,
            gradients=problem.gradients,
            report=clock.lap,
        )
        runs.append(_Run.of(strategy, seed, result, problem, clock.laps_s, before, spent_s))
        if kept:
            write_json(kept, {"schema": RUN_SCHEMA, **asdict(runs[-1])})
    report(Event("bench", len(todo), len(todo)))
    return _Comparison(problem, runs, sorted(budgets)).result(strategies, command)


@dataclass(slots=True)
class _Clock:
    """CPU time of a search, trial by trial; a search tells of each trial once."""

    last_s: float = field(default_factory=time.process_time)
    laps_s: list[float] = field(default_factory=list)

    def lap(self, _: Event) -> None:
        """A trial ended."""
        now = time.process_time()
        self.laps_s.append(now - self.last_s)
        self.last_s = now


@dataclass(frozen=True, slots=True)
class _Run:
    """A search, trial by trial: hypervolume, points found, CPU seconds, evaluations so far."""

    strategy: str
    seed: int
    hypervolume: tuple[float, ...]
    points: tuple[tuple[float, ...] | None, ...]
    """Of a feasible trial that evaluated an architecture for the first time; else None."""
    overhead_s: tuple[float, ...]
    costly_s: tuple[float, ...]
    evaluations: tuple[int, ...]

    @classmethod
    def of(
        cls,
        strategy: str,
        seed: int,
        result: SearchResult,
        problem: BenchProblem,
        laps_s: Sequence[float],
        known: set[Architecture],
        spent_s: Mapping[Architecture, float],
    ) -> _Run:
        """`known`: whose metrics were there before this search, so that it did not wait."""
        axes = directed(problem.objectives)
        seen: set[Architecture] = set()
        points: list[tuple[float, ...] | None] = []
        overhead, costly, evaluations = [], [], []
        for trial, lap_s in zip(result.trials, laps_s, strict=True):
            new = trial.evaluated and trial.architecture not in seen
            cost = spent_s.get(trial.architecture, 0.0) if new else 0.0
            waited = 0.0 if trial.architecture in known else cost
            overhead.append(max(0.0, lap_s - waited))
            costly.append(cost)
            if new:
                seen.add(trial.architecture)
            found = tuple(axis.value(trial.metrics) for axis in axes) if trial.feasible else None
            points.append(found if new else None)
            evaluations.append(len(seen))
        return cls(
            strategy,
            seed,
            result.hypervolume_history,
            tuple(points),
            tuple(overhead),
            tuple(costly),
            tuple(evaluations),
        )

    @classmethod
    def read(cls, path: Path) -> _Run:
        """From a file in the folder of work.

        Raises:
            ArtifactError: it is damaged.
        """
        try:
            table = read_json(path, schema=RUN_SCHEMA)
            run = cls(
                table["strategy"],
                table["seed"],
                tuple(map(float, table["hypervolume"])),
                tuple(point and tuple(map(float, point)) for point in table["points"]),
                tuple(map(float, table["overhead_s"])),
                tuple(map(float, table["costly_s"])),
                tuple(map(int, table["evaluations"])),
            )
        except (SpecError, KeyError, TypeError, ValueError) as error:
            why = f"{error!r} is missing" if isinstance(error, KeyError) else error
            raise ArtifactError(f"{path} is damaged: {why}", hint=MAKE_ANEW) from error
        trials = {len(run.points), len(run.overhead_s), len(run.costly_s), len(run.evaluations)}
        if not run.hypervolume or trials != {len(run.hypervolume)}:
            raise ArtifactError(f"{path} is damaged: not as many trials everywhere", hint=MAKE_ANEW)
        return run

    def at(self, budget: int) -> int:
        """The last trial within the budget: a search that tried the whole space ends earlier."""
        return min(budget, len(self.hypervolume)) - 1

    def seconds(self, budget: int) -> float:
        """Of the first `budget` trials."""
        n = self.at(budget) + 1
        return sum(self.overhead_s[:n]) + sum(self.costly_s[:n])

    def after(self, seconds: float) -> float:
        """The hypervolume after this time."""
        spent, last = 0.0, 0.0
        for value, *took in zip(self.hypervolume, self.overhead_s, self.costly_s, strict=True):
            spent += sum(took)
            if spent > seconds:
                break
            last = value
        return last


class _Comparison:
    """Reads off all runs, relative to the best front known."""

    def __init__(self, problem: BenchProblem, runs: Sequence[_Run], budgets: Sequence[int]) -> None:
        self.problem, self.runs, self.budgets = problem, runs, budgets
        axes = directed(problem.objectives)
        self.directions = [axis.direction for axis in axes if axis.direction]
        reference = [problem.reference[axis.name] for axis in axes]
        front = problem.front
        if front is None:
            found = sorted({point for run in runs for point in run.points if point})
            kept = nondominated(found, self.directions)
            front = tuple(p for p, keep in zip(found, kept, strict=True) if keep)
        self.best = hypervolume(front, self.directions, reference)
        if self.best <= 0:
            raise SpecError(f"{problem.name}: no architecture is better than {problem.reference}")
        self.front = np.array(front)
        span = self.front.max(0) - self.front.min(0)
        self.span = np.where(span > 0, span, 1.0)

    def result(self, strategies: Sequence[str], command: str) -> BenchResult:
        """Everything that is read off."""
        rows = tuple(
            BenchRow(
                run.strategy,
                budget,
                run.seed,
                share := run.hypervolume[run.at(budget)] / self.best,
                1 - share,
                self.igd(run, budget),
                run.evaluations[run.at(budget)],
            )
            for run in self.runs
            for budget in self.budgets
        )
        return BenchResult(
            self.problem.name,
            self.problem.relative_to,
            self.problem.reference,
            rows,
            tuple(self.summary(rows, s, b) for s in strategies for b in self.budgets),
            tuple(self.reached(s, level) for s in strategies for level in LEVELS),
            {s: tuple(self.curve(s)) for s in strategies},
            command,
            _versions(),
            {"space": self.problem.space.digest, **self.problem.rests_on},
        )

    def igd(self, run: _Run, budget: int) -> float:
        """Inverted generational distance; where nothing is found, that of opposite corners."""
        found = [p for p in run.points[: run.at(budget) + 1] if p]
        if not found:
            return float(len(self.directions) ** 0.5)
        gaps = (self.front[:, None] - np.array(found)[None]) / self.span
        return float(np.sqrt((gaps**2).sum(2)).min(1).mean())

    def of(self, strategy: str) -> list[_Run]:
        return [run for run in self.runs if run.strategy == strategy]

    def summary(self, rows: Sequence[BenchRow], strategy: str, budget: int) -> BenchSummary:
        mine = [r for r in rows if (r.strategy, r.budget) == (strategy, budget)]
        values = [r.hypervolume for r in mine]
        chance = {
            r.seed: r.hypervolume for r in rows if (r.strategy, r.budget) == ("random", budget)
        }
        over = [r.hypervolume - chance[r.seed] for r in mine] if chance else []
        runs = self.of(strategy)
        trials = sum(run.at(budget) + 1 for run in runs)
        overhead = sum(sum(run.overhead_s[: run.at(budget) + 1]) for run in runs)
        fastest = min(
            statistics.fmean(run.seconds(budget) for run in self.of(name))
            for name in {run.strategy for run in self.runs}
        )
        return BenchSummary(
            strategy,
            budget,
            len(values),
            statistics.fmean(values),
            statistics.stdev(values) if len(values) > 1 else 0.0,
            min(values),
            max(values),
            Interval.of(values),
            Interval.of([r.igd for r in mine]),
            sum(x > 0 for x in over) if chance else None,
            Interval.of(over) if chance else None,
            overhead / trials,
            overhead / sum(run.seconds(budget) for run in runs),
            Interval.of([run.after(fastest) / self.best for run in runs]),
        )

    def reached(self, strategy: str, level: float) -> Reached:
        needed, reached = [], 0
        for run in self.of(strategy):
            at = [n for n, hv in enumerate(run.hypervolume) if hv >= level * self.best]
            reached += bool(at)
            needed.append(run.evaluations[at[0] if at else -1])
        mean, median = statistics.fmean(needed), statistics.median(needed)
        return Reached(strategy, level, mean, median, reached, len(needed))

    def curve(self, strategy: str) -> Iterator[tuple[int, Interval]]:
        last = self.budgets[-1]
        for n in sorted({round(last * i / CURVE_POINTS) for i in range(1, CURVE_POINTS + 1)}):
            if n:
                runs = self.of(strategy)
                yield n, Interval.of([run.hypervolume[run.at(n)] / self.best for run in runs])


def _run_key(problem: BenchProblem, trials: int) -> str:
    """Of what a kept run must have in common with the one that is asked for."""
    objectives = [str(objective) for objective in problem.objectives]
    reference = sorted(problem.reference.items())
    rests_on = sorted(problem.rests_on.items())
    return digest(
        [
            *(RUN_SCHEMA, edgenas.__version__, problem.space.digest),
            *(objectives, reference, rests_on, trials),
        ]
    )


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("optuna", "moocore", "numpy")}
    return {"edgenas": edgenas.__version__, "python": platform.python_version(), **packages}
