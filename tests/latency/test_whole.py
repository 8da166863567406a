import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.latency import LatencyTable, Observed, Predictor, fit_whole, read_table, write_table
from edgenas.latency.cost import STAND_INS, stand_ins
from edgenas.latency.whole import shape_of
from edgenas.spaces import OpSpec
from edgenas.spaces.mobile import LARGE, SMALL

Truth = Callable[[OpSpec], float]


def drawn(truth: Truth, n: int, *, once_ms: float = 0.5, seed: int = 0) -> list[Observed]:
    """Random networks of SMALL, each a group, on a machine whose costs are known."""
    rng = random.Random(seed)
    nets = [SMALL.lower(SMALL.sample(rng)) for _ in range(n)]
    return [
        Observed(f"n{i}", f"n{i}", tuple(net), once_ms + sum(truth(op) for op in net))
        for i, net in enumerate(nets)
    ]


@pytest.fixture(scope="module")
def seen(truth: Truth) -> list[Observed]:
    return drawn(truth, 60)


def test_planted_costs_predict_networks_left_out(seen: list[Observed]) -> None:
    found = fit_whole(seen)
    assert statistics.median(found.errors) < 0.02
    assert statistics.median(found.errors) < statistics.median(found.baselines.macs_errors) / 3
    assert not found.analytic
    assert all(c >= 0 for c in found.model.coefficients.values())


def test_errors_are_of_networks_that_the_fit_has_not_seen(seen: list[Observed]) -> None:
    """A network measured wrongly must look wrong: held in, a free fit would bend towards it."""
    odd = [*seen[:20], replace(seen[20], latency_ms=3 * seen[20].latency_ms)]
    assert fit_whole(odd).errors[20] == pytest.approx(2 / 3, abs=0.1)


def test_a_group_is_left_out_whole(seen: list[Observed]) -> None:
    """Copies of one network in one group tell nothing of it; in groups of their own they do."""
    odd = [replace(seen[0], name=f"o{i}", latency_ms=5 * seen[0].latency_ms) for i in range(15)]
    together = [*seen[1:21], *(replace(o, group="odd") for o in odd)]
    apart = [*seen[1:21], *(replace(o, group=o.name) for o in odd)]
    assert min(fit_whole(together).errors[20:]) > 0.7
    assert max(fit_whole(apart).errors[20:]) < 0.7


def test_four_networks_get_the_pooled_model(seen: list[Observed]) -> None:
    found = fit_whole(seen[:4])
    assert found.strength == float("inf")
    assert found.fit.n_networks == 4


def test_a_shape_from_like_devices_needs_only_a_factor(seen: list[Observed], truth: Truth) -> None:
    shape = shape_of(seen)
    slow = [replace(o, latency_ms=7 * o.latency_ms) for o in drawn(truth, 4, seed=9)]
    found = fit_whole(slow, shape=shape)
    assert max(found.errors) < 0.15


def test_the_nearest_device_is_chosen_without_the_networks_left_out(seen: list[Observed]) -> None:
    twin = {o.name: 3 * o.latency_ms for o in seen}
    other = {o.name: 1.0 for o in seen}
    found = fit_whole(seen, others={"twin": twin, "other": other, "half": {"n0": 1.0}})
    assert found.baselines.nearest == "twin"
    assert found.baselines.nearest_errors is not None
    assert max(found.baselines.nearest_errors) < 1e-9
    assert not found.analytic  # it still beats MACs x constant
    stated = found.to_json("each left out")
    assert stated["baselines"]["nearest_device"]["device"] == "twin"
    assert stated["error_median"] == pytest.approx(statistics.median(found.errors), abs=1e-4)


def test_a_model_that_beats_neither_baseline_is_analytic(seen: list[Observed]) -> None:
    by_macs = [replace(o, latency_ms=sum(op.macs for op in o.ops) * 1e-6) for o in seen[:12]]
    twin = {o.name: o.latency_ms for o in by_macs}
    found = fit_whole(by_macs, others={"twin": twin})
    assert found.analytic


def test_too_few_networks_are_refused(seen: list[Observed]) -> None:
    with pytest.raises(SpecError, match="too few"):
        fit_whole(seen[:3])
    with pytest.raises(SpecError, match="too few"):
        fit_whole([replace(o, group="one") for o in seen])
    with pytest.raises(SpecError, match="0 ms"):
        Observed("n", "n", seen[0].ops, 0)


def test_a_group_never_seen_is_extrapolated_by_a_related_one(
    seen: list[Observed], table: LatencyTable
) -> None:
    """A table fitted without dense 3x3 and kernel 7 still prices every unit of the spaces."""
    plain = [
        replace(o, ops=tuple(op for op in o.ops if op.kind != "fused" and "k=7" not in op.key))
        for o in seen
    ]
    model = fit_whole(plain).model
    assert model.stand_ins["depthwise7"] == "depthwise5"
    published = replace(
        table, source="calibrated", entries={}, fits=(fit_whole(plain).fit,), cost_model=model
    )
    predictor = Predictor(published)
    for op in {*SMALL.units(), *LARGE.units()}:
        assert predictor.covers(op)
    found = predictor.predict(LARGE.lower(LARGE.largest()))
    assert found.origin == "extrapolated"
    assert found.latency_ms > 0
    assert found.measured_share == 0
    near = predictor.predict(next(n for n in map(SMALL.lower, [SMALL.smallest()])))
    assert near.low_ms < near.latency_ms < near.high_ms


def test_whatever_is_seen_every_group_of_the_spaces_has_a_stand_in() -> None:
    for seen in ({"pointwise"}, {"pointwise_hard", "dense3_stem"}, {"linear", "pointwise"}):
        found = stand_ins(seen)
        light = {"squeeze_excite", "pool", "add", "linear", "matmul", "binary", "scale", "copy"}
        light |= {"activate", "function", "resize", "pool2d", "deconv"}
        missing = set(STAND_INS) - seen - set(found)
        assert all(g.startswith("depthwise") or g in light for g in missing)


def test_a_fit_survives_its_file(seen: list[Observed], table: LatencyTable, tmp_path: Path) -> None:
    found = fit_whole(seen[:12])
    published = replace(
        table,
        source="calibrated",
        entries={},
        fits=(found.fit,),
        cost_model=found.model,
        validation=found.to_json("each left out"),
    )
    path = tmp_path / f"{published.name}.json"
    write_table(published, path)
    again = read_table(path)
    net = SMALL.lower(SMALL.largest())
    ours, theirs = (Predictor(t).predict(net).latency_ms for t in (published, again))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert again.error_median == pytest.approx(found.model.error_median, abs=1e-4)
    assert not again.rough
    assert replace(again, validation={"error_median": 0.21}).word == "calibrated, rough"


def test_only_many_networks_of_many_groups_may_leave_the_pooled_model(
    seen: list[Observed],
) -> None:
    """Else the errors would be of pooled fits and the table of a free one."""
    five = [replace(o, group=f"g{i % 5}") for i, o in enumerate(seen[:15])]
    assert fit_whole(five).strength == float("inf")
    assert fit_whole(seen[:11]).strength == float("inf")
    assert fit_whole(seen[:30]).strength < float("inf")
