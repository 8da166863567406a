import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from edgenas.errors import SpecError, UsageError
from edgenas.latency import Entry, LatencyTable, TableDevice
from edgenas.networks import unit_network
from edgenas.profiling import (
    affordable,
    anchor_units,
    calibration_networks,
    general_primitives,
    missing_units,
    plain_stacks,
    spread_architectures,
)
from edgenas.spaces import Lowering, OpSpec
from edgenas.spaces.mobile import SMALL, MobileSpace, Stage

Make = Callable[[dict[OpSpec, float]], LatencyTable]


def table_of(times: dict[OpSpec, float]) -> LatencyTable:
    device = TableDevice("d", "D", "cpu", "c", "litert", "1", "fp32", 1)
    entries = {op: Entry(ms, ms, ms, ms, 1) for op, ms in times.items()}
    return LatencyTable(device, "measured", "2026-01-02", entries)


def test_missing_are_units_held_neither_whole_nor_in_all_parts() -> None:
    units = list(SMALL.units())
    block = next(op for op in units if op.is_block)
    parts = [node.op for node in block.primitives()]
    assert missing_units(units, None) == units
    assert block not in missing_units(units, table_of({block: 1.0}))
    assert block not in missing_units(units, table_of(dict.fromkeys(parts, 1.0)))
    assert block in missing_units(units, table_of(dict.fromkeys(parts[1:], 1.0)))
    left = missing_units(units, table_of({block: 1.0}))
    assert left == [op for op in units if op in set(left)]


def test_networks_are_spread_over_macs_and_depth() -> None:
    chosen = calibration_networks(SMALL, 12, seed=0)
    assert len(set(chosen)) == 12
    macs = [SMALL.lower(arch).macs for arch in chosen]
    depths = [len(SMALL.lower(arch)) for arch in chosen]
    assert macs == sorted(macs)
    assert chosen[0] == SMALL.smallest()
    rng = random.Random(0)
    drawn = [SMALL.sample(rng) for _ in range(12)]
    assert macs[-1] / macs[0] > 2 * max(SMALL.lower(a).macs for a in drawn) / min(
        SMALL.lower(a).macs for a in drawn
    )
    assert min(depths) == len(SMALL.lower(SMALL.smallest()))
    assert max(depths) == len(SMALL.lower(SMALL.largest()))


def test_the_seed_decides_and_the_excluded_stay_out() -> None:
    first = calibration_networks(SMALL, 8, seed=0)
    assert calibration_networks(SMALL, 8, seed=0) == first
    assert calibration_networks(SMALL, 8, seed=1) != first
    others = spread_architectures(SMALL, 24, seed=0, exclude=first)
    assert not set(first) & set(others)


def test_a_space_too_small_is_told() -> None:
    stage = Stage(1, widths=(8,), depths=(1,), kernels=(3,), expands=(2,))
    tiny = MobileSpace((8, 12), (stage,), stem_width=8, head_width=8)
    assert len(calibration_networks(tiny, 2, seed=0)) == 2
    with pytest.raises(SpecError, match="3 architectures are wanted, 2 found"):
        calibration_networks(tiny, 3, seed=0)


def test_anchors_are_spread_over_latencies_whatever_the_order() -> None:
    units = list(SMALL.units())[:100]
    table = table_of({op: 1.0 + i for i, op in enumerate(units)})
    anchors = anchor_units(table, 10)
    assert [table.entries[op].latency_ms for op in anchors] == [6.0 + 10 * i for i in range(10)]
    turned = replace(table, entries=dict(reversed(table.entries.items())))
    assert anchor_units(turned, 10) == anchors
    assert len(anchor_units(table_of({units[0]: 1.0}), 10)) == 1


def fit_networks() -> dict[str, Lowering]:
    return {a.digest: SMALL.lower(a) for a in calibration_networks(SMALL, 16, seed=0)}


def test_where_time_suffices_everything_is_timed() -> None:
    units, networks = list(SMALL.units()), fit_networks()
    assert affordable(SMALL, units, networks, len(units) + 16) == (units, networks)


@pytest.mark.parametrize("n", [110, 160, 220])
def test_a_short_measurement_times_whole_networks_and_what_matters_most(n: int) -> None:
    units, networks = list(SMALL.units()), fit_networks()
    some, kept = affordable(SMALL, units, networks, n)
    assert len(some) + len(kept) <= n
    assert len(some) + len(kept) > n - 12
    assert len(kept) >= 8
    assert all(set(net) <= set(some) for net in kept.values())
    assert some == [op for op in units if op in set(some)]
    rng = random.Random(9)
    drawn = [SMALL.lower(SMALL.sample(rng)) for _ in range(50)]
    share = sum(op.macs for net in drawn for op in net if op in set(some))
    assert share / sum(net.macs for net in drawn) > 1.05 * len(some) / len(units)


def test_units_that_an_earlier_table_holds_cost_nothing() -> None:
    units, networks = list(SMALL.units()), fit_networks()
    first, _ = affordable(SMALL, units, networks, 150)
    left = [op for op in units if op not in set(first)]
    some, kept = affordable(SMALL, left, networks, 60)
    assert len(kept) >= 8
    assert set(some) <= set(left)
    assert len(some) + len(kept) <= 60


def test_too_little_time_for_a_fit_is_refused() -> None:
    units, networks = list(SMALL.units()), fit_networks()
    with pytest.raises(UsageError, match="20 models can be timed, but a fit needs 8"):
        affordable(SMALL, units, networks, 20)


def test_plain_stacks_are_of_the_spaces_units_but_none_of_its_networks() -> None:
    stacks = plain_stacks(SMALL, 20, seed=0)
    assert plain_stacks(SMALL, 20, seed=0) == stacks
    assert len(set(stacks)) == 20
    units = set(SMALL.units())
    deepest = len(SMALL.lower(SMALL.largest()))
    for stack in stacks:
        assert set(stack) <= units
        for node, following in itertools.pairwise(stack.nodes):
            assert node.op.out_chw == following.op.in_chw
            if node.op.in_chw == node.op.out_chw and node.op.is_block:
                same = following.op == node.op or following.op.in_chw != following.op.out_chw
                assert same, "a stage repeats one block"
    assert max(map(len, stacks)) > deepest


def test_general_primitives_are_what_their_names_say() -> None:
    ops = general_primitives()
    assert len(set(ops)) == len(ops) <= 220
    kinds = {op.kind for op in ops}
    assert {"conv", "conv2d", "deconv", "add", "linear", "pool", "pool2d", "resize"} <= kinds
    assert "activate" in kinds
    for op in ops:
        network = unit_network(op, seed=0)
        with torch.no_grad():
            output = network(*network.example_inputs())
        assert output.numel() == math.prod(op.out_chw), op.key
