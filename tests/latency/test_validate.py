import json
import math

import pytest

from edgenas.errors import SpecError
from edgenas.latency import compare, drift_factor, repeat_error


def test_drift_is_the_median_of_what_anchors_say() -> None:
    assert drift_factor({"a": 2.0, "b": 3.0, "c": 90.0}, {"a": 1.0, "b": 2.0, "c": 3.0}) == 2.0
    with pytest.raises(SpecError):
        drift_factor({"a": 1.0}, {"b": 1.0})


def test_repeats_differ_relative_to_the_smaller() -> None:
    assert repeat_error(1.0, 1.05) == repeat_error(1.05, 1.0) == pytest.approx(0.05)


def test_errors_shares_and_noise_are_told() -> None:
    measured = {"a": (1.0, 1.0), "b": (2.0, 2.08), "c": (4.0, 4.8), "d": (10.0, 10.0)}
    predicted = {"a": 1.0, "b": 2.12, "c": 3.7, "d": 13.0}
    found = compare(predicted, measured, anchors_now_ms={"u": 1.0}, anchors_table_ms={"u": 1.0})
    errors = {x.name: x.error for x in found.networks}
    assert errors == pytest.approx({"a": 0.0, "b": 0.06, "c": -0.075, "d": 0.3})
    assert found.error_median == pytest.approx(0.0675)
    assert found.error_max == pytest.approx(0.3)
    assert (found.within_5, found.within_10) == (0.25, 0.75)
    assert found.noise_max == pytest.approx(0.2)
    assert found.noise_median == pytest.approx(0.02)
    assert found.unsteady == 1
    assert found.spearman == 1.0
    assert json.dumps(found.to_json())


def test_a_machine_gone_slow_is_no_error_of_the_prediction() -> None:
    found = compare(
        {"a": 1.0, "b": 2.0},
        {"a": (1.7, 1.7), "b": (3.4, 3.4)},
        anchors_now_ms={"u": 0.17, "v": 0.34},
        anchors_table_ms={"u": 0.1, "v": 0.2},
    )
    assert found.drift == pytest.approx(1.7)
    assert found.error_max < 1e-9
    assert found.n_anchors == 2


def test_no_network_can_be_dropped() -> None:
    with pytest.raises(SpecError, match="'b'"):
        compare(
            {"a": 1.0, "b": 1.0},
            {"a": (1.0, 1.0)},
            anchors_now_ms={"u": 1.0},
            anchors_table_ms={"u": 1.0},
        )


def test_ranks_with_ties() -> None:
    found = compare(
        {"a": 1.0, "b": 1.0, "c": 3.0, "d": 2.0},
        {"a": (1.0, 1.0), "b": (2.0, 2.0), "c": (3.0, 3.0), "d": (4.0, 4.0)},
        anchors_now_ms={"u": 1.0},
        anchors_table_ms={"u": 1.0},
    )
    assert found.spearman == pytest.approx(3.5 / math.sqrt(4.5 * 5))  # 1.5 1.5 4 3
