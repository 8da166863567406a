import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import SpecError
from edgenas.latency import Fit, Sample, fit_networks
from edgenas.latency.fit import conformal, sum_of_parts
from edgenas.spaces import OpSpec, conv


def networks(
    scale: float, constant: float, *, n: int = 12, noise: float = 0.0, depth: int | None = None
) -> list[Sample]:
    rng = random.Random(n)
    samples = []
    for _ in range(n):
        parts = depth or rng.randint(4, 40)
        total = sum(rng.uniform(0.02, 0.5) for _ in range(parts))
        measured = (scale * total + constant * parts) * (1 + rng.uniform(-noise, noise))
        samples.append(Sample(total, parts, measured))
    return samples


@settings(max_examples=50)
@given(st.floats(0.3, 3.0), st.floats(-0.005, 0.02))
def test_planted_scale_and_constant_are_found(scale: float, constant: float) -> None:
    fit = fit_networks(networks(scale, constant))
    assert fit.scale == pytest.approx(scale, rel=1e-6)
    assert fit.per_part_ms == pytest.approx(constant, abs=1e-8)
    assert fit.error_max < 1e-6
    assert fit.n_networks == 12


def test_what_a_network_pays_once_is_found_and_otherwise_left_out() -> None:
    samples = [replace(x, measured_ms=x.measured_ms + 0.5) for x in networks(0.9, 0.004)]
    fit = fit_networks(samples)
    assert fit.per_network_ms == pytest.approx(0.5)
    assert (fit.scale, fit.per_part_ms) == pytest.approx((0.9, 0.004))
    assert fit.network_ms(2.0, 10) == pytest.approx(0.9 * 2 + 0.04 + 0.5)
    noisy = [fit_networks(networks(0.9, 0.004, n=n, noise=0.03)) for n in range(10, 30)]
    assert sum(fit.per_network_ms != 0 for fit in noisy) <= 5


def test_a_few_networks_that_were_disturbed_hardly_count() -> None:
    samples = networks(0.9, 0.004, n=16, noise=0.01)
    for i in (2, 7, 11):
        samples[i] = replace(samples[i], measured_ms=1.15 * samples[i].measured_ms)
    fit = fit_networks(samples)
    assert fit.network_ms(5.2, 20) == pytest.approx(0.9 * 5.2 + 0.08, rel=0.01)


def test_order_does_not_matter() -> None:
    samples = networks(0.9, -0.002, noise=0.05)
    turned = fit_networks(samples[::-1])
    fit = fit_networks(samples)
    assert turned.scale == pytest.approx(fit.scale)
    assert turned.error_mean == pytest.approx(fit.error_mean)


def test_errors_are_those_of_networks_left_out() -> None:
    """One network off by half must show up in full: a fit that saw it would bend towards it."""
    samples = networks(1.0, 0.0, n=8)
    odd = samples[3]
    samples[3] = Sample(odd.sum_ms, odd.n_parts, odd.measured_ms * 1.5)
    assert fit_networks(samples).error_max >= 1 - 1 / 1.5 - 1e-6


def test_relative_errors_decide_not_absolute_ones() -> None:
    small = [Sample(0.01 * i, i, 0.02 * i) for i in range(1, 9)]
    fit = fit_networks([*small, Sample(1000.0, 10, 1000.0)])
    assert abs(fit.network_ms(0.05, 5) / 0.1 - 1) < 0.15


def test_networks_of_one_depth_still_give_a_usable_fit() -> None:
    fit = fit_networks([Sample(1.0 * i, i, 2.0 * i) for i in range(1, 9)])  # collinear
    assert fit.scale == pytest.approx(2.0)
    assert fit.per_part_ms == 0.0
    fit = fit_networks(networks(0.7, 0.001, depth=10))
    assert fit.error_max < 1e-6


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(SpecError, match="8 are needed"):
        fit_networks(networks(1.0, 0.0, n=7))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_times_are_refused(bad: float) -> None:
    with pytest.raises(SpecError):
        Sample(1.0, 1, bad)
    with pytest.raises(SpecError):
        Sample(bad, 1, 1.0)
    with pytest.raises(SpecError):
        Fit("unit", bad, 0.0, 8, 0.0, 0.0, 0.0, 0.0)


def test_a_negative_constant_never_gives_a_network_less_than_a_tenth_of_its_parts() -> None:
    fit = Fit("unit", 1.0, -1.0, 8, 0.0, 0.0, 0.0, 0.0)
    assert fit.network_ms(2.0, 5) == pytest.approx(0.2)
    assert fit.network_ms(20.0, 5) == pytest.approx(15.0)


def test_the_interval_is_the_conformal_quantile() -> None:
    assert conformal([0.1] * 8) == 0.1
    assert conformal(list(range(1, 9))) == 8  # too few to leave one out
    assert conformal(list(range(1, 20))) == 18  # ceil(20 x 0.9)


@pytest.mark.long
def test_the_interval_holds_nine_of_ten_new_networks() -> None:
    held = total = 0
    for seed in range(40):
        rng = random.Random(seed)
        everything = []
        for _ in range(40):
            parts = rng.randint(4, 40)
            s = sum(rng.uniform(0.02, 0.5) for _ in range(parts))
            everything.append(Sample(s, parts, (0.8 * s + 0.01 * parts) * rng.gauss(1, 0.03)))
        fit = fit_networks(everything[:20])
        for new in everything[20:]:
            p = fit.network_ms(new.sum_ms, new.n_parts)
            held += p * (1 - fit.interval) <= new.measured_ms <= p * (1 + fit.interval)
            total += 1
    assert 0.86 <= held / total <= 0.98


def test_parts_without_a_convolution_count_for_what_is_above_a_call() -> None:
    parts = [
        (conv(8, 8, 4, 4, 3), 0.03),
        (OpSpec.of("linear", cin=8, cout=4), 0.025),
        (OpSpec.of("pool", c=8, h=4, w=4), 0.009),
    ]
    assert sum_of_parts(parts) == (pytest.approx(0.064), 3)
    assert sum_of_parts(parts, call_ms=0.01) == (pytest.approx(0.045), 1)


def test_with_edges_all_parts_count_for_what_is_above_a_call_and_those() -> None:
    parts = [
        (conv(16, 16, 4, 4, 3, g=16), 0.03),
        (OpSpec.of("pool", c=16, h=4, w=4), 0.009),
        (OpSpec.of("pool", c=16, h=2, w=2), 0.006),
    ]
    edges = {"run.depthwise_reads": 1e-5, "run.writes": 2e-5}
    inside = 0.03 - 0.005 - 1e-5 * 256 - 2e-5 * 256
    inside += 0.009 - 0.005 - 2e-5 * 16 + 0.006 - 0.005 - 2e-5 * 16
    assert sum_of_parts(parts, call_ms=0.005, edges=edges) == (pytest.approx(inside), 1)
    least = 0.02 * (0.009 + 0.006) + 0.03 - 0.01 - 7.68e-3
    assert sum_of_parts(parts, call_ms=0.01, edges=edges) == (pytest.approx(least), 1)
