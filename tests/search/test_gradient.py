"""The strategy `gradient` on a known function of the genes, whose gradients are exact."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.objectives import parse_objectives
from edgenas.search import Gradients, SearchResult, run_search
from edgenas.search.bench import run_bench
from edgenas.search.bench_problems import BenchProblem
from edgenas.search.gradient import LESSONS, TOLERANCE, next_aim, propose
from edgenas.search.problem import Problem
from edgenas.spaces import Architecture, Choice
from edgenas.spaces.mobile import default_space

SPACE = default_space(image_size=28, in_channels=1, n_classes=10)
WORTH = {
    gene: [random.Random(gene).uniform(0.5, 1.5) * i**0.7 for i in range(len(values))]
    for gene, values in SPACE.genes.items()
}
"""What each value of a gene takes off the loss; of later stages more than they cost."""


@cache
def cheap(arch: Architecture) -> Mapping[str, float]:
    lowering = SPACE.lower(arch)
    return {"macs": float(lowering.macs), "params": float(lowering.params)}


def loss(params: Mapping[str, Choice]) -> float:
    active = SPACE.architecture(params).params
    return 3.0 - 0.02 * sum(
        WORTH[gene][SPACE.genes[gene].index(value)] for gene, value in active.items()
    )


def costly(arch: Architecture) -> Mapping[str, float]:
    return {"top1": math.exp(-loss(arch.params))}


class Exact:
    """Gradients as differences of the loss; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Choice]] = []

    def __call__(self, params: Mapping[str, Choice], seed: int) -> dict[str, dict[Choice, float]]:
        self.asked.append(dict(params))
        noise = random.Random(seed)
        return {
            gene: {v: loss({**params, gene: v}) + noise.gauss(0, 0.002) for v in values}
            for gene, values in SPACE.genes.items()
        }


def search(*texts: str, **settings: object) -> SearchResult:
    given = {"gradients": Gradients(Exact()), "trials": 8, "strategy": "gradient"} | settings
    return run_search(SPACE, parse_objectives(texts), cheap=cheap, costly=costly, **given)  # type: ignore[arg-type]


def target_macs() -> float:
    small, large = (cheap(a)["macs"] for a in (SPACE.smallest(), SPACE.largest()))
    return math.sqrt(small * large)


class Curved(Exact):
    """Slopes as a supernet's are: from wherever one stands, every other value looks better."""

    def __call__(self, params: Mapping[str, Choice], seed: int) -> dict[str, dict[Choice, float]]:
        slopes = super().__call__(params, seed)
        for gene, values in SPACE.genes.items():
            chosen = values.index(params[gene])
            for i, value in enumerate(values):
                slopes[gene][value] -= 0.1 * abs(i - chosen)
        return slopes


# the last seed is one on which slopes from one side alone lead to worse networks than chance
@pytest.mark.long
@pytest.mark.parametrize(("seed", "gradients"), [(0, Exact), (1, Exact), (2, Exact), (2, Curved)])
def test_it_uses_up_the_bound_and_beats_fifty_random_networks(
    seed: int, gradients: type[Exact]
) -> None:
    target = target_macs()
    bound = f"macs <= {target:.0f}"
    found = search("max top1", bound, seed=seed, gradients=Gradients(gradients()))
    for candidate in found.candidates:
        assert (1 - TOLERANCE) * target <= candidate.values["macs"] <= target
    rng = random.Random(seed)
    chance: list[float] = []
    while len(chance) < 50:
        arch = SPACE.sample(rng)
        if cheap(arch)["macs"] <= target:
            chance.append(costly(arch)["top1"])
    assert max(c.values["top1"] for c in found.candidates) > max(chance)


@pytest.mark.long
def test_proposals_spread_over_the_range_of_the_cost() -> None:
    found = search("max top1", "min macs", trials=12)
    macs = sorted(c.values["macs"] for c in found.candidates)
    low, high = (cheap(a)["macs"] for a in (SPACE.smallest(), SPACE.largest()))
    assert macs[-1] > 0.9 * high
    assert macs[0] < 1.5 * low
    gaps = [math.log(b / a) for a, b in itertools.pairwise(macs)]
    assert max(gaps) < 0.35 * math.log(high / low)
    reference = {"top1": 0.0, "macs": high}
    best = [
        search("max top1", "min macs", trials=12, strategy=s, reference=reference).hypervolume
        for s in ("gradient", "random")
    ]
    assert best[0] > best[1]


