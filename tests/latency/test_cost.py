import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from edgenas.latency import CostModel, fit_cost
from edgenas.latency.cost import MAX_KERNEL, edge_ms, features, non_negative, shape_ranges
from edgenas.spaces import OpSpec, conv
from edgenas.spaces.mobile import SMALL


def test_planted_costs_are_found_and_predict_units_that_were_not_timed(
    truth: Callable[[OpSpec], float],
) -> None:
    units = list(SMALL.units())
    random.Random(0).shuffle(units)
    model = fit_cost({op: truth(op) for op in units[:300]})
    assert model is not None
    errors = []
    for op in units[300:]:
        guess = model.unit_ms(op)
        assert guess is not None
        errors.append(abs(guess / truth(op) - 1))
    assert sorted(errors)[len(errors) // 2] < 0.03
    assert model.error_median < 0.03
    assert all(c >= 0 for c in model.coefficients.values())


def test_the_interval_holds_most_new_units(truth: Callable[[OpSpec], float]) -> None:
    rng = random.Random(3)
    units = list(SMALL.units())
    rng.shuffle(units)
    times = {op: truth(op) * rng.lognormvariate(0, 0.1) for op in units}
    model = fit_cost({op: times[op] for op in units[:300]})
    assert model is not None
    held = 0
    rest = [op for op in units[300:] if op.kind != "conv"]  # there are three stems only
    for op in rest:
        guess = model.unit_ms(op)
        assert guess is not None
        held += model.low * guess <= times[op] <= model.high * guess
    assert 0.82 <= held / len(rest) <= 0.97


def test_the_order_of_units_changes_nothing(truth: Callable[[OpSpec], float]) -> None:
    units = {op: truth(op) for op in SMALL.units()[:60]}
    assert fit_cost(units) == fit_cost(dict(reversed(units.items())))


def test_shapes_beyond_the_fitted_range_are_told(truth: Callable[[OpSpec], float]) -> None:
    units = {op: truth(op) for op in SMALL.units()}
    model = fit_cost(units)
    assert model is not None
    assert all(model.covers(op) for op in units)
    huge = OpSpec.of(
        "inverted", act="relu6", cin=64, hidden=256, cout=64, h=112, w=112, k=3, s=1, se=0, skip=1
    )
    assert model.unit_ms(huge) is not None
    assert not model.covers(huge)


def test_a_kernel_that_was_never_timed_is_extrapolated(truth: Callable[[OpSpec], float]) -> None:
    model = fit_cost({op: truth(op) for op in SMALL.units()})
    assert model is not None
    for op in (
        conv(16, 16, 14, 14, 5),  # no dense 5x5 in the space
        conv(16, 16, 14, 14, 1, act="hswish"),
        OpSpec.of("resize", c=8, h=7, w=7, oh=14, ow=14),
        OpSpec.of("matmul", cin=64, cout=64, n=50, times=1),
    ):
        guess = model.unit_ms(op)
        assert guess is not None
        assert guess > 0
        assert not model.covers(op)
    assert model.unit_ms(conv(16, 16, 14, 14, MAX_KERNEL + 2)) is None
    least = {op: truth(op) for op in SMALL.units() if op.kind == "linear"}
    assert CostModel({}, shape_ranges(least), 1, 0.0, 1.0, 1.0).stand_ins.get("pool2d") is None


def test_coefficients_are_the_best_that_are_not_negative() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        design = rng.standard_normal((40, 8))
        target = design @ np.maximum(rng.standard_normal(8), 0) + 0.3 * rng.standard_normal(40)
        gram, aim = design.T @ design, design.T @ target
        x = non_negative(gram, aim)
        slope = gram @ x - aim
        assert (x >= 0).all()
        assert (slope >= -1e-6).all()  # no step upwards helps
        assert np.abs(slope[x > 0]).max(initial=0.0) < 1e-6  # none downwards either


def test_too_few_units_say_too_little(truth: Callable[[OpSpec], float]) -> None:
    assert fit_cost({op: truth(op) for op in SMALL.units()[:11]}) is None


@pytest.mark.parametrize("op", SMALL.units()[::97])
def test_features_add_up_over_primitives(op: OpSpec) -> None:
    total: dict[str, float] = {}
    for node in op.primitives():
        for name, value in features(node.op):
            total[name] = total.get(name, 0.0) + value
    assert dict(features(op)) == total


def _alone(cin: int, cout: int, size: int, k: int = 1) -> OpSpec:
    return conv(cin, cout, size, size, k, act="relu6")


def test_what_a_model_costs_once_is_told_from_its_parts(
    truth: Callable[[OpSpec], float],
) -> None:
    single = [_alone(cin, 2 * cin, size) for cin in (8, 16, 32) for size in (4, 7, 14)]
    units = {op: 0.05 + truth(op) for op in (*SMALL.units(), *single)}
    model = fit_cost(units)
    assert model is not None
    assert model.coefficients["run.call"] == pytest.approx(0.05, rel=0.2)
    for op in (_alone(24, 48, 10), _alone(12, 24, 5)):  # alone: no block hides the call
        assert model.unit_ms(op) == pytest.approx(0.05 + truth(op), rel=0.1)


def test_what_a_model_pays_for_its_input_and_output_is_told_from_its_parts(
    truth: Callable[[OpSpec], float],
) -> None:
    """On a machine whose depthwise kernels do not take the plain order."""

    def paid(op: OpSpec) -> float:
        first = next(iter(op.primitives())).op
        depthwise = first.kind == "conv" and first["g"] > 1
        return (2e-7 if depthwise else 0.0) * math.prod(op.in_chw) + 1e-7 * math.prod(op.out_chw)

    alone = [
        conv(c, c, size, size, k, g=c, act="relu6")
        for c in (8, 16, 24, 32, 64)
        for size in (7, 14, 28)
        for k in (3, 5)
    ]
    alone += [_alone(cin, 2 * cin, size) for cin in (8, 16, 32) for size in (4, 7, 14)]
    units = {op: 0.005 + paid(op) + truth(op) for op in (*SMALL.units(), *alone)}
    model = fit_cost(units)
    assert model is not None
    assert model.call_ms == pytest.approx(0.009, rel=0.1), "the truth has a call of its own"
    for op in (conv(16, 16, 20, 20, 3, g=16, act="relu6"), conv(48, 48, 10, 10, 5, g=48)):
        assert edge_ms(op, model.edges) == pytest.approx(paid(op), rel=0.25)
        assert model.unit_ms(op) == pytest.approx(0.005 + paid(op) + truth(op), rel=0.05)


def test_rare_kernel_widths_share_the_nearest_ones_numbers() -> None:
    wide = [_alone(4 * i, 8, 10, 7) for i in (4, 5, 6)]
    units = {
        op: 0.01 + 1e-8 * op.macs
        for op in (*(_alone(4 * i, 8, 10, 3) for i in range(4, 20)), *wide)
    }
    model = fit_cost(units)
    assert model is not None
    assert not any(name.startswith("dense7.") for name in model.coefficients)
    assert not model.covers(wide[0])
    for op in (*wide, _alone(20, 8, 10, 5)):
        assert model.unit_ms(op) == pytest.approx(0.01 + 1e-8 * op.macs, rel=0.02)


@pytest.mark.parametrize("block", [8, 16])
def test_channels_short_of_a_block_cost_what_the_block_does(block: int) -> None:
    def truth(op: OpSpec) -> float:
        channels = op.out_chw[0]
        return 0.002 + 1e-8 * op.macs * math.ceil(channels / block) * block / channels

    couts = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)
    timed = [_alone(cin, cout, size) for cin in (16, 48) for cout in couts for size in (7, 14, 28)]
    model = fit_cost({op: truth(op) for op in timed})
    assert model is not None
    for op in (_alone(32, 10, 20), _alone(24, 36, 14), _alone(40, 52, 10)):
        assert model.unit_ms(op) == pytest.approx(truth(op), rel=0.03)
