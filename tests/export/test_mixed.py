"""Mixed precision: which units, which points, and what the files really compute in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgenas.errors import ExportError
from edgenas.export.certificate import Latency, read_certificate
from edgenas.export.certified import ExportRequest, export_networks, verify_again
from edgenas.export.mixed import Mixing, _best, _note, _Point, _spread, _way, _ways
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
    return Alone(precision, 0.0, noise, saved, ms)


def point(name: str, size: int, drop: float, ms: float | None = None) -> _Point:
    latency = None if ms is None else Latency(ms, "measured")
    return _Point(Path(name), (), size, 0.9 - drop, drop, latency)


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
    assert "int8 would save -5 bytes" in _note(units[2], gains[2])
    assert _note(units[0], gains[0]) == ""


def test_a_second_way_has_what_tables_tell_of_alone() -> None:
    lowering = TINY.lower(TINY.largest())
    weighted = [bool(n_weighted(node.op)) for node in lowering.nodes]
    saves = [("int8", 0.1, 100, 0.5), ("int4", 0.2, 180, None)]
    units = [[alone(*row) for row in saves] if has else [] for has in weighted]
    gains = [{a.precision: a.saved_bytes / 1000 for a in row} for row in units]
    told, every = _ways(units, gains, lowering)
    n = sum(weighted)
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


def test_the_smallest_that_is_borne_is_chosen_and_latency_counts_where_it_is_known() -> None:
    whole = point("float", 1000, 0.0)
    points = [whole, point("a", 600, 0.0), point("b", 300, 0.002), point("c", 200, 0.003)]
    assert _best(points, 0.002, "m").path.name == "b"
    timed = [
        point("float", 1000, 0.0, 1.0),
        point("a", 600, 0.0, 0.5),
        point("b", 300, 0.0, 2.0),
    ]
    assert _best(timed, 0.002, "m").path.name == "a"
    untimed = point("c", 200, 0.0)
    assert _best([*timed, untimed], 0.002, "m").path.name == "a", "it may be slow"
    lossy = replace(timed[1], judged_drop=0.01)
    assert _best([timed[0], lossy, untimed], 0.002, "m").path.name == "c"
    assert _best([whole, timed[1], untimed], 0.002, "m").path.name == "c", "slower than what?"
    with pytest.raises(ExportError, match=r"none loses at most 0.002 .* the least is 0.0030") as e:
        _best([whole, points[3]], 0.002, "model.mixed.onnx")
    assert "max_mixed_drop" in e.value.hint
    with pytest.raises(ExportError, match="no mixture is smaller or faster"):
        _best([timed[0], timed[2]], 0.002, "m")


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

    def unit_ms(self, op: OpSpec, precision: UnitPrecision) -> float | None:
        return {"fp32": 1.0, "int8": 5.0 if op.key == self.slow else 0.6}.get(precision)

    def points(
        self, lowering: Lowering, files: Mapping[Path, Precisions]
    ) -> Mapping[Path, Latency]:
        told = {}
        for path, precisions in files.items():
            pairs = zip(lowering, precisions, strict=True)
            value = sum(self.unit_ms(op, "int8" if p == "int4" else p) or 0.0 for op, p in pairs)
            told[path] = Latency(value, "predicted")
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
    assert [unit.key for unit in mixed.units] == [op.key for op in request.network.lowering]
    slow = mixed.units[-2]
    assert slow.precision == "fp32"
    assert "nothing is saved" in slow.note
    assert "-4.0000 ms (predicted)" in slow.note
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
