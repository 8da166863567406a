"""Cheap metrics of an architecture, on one device and on several."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.hardware import load_device
from edgenas.latency import Predictor, table_for
from edgenas.models import micro_arena, tflite_graph
from edgenas.objectives import parse_objectives
from edgenas.pipeline.config import FORMATS, TrainConfig
from edgenas.pipeline.metrics import (
    COSTLY,
    CheapMetrics,
    check_energy,
    costly_metrics,
    metric_names,
)
from edgenas.spaces.mobile import default_space
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_invented_device


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheapMetrics:
    monkeypatch.chdir(tmp_path)
    space = tiny_space()
    device = load_device(write_invented_device(tmp_path, space))
    return CheapMetrics(space, (device,), {device.name: Predictor(table_for(device))})


def test_values_are_those_of_the_lowering(metrics: CheapMetrics) -> None:
    space = tiny_space()
    largest, smallest = metrics(space.largest()), metrics(space.smallest())
    lowering = space.lower(space.largest())
    assert largest["macs"] == lowering.macs
    assert largest["params"] == lowering.params
    assert largest["peak_memory_bytes"] == micro_arena(tflite_graph(lowering)).activations
    assert largest["peak_memory_bytes"] >= lowering.peak_memory_bytes(bytes_per_element=1)
    assert all(largest[name] > smallest[name] for name in ("latency_ms", "size_bytes", "macs"))
    explained = metrics.explain(space.largest())
    assert explained["latency_ms"].origin == "predicted"
    assert explained["latency_ms"].low < largest["latency_ms"] < explained["latency_ms"].high  # type: ignore[operator]


def test_a_call_gives_what_is_named_and_explaining_gives_all(metrics: CheapMetrics) -> None:
    arch = tiny_space().largest()
    some = replace(metrics, names=frozenset({"latency_ms"}))
    assert set(some(arch)) == {"macs", "params", "latency_ms"}
    assert some(arch).items() <= metrics(arch).items()
    assert some.explain(arch) == metrics.explain(arch)


def test_memory_that_only_a_compiler_knows_is_extrapolated() -> None:
    ethos = load_device("ethos-u55-128-vela-int8")
    largest = tiny_space().largest()
    lacking = CheapMetrics(tiny_space(), (ethos,), {})
    assert lacking.explain(largest)["peak_memory_bytes"].origin == "extrapolated"
    shipped = default_space(image_size=28, in_channels=1, n_classes=10)
    known = CheapMetrics(shipped, (ethos,), {ethos.name: Predictor(table_for(ethos))})
    assert known.explain(shipped.largest())["peak_memory_bytes"].origin == "estimated"


def test_with_several_devices_the_bare_name_is_refused() -> None:
    known = metric_names(["a", "b"])
    assert "latency_ms@a" in known
    assert "size_bytes@b" in known
    with pytest.raises(SpecError, match="latency_ms@a, latency_ms@b"):
        parse_objectives(["max top1", "min latency_ms"], known=known)


def test_names_offered_are_names_computed(metrics: CheapMetrics) -> None:
    found = {*COSTLY, *with_power(metrics)(tiny_space().smallest())}
    assert found == set(metric_names([INVENTED_DEVICE]))


def test_only_what_objectives_name_is_evaluated_and_always_top1() -> None:
    known = metric_names(["a"])
    assert costly_metrics(parse_objectives(["max robustness >= 0.5", "min macs"], known=known)) == (
        "top1",
        "robustness",
    )
    assert costly_metrics(parse_objectives(["min macs"], known=known)) == ("top1",)
    with pytest.raises(SpecError, match="did you mean 'top1_int8'"):
        parse_objectives(["max top1_int4"], known=known)
    with pytest.raises(SpecError, match="did you mean 'robustness'"):
        parse_objectives(["max robustnes"], known=known)


def with_power(metrics: CheapMetrics) -> CheapMetrics:
    table = metrics.predictors[INVENTED_DEVICE].table
    stated = replace(table, conditions={**table.conditions, "power": {"mean_mw": 50.0}})
    return replace(metrics, predictors={INVENTED_DEVICE: Predictor(stated)})


def test_energy_is_latency_at_the_mean_power_that_a_table_states(metrics: CheapMetrics) -> None:
    arch = tiny_space().largest()
    assert "energy_mj" not in metrics(arch)
    found = with_power(metrics).explain(arch)
    energy, latency = found["energy_mj"], found["latency_ms"]
    assert energy.value == pytest.approx(0.05 * latency.value)
    assert energy.origin == latency.origin
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low < energy.value < energy.high


def test_energy_of_a_device_without_figures_is_refused(metrics: CheapMetrics) -> None:
    tables = {INVENTED_DEVICE: metrics.predictors[INVENTED_DEVICE].table}
    known = metric_names([INVENTED_DEVICE])
    check_energy(parse_objectives(["max top1", "min latency_ms"], known=known), tables)
    goals = parse_objectives(["max top1", "min energy_mj <= 3"], known=known)
    with pytest.raises(SpecError, match="states no power"):
        check_energy(goals, tables)
    stated = {INVENTED_DEVICE: with_power(metrics).predictors[INVENTED_DEVICE].table}
    check_energy(goals, stated)


def test_settings_mirror_the_recipe_and_the_formats() -> None:
    from edgenas import export
    from edgenas.supernet import Recipe

    assert export.__doc__
    from edgenas.export.formats import FORMATS as EXPORTED

    assert tuple(EXPORTED) == FORMATS
    ours = {f.name: f.default for f in fields(TrainConfig)} | {"mirror": True, "balance": False}
    theirs = {f.name: f.default for f in fields(Recipe)}
    assert {k: v for k, v in ours.items() if k != "device"} == theirs
