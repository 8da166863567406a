"""Importances of choices: what matters is found, what is chance is not, nothing crashes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping

import optuna
import pytest

from edgenas.objectives import parse_objectives
from edgenas.search.importance import LEAST, importances
from edgenas.search.tabulated import TabulatedSpace
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import MobileSpace, Stage

GENES = {f"g{i}": (0, 1, 2) for i in range(6)}
SPACE = TabulatedSpace(
    GENES, {row: {"top1": 0.0} for row in itertools.product((0, 1, 2), repeat=6)}
)
GOALS = parse_objectives(["max top1", "min latency_ms", "size_bytes <= 9"])


def tried(n: int, seed: int = 0) -> list[Architecture]:
    rng = random.Random(seed)
    return list(dict.fromkeys(SPACE.sample(rng) for _ in range(4 * n)))[:n]


def metrics(arch: Architecture, rng: random.Random) -> Mapping[str, float]:
    """Accuracy hangs on g1 (more is better), latency on g4 (more is worse)."""
    p = arch.params
    return {
        "top1": 0.5 + 0.1 * float(p["g1"]) + rng.gauss(0, 0.01),
        "latency_ms": 1.0 + float(p["g4"]) + rng.gauss(0, 0.01),
    }


def test_each_objective_has_its_own_choices() -> None:
    rng = random.Random(1)
    top1, latency = importances(SPACE, GOALS, {a: metrics(a, rng) for a in tried(80)})
    for found, metric, gene in ((top1, "top1", "g1"), (latency, "latency_ms", "g4")):
        assert found.metric == metric
        assert found.problem == ""
        assert next(iter(found.genes)) == gene
        assert sum(found.genes.values()) == pytest.approx(1.0)
        assert [g for g, share in found.genes.items() if share > found.chance] == [gene]
        assert found.n == 80


def test_noise_passes_chance_in_few_searches() -> None:
    """At a level of 5 %: of 20 searches without anything to find, more than 4 with are unlikely."""
    passed = 0
    for seed in range(20):
        rng = random.Random(seed)
        (found,) = importances(SPACE, GOALS[:1], {a: {"top1": rng.random()} for a in tried(40)})
        passed += any(share > found.chance for share in found.genes.values())
    assert passed <= 4


def test_a_choice_that_is_not_always_there_counts_where_it_is() -> None:
    rng = random.Random(0)
    space = MobileSpace(
        resolutions=(8,),
        stages=tuple(Stage(1, (8, 16), (1, 2), kernels=(3, 5), expands=(2, 3)) for _ in range(3)),
        stem_width=8,
        head_width=32,
    )
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(200)))
    values = {a: {"top1": float(a.params.get("s2.2.kernel", 3)) + rng.random()} for a in archs}
    (found,) = importances(space, GOALS[:1], values)
    assert set(list(found.genes)[:2]) == {"s2.2.kernel", "s2.depth"}
    assert found.genes["s2.2.kernel"] > found.chance


@pytest.mark.parametrize("n", [0, 1, LEAST - 1])
def test_too_few_trials_are_said_to_be(n: int) -> None:
    rng = random.Random(0)
    top1, _ = importances(SPACE, GOALS, {a: metrics(a, rng) for a in tried(n)})
    assert top1.problem == f"{n} trials are too few; {LEAST} are needed"
    assert not top1.genes


def test_trials_without_the_metric_do_not_count() -> None:
    rng = random.Random(0)
    values = {a: dict(metrics(a, rng)) for a in tried(60)}
    for arch in list(values)[:50]:
        del values[arch]["top1"]
    top1, latency = importances(SPACE, GOALS, values)
    assert top1.problem.startswith("10 trials are too few")
    assert (latency.n, latency.problem) == (60, "")


def test_a_constant_value_has_no_importances() -> None:
    (found,) = importances(SPACE, GOALS[:1], {a: {"top1": 0.5} for a in tried(40)})
    assert found.problem == "it is the same in all trials"


def test_what_optuna_cannot_tell_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(optuna.importance, "get_param_importances", fail)
    (found,) = importances(SPACE, GOALS[:1], {a: {"top1": i} for i, a in enumerate(tried(40))})
    assert found.problem == "Optuna could not tell: RuntimeError: no"


def test_the_same_trials_give_the_same() -> None:
    def once() -> object:
        rng = random.Random(3)
        return importances(SPACE, GOALS, {a: metrics(a, rng) for a in tried(40)})

    assert once() == once()
