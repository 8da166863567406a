"""Values of a report: undominated points against a plain search, pairs, rough tables."""

import itertools
import random
from dataclasses import replace

import pytest

from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.report.model import Evaluated, RunView, Table, undominated
from edgenas.report.numbers import Reading, log_ticks, points, reading, significant, ticks


def candidate(digest: str, **values: float) -> Evaluated:
    return Evaluated(f"test/1 {digest}", digest, {n: Metric(v, "made") for n, v in values.items()})


@pytest.mark.parametrize("seed", range(20))
def test_undominated_agrees_with_comparing_all_with_all(seed: int) -> None:
    rng = random.Random(seed)
    x, y = Objective.parse("min latency_ms"), Objective.parse("max top1")
    some = tuple(
        candidate(str(i), latency_ms=rng.randrange(8), top1=rng.randrange(8)) for i in range(12)
    )

    def beats(a: Evaluated, b: Evaluated) -> bool:
        ax, ay = a.metrics["latency_ms"].value, a.metrics["top1"].value
        bx, by = b.metrics["latency_ms"].value, b.metrics["top1"].value
        return ax <= bx and ay >= by and (ax, ay) != (bx, by)

    expected = {c.digest for c in some if not any(beats(other, c) for other in some)}
    found = undominated(some, x, y)
    assert {c.digest for c in found} == expected
    latencies = [c.metrics["latency_ms"].value for c in found]
    assert latencies == sorted(latencies)


def test_candidates_without_both_metrics_are_left_out() -> None:
    x, y = Objective.parse("min latency_ms"), Objective.parse("max top1")
    assert undominated((candidate("a", top1=1.0),), x, y) == ()


def test_what_is_won_lies_upward_in_every_pair() -> None:
    goals = tuple(
        map(Objective.parse, ("max top1", "min latency_ms", "size_bytes <= 5", "min macs"))
    )
    pairs = RunView("r", goals, ()).pairs()
    assert [(x.name, y.name) for x, y in pairs] == [
        ("latency_ms", "top1"),
        ("macs", "top1"),
        ("latency_ms", "macs"),
    ]


def test_a_latency_is_rough_by_its_own_table() -> None:
    good = Table("a-litert-int8-t1", "measured", error_median=0.2)
    rough = Table("b-litert-int8-t1", "calibrated", error_median=0.201)
    unknown = Table("c-litert-int8-t1", "analytic")
    view = RunView("r", (), (), tables=(good, rough, unknown))
    assert view.rough_devices == {rough.device}
    assert view.rough_metric(f"latency_ms@{rough.device}")
    assert not view.rough_metric(f"latency_ms@{good.device}")
    assert not view.rough_metric(f"size_bytes@{rough.device}")
    assert not view.rough_metric("latency_ms")
    assert replace(view, tables=(rough, good)).rough_metric("latency_ms")


def test_metrics_read_with_their_units() -> None:
    assert reading("latency_ms").text(1.2345) == "1.23 ms"
    assert reading("macs").text(15_500_000) == "15.5 M"
    assert reading("energy_mj").text(3) == "3.00 mJ"
    assert reading("unheard_of").text(0.5) == "0.500"
    assert reading("latency_ms@x").is_latency
    assert not reading("timeout_s").is_latency
    assert reading("peak_memory_bytes") == Reading("peak memory", "KiB", 1 / 1024)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.000123, "0.000123"), (9.996, "10.00"), (-2.5, "-2.50"), (1e12, "1e+12")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_points_are_signed_and_never_minus_nothing() -> None:
    assert [points(v) for v in (0.0, -0.00004, 0.0123, -0.01)] == ["0.00", "0.00", "+1.23", "-1.00"]


@pytest.mark.parametrize("seed", range(30))
def test_ticks_are_even_and_inside(seed: int) -> None:
    rng = random.Random(seed)
    low = rng.uniform(-100, 100)
    high = low + 10 ** rng.uniform(-4, 4)
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_logarithmic_ticks_are_round_and_inside(seed: int) -> None:
    rng = random.Random(seed)
    low = 10 ** rng.uniform(-4, 4)
    high = low * 10 ** rng.uniform(1, 6)
    found = log_ticks(low, high)
    assert 1 <= len(found) <= 8
    assert found == sorted(found)
    assert all(low <= t <= high for t in found)
    assert all(f"{t:e}".split("e")[0].rstrip(".0") in {"1", "2", "5"} for t in found)


def test_ticks_of_one_value() -> None:
    assert ticks(2.0, 2.0) == [2.0]
