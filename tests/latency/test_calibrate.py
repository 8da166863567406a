import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.latency import LatencyTable, Predictor, read_table, rescale, write_table
from edgenas.spaces import Lowering, OpSpec
from edgenas.spaces.mobile import SMALL


def networks(n: int) -> list[Lowering]:
    rng = random.Random(5)
    return [SMALL.lower(SMALL.sample(rng)) for _ in range(n)]


def there(table: LatencyTable, net: Lowering, scale: float, constant: float) -> float:
    return scale * Predictor(table).predict(net).latency_ms + constant * len(net)


@pytest.mark.parametrize(("scale", "constant"), [(2.5, 0.0), (0.4, 0.0), (1.7, 0.004)])
def test_another_machine_of_its_own_pace_is_matched(
    table: LatencyTable, scale: float, constant: float
) -> None:
    device = replace(table.device, name="local-litert-fp32-t1", chip="other")
    known = [(net, there(table, net, scale, constant)) for net in networks(8)]
    mine = rescale(table, known, device=device, created="2026-02-03")
    assert mine.source == "calibrated"
    assert mine.name == "local-litert-fp32-t1"
    for net in networks(30)[8:]:
        found = Predictor(mine).predict(net)
        assert found.latency_ms == pytest.approx(there(table, net, scale, constant), rel=1e-3)
        assert found.origin == "calibrated"
    assert mine.validation is not None
    assert mine.validation["error_mean"] < 1e-3
    assert mine.conditions["calibrated_from_digest"] == table.digest


def test_noise_is_told_in_the_validation_and_the_interval(table: LatencyTable) -> None:
    rng = random.Random(0)
    known = [(net, there(table, net, 2.0, 0.0) * rng.gauss(1, 0.1)) for net in networks(10)]
    mine = rescale(table, known, device=table.device, created="2026-02-03")
    assert mine.validation is not None
    assert 0.02 < mine.validation["error_mean"] < 0.2
    assert mine.fits[0].interval >= mine.validation["error_median"]
    others = networks(30)[10:]
    ratios = [Predictor(mine).predict(n).latency_ms / there(table, n, 2.0, 0.0) for n in others]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.1)


def test_a_constant_is_kept_only_where_it_helps(table: LatencyTable) -> None:
    known = [(net, there(table, net, 2.0, 0.0)) for net in networks(4)]
    mine = rescale(table, known, device=table.device, created="2026-02-03")
    assert mine.conditions["per_part_ms"] == 0.0  # four networks are too few to tell


def test_a_calibrated_table_is_a_table(
    tmp_path: Path, table: LatencyTable, truth: Callable[[OpSpec], float]
) -> None:
    known = [(net, there(table, net, 2.0, 0.0)) for net in networks(8)]
    mine = rescale(table, known, device=table.device, created="2026-02-03")
    write_table(mine, tmp_path / "x.json")
    again = read_table(tmp_path / "x.json")
    assert again.source == "calibrated"
    net = networks(9)[8]
    assert Predictor(again).predict(net).latency_ms == pytest.approx(
        Predictor(mine).predict(net).latency_ms, rel=1e-4
    )


def test_a_table_without_a_fit_gets_one(table: LatencyTable) -> None:
    bare = replace(table, fits=())
    known = [(net, there(bare, net, 3.0, 0.0)) for net in networks(5)]
    mine = rescale(bare, known, device=table.device, created="2026-02-03")
    net = networks(9)[8]
    assert Predictor(mine).predict(net).latency_ms == pytest.approx(there(bare, net, 3.0, 0.0))


def test_too_few_or_impossible_times_are_refused(table: LatencyTable) -> None:
    known = [(net, 1.0) for net in networks(3)]
    with pytest.raises(SpecError, match="3 are needed"):
        rescale(table, known[:2], device=table.device, created="2026-02-03")
    with pytest.raises(SpecError, match="positive"):
        rescale(table, [*known[:2], (known[2][0], 0.0)], device=table.device, created="2026-02-03")
