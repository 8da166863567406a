import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from edgenas.errors import SpecError
from edgenas.latency import Entry, LatencyTable, TableDevice
from edgenas.profiling import (
    anchor_units,
    calibration_networks,
    missing_units,
    spread_architectures,
)
from edgenas.spaces import OpSpec
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
