import random
import re
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgenas.errors import MissingUnitsError
from edgenas.latency import Entry, LatencyTable, Predictor, fit_cost
from edgenas.latency.fit import Fit
from edgenas.spaces import Lowering, OpSpec, chain
from edgenas.spaces.batch import decode, draw
from edgenas.spaces.mobile import SMALL

PLAIN = Fit("unit", 1.0, 0.0, 8, 0.0, 0.0, 0.1, 0.0)


def random_network(seed: int) -> Lowering:
    return SMALL.lower(SMALL.sample(random.Random(seed)))


def entry(ms: float) -> Entry:
    return Entry(ms, ms, ms, ms, 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_network_is_scale_times_sum_plus_constant_times_parts(
    table: LatencyTable, truth: Callable[[OpSpec], float], seed: int
) -> None:
    net = random_network(seed)
    found = Predictor(table).predict(net)
    expected = 0.8 * sum(truth(op) for op in net) - 0.003 * len(net)
    assert found.latency_ms == pytest.approx(expected, rel=1e-6)
    assert sum(u.latency_ms for u in found.per_unit) == pytest.approx(found.latency_ms)
    assert found.low_ms <= found.latency_ms <= found.high_ms
    assert found.measured_share == 1.0
    assert found.origin == "predicted"
    assert [u.name for u in found.per_unit] == [node.name for node in net.nodes]
    assert [u.key for u in found.per_unit] == [op.key for op in net]
    assert {u.origin for u in found.per_unit} == {"measured"}


def test_the_order_of_a_tables_entries_changes_nothing(table: LatencyTable) -> None:
    turned = replace(table, entries=dict(reversed(table.entries.items())))
    for seed in range(20):
        net = random_network(seed)
        assert Predictor(turned).predict(net) == Predictor(table).predict(net)


def test_the_coarsest_measured_cover_counts(table: LatencyTable) -> None:
    net = random_network(0)
    block = next(op for op in net if op.is_block)
    parts = [node.op for node in block.primitives()]
    fine = {op: entry(0.001) for op in parts}
    both = replace(table, entries={block: entry(5.0), **fine}, fits=(PLAIN,))
    one = chain(block.in_chw, [("b", block)])
    assert Predictor(both).predict(one).latency_ms == pytest.approx(5.0)
    primitive = replace(PLAIN, granularity="primitive", scale=2.0, per_part_ms=0.5)
    only_parts = replace(table, entries=fine, fits=(PLAIN, primitive))
    found = Predictor(only_parts).predict(one)
    assert found.latency_ms == pytest.approx(len(parts) * (2.0 * 0.001 + 0.5))
    assert found.measured_share == 1.0
    assert Predictor(only_parts).measured(block)


def test_a_missing_primitive_is_never_counted_as_nothing(table: LatencyTable) -> None:
    block = next(op for op in SMALL.units() if op.is_block)
    parts = [node.op for node in block.primitives()]
    partly = replace(table, entries={op: entry(0.1) for op in parts[1:]})
    with pytest.raises(MissingUnitsError):
        Predictor(partly).predict(chain(block.in_chw, [("b", block)]))


def test_missing_units_are_listed_with_the_remedy(table: LatencyTable) -> None:
    net = random_network(0)
    keep = dict(table.entries)
    gone = list(dict.fromkeys(op for op in net if op.is_block))[:2]
    for op in gone:
        del keep[op]
    predictor = Predictor(replace(table, entries=keep))
    with pytest.raises(MissingUnitsError) as caught:
        predictor.predict(net)
    for op in gone:
        assert op.key in str(caught.value)
        assert not predictor.covers(op)
    assert caught.value.hint == f"edgenas profile {table.name}"
    assert caught.value.exit_code == 3


def test_the_cost_model_stands_in_and_widens_the_interval(
    table: LatencyTable, truth: Callable[[OpSpec], float]
) -> None:
    net = random_network(0)
    rng = random.Random(0)
    gone = {op for op in net if op.kind == "inverted"}
    left = {op: e for op, e in table.entries.items() if op not in gone}
    cost = fit_cost({op: truth(op) * rng.lognormvariate(0, 0.1) for op in left})
    found = Predictor(replace(table, entries=left, cost_model=cost)).predict(net)
    full = Predictor(table).predict(net)
    assert found.latency_ms == pytest.approx(full.latency_ms, rel=0.15)
    assert found.high_ms - found.low_ms > full.high_ms - full.low_ms
    assert 0 < found.measured_share < 1
    assert {u.origin for u in found.per_unit} == {"measured", "predicted"}
    assert found.origin == "predicted"


def test_beyond_the_fitted_shapes_it_is_extrapolated(costed: LatencyTable) -> None:
    huge = OpSpec.of(
        "inverted", act="relu6", cin=64, hidden=256, cout=64, h=112, w=112, k=3, s=1, se=0, skip=1
    )
    found = Predictor(costed).predict(chain(huge.in_chw, [("b", huge)]))
    assert found.origin == "extrapolated"
    assert found.measured_share == 0.0
    assert Predictor(costed).covers(huge)
    assert not Predictor(costed).measured(huge)


def test_the_interval_holds_the_value_also_where_it_has_no_width(table: LatencyTable) -> None:
    fit = replace(PLAIN, interval=0.0, per_network_ms=0.017)
    predictor = Predictor(replace(table, fits=(fit,)))
    for seed in range(60):  # sums of shares are rounded up in some, down in others
        found = predictor.predict(random_network(seed))
        assert found.low_ms <= found.latency_ms <= found.high_ms
        assert found.high_ms == pytest.approx(found.low_ms)


@pytest.mark.parametrize("source", ["estimated", "calibrated", "analytic"])
def test_a_prediction_bears_the_word_of_its_table(table: LatencyTable, source: str) -> None:
    other = replace(table, source=source)  # type: ignore[arg-type]
    found = Predictor(other).predict(random_network(0))
    assert found.origin == source
    assert {u.origin for u in found.per_unit} == {source}


def test_constants_never_outweigh_tiny_parts(table: LatencyTable) -> None:
    fit = replace(PLAIN, per_part_ms=-1.0)
    found = Predictor(replace(table, fits=(fit,))).predict(random_network(0))
    assert found.latency_ms > 0
    assert 0 <= found.low_ms <= found.latency_ms <= found.high_ms
    assert sum(u.latency_ms for u in found.per_unit) == pytest.approx(found.latency_ms)


def test_a_unit_smaller_than_the_constant_still_costs_something(table: LatencyTable) -> None:
    net = random_network(0)
    times = sorted(table.entries[op].latency_ms for op in net)
    fit = replace(PLAIN, per_part_ms=-(times[0] + times[1]) / 2)
    found = Predictor(replace(table, fits=(fit,))).predict(net)
    assert all(0 <= u.low_ms <= u.latency_ms <= u.high_ms for u in found.per_unit)
    assert min(u.latency_ms for u in found.per_unit) > 0
    assert sum(u.latency_ms for u in found.per_unit) == pytest.approx(found.latency_ms)
    assert found.low_ms <= found.latency_ms <= found.high_ms


def test_what_a_network_pays_once_is_added_once(table: LatencyTable) -> None:
    wide = replace(table, fits=(replace(table.fits[0], interval=0.1),))
    once = replace(table, fits=(replace(wide.fits[0], per_network_ms=0.05),))
    for seed in range(5):
        net = random_network(seed)
        before, found = Predictor(wide).predict(net), Predictor(once).predict(net)
        assert found.latency_ms == pytest.approx(before.latency_ms + 0.05)
        assert sum(u.latency_ms for u in found.per_unit) == pytest.approx(found.latency_ms)
        for told in (before, found):
            assert told.low_ms == pytest.approx(0.9 * told.latency_ms)
            assert told.high_ms == pytest.approx(1.1 * told.latency_ms)


def test_without_a_fit_the_interval_is_wide(table: LatencyTable) -> None:
    found = Predictor(replace(table, fits=())).predict(random_network(0))
    assert found.low_ms == pytest.approx(found.latency_ms / 2)


def test_thousands_of_networks_are_predicted_in_a_second(table: LatencyTable) -> None:
    """A floor far below what was seen, so that a busy machine passes; quadratic code does not."""
    predictor = Predictor(table)
    nets = [random_network(seed) for seed in range(50)]
    for net in nets:
        predictor.predict(net)
    start = time.process_time()
    for _ in range(20):
        for net in nets:
            predictor.predict(net)
    assert 1000 / (time.process_time() - start) > 2000


@pytest.mark.parametrize("once_ms", [0.0, 0.004, -0.5])
def test_many_at_once_are_as_one_by_one(table: LatencyTable, once_ms: float) -> None:
    predictor = Predictor(replace(table, fits=(replace(PLAIN, scale=0.8, per_network_ms=once_ms),)))
    codes = draw(SMALL, 100, np.random.default_rng(0))
    found = predictor.in_batches(SMALL)(codes)
    alone = [predictor.predict(SMALL.lower(a)).latency_ms for a in decode(SMALL, codes)]
    assert found.tolist() == pytest.approx(alone, rel=1e-9)


def test_in_batches_a_missing_unit_is_refused(table: LatencyTable) -> None:
    lost = next(op for op in SMALL.units() if op.is_block)
    entries = {op: e for op, e in table.entries.items() if op != lost}
    with pytest.raises(MissingUnitsError, match=re.escape(lost.key)):
        Predictor(replace(table, entries=entries, cost_model=None)).in_batches(SMALL)
