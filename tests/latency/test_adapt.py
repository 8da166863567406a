"""A new device from a few networks: its truth is a mix of known devices, or its own."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.latency import LatencyTable, Predictor, read_table, write_table
from edgenas.latency.adapt import Adaptation
from edgenas.spaces import Lowering, OpSpec
from edgenas.spaces.mobile import SMALL

UNITS = tuple(SMALL.units())


def networks(n: int, *, seed: int) -> list[Lowering]:
    rng = random.Random(seed)
    return [SMALL.lower(SMALL.sample(rng)) for _ in range(n)]


def known(
    tables: Callable[..., LatencyTable], name: str, ms: Callable[[OpSpec], float]
) -> LatencyTable:
    table = tables({op: ms(op) for op in UNITS}, scale=1.0, per_part_ms=0.0)
    return replace(table, device=replace(table.device, name=name, chip=name))


@pytest.fixture(scope="module")
def devices(
    tables: Callable[..., LatencyTable], truth: Callable[[OpSpec], float]
) -> list[LatencyTable]:
    """Three devices that agree on little: one slow at calls, one at MACs, one at kernels of 5."""

    def at_fives(op: OpSpec) -> float:
        return truth(op) * (
            3 if any(n.op.kind == "conv" and n.op["k"] == 5 for n in op.primitives()) else 1
        )

    return [
        known(tables, "calls", lambda op: 0.02 * len(tuple(op.primitives())) + 1e-9 * op.macs),
        known(tables, "macs", lambda op: 0.001 + 1e-7 * op.macs),
        known(tables, "fives", at_fives),
    ]


def error(table: LatencyTable, nets: list[Lowering], ms: Callable[[Lowering], float]) -> float:
    return sum(abs(Predictor(table).predict(n).latency_ms / ms(n) - 1) for n in nets) / len(nets)


def test_a_mix_of_known_devices_is_found_from_ten_networks(devices: list[LatencyTable]) -> None:
    first, second, third = (Predictor(table) for table in devices)

    def ms(net: Lowering) -> float:
        parts = [p.predict(net).latency_ms for p in (first, second, third)]
        return 0.7 * parts[0] + 0.4 * parts[1] + 2.0 * parts[2]

    adaptation = Adaptation(devices, networks(120, seed=1))
    rows = adaptation.choose(10)
    assert len(set(rows)) == 10
    mine = adaptation.table(
        rows,
        [ms(adaptation.pool[row]) for row in rows],
        UNITS,
        device=replace(devices[0].device, name="new", chip="new"),
        created="2026-02-03",
    )
    assert mine.source == "calibrated"
    assert set(mine.entries) == set(UNITS)
    assert error(mine, networks(60, seed=2), ms) < 0.02
    assert mine.validation is not None
    assert mine.validation["error_median"] < 0.05
    best = mine.validation["baselines"]["nearest_device"]["error_median"]
    assert mine.validation["error_median"] < best


def test_a_device_like_none_is_told_by_its_interval(
    devices: list[LatencyTable], truth: Callable[[OpSpec], float]
) -> None:
    rng = random.Random(3)
    odd = {op: truth(op) * rng.choice((0.5, 1, 2)) for op in UNITS}

    def ms(net: Lowering) -> float:
        return sum(odd[op] for op in net)

    adaptation = Adaptation(devices, networks(120, seed=1))
    rows = adaptation.choose(12)
    mine = adaptation.table(
        rows,
        [ms(adaptation.pool[row]) for row in rows],
        UNITS,
        device=devices[0].device,
        created="2026-02-03",
    )
    nets = networks(60, seed=2)
    found = [Predictor(mine).predict(net) for net in nets]
    inside = [p.low_ms <= ms(net) <= p.high_ms for p, net in zip(found, nets, strict=True)]
    assert sum(inside) >= 0.75 * len(nets)
    assert mine.fits[0].interval > 0.02


def test_an_adapted_table_can_be_written_and_read(
    devices: list[LatencyTable], tmp_path: Path
) -> None:
    adaptation = Adaptation(devices, networks(40, seed=1))
    rows = adaptation.choose(5)
    mine = adaptation.table(
        rows, [1.0, 2.0, 1.5, 3.0, 2.5], UNITS, device=devices[0].device, created="2026-02-03"
    )
    path = tmp_path / f"{mine.name}.json"
    write_table(mine, path)
    assert read_table(path).digest == mine.digest


def test_a_table_that_does_not_cover_the_space_is_left_out(
    devices: list[LatencyTable], tables: Callable[..., LatencyTable]
) -> None:
    few = tables(dict.fromkeys(UNITS[:20], 1.0))
    adaptation = Adaptation([few, *devices], networks(40, seed=1))
    assert [p.table.name for p in adaptation.predictors] == [t.name for t in devices]
    with pytest.raises(SpecError, match="no known table covers"):
        Adaptation([few], networks(40, seed=1))


@pytest.mark.parametrize("n", [0, 3])
def test_too_few_networks_are_refused(devices: list[LatencyTable], n: int) -> None:
    adaptation = Adaptation(devices, networks(40, seed=1))
    with pytest.raises(SpecError, match=f"{n} networks are too few"):
        adaptation.choose(n)
    with pytest.raises(SpecError, match=f"{n} networks are too few"):
        adaptation.table(range(n), [1.0] * n, UNITS, device=devices[0].device, created="2026-02-03")
