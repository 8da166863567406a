"""Objectives: what is read, what is refused, and how bounds compare."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import SpecError
from edgenas.objectives import (
    Objective,
    check_objectives,
    directed,
    parse_objectives,
    total_violation,
)

KNOWN = ("top1", "latency_ms", "size_bytes", "peak_memory_bytes")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max top1", Objective("top1", direction="max")),
        (
            "min latency_ms <= 12.5",
            Objective("latency_ms", None, "min", "<=", 12.5),
        ),
        (
            "min latency_ms@pixel4-litert-int8-t4",
            Objective("latency_ms", "pixel4-litert-int8-t4", "min"),
        ),
        ("peak_memory_bytes <= 262144", Objective("peak_memory_bytes", None, None, "<=", 262144)),
        ("max top1>=0.9", Objective("top1", None, "max", ">=", 0.9)),
        ("  top1   >=  .5 ", Objective("top1", None, None, ">=", 0.5)),
    ],
)
def test_parse(text: str, expected: Objective) -> None:
    found = Objective.parse(text)
    assert found == expected
    assert Objective.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", None, "is empty"),
        ("maximise top1", 1, "did you mean 'max'"),
        ("lowest top1", 1, "known: max, min"),
        ("min", 1, "a metric is expected"),
        ("top1", 1, "neither a direction nor a bound"),
        ("min latency", 5, "did you mean 'latency_ms'"),
        ("min latency_ms <= fast", 19, "a number without a unit"),
        ("min latency_ms <= 12ms", 19, "a number without a unit"),
        ("min latency_ms <= nan", 19, "finite"),
        ("min latency_ms <= inf", 19, "finite"),
        ("min latency_ms <= 1e999", 19, "finite"),
        ("min latency_ms <=", 18, "a number is expected"),
        ("min latency_ms < 3", 16, "'<=' or '>='"),
        ("min latency_ms = 3", 16, "'<=' or '>='"),
        ("min latency_ms 3", 16, "'<=' or '>='"),
        ("min latency_ms <= 3 ms", 21, "nothing may follow"),
        ("min latency_ms >= 3", 1, "only the best"),
        ("max top1 <= 0.9", 1, "only the best"),
        ("min latency_ms@-oProxy", 16, "a device is expected"),
        ("min latency_ms@", 16, "a device is expected"),
        ("min Latency", 5, "a metric is expected"),
    ],
)
def test_unreadable(text: str, column: int | None, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Objective.parse(text, known=KNOWN)
    assert message in str(caught.value)
    assert repr(text) in str(caught.value)
    if column is not None:
        assert f"column {column}:" in str(caught.value)


def test_a_bare_name_is_refused_where_several_devices_have_it() -> None:
    known = ["top1", "latency_ms@a-t1", "latency_ms@b-t1"]
    with pytest.raises(SpecError, match=r"of which device: latency_ms@a-t1, latency_ms@b-t1"):
        Objective.parse("min latency_ms", known=known)
    with pytest.raises(SpecError, match=r"did you mean 'latency_ms@a-t1'"):
        Objective.parse("min latency_ms@a-t2", known=known)


def test_a_list_names_the_position() -> None:
    with pytest.raises(SpecError, match=r"^objectives\[2\]: objective 'mim top1', column 1"):
        parse_objectives(["max top1", "mim top1"])
    with pytest.raises(SpecError, match=r"objectives\[2\]: 'top1' stands twice"):
        parse_objectives(["max top1", "top1 >= 0.5"])
    with pytest.raises(SpecError, match="none has a direction"):
        parse_objectives(["top1 >= 0.5"])
    with pytest.raises(SpecError, match="none has a direction"):
        check_objectives([])


def test_violation_is_a_share_of_the_bound() -> None:
    metrics = {"latency_ms": 15.0, "top1": 0.45, "zero": 2.0, "loss": -1.0}
    assert Objective.parse("min latency_ms <= 10").violation(metrics) == pytest.approx(0.5)
    assert Objective.parse("min latency_ms <= 20").violation(metrics) == pytest.approx(-0.25)
    assert Objective.parse("top1 >= 0.9").violation(metrics) == pytest.approx(0.5)
    assert Objective.parse("zero <= 0").violation(metrics) == 2.0
    assert Objective.parse("loss <= -2").violation(metrics) == pytest.approx(0.5)
    assert Objective.parse("max top1").violation(metrics) == 0
    assert Objective.parse("latency_ms <= 15").feasible(metrics)
    assert not Objective.parse("latency_ms <= 14.999").feasible(metrics)
    both = parse_objectives(["max top1 >= 0.9", "min latency_ms <= 10", "size_bytes <= 1"])
    assert total_violation(both, metrics) == pytest.approx(1.0)


def test_values_must_be_there_and_finite() -> None:
    objective = Objective.parse("min latency_ms")
    with pytest.raises(SpecError, match="did you mean 'latency_mss'"):
        objective.value({"latency_mss": 1.0})
    for bad in (math.nan, math.inf):
        with pytest.raises(SpecError, match="not a finite number"):
            objective.loss({"latency_ms": bad})
    assert objective.loss({"latency_ms": 3.0}) == 3.0
    assert Objective.parse("max top1").loss({"top1": 0.5}) == -0.5


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "top1"},
        {"metric": "top1", "bound": 1.0},
        {"metric": "top1", "relation": "<="},
        {"metric": "top1", "direction": "up"},
        {"metric": "top1", "relation": "<", "bound": 1.0},
        {"metric": "top1", "relation": "<=", "bound": math.nan},
        {"metric": "to p1", "direction": "max"},
        {"metric": "top1", "device": "a b", "direction": "max"},
    ],
)
def test_only_valid_objectives_can_be_built(fields: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        Objective(**fields)  # type: ignore[arg-type]


@given(
    metric=st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
        lambda name: name not in ("max", "min")
    ),
    device=st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
    direction=st.sampled_from([None, "max", "min"]),
    bound=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
def test_round_trip(metric: str, device: str | None, direction: str | None, bound: float) -> None:
    if direction is None and bound is None:
        return
    relation = None if bound is None else (">=" if direction == "max" else "<=")
    objective = Objective(metric, device, direction, relation, bound)  # type: ignore[arg-type]
    assert Objective.parse(str(objective)) == objective
    assert directed([objective]) == ((objective,) if direction else ())


@given(st.text(alphabet="maxintop1 <>=.@-", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = Objective.parse(text)
    except SpecError:
        return
    assert Objective.parse(str(found)) == found
