"""Latency of mixtures from two tables, and which device's it is."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgenas.events import silent
from edgenas.export.units import Precisions
from edgenas.hardware import load_device
from edgenas.latency import Entry, LatencyTable, Predictor, table_for
from edgenas.latency.calibrate import rescale
from edgenas.pipeline.config import DataConfig, RunConfig, SearchConfig
from edgenas.pipeline.mixing import (
    _conversions,
    _limits,
    _predict,
    _predictors,
    _Timing,
    device_of,
    tables_of_mixtures,
)
from edgenas.spaces import OpSpec
from edgenas.spaces.mobile import default_space
from edgenas.testing.fakes import invented_table, tiny_space

SPACE = tiny_space()
NETWORK = SPACE.lower(SPACE.largest())
N = len(NETWORK)
FLOAT: Precisions = ("fp32",) * N
INTEGER: Precisions = ("int8",) * N
LAST_FLOAT: Precisions = (*INTEGER[:-1], "fp32")


def table(name: str, factor: float, *, adds: bool = True) -> LatencyTable:
    found = invented_table(load_device(name), SPACE)
    entries = {
        op: Entry(*(factor * ms for ms in (e.latency_ms, e.p10_ms, e.p50_ms, e.p90_ms)), e.n)
        for op, e in found.entries.items()
    }
    if adds:
        for mixture in (INTEGER, LAST_FLOAT):
            entries |= {
                op: Entry(0.01, 0.01, 0.01, 0.01, 9) for op in _conversions(NETWORK, mixture)
            }
    return replace(found, entries=entries)


PREDICTORS = {
    "fp32": Predictor(table("local-litert-fp32-t1", 1.0)),
    "int8": Predictor(table("local-litert-int8-t1", 0.5)),
}


def test_a_mixture_takes_what_its_units_take_and_the_conversions() -> None:
    whole = {name: p.predict(NETWORK) for name, p in PREDICTORS.items()}
    add = PREDICTORS["fp32"].unit_ms(OpSpec.of("add", c=1, h=8, w=8))
    assert _conversions(NETWORK, FLOAT) == []
    found = _predict(PREDICTORS, NETWORK, FLOAT)
    assert found is not None
    assert found.value_ms == pytest.approx(whole["fp32"].latency_ms)
    assert found.origin == "predicted"

    assert [op.out_chw for op in _conversions(NETWORK, INTEGER)] == [(1, 8, 8), (10, 1, 1)]
    found = _predict(PREDICTORS, NETWORK, INTEGER)
    assert found is not None
    assert found.value_ms == pytest.approx(whole["int8"].latency_ms + 2 * add)

    assert len(_conversions(NETWORK, LAST_FLOAT)) == 2
    found = _predict(PREDICTORS, NETWORK, LAST_FLOAT)
    assert found is not None
    units = whole["int8"].latency_ms - whole["int8"].per_unit[-1].latency_ms
    expected = units + whole["fp32"].per_unit[-1].latency_ms + 2 * add
    assert found.value_ms == pytest.approx(expected)
    assert found.low_ms is not None
    assert found.high_ms is not None
    assert found.low_ms < found.value_ms < found.high_ms


def test_where_a_table_lacks_nothing_is_predicted() -> None:
    assert _predict({"fp32": PREDICTORS["fp32"]}, NETWORK, LAST_FLOAT) is None
    assert _predict(PREDICTORS, NETWORK, ("int4",) * N) is None
    bare = Predictor(table("local-litert-fp32-t1", 1.0, adds=False))
    assert _predict({**PREDICTORS, "fp32": bare}, NETWORK, LAST_FLOAT) is None
    assert _predict({**PREDICTORS, "fp32": bare}, NETWORK, FLOAT) is not None


def test_elsewhere_what_tables_tell_of_is_predicted_though_not_of_all() -> None:
    files = {Path("float"): FLOAT, Path("all"): INTEGER, Path("four"): ("int4",) * N}
    here = load_device("local-litert-int8-t1")
    timing = _Timing(cast(Any, None), replace(here, name="elsewhere"), PREDICTORS, silent)
    found = timing.points(NETWORK, files)
    assert {path.name for path in found} == {"float", "all"}
    assert {latency.origin for latency in found.values()} == {"predicted"}


def test_a_mixed_file_is_of_the_first_device_with_its_runtime() -> None:
    names = ("local-onnxruntime-fp32-t1", "local-litert-int8-t1", "local-litert-fp32-t1")
    devices = tuple(map(load_device, names))
    found = device_of(devices, "tflite-mixed")
    assert found is not None
    assert found.name == "local-litert-int8-t1"
    assert device_of(devices, "tflite-int8") is None
    assert device_of(devices[:1], "tflite-mixed") is None


@pytest.mark.parametrize(
    "name",
    [
        *("coral-dev-board-edgetpu-int8", "ethos-u55-128-vela-int8", "cortex-m-tflm-int8"),
        "android-nnapi-int8",
    ],
)
def test_a_mixed_file_is_of_no_device_that_cannot_take_it(name: str) -> None:
    devices = (load_device(name), load_device("local-litert-int8-t1"))
    assert device_of(devices, "tflite-mixed") == devices[1]
    assert device_of(devices[:1], "tflite-mixed") is None


AVX2 = "amd-epyc-f25m1-avx2-litert-int8-t1"


def run_of(*names: str, objectives: tuple[str, ...] = ("max top1",)) -> Any:
    """A run that is searched for these devices, whose tables are shipped."""
    devices = tuple(map(load_device, names))
    tables = {device.name: table_for(device) for device in devices}
    cheap = SimpleNamespace(predictors={name: Predictor(t) for name, t in tables.items()})
    config = RunConfig(DataConfig("fashion-mnist"), SearchConfig(names, objectives))
    return SimpleNamespace(devices=devices, tables=tables, cheap=cheap, config=config)


def test_a_mixture_is_bound_as_the_run_bounds_its_device() -> None:
    other = AVX2.replace("litert", "onnxruntime")
    bounds = ("max top1", "min latency_ms <= 0.5", "size_bytes <= 400000")
    found = _limits(run_of(AVX2, objectives=bounds), load_device(AVX2))
    assert (found.latency_ms, found.size_bytes) == (0.5, 400000)
    assert found.told() == "400,000 bytes and 0.5 ms"
    of_other = ("max top1", f"min latency_ms@{other} <= 0.5", f"peak_memory_bytes@{AVX2} <= 9000")
    found = _limits(run_of(AVX2, other, objectives=of_other), load_device(AVX2))
    assert found.told() == "9,000 bytes of memory"


def test_both_tables_of_a_mixture_are_its_parents() -> None:
    run = run_of(AVX2)
    float_name = AVX2.replace("int8", "fp32")
    assert tables_of_mixtures(run, ["tflite", "tflite-mixed"]) == {
        f"table {AVX2}": run.tables[AVX2].digest,
        f"table {float_name}": table_for(load_device(float_name)).digest,
    }
    assert tables_of_mixtures(run, ["tflite", "onnx-mixed"]) == {}
    both = run_of(AVX2, float_name)
    own = replace(both.tables[float_name], created="2020-01-01")
    both.tables[float_name] = own
    assert _predictors(both, both.devices[0])["fp32"].table is own, "the run's own copy"
    unsaid = replace(run.devices[0], name="my-board")
    run.cheap.predictors["my-board"] = run.cheap.predictors[AVX2]
    assert set(_predictors(run, unsaid)) == {"int8"}


def test_what_corrects_one_precision_corrects_the_other() -> None:
    run, space = run_of(AVX2), default_space(image_size=28, in_channels=1, n_classes=10)
    before = _predictors(run, run.devices[0])
    nets = [space.lower(space.sample(random.Random(i))) for i in range(4)]
    own = rescale(
        run.tables[AVX2],
        [(net, 3 * before["int8"].predict(net).latency_ms) for net in nets],
        device=run.tables[AVX2].device,
        created="2026-01-01",
    )
    run.cheap.predictors[AVX2] = Predictor(own)
    after = _predictors(run, run.devices[0])
    for precision in ("int8", "fp32"):
        was, now = (found[precision].predict(nets[0]) for found in (before, after))
        assert (was.origin, now.origin) == ("predicted", "calibrated")
        assert now.latency_ms == pytest.approx(3 * was.latency_ms)
