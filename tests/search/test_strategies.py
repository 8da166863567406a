"""Strategies as functions of the history: first designs, offspring, survivors, proposals."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from edgenas.errors import InfeasibleError
from edgenas.objectives import Objective, parse_objectives, total_violation
from edgenas.pareto import dominates
from edgenas.search import evolution, nsga2, nsga3, reinforce, surrogate
from edgenas.search.moves import spread
from edgenas.search.nsga2 import POPULATION, crowding, offspring, survivors
from edgenas.search.problem import Problem, Propose, Trial, check_reachable, params_of, repair
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import default_space

SPACE = default_space(image_size=28, in_channels=1, n_classes=10)
OBJECTIVES = parse_objectives(["max top1", "min macs"])
OWN = pytest.mark.parametrize(
    "propose",
    [
        pytest.param(module.propose, id=module.__name__.rpartition(".")[2])
        for module in (surrogate, nsga2, nsga3, evolution, reinforce)
    ],
)


def cheap(arch: Architecture) -> Mapping[str, float]:
    return {"macs": float(SPACE.lower(arch).macs)}


def problem(*texts: str) -> Problem:
    return Problem(SPACE, parse_objectives(texts) if texts else OBJECTIVES, cache(cheap))


def trial(i: int, top1: float, macs: float, **more: float) -> Trial:
    arch = SPACE.sample(random.Random(i))
    params = params_of(SPACE, arch, random.Random(i))
    return Trial(i, arch, params, {"top1": top1, "macs": macs, **more})


def real_trial(i: int) -> Trial:
    """A trial whose accuracy grows with its size and its fused blocks."""
    arch = SPACE.sample(random.Random(i))
    return evaluated(i, params_of(SPACE, arch, random.Random(i)))


def evaluated(i: int, params: Mapping[str, str | int]) -> Trial:
    arch = SPACE.architecture(params)
    macs = cheap(arch)["macs"]
    fused = sum(value == "fused" for value in arch.params.values())
    return Trial(
        i, arch, params, {"top1": 0.5 + 0.05 * math.log(macs / 1e6) + 0.01 * fused, "macs": macs}
    )


def test_a_first_design_covers_the_range_of_sizes() -> None:
    rng = random.Random(0)
    found = [SPACE.architecture(spread(problem(), rng, i, 20)) for i in range(20)]
    assert found[0] == SPACE.smallest()
    assert found[1] == SPACE.largest()
    sizes = [math.log(cheap(arch)["macs"]) for arch in found]
    low, high = sizes[:2]
    shares = [(size - low) / (high - low) for size in sizes]
    gaps = [b - a for a, b in zip(sorted(shares), sorted(shares)[1:], strict=False)]
    assert max(gaps) < 0.25
    chance = [math.log(cheap(SPACE.sample(rng))["macs"]) for _ in range(20)]
    assert max(sizes[2:]) - min(sizes[2:]) > max(chance) - min(chance)


@pytest.mark.long
@OWN
def test_a_proposal_is_new_and_within_the_cheap_bounds(propose: Propose) -> None:
    bound = 2 * cheap(SPACE.smallest())["macs"]
    task = problem("max top1", f"min macs <= {bound:.0f}")
    history: list[Trial] = []
    rng = random.Random(1)
    for i in range(POPULATION + 30):
        params = propose(task, history, rng)
        assert set(params) == set(SPACE.genes)
        found = evaluated(i, params)
        assert found.metrics["macs"] <= bound
        assert found.architecture not in {t.architecture for t in history}
        # every seventh fails or is still running
        history.append(Trial(i, found.architecture, params, {} if i % 7 == 3 else found.metrics))


@OWN
def test_the_same_history_and_seed_give_the_same_proposal(propose: Propose) -> None:
    history = [real_trial(i) for i in range(40)]
    proposals = [dict(propose(problem(), history, random.Random(seed))) for seed in (3, 3, 4)]
    assert proposals[0] == proposals[1]
    # a batch of the surrogate follows from the trials alone
    assert (proposals[0] == proposals[2]) is (propose is surrogate.propose)


@pytest.mark.long
@OWN
def test_an_objective_of_one_axis_three_axes_and_a_costly_bound(propose: Propose) -> None:
    for texts in (
        ["max top1"],
        ["max top1", "min macs", "min params"],
        ["min macs", "top1 >= 0.6"],
        ["max top1 >= 0.55", "min macs"],
    ):
        task = Problem(SPACE, parse_objectives(texts), cache(counted))
        history: list[Trial] = []
        for i in range(30):
            params = propose(task, history, random.Random(i))
            found = evaluated(i, params)
            history.append(
                Trial(
                    i, found.architecture, params, {**found.metrics, **counted(found.architecture)}
                )
            )
        assert len({t.architecture for t in history}) == 30


def counted(arch: Architecture) -> Mapping[str, float]:
    lowering = SPACE.lower(arch)
    return {"macs": float(lowering.macs), "params": float(lowering.params)}


def test_survivors_are_feasible_then_undominated_then_apart() -> None:
    objectives = parse_objectives(["max top1", "min macs <= 100"])
    front = [trial(i, 0.5 + i / 100, 50.0 + i) for i in range(5)]
    dominated = trial(10, 0.4, 60)
    near, far = trial(11, 0.99, 110), trial(12, 0.99, 200)
    ranked = survivors([far, dominated, near, *front], objectives)
    assert {t.architecture for t in ranked[:5]} == {t.architecture for t in front}
    assert {t.metrics["macs"] for t in ranked[:2]} == {50.0, 54.0}  # the ends of the front
    assert ranked[5:] == [dominated, near, far]
    many = [trial(100 + i, 0.3, 60.0 + i) for i in range(POPULATION)]
    assert len(survivors([*many, *front], objectives)) == POPULATION
    points = [(t.metrics["top1"], t.metrics["macs"]) for t in ranked[:5]]
    assert not any(dominates(p, q, ["max", "min"]) for p in points for q in points)


def test_crowding_is_the_gap_between_the_neighbours() -> None:
    assert crowding([[0, 4], [1, 3], [3, 1], [4, 0]]) == [
        math.inf,
        pytest.approx(3 / 4 + 3 / 4),
        pytest.approx(3 / 4 + 3 / 4),
        math.inf,
    ]
    assert crowding([[1, 1], [1, 1], [1, 1]])[1] == 0
    assert crowding([]) == []


def test_offspring_mix_two_parents_and_always_change() -> None:
    rng = random.Random(0)
    parents = [trial(i, 0.5, 1.0) for i in range(2)]
    inherited = changed = 0
    for _ in range(200):
        child = offspring(SPACE, parents, rng)
        assert all(child[name] in values for name, values in SPACE.genes.items())
        known = [any(child[n] == p.params[n] for p in parents) for n in child]
        inherited += sum(known)
        changed += len(known) - sum(known)
        assert all(child != dict(p.params) for p in parents)
        assert offspring(SPACE, parents[:1], rng) != dict(parents[0].params)
    share = changed / (inherited + changed)
    assert 0.01 < share < 0.12


def test_repair_lowers_the_violation_step_by_step() -> None:
    smallest = cheap(SPACE.smallest())["macs"]
    bound = 1.5 * smallest
    objectives = parse_objectives(["max top1", f"macs <= {bound:.0f}"])
    rng = random.Random(0)
    sizes = set()
    for _ in range(5):
        params = params_of(SPACE, SPACE.sample(rng), rng)
        repaired = SPACE.architecture(repair(Problem(SPACE, objectives, cheap), params, rng))
        assert total_violation(objectives, cheap(repaired)) == 0
        sizes.add(cheap(repaired)["macs"])
    assert len(sizes) == 5
    assert max(sizes) > 1.2 * smallest, "repaired ones lie near the bound, not at the smallest"


def test_bounds_are_checked_together() -> None:
    smallest, largest = (cheap(a)["macs"] for a in (SPACE.smallest(), SPACE.largest()))
    for text in (f"macs <= {smallest:.0f}", f"macs >= {largest:.0f}"):
        objectives = parse_objectives(["max top1", text])
        check_reachable(Problem(SPACE, objectives, cheap), random.Random(0))
    for text in (f"macs <= {smallest - 1:.0f}", f"macs >= {largest + 1:.0f}"):
        objectives = parse_objectives(["max top1", text])
        with pytest.raises(InfeasibleError, match="nearest reached is"):
            check_reachable(Problem(SPACE, objectives, cheap), random.Random(0))


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_reference_directions_are_spread_over_the_simplex(axes: int) -> None:
    found = list(nsga3.reference_directions(axes))
    assert len(found) >= (POPULATION if axes > 1 else 1)
    assert len(set(found)) == len(found)
    assert all(sum(direction) == pytest.approx(1) for direction in found)
    assert {max(direction) for direction in found} >= {1.0}, "the corners are among them"


def test_nsga3_survivors_lie_in_all_directions() -> None:
    crowd = [trial(i, 0.9 - i * 1e-4, 50.0 - i * 1e-4) for i in range(POPULATION)]
    apart = [trial(100 + i, 0.1 + i / 10, 10.0 + 5 * i) for i in range(5)]
    kept = nsga3.survivors([*crowd, *apart], OBJECTIVES)
    assert len(kept) == POPULATION
    assert {t.number for t in apart} <= {t.number for t in kept}


def test_evolution_forgets_what_is_old() -> None:
    best = trial(0, 0.99, 1.0)
    recent = [trial(1 + i, 0.5, 100.0 + i) for i in range(evolution.POPULATION)]
    far = Counter[int]()
    for seed in range(20):
        child = evolution.propose(problem(), [best, *recent], random.Random(seed))
        changed = min(
            recent, key=lambda t: sum(child[name] != t.params[name] for name in SPACE.genes)
        )
        far[sum(child[name] != changed.params[name] for name in SPACE.genes)] += 1
    assert max(far) < 0.5 * len(SPACE.genes), "children of the recent ones"


def test_a_policy_learns_which_values_pay() -> None:
    history = [real_trial(i) for i in range(100)]
    reward = np.array([float(t.architecture.params["s1.kind"] == "fused") for t in history])
    policy = reinforce.learned(problem(), history, reward)
    kinds = SPACE.genes["s1.kind"]
    assert policy["s1.kind"][kinds.index("fused")] > 0.9
    assert all(p.sum() == pytest.approx(1) for p in policy.values())
    others = [p.max() * len(p) for gene, p in policy.items() if gene != "s1.kind"]
    assert np.mean(others) < 1.5, "what says nothing stays open: 1 is uniform"


def test_advantages_go_by_rank() -> None:
    found = reinforce.advantages(np.array([0.1, 0.9, 0.2, 0.5, 0.5, 0.3, -1e6, 0.0]))
    assert np.allclose([found.mean(), found.std()], [0, 1])
    assert np.argmax(found) == 1
    assert found[3] == found[4] > found[5], "a tie is a tie"
    assert np.ptp(found[[0, 2, 6, 7]]) < 1e-12, "how bad the worse half is does not matter"
    assert not reinforce.advantages(np.full(5, 0.5)).any()


def test_rewards_are_for_accuracy_within_an_aim() -> None:
    grid = [trial(i, 0.5 + (i % 4) / 10, 10.0 * 2 ** (i // 4)) for i in range(16)]
    aims = set()
    for seed in range(20):
        found = reinforce.rewards(OBJECTIVES, grid, problem(), random.Random(seed)).reshape(4, 4)
        assert (np.diff(found, axis=1) > 0).all(), "more accurate at the same cost"
        assert (np.diff(found, axis=0) <= 1e-12).all(), "cheaper at the same accuracy"
        aims.add(int((found[:, 3] > found[0, 3] - 1e-12).sum()))
    assert len(aims) >= 3, "different costs are aimed at"


def test_rewards_of_several_objectives_are_weighted() -> None:
    several: tuple[Objective, ...] = parse_objectives(["max top1", "min macs", "min size"])
    history = [trial(i, 0.5 + i / 100, 10.0, size=5.0) for i in range(10)]
    assert np.argmax(reinforce.rewards(several, history, problem(), random.Random(0))) == 9


def test_the_surrogate_finds_what_its_trials_show() -> None:
    """Fused blocks are more accurate at the same cost here: the batch proposes them."""
    history = [real_trial(i) for i in range(42)]
    found = surrogate.batch(problem(), history, 10)
    assert len(found) == 10
    archs = [SPACE.architecture(params) for params in found]
    assert len(set(archs)) == len(archs)
    front = [
        t
        for t in history
        if not any(
            dominates(
                (o.metrics["top1"], o.metrics["macs"]),
                (t.metrics["top1"], t.metrics["macs"]),
                ["max", "min"],
            )
            for o in history
        )
    ]
    better = sum(
        not any(
            dominates(
                (t.metrics["top1"], t.metrics["macs"]),
                (new.metrics["top1"], new.metrics["macs"]),
                ["max", "min"],
            )
            for t in front
        )
        for new in (evaluated(0, params) for params in found)
    )
    assert better >= 8


def test_a_failed_proposal_is_not_made_again() -> None:
    task = problem()
    history = [real_trial(i) for i in range(surrogate.FIRST)]
    for i in range(surrogate.FIRST, surrogate.FIRST + 25):
        params = surrogate.propose(task, history, random.Random(i))
        arch = SPACE.architecture(params)
        assert arch not in {t.architecture for t in history}
        history.append(Trial(i, arch, params, {}))


def test_with_a_prior_every_trial_has_a_model_of_all_before_it() -> None:
    history = [real_trial(i) for i in range(surrogate.FIRST + 3)]
    elsewhere = {t.architecture: t.metrics for t in map(real_trial, range(100, 120))}
    for prior, known in ((elsewhere, [13, 14, 15]), ({}, [12, 15])):
        task = replace(problem(), prior=prior)
        for n in (13, 14, 15):
            surrogate.propose(task, history[:n], random.Random(n))
        models = sorted(len(key[1]) for key in task.memory if key[0] == "surrogate")
        assert models == known


def test_batches_grow_with_the_trials() -> None:
    starts = {surrogate.present_batch(n) for n in range(surrogate.FIRST, 400)}
    at = surrogate.FIRST
    for start, size in sorted(starts):
        assert start == at
        assert size >= surrogate.BATCH
        at = start + size
    assert surrogate.present_batch(surrogate.FIRST) == (surrogate.FIRST, surrogate.BATCH)
    assert surrogate.present_batch(390)[1] > 15
    assert surrogate.present_batch(20, 6, 1) == (20, 1), "a model a trial, while trials are few"
