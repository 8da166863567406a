"""A search that knows what earlier ones evaluated, or what they found elsewhere."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import SpecError
from edgenas.objectives import parse_objectives
from edgenas.pareto import hypervolume
from edgenas.search import SearchResult, run_search
from edgenas.search.bench_problems import BenchProblem, table_problem
from edgenas.search.tabulated import TabulatedSpace
from edgenas.spaces import Architecture

OBJECTIVES = parse_objectives(["max top1", "min latency_ms"])
REFERENCE = {"top1": 0.0, "latency_ms": 20.0}
N_GENES = 6


def table(weights: tuple[float, ...]) -> TabulatedSpace:
    """4,096 networks; what a gene costs on the device is its weight."""
    genes = {f"g{i}": tuple(range(4)) for i in range(N_GENES)}
    rows = {}
    for row in itertools.product(range(4), repeat=N_GENES):
        effort = sum(v * math.sqrt(i + 1) for i, v in enumerate(row)) + row[0] * row[-1]
        latency = 1.0 + sum(v * w for v, w in zip(row, weights, strict=True))
        rows[row] = {"top1": 1 - math.exp(-0.08 * effort - 0.1), "latency_ms": latency}
    return TabulatedSpace(genes, rows)


HERE = table((1, 0.5, 2, 0.3, 1, 0.7))
THERE = table((0.4, 1.5, 0.6, 1.2, 0.5, 1.5))


def search(space: TabulatedSpace, **settings: Any) -> SearchResult:
    def cheap(arch: Architecture) -> Mapping[str, float]:
        return {"latency_ms": space.metrics(arch)["latency_ms"]}

    def costly(arch: Architecture) -> Mapping[str, float]:
        told = settings.get("known", {}).get(arch, {})
        assert "top1" not in told, "known ones are not evaluated again"
        return {"top1": space.metrics(arch)["top1"]}

    budget = {"trials": 60, "strategy": "surrogate", "reference": REFERENCE}
    return run_search(space, OBJECTIVES, cheap=cheap, costly=costly, **(budget | settings))


def needed(result: SearchResult, hypervolume: float) -> int:
    """Trials to reach it; one more than there were where it was not."""
    history = result.hypervolume_history
    return next((i for i, hv in enumerate(history, 1) if hv >= hypervolume), len(history) + 1)


def accuracies(result: SearchResult) -> dict[Architecture, Mapping[str, float]]:
    return {c.architecture: {"top1": c.values["top1"]} for c in result.candidates}


def test_known_accuracies_are_not_evaluated_again() -> None:
    known = accuracies(search(HERE))
    warm = search(THERE, known=known, trials=20)
    assert warm.n_evaluated <= 20
    assert {c.architecture for c in warm.candidates} >= set(known)
    latencies = {c.architecture: c.values["latency_ms"] for c in warm.candidates}
    assert all(latencies[a] == THERE.metrics(a)["latency_ms"] for a in known)


def test_without_a_trial_the_front_is_that_of_what_is_known() -> None:
    first = search(HERE)
    again = search(HERE, known=accuracies(first), trials=0)
    assert (again.n_trials, again.n_evaluated) == (0, 0)
    assert [c.values for c in again.front.candidates] == [c.values for c in first.front.candidates]
    assert again.hypervolume == pytest.approx(first.hypervolume)
    assert again.stopped_because == "0 trials"


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["surrogate", "nsga2", "evolution", "tpe"])
def test_what_is_known_is_in_the_front_from_the_start(strategy: str) -> None:
    known = accuracies(search(HERE))
    warm = search(THERE, known=known, trials=3, strategy=strategy)
    assert warm.hypervolume_history[0] > 0.8 * search(THERE, trials=60).hypervolume
    assert warm.n_trials == 3


def cells(measurements: Path, accuracy: str, device: str) -> BenchProblem:
    return table_problem(
        measurements / "nasbench201.csv.gz",
        architecture=["arch_str"],
        accuracy=accuracy,
        latency=f"help_{device}_ms",
    )


def run(task: BenchProblem, seed: int, **settings: Any) -> SearchResult:
    return run_search(
        task.space,
        task.objectives,
        cheap=task.cheap,
        costly=task.costly,
        seed=seed,
        reference=task.reference,
        **settings,
    )


def told(source: SearchResult, target: BenchProblem) -> dict[Architecture, Mapping[str, float]]:
    """What a search of the same cells found, as the target's architectures."""
    return {
        target.space.architecture(c.architecture.params): {"accuracy": c.values["accuracy"]}
        for c in source.candidates
    }


@pytest.mark.slow
def test_a_second_device_costs_a_fifth(measurements: Path) -> None:
    """After a search of the usual length; single seeds lie far apart: see tools/bench."""
    here = cells(measurements, "cifar100_test_200ep", "silver_4114")
    there = cells(measurements, "cifar100_test_200ep", "1080ti_1")
    cold_trials = warm_trials = 0
    for seed in range(6):
        known = told(run(here, seed, trials=200), there)
        cold = run(there, seed + 10, trials=80)
        warm = run(there, seed + 10, trials=40, known=known)
        cold_trials += needed(cold, cold.hypervolume)
        warm_trials += needed(warm, cold.hypervolume)
    assert warm_trials <= cold_trials / 5


@pytest.mark.slow
def test_other_images_help_and_a_misleading_source_does_little_harm(measurements: Path) -> None:
    """CIFAR-100 is known, ImageNet-16 is searched, on cells of NAS-Bench-201."""
    source, target = (
        cells(measurements, f"{data}_test_200ep", "silver_4114")
        for data in ("cifar100", "imagenet16")
    )
    points = [list(point) for point in target.front or ()]
    best = hypervolume(points, ["max", "min"], list(target.reference.values()))
    rng = random.Random(0)
    sums = Counter[tuple[str, float]]()
    for seed in range(4):
        prior = told(run(source, seed, trials=100), target)
        shuffled = list(prior.values())
        rng.shuffle(shuffled)
        misleading = dict(zip(prior, shuffled, strict=True))
        for name, settings in {
            "cold": {},
            "warm": {"prior": prior},
            "misled": {"prior": misleading},
        }.items():
            result = run(target, seed + 10, trials=90, **settings)
            for level in (0.95, 0.98):
                sums[name, level] += needed(result, level * best)
    # Nearer the front other images tell less: 0.7 at 0.98, measured over 8 seeds.
    assert sums["warm", 0.95] <= 0.65 * sums["cold", 0.95], sums
    assert sums["warm", 0.98] <= sums["cold", 0.98], sums
    for level in (0.95, 0.98):
        assert sums["misled", level] <= 1.1 * sums["cold", level], sums


@pytest.mark.long
def test_a_study_goes_on_only_with_what_it_began_with(tmp_path: Path) -> None:
    storage = tmp_path / "study.db"
    known = accuracies(search(HERE))
    search(THERE, known=known, storage=storage, trials=5)
    with pytest.raises(SpecError, match="belongs to another search: known"):
        search(THERE, storage=storage, resume=True, trials=8)
    resumed = search(THERE, known=known, storage=storage, resume=True, trials=25)
    whole = search(THERE, known=known, trials=25)
    assert [t.architecture for t in resumed.trials] == [t.architecture for t in whole.trials]


def test_known_metrics_that_lack_an_objective_are_no_trials() -> None:
    some = HERE.smallest()
    result = search(THERE, known={some: {"top5": 0.9}}, trials=2)
    assert result.n_trials == 2
    assert all("top5" not in c.values for c in result.candidates if c.architecture != some)
