"""Mixed precision: which units, which points, and what the files really compute in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgenas.errors import ExportError
from edgenas.events import silent
from edgenas.export.certificate import Latency, drop_limit, read_certificate
from edgenas.export.certified import ExportRequest, export_networks, verify_again
from edgenas.export.choosing import Judge, Limits, Point, left_out, why_left_out
from edgenas.export.mixed import (
    Mixing,
    _Chooser,
    _noise,
    _spread,
    _way,
    _ways,
)
from edgenas.export.models import torch_logits
from edgenas.export.units import (
    Alone,
    Precisions,
    UnitPrecision,
    differing,
    n_weighted,
    units_of,
    weighted_precisions,
)
from edgenas.export.verify import units_gate
from edgenas.spaces import Lowering, OpSpec
from tests.export.conftest import TINY, Digits


def alone(precision: UnitPrecision, noise: float, saved: int, ms: float | None = None) -> Alone:
    return Alone(precision, 0.0, noise, saved, ms, "" if ms is None else "predicted", 250)


def point(
    name: str, size: int, drop: float, ms: float | None = None, *precisions: UnitPrecision
) -> Point:
    latency = None if ms is None else Latency(ms, "measured")
    return Point(Path(name), precisions, size, 0.9 - drop, drop, (drop, drop), drop, drop, latency)


def best(points: list[Point], max_drop: float = 0.002, limits: Limits | None = None) -> str:
    return Judge(points, max_drop, limits or Limits()).best("m", "").path.name


def test_what_saves_most_for_its_noise_goes_first_and_what_saves_nothing_never() -> None:
    units = [
        [alone("int8", 0.1, 100), alone("int4", 0.9, 150)],
        [alone("int8", 0.01, 50), alone("int4", 0.02, 80)],
        [alone("int8", 0.001, -5), alone("int4", 0.001, -5)],
    ]
    gains = [{a.precision: a.saved_bytes / 1000 for a in row} for row in units]
    assert _way(units, gains) == [
        ("fp32", "int8", "fp32"),
        ("fp32", "int4", "fp32"),
        ("int8", "int4", "fp32"),
        ("int4", "int4", "fp32"),
    ]
    assert why_left_out(units[2], gains[2], "fp32") == "alone in fewer bits it would be no smaller"
    assert "follows the units around it" in why_left_out(units[2], gains[2], "int8")
    assert why_left_out(units[0], gains[0], "int8") == ""
    assert left_out(["a", "b", "c"], units, gains) == "; slower or no smaller alone: c"
    assert left_out(["a", "b"], units[:2], gains[:2]) == ""


def test_what_is_slower_saves_nothing_however_small_it_is(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(b"x" * 1000)
    slow = [alone("int8", 0.1, 700, -0.001), alone("int4", 0.2, 800)]
    lowering = TINY.lower(TINY.largest())
    mixing = Mixing(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, np.int64))
    chooser = _Chooser(
        lowering, source, source, ("int8",), lambda files: None, mixing, Clock(""), silent
    )
    assert chooser.gains(slow) == {"int8": 0.0, "int4": 0.0}, "4 bits count as fast as 8"
    fast = [alone("int8", 0.1, 500, float(len(lowering)))]
    assert chooser.gains(fast)["int8"] == pytest.approx(1.5)
    told = why_left_out(slow, {"int8": 0.0, "int4": 0.0}, "fp32")
    assert told == "alone in fewer bits it would be slower"


def test_a_second_way_has_what_tables_tell_of_alone() -> None:
    lowering = TINY.lower(TINY.largest())
    weighted = [bool(n_weighted(node.op)) for node in lowering.nodes]
    saves = [("int8", 0.1, 100, 0.5), ("int4", 0.2, 180, None)]
    units = [[alone(*row) for row in saves] if has else [] for has in weighted]
    gains = [{a.precision: a.saved_bytes / 1000 for a in row} for row in units]
    told, every = _ways(units, gains, lowering)
    n = sum(weighted)
    left = [gain if i else {} for i, gain in enumerate(gains)]
    *_, before, last = _ways(units, left, lowering)[0]
    assert before[0] == "fp32"
    assert last == ("int8", *before[1:]), "conversions fall away"
    assert len(told) == n
    assert {p for mixture in told for p in mixture} == {"fp32", "int8"}
    assert len(every) == 2 * n
    assert set(every[-1]) == {"int4"}
    known = [[replace(a, saved_ms=0.5) for a in row] for row in units]
    unknown = [[replace(a, saved_ms=None) for a in row] for row in units]
    assert [_ways(rows, gains, lowering) for rows in (known, unknown)] == [[every], [every]]


def test_of_a_long_way_first_and_last_are_tried() -> None:
    way: list[Precisions] = [("fp32",)] * 3 + [("int8",)] * 30
    assert len(_spread(way, 10)) == 10
    assert _spread(way, 10)[0] == way[0]
    assert _spread(way, 10)[-1] == way[-1]
    assert _spread(way[:4], 10) == way[:4]


def test_few_images_are_of_all_classes_though_they_lie_class_by_class() -> None:
    labels = np.repeat(np.arange(4), 250)
    few = labels[_spread(range(1000), 250)]
    assert np.bincount(few).tolist() == pytest.approx([62.5] * 4, abs=1)


def test_logits_that_are_all_zero_have_no_infinite_noise() -> None:
    zero = np.zeros((3, 2), np.float32)
    assert _noise(zero, zero) == 0
    assert _noise(zero + 1, zero) == 1
    assert _noise(zero + 1e30, zero + 2e30) == pytest.approx(0.25)
    assert _noise(zero + 1, zero + 2) == pytest.approx(0.25)


def test_the_smallest_that_is_borne_is_chosen_and_latency_counts_where_it_is_known() -> None:
    whole = point("float", 1000, 0.0)
    points = [whole, point("a", 600, 0.0), point("b", 300, 0.002), point("c", 200, 0.003)]
    assert best(points) == "b"
    timed = [
        point("float", 1000, 0.0, 1.0),
        point("a", 600, 0.0, 0.5),
        point("b", 300, 0.0, 2.0),
    ]
    assert best(timed) == "a"
    untimed = point("c", 200, 0.0)
    assert best([*timed, untimed]) == "a", "it may be slow"
    lossy = replace(timed[1], judged_drop=0.01, may_lose=0.01)
    assert best([timed[0], lossy, untimed]) == "c"
    assert best([whole, timed[1], untimed]) == "c", "slower than what?"
    with pytest.raises(ExportError, match=r"loses at most 0.002 .* the least is 0.0030") as e:
        best([whole, points[3]])
    assert "max_mixed_drop" in e.value.hint
    small_but_slow, fast_but_large = point("d", 100, 0.0, 1.01), point("e", 1001, 0.0, 0.1)
    assert best([*timed, small_but_slow, fast_but_large]) == "a"
    with pytest.raises(ExportError, match=r"none of 3 .* smaller than the float file and as fast"):
        best([timed[0], timed[2], small_but_slow, fast_but_large])


def test_luck_on_few_images_does_not_choose() -> None:
    whole = point("float", 1000, 0.0)
    lucky = replace(point("lucky", 200, 0.0), may_lose=0.004)
    sure = replace(point("sure", 600, 0.001), may_lose=0.002)
    assert best([whole, lucky, sure]) == "sure"
    less_sure = replace(sure, path=Path("less sure"), may_lose=0.0031, size_bytes=300)
    assert best([whole, lucky, less_sure]) == "less sure", "none is certain: the surest"
    same = replace(less_sure, path=Path("smaller"), size_bytes=250)
    assert best([whole, lucky, less_sure, same]) == "smaller"


def test_a_mixture_holds_the_bounds_of_the_run() -> None:
    whole = point("float", 1000, 0.0, 1.0)
    points = [whole, point("a", 200, 0.0, 0.8), point("b", 500, 0.0, 0.4)]
    assert best(points, limits=Limits(size_bytes=400)) == "a"
    assert best(points, limits=Limits(latency_ms=0.5)) == "b"
    both = Limits(size_bytes=400, latency_ms=0.5)
    with pytest.raises(ExportError, match=r"of 2 mixtures .* holds 400 bytes and 0.5 ms") as e:
        best(points, limits=both)
    assert "objectives" in e.value.hint
    untimed = [point("float", 1000, 0.0), point("a", 200, 0.0)]
    assert best(untimed, limits=Limits(latency_ms=0.5)) == "a", "nothing says that it is slower"


def test_a_unit_that_stays_in_float_has_its_reason() -> None:
    whole = point("float", 1000, 0.0, 1.0, "fp32", "fp32")
    chosen = point("a", 400, 0.001, 0.5, "int8", "fp32")

    def why(other: Point, limits: Limits | None = None) -> str:
        judge = Judge([whole, chosen, other], 0.002, limits or Limits())
        assert judge.why_float(0, chosen) == ""
        return judge.why_float(1, chosen)

    lossy = point("b", 300, 0.0123, 0.4, "int8", "int8")
    assert why(lossy) == "mixtures that lower it may lose 0.0123 of top-1, or more"
    slow = point("b", 300, 0.0, 1.4, "int8", "int8")
    assert why(slow) == "mixtures that lower it are slower or larger than the float file"
    large = point("b", 600, 0.0, 0.6, "int8", "int8")
    assert why(large) == "mixtures that lower it save less than the chosen one"
    limited = why(large, Limits(size_bytes=500))
    assert limited == "no mixture that lowers it holds 500 bytes"


def test_operators_belong_to_units_in_order() -> None:
    lowering = TINY.lower(TINY.largest())
    n = [sum(p.op.kind in ("conv", "linear") for p in op.primitives()) for op in lowering]
    kinds = [kind for count in n for kind in ["Pad", *["Conv", "Clip"] * count]]
    owners = units_of(kinds, lowering)
    expected = [i for i, count in enumerate(n) for _ in range(1 + 2 * count)]
    assert owners == expected
    with pytest.raises(ExportError, match=f"has {sum(n) - 1} convolutions .* {sum(n)}"):
        units_of(["Conv"] * (sum(n) - 1), lowering)


@dataclass(frozen=True)
class Clock:
    """Latencies that say of the unit with the key `slow` that int8 is slower."""

    slow: str

    def unit(self, op: OpSpec, precision: UnitPrecision) -> Latency | None:
        ms = {"fp32": 1.0, "int8": 5.0 if op.key == self.slow else 0.6}.get(precision)
        return None if ms is None else Latency(ms, "predicted")

    def points(
        self, lowering: Lowering, files: Mapping[Path, Precisions]
    ) -> Mapping[Path, Latency]:
        told = {}
        for path, precisions in files.items():
            pairs = zip(lowering, precisions, strict=True)
            found = [self.unit(op, "int8" if p == "int4" else p) for op, p in pairs]
            told[path] = Latency(sum(one.value_ms for one in found if one), "predicted")
        return told


@pytest.fixture(scope="module")
def request_of(
    request_for: Callable[[Path], ExportRequest], digits: Digits
) -> Callable[[Path], ExportRequest]:
    """The network trained on digits; units are chosen on 300 images, one is slow in int8."""
    slow = TINY.lower(TINY.largest()).nodes[-2].op.key

    def request(folder: Path) -> ExportRequest:
        mixing = Mixing(digits.train[300:600], digits.train_labels[300:600], 0.01)
        timed = replace(mixing, timings=lambda _: Clock(slow))
        return replace(request_for(folder), mixing=timed)

    return request


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["onnx-mixed", pytest.param("tflite-mixed", marks=pytest.mark.slow)]
)
def test_a_file_computes_each_unit_as_its_certificate_says(
    name: str, request_of: Callable[[Path], ExportRequest], tmp_path: Path
) -> None:
    if name == "tflite-mixed":
        pytest.importorskip("litert_torch", reason="needs the extra edgenas[tflite]")
    family = name.partition("-")[0]
    request = request_of(tmp_path)
    formats = [family, f"{family}-int8", name]
    (certificate,) = export_networks([request], formats=formats, max_top1_drop=0.05)
    assert certificate.failures == ()
    assert certificate.exit_code == 0
    assert read_certificate(tmp_path) == certificate
    whole, int8, mixed = certificate.models
    assert mixed.verdict == "passed"
    assert [gate.name for gate in mixed.gates] == ["top1_drop", "units"]
    assert "limit 0.01," in mixed.gates[0].reason, "what a mixture may lose, not any file"
    assert "limit 0.05," in int8.gates[0].reason
    assert drop_limit("mixed", 0.01, 0.05) == drop_limit("int8", 0.01, 0.001) == 0.01
    assert [unit.key for unit in mixed.units] == [op.key for op in request.network.lowering]
    slow = mixed.units[-2]
    assert slow.precision == "fp32"
    assert slow.note == "alone in fewer bits it would be slower"
    assert slow.alone[0].saved_ms == -4
    assert slow.alone[0].origin == "predicted"
    lowered = {unit.precision for unit in mixed.units if unit is not slow}
    assert lowered & {"int8", "int4"}
    assert mixed.size_bytes < whole.size_bytes
    if name == "onnx-mixed":
        assert int8.size_bytes < mixed.size_bytes, "a point between float and int8"
    found = {precision for _, precision in weighted_precisions(tmp_path / mixed.path)}
    assert {"fp32"} < found

    first, *others = mixed.curve
    assert set(first.precisions) == {"fp32"}
    assert first.size_bytes == whole.size_bytes
    assert [p.chosen for p in mixed.curve].count(True) == 1
    chosen = next(p for p in mixed.curve if p.chosen)
    assert chosen.precisions == tuple(unit.precision for unit in mixed.units)
    assert chosen.size_bytes == mixed.size_bytes
    assert chosen.top1_drop <= 0.01
    assert all(p.drop_low <= p.top1_drop <= p.drop_high for p in mixed.curve)
    assert any(set(p.precisions) == {"int8"} for p in others)
    sensitive = [a for unit in mixed.units for a in unit.alone]
    assert all(a.noise > 0 for a in sensitive)
    assert max(a.noise for a in sensitive) > 2 * min(a.noise for a in sensitive)

    reference = torch_logits(request.network, request.images)
    for model, _, gates in verify_again(
        tmp_path,
        contract=request.contract,
        images=request.images,
        labels=request.labels,
        reference_logits=reference,
    ):
        assert all(gate.verdict == "passed" for gate in gates), model.path
    lied = [replace(slow, precision="int8") if u is slow else u for u in mixed.units]
    assert units_gate(tmp_path / mixed.path, lied).verdict == "failed"
    assert differing(tmp_path / mixed.path, lied)[0].startswith(f"{slow.name}: ")
    assert "more than stated" in differing(tmp_path / mixed.path, mixed.units[:-1])[-1]


def test_without_a_search_split_the_format_fails_and_others_are_written(
    request_for: Callable[[Path], ExportRequest], tmp_path: Path
) -> None:
    images, labels = np.zeros((2, 16, 16, 1), np.float32), np.zeros(2, np.int64)
    small = replace(request_for(tmp_path), images=images, labels=labels)
    (certificate,) = export_networks([small], formats=["onnx", "onnx-mixed"])
    assert [m.format for m in certificate.models] == ["onnx"]
    (failure,) = certificate.failures
    assert "there is none" in failure.error
    assert certificate.exit_code == 8
