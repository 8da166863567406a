"""NSGA-II as a function of the history: its first population, its offspring, its survivors."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest

from edgenas.errors import InfeasibleError
from edgenas.objectives import parse_objectives, total_violation
from edgenas.pareto import dominates
from edgenas.search.nsga2 import POPULATION, crowding, first, offspring, propose, survivors
from edgenas.search.problem import Problem, Trial, check_reachable, params_of, repair
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import default_space

SPACE = default_space(image_size=28, in_channels=1, n_classes=10)
OBJECTIVES = parse_objectives(["max top1", "min macs"])


def cheap(arch: Architecture) -> Mapping[str, float]:
    return {"macs": float(SPACE.lower(arch).macs)}


def trial(i: int, top1: float, macs: float, **more: float) -> Trial:
    arch = SPACE.sample(random.Random(i))
    params = params_of(SPACE, arch, random.Random(i))
    return Trial(arch, params, {"top1": top1, "macs": macs, **more})


def test_the_first_population_covers_the_range_of_sizes() -> None:
    rng = random.Random(0)
    found = [SPACE.architecture(first(SPACE, OBJECTIVES, cheap, rng, i)) for i in range(POPULATION)]
    assert found[0] == SPACE.smallest()
    assert found[1] == SPACE.largest()
    sizes = [math.log(cheap(arch)["macs"]) for arch in found]
    low, high = sizes[:2]
    shares = [(size - low) / (high - low) for size in sizes]
    gaps = [b - a for a, b in zip(sorted(shares), sorted(shares)[1:], strict=False)]
    assert max(gaps) < 0.25
    chance = [math.log(cheap(SPACE.sample(rng))["macs"]) for _ in range(POPULATION)]
    assert max(sizes[2:]) - min(sizes[2:]) > max(chance) - min(chance)


def test_a_proposal_is_new_and_within_the_cheap_bounds() -> None:
    smallest = cheap(SPACE.smallest())["macs"]
    objectives = parse_objectives(["max top1", f"min macs <= {2 * smallest:.0f}"])
    history: list[Trial] = []
    rng = random.Random(1)
    for i in range(POPULATION + 30):
        params = propose(SPACE, objectives, history, cheap, rng)
        assert set(params) == set(SPACE.genes)
        arch = SPACE.architecture(params)
        assert cheap(arch)["macs"] <= 2 * smallest
        assert arch not in {t.architecture for t in history}
        pending = i % 7 == 3
        metrics = {} if pending else {"top1": rng.random(), **cheap(arch)}
        history.append(Trial(arch, params, metrics, pending=pending))


def test_the_same_history_and_seed_give_the_same_proposal() -> None:
    history = [trial(i, i / 40, 1e6 + i) for i in range(40)]
    proposals = [
        dict(propose(SPACE, OBJECTIVES, history, cheap, random.Random(seed))) for seed in (3, 3, 4)
    ]
    assert proposals[0] == proposals[1] != proposals[2]


def test_survivors_are_feasible_then_undominated_then_apart() -> None:
    objectives = parse_objectives(["max top1", "min macs <= 100"])
    front = [trial(i, 0.5 + i / 100, 50.0 + i) for i in range(5)]
    dominated = trial(10, 0.4, 60)
    near, far = trial(11, 0.99, 110), trial(12, 0.99, 200)
    ranked = survivors([far, dominated, near, *front], objectives, 8)
    assert {t.architecture for t in ranked[:5]} == {t.architecture for t in front}
    assert {t.metrics["macs"] for t in ranked[:2]} == {50.0, 54.0}  # the ends of the front
    assert ranked[5:] == [dominated, near, far]
    assert survivors([far, dominated, near, *front], objectives, 3) == ranked[:3]
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
        assert all(child != dict(p.params) for p in parents) or changed
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
        repaired = SPACE.architecture(repair(SPACE, objectives, cheap, params, rng))
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
