"""The best few networks for many devices: against trying all of them, and who cannot be served."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgenas.fleet as fleet_module
from edgenas.errors import InfeasibleError, SpecError
from edgenas.fleet import (
    Fleet,
    Option,
    choose_fleets,
    device_bounds,
    fleet_objectives,
    loads,
    options_for,
)
from edgenas.objectives import parse_objectives
from edgenas.pareto import Metric

DEVICES = ("a", "b", "c")


def option(digest: str, accuracy: float, **latencies: float) -> Option:
    return Option(digest, accuracy, {d: Metric(v, "predicted") for d, v in latencies.items()})


def naive(options: Sequence[Option], devices: Sequence[str], k: int) -> tuple[int, int, float]:
    """The least (loss in millionths, worst loss, latency) over all choices of at most `k`."""
    best = [max(o.units for o in options if d in o.latencies) for d in devices]
    found = []
    for size in range(1, k + 1):
        for chosen in itertools.combinations(options, size):
            losses, ms = [], 0.0
            for d, own in zip(devices, best, strict=True):
                fitting = [o for o in chosen if d in o.latencies]
                if not fitting:
                    break
                used = min(fitting, key=lambda o: (-o.units, o.latencies[d].value))
                losses.append(own - used.units)
                ms += used.latencies[d].value
            else:
                found.append((sum(losses), max(losses), round(ms, 6)))
    return min(found, default=(-1, -1, -1.0))


def cost(fleet: Fleet) -> tuple[int, int, float]:
    losses = [round(a.loss * 1e6) for a in fleet.assignments]
    ms = sum(a.latency.value for a in fleet.assignments)
    return sum(losses), max(losses), round(ms, 6)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Option], tuple[str, ...]]:
    """Few distinct accuracies and latencies, so that ties are common."""
    devices = DEVICES[: draw(st.integers(2, 3))]
    options = []
    for i in range(draw(st.integers(1, 7))):
        fits = draw(st.sets(st.sampled_from(devices)))
        latencies = {d: float(draw(st.integers(1, 3))) for d in sorted(fits)}
        options.append(option(f"n{i}", draw(st.integers(5, 9)) / 10, **latencies))
    return options, devices


@pytest.mark.parametrize("few", [0, fleet_module._FEW])
@settings(deadline=None, max_examples=40)
@given(case=cases())
def test_a_choice_is_as_good_as_the_best_of_all(
    few: int, case: tuple[list[Option], tuple[str, ...]]
) -> None:
    options, devices = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet_module, "_FEW", few)
        _as_good_as_the_best(options, devices)


def _as_good_as_the_best(options: Sequence[Option], devices: Sequence[str]) -> None:
    if any(all(d not in o.latencies for o in options) for d in devices):
        with pytest.raises(InfeasibleError):
            choose_fleets(options, devices)
        return
    found = {fleet.k: fleet for fleet in choose_fleets(options, devices)}
    for k in range(1, len(devices) + 1):
        best = naive(options, devices, k)
        assert (cost(found[k]) if k in found else (-1, -1, -1.0)) == best
    for k, fleet in found.items():
        assert len(fleet.networks) <= k
        assert [a.device for a in fleet.assignments] == list(devices)


@pytest.mark.parametrize("few", [0, fleet_module._FEW])
def test_six_devices_and_many_networks_against_trying_all(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "_FEW", few)
    rng = random.Random(0)
    devices = tuple("abcdef")
    pace = {d: rng.uniform(0.5, 3) for d in devices}
    options = []
    for i in range(14):
        size = rng.uniform(1, 10)
        top1 = round(0.5 + size / 25 + rng.uniform(0, 0.02), 3)
        times = {d: size * pace[d] * rng.uniform(0.7, 1.4) for d in devices}
        fitting = {d: ms for d, ms in times.items() if ms <= 12 or i == 0}
        options.append(option(f"n{i:02}", top1, **fitting))
    found = choose_fleets(options, devices)
    assert [fleet.k for fleet in found] == [1, 2, 3, 4, 5, 6]
    for fleet in found:
        assert cost(fleet) == naive(options, devices, fleet.k)
    means = [fleet.mean_loss for fleet in found]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0
    assert means[-1] == 0


def test_the_order_in_which_networks_come_does_not_matter() -> None:
    rng = random.Random(1)
    options = [
        option(f"n{i}", rng.choice([0.8, 0.9]), a=rng.choice([1.0, 2.0]), b=1.0) for i in range(9)
    ]
    expected = choose_fleets(options, ("a", "b"))
    rng.shuffle(options)
    assert choose_fleets(options, ("a", "b")) == expected


def test_ties_go_to_the_worst_device_then_to_fewer_ms_then_to_the_digest() -> None:
    even = [option("e1", 0.8, a=1.0), option("e2", 0.8, b=1.0, c=9.0)]
    best = [option("x", 0.9, a=1.0), option("y", 0.9, b=1.0), option("z", 0.9, c=1.0)]
    first = choose_fleets([option("q", 0.7, a=1, b=1, c=1), *even, *best], DEVICES)[0]
    assert set(first.networks) == {"q"}
    uneven = [option("u", 0.8, a=1, b=1), option("v", 0.7, a=1, b=1)]
    assert set(choose_fleets([*uneven, option("t", 0.8, a=2, b=1)], ("a", "b"))[0].networks) == {
        "u"
    }
    twins = [option("n2", 0.8, a=1, b=1), option("n1", 0.8, a=1, b=1)]
    assert set(choose_fleets(twins, ("a", "b"))[0].networks) == {"n1"}
    # sums alike: 0.9 + 0.7 with a loss of 0.2 at one device, or 0.8 + 0.8 with 0.1 at both
    own = [option("o1", 0.9, a=1), option("o2", 0.9, b=1), option("s", 0.8, a=5, b=5)]
    apart = [option("l1", 0.9, a=1, c=1), option("l2", 0.7, b=1)]
    fleet = choose_fleets([*own, *apart, option("o3", 0.9, c=1)], ("a", "b"))[0]
    assert set(fleet.networks) == {"s"}


def test_one_network_may_not_do_for_all() -> None:
    fleets = choose_fleets([option("x", 0.9, a=1), option("y", 0.8, b=1)], ("a", "b"))
    assert [fleet.k for fleet in fleets] == [2]
    assert fleets[0].networks == {"x": ("a",), "y": ("b",)}


def test_many_devices_and_networks_are_soon_chosen() -> None:
    rng = random.Random(2)
    devices = [f"d{i}" for i in range(12)]
    options = []
    for i in range(300):
        size = rng.uniform(1, 10)
        fits = {d: size * rng.uniform(0.3, 3) for d in devices}
        options.append(option(f"n{i:03}", 0.5 + size / 25 + rng.uniform(0, 0.01),
                              **{d: ms for d, ms in fits.items() if ms <= 8}))  # fmt: skip
    fleets = choose_fleets(options, devices)
    assert fleets[-1].mean_loss == 0
    for one, other in itertools.pairwise(fleets):
        assert other.mean_loss <= one.mean_loss + 1e-12


def test_networks_alike_but_on_some_devices_do_not_outnumber_the_better_one() -> None:
    options = [
        option("a", 0.9, a=1, b=2), option("b", 0.9, b=1, c=2), option("z", 0.9, a=1, b=1, c=1)
    ]  # fmt: skip
    for fleet in choose_fleets(options, DEVICES):
        assert fleet.networks == {"z": DEVICES}


def test_a_choice_that_time_ran_out_for_says_how_far_it_may_be_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import scipy.optimize

    solve = scipy.optimize.milp

    def hurried(*arguments: object, **options: object) -> object:
        result = solve(*arguments, **options)
        result.status, result.mip_dual_bound = 1, result.fun - 30_000
        return result

    monkeypatch.setattr(scipy.optimize, "milp", hurried)
    monkeypatch.setattr(fleet_module, "_FEW", 0)
    options = [option("x", 0.9, a=1), option("y", 0.8, b=1), option("z", 0.7, a=1, b=1)]
    first, second = choose_fleets(options, ("a", "b"))
    assert first.gap == pytest.approx(0.015)
    assert second.gap == 0


OBJECTIVES = parse_objectives(
    ["max top1", "latency_ms@a <= 2", "min latency_ms@b <= 4", "peak_memory_bytes@b <= 100",
     "macs <= 50"]
)  # fmt: skip


def metrics(
    top1: float, a: float, b: float, memory: float = 10, macs: float = 10
) -> dict[str, Metric]:
    values = {"top1": top1, "latency_ms@a": a, "latency_ms@b": b, "peak_memory_bytes@b": memory}
    return {name: Metric(value, "x") for name, value in {**values, "macs": macs}.items()}


def test_a_search_for_a_fleet_takes_what_one_device_can_run() -> None:
    found = fleet_objectives(OBJECTIVES, ("a", "b"))
    assert list(map(str, found)) == [
        "max top1", "min latency_ms@b", "macs <= 50", "min mean_load", "least_load <= 1"
    ]  # fmt: skip

    def load(a: float, b: float, memory: float = 10) -> dict[str, float]:
        values = {n: m.value for n, m in metrics(0.9, a, b, memory).items()}
        return loads(OBJECTIVES, ("a", "b"), values)

    assert load(1, 4) == pytest.approx({"least_load": 0.5, "mean_load": 0.5})
    assert load(3, 3) == pytest.approx({"least_load": 0.75, "mean_load": 1.5})
    assert load(3, 3, 200) == pytest.approx({"least_load": 1.5, "mean_load": 1.5})


def test_a_network_runs_where_all_bounds_of_the_device_hold() -> None:
    networks = {
        "both": metrics(0.8, 1, 1),
        "a": metrics(0.9, 1, 5),
        "memory": metrics(0.95, 1, 3, 101),
        "macs": metrics(0.99, 1, 1, 1, 51),
        "unknown": {"top1": Metric(0.99, "x")},
    }
    found = options_for(networks, OBJECTIVES, ("a", "b"), accuracy="top1")
    assert {o.digest: set(o.latencies) for o in found} == {
        "both": {"a", "b"}, "a": {"a"}, "memory": {"a"}, "macs": set()
    }  # fmt: skip


def test_who_cannot_be_served_is_named_with_the_nearest_network() -> None:
    networks = {"near": metrics(0.8, 2.5, 1), "far": metrics(0.9, 4, 1)}
    with pytest.raises(InfeasibleError, match=r"bounds of a: the nearest is near, with") as caught:
        options_for(networks, OBJECTIVES, ("a", "b"), accuracy="top1")
    assert "latency_ms@a = 2.5" in str(caught.value)
    assert "relax 'latency_ms@a <= 2' to 'latency_ms@a <= 2.5'" in caught.value.hint


def test_every_device_needs_a_bound_and_there_are_several() -> None:
    with pytest.raises(SpecError, match="none says what c may take") as caught:
        device_bounds(OBJECTIVES, DEVICES)
    assert "latency_ms@c <= NUMBER" in caught.value.hint
    with pytest.raises(SpecError, match="several devices"):
        device_bounds(OBJECTIVES, ("a",))