def test_aims_take_turns_between_devices_and_keep_to_bounds() -> None:
    two = problem("max top1", "min macs <= 4e6", "min params")
    aims = [next_aim(two, i) for i in range(8)]
    assert [a.metric for a in aims if a] == ["macs", "params"] * 4
    assert aims[0] is not None
    assert aims[0].target == pytest.approx(4e6)
    assert all(a.target <= 4e6 * (1 + 1e-9) for a in aims if a and a.metric == "macs")
    alone = problem("max top1", "params <= 1e5")
    assert {next_aim(alone, i) for i in range(5)} == {next_aim(alone, 0)}
    assert next_aim(problem("max top1"), 0) is None


def problem(*texts: str, gradients: Gradients | None = None) -> Problem:
    return Problem(SPACE, parse_objectives(texts), cheap, gradients=gradients)


def test_without_a_cost_it_finds_the_most_accurate() -> None:
    found = search("max top1", trials=3)
    best = costly(SPACE.largest())["top1"]
    assert found.front.candidates[0].values["top1"] > 0.98 * best


@pytest.mark.long
def test_the_same_history_and_seed_give_the_same_proposal() -> None:
    def proposed(seed: int) -> Mapping[str, Choice]:
        bound = f"macs <= {target_macs():.0f}"
        gradients = Gradients(Exact(), seed=seed)
        return propose(problem("max top1", bound, gradients=gradients), [], random.Random(1))

    first, again, *others = (dict(proposed(seed)) for seed in (1, 1, 2, 3, 4))
    assert first == again
    assert any(other != first for other in others)


@pytest.mark.long
def test_gradients_are_asked_for_a_set_number_of_lessons_however_many_trials(
    tmp_path: Path,
) -> None:
    exact = Exact()
    whole = search("max top1", "min macs", trials=16, gradients=Gradients(exact, 3))
    assert len(exact.asked) == 3 * LESSONS
    file, resumed = tmp_path / "study.sqlite", Exact()
    search("max top1", "min macs", trials=13, gradients=Gradients(Exact(), 3), storage=file)
    found = search(
        *("max top1", "min macs"),
        trials=16,
        gradients=Gradients(resumed, 3),
        storage=file,
        resume=True,
    )
    assert [t.architecture for t in found.trials] == [t.architecture for t in whole.trials]
    assert len(resumed.asked) <= 3 * LESSONS


def test_progressive_depth_begins_with_shallow_stages() -> None:
    exact = Exact()
    task = problem("max top1", "min macs", gradients=Gradients(exact, 9, progressive_depth=True))
    propose(task, [], random.Random(0))
    depths = {gene: values for gene, values in SPACE.genes.items() if gene.endswith("depth")}
    assert depths
    for gene, values in depths.items():
        assert [exact.asked[i][gene] for i in range(2)] == [values[0]] * 2
    deepest = max(sum(values.index(p[g]) for g, values in depths.items()) for p in exact.asked[6:])
    assert deepest > 0


def test_it_needs_a_supernet() -> None:
    with pytest.raises(SpecError, match="needs a supernet"):
        search("max top1", "min macs", gradients=None)


def test_a_benchmark_without_a_supernet_is_refused_before_it_begins() -> None:
    evaluated: list[Architecture] = []

    def recorded(arch: Architecture) -> Mapping[str, float]:
        evaluated.append(arch)
        return costly(arch)

    objectives = parse_objectives(["max top1", "min macs"])
    reference = {"top1": 0.0, "macs": 2e7}
    without = BenchProblem("a formula", SPACE, objectives, cheap, recorded, reference)
    with pytest.raises(SpecError, match="needs a supernet"):
        run_bench(without, ["random", "gradient"], [3], [0])
    assert not evaluated
