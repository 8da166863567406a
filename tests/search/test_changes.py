"""Single changes, and differences that few trials let one expect."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import pytest

from edgenas.objectives import parse_objectives
from edgenas.search.changes import Estimates, single_changes
from edgenas.search.gaussian import GaussianProcess, Inputs
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import MobileSpace, Stage
from edgenas.testing.fakes import tiny_space

GOALS = parse_objectives(["max top1", "min macs"])
SPACE = MobileSpace(
    resolutions=(8, 12, 16),
    stages=tuple(Stage(1, (8, 12, 16), (1, 2), kernels=(3, 5), expands=(2, 3, 4)) for _ in "abc"),
    stem_width=8,
    head_width=32,
)


def cheap(arch: Architecture) -> Mapping[str, float]:
    return {"macs": float(SPACE.lower(arch).macs)}


def truth(arch: Architecture) -> float:
    """More is better everywhere, by genes that differ in weight."""
    p = arch.params
    widths = sum(0.01 * i * float(p[f"s{i}.width"]) / 8 for i in (1, 2, 3))
    return 0.5 + widths + 0.02 * float(p["r"]) / 8 + 0.03 * float(p["s2.depth"])


def test_every_change_of_the_tiny_space_is_one_step() -> None:
    space = tiny_space()
    genes = space.genes
    seen = 0
    for seed in range(30):
        arch = space.sample(random.Random(seed))
        changes = list(single_changes(space, arch))
        for change in changes:
            values = genes[change.gene]
            assert abs(values.index(change.new) - values.index(change.value)) == 1
            assert arch.params[change.gene] == change.value
            assert change.architecture.params[change.gene] == change.new
            kept = {g: v for g, v in change.architecture.params.items() if g in arch.params}
            assert {g for g in kept if kept[g] != arch.params[g]} == {change.gene}
            new = set(change.architecture.params) - set(arch.params)
            assert all(change.architecture.params[gene] == genes[gene][0] for gene in new)
        wanted = sum(
            (genes[g].index(v) > 0) + (genes[g].index(v) < len(genes[g]) - 1)
            for g, v in arch.params.items()
        )
        assert len(changes) == wanted
        seen += len(changes)
    assert seen > 100


def test_a_difference_of_predictions_is_the_difference() -> None:
    rng = np.random.default_rng(0)
    genes = np.eye(3)[rng.integers(0, 3, (20, 4))].reshape(20, 12)
    described = rng.normal(size=(20, 2))

    def some(at: slice) -> Inputs:
        return Inputs(genes[at], described[at], 4)

    model = GaussianProcess(some(slice(0, 12)), genes[:12] @ np.arange(12.0))
    one, other = some(slice(12, 16)), some(slice(16, 20))
    means, deviations = model.differences(one, other)
    before, after = model.predict(one)[0], model.predict(other)[0]
    assert means == pytest.approx(after - before)
    apart = model.predict(one)[1] ** 2 + model.predict(other)[1] ** 2
    assert (deviations**2 <= 2 * apart + 1e-9).all()
    assert model.differences(one, one)[1] == pytest.approx(np.zeros(4), abs=1e-6)


def test_a_point_left_out_is_missed_as_by_a_model_without_it() -> None:
    rng = np.random.default_rng(1)
    genes = np.eye(2)[rng.integers(0, 2, (15, 6))].reshape(15, 12)
    inputs = Inputs(genes, np.zeros((15, 1)), 6)
    y = genes @ rng.normal(size=12)
    model = GaussianProcess(inputs, y)
    rest = np.arange(1, 15)
    without = GaussianProcess(Inputs(genes[rest], np.zeros((14, 1)), 6), y[rest])
    missed = y[0] - without.predict(Inputs(genes[:1], np.zeros((1, 1)), 6))[0][0]
    assert model.left_out()[0] == pytest.approx(missed, abs=0.3 * float(y.std()))


def test_estimates_cover_the_truth() -> None:
    rng = random.Random(0)
    archs = list(dict.fromkeys(SPACE.sample(rng) for _ in range(60)))
    values = {a: truth(a) + rng.gauss(0, 0.002) for a in archs}
    estimates = Estimates.of(SPACE, GOALS, cheap, "top1", values)
    assert (estimates.n, estimates.problem) == (60, "")
    assert estimates.error < 0.3 * estimates.deviation
    inside = total = 0
    for arch in archs[:10]:
        changes = list(single_changes(SPACE, arch))
        found = estimates.differences(arch, [c.architecture for c in changes])
        assert found is not None
        for change, metric in zip(changes, found, strict=True):
            assert metric.origin == "estimated"
            assert metric.n == 60
            assert metric.low is not None
            assert metric.high is not None
            inside += metric.low <= truth(change.architecture) - truth(arch) <= metric.high
            total += 1
    assert inside / total > 0.8, f"{inside} of {total} in a 90 % interval"


@pytest.mark.parametrize(
    ("n", "constant", "problem"),
    [(0, False, "0 trials are too few"), (11, False, "11 trials are too few"),
     (30, True, "it is the same in all trials")],
)  # fmt: skip
def test_what_cannot_be_estimated_is_said(n: int, constant: bool, problem: str) -> None:  # noqa: FBT001
    rng = random.Random(0)
    archs = list(dict.fromkeys(SPACE.sample(rng) for _ in range(n)))
    values = {a: 0.5 if constant else truth(a) for a in archs}
    estimates = Estimates.of(SPACE, GOALS, cheap, "top1", values)
    assert estimates.problem.startswith(problem)
    assert estimates.differences(SPACE.smallest(), [SPACE.largest()]) is None


def test_noise_alone_lets_nothing_be_expected() -> None:
    rng = random.Random(2)
    archs = list(dict.fromkeys(SPACE.sample(rng) for _ in range(40)))
    estimates = Estimates.of(SPACE, GOALS, cheap, "top1", {a: rng.random() for a in archs})
    assert estimates.error > 0.9 * estimates.deviation
