"""A fleet of a run: its search's objectives, refusals before and after, what is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.errors import InfeasibleError, SpecError, UsageError
from edgenas.hardware import load_device
from edgenas.latency import Predictor, table_for
from edgenas.objectives import parse_objectives
from edgenas.pareto import Candidate, Metric
from edgenas.pipeline.config import DataConfig, RunConfig, SearchConfig, write_config
from edgenas.pipeline.fleets import Chosen, accuracy_of
from edgenas.pipeline.goals import loads_of, objectives_of
from edgenas.pipeline.metrics import CheapMetrics
from edgenas.pipeline.network_files import asked_targets
from edgenas.pipeline.runs import fleet_of
from edgenas.pipeline.searching import STUDY, search
from edgenas.spaces import Architecture
from edgenas.testing.fakes import tiny_space, write_second_device

GOALS = ("max top1", "latency_ms@{a} <= 0.02", "latency_ms@{b} <= 0.03")


@pytest.fixture
def devices(folder: Path) -> tuple[str, str]:
    """Two invented boards, the second half as fast."""
    return write_second_device(folder, tiny_space())


def config(devices: tuple[str, str], *goals: str, fleet: int | None = 1) -> RunConfig:
    a, b = devices
    written = tuple(goal.format(a=a, b=b) for goal in goals or GOALS)
    return RunConfig(DataConfig("digits"), SearchConfig(devices, written, fleet=fleet))


def cheap(found: RunConfig) -> CheapMetrics:
    profiles = tuple(load_device(name) for name in found.search.devices)
    predictors = {d.name: Predictor(table_for(d)) for d in profiles}
    return CheapMetrics(tiny_space(), profiles, predictors, derived=loads_of(found))


def test_without_a_fleet_bounds_hold_for_all(devices: tuple[str, str]) -> None:
    found = config(devices, fleet=None)
    assert list(map(str, objectives_of(found))) == list(found.search.objectives)
    assert loads_of(found) is None


def test_another_number_of_networks_is_said_to_evaluate_nothing_anew(
    devices: tuple[str, str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_config(run / "run.toml", config(devices, fleet=2))
    (run / STUDY).touch()
    for name, resumed in (("", "goes on"), ("result.json", "chooses at most 1 of its networks")):
        (run / (name or STUDY)).touch()
        with pytest.raises(UsageError, match="holds a search already") as caught:
            search(config(devices, fleet=1), run)
        assert caught.value.hint.startswith(f"--resume {resumed}")
    with pytest.raises(UsageError) as caught:
        search(config(devices, *GOALS, "max robustness", fleet=1), run)
    assert caught.value.hint.startswith("--resume goes on")


def test_loads_are_metrics_of_a_search_for_a_fleet(devices: tuple[str, str]) -> None:
    found = config(devices)
    assert [str(o) for o in objectives_of(found)] == [
        "max top1", "min mean_load", "least_load <= 1"
    ]  # fmt: skip
    metrics = cheap(found)
    told = metrics.explain(tiny_space().smallest())
    a, b = (told[f"latency_ms@{d}"].value for d in devices)
    assert told["least_load"].value == pytest.approx(min(a / 0.02, b / 0.03))
    assert told["mean_load"].value == pytest.approx((a / 0.02 * b / 0.03) ** 0.5)
    slower = {**told, f"latency_ms@{devices[0]}": Metric(0.02, "measured")}
    assert metrics.completed(slower)["mean_load"].value == pytest.approx((b / 0.03) ** 0.5)


def test_a_device_without_a_bound_is_named(devices: tuple[str, str]) -> None:
    found = config(devices, "max top1", "min latency_ms@{a} <= 1", "min latency_ms@{b}")
    with pytest.raises(SpecError, match=f"none says what {devices[1]} may take"):
        objectives_of(found)
    single = replace(found.search, devices=devices[:1], objectives=("max top1", "latency_ms <= 1"))
    with pytest.raises(SpecError, match="several devices"):
        objectives_of(replace(found, search=single))
    with pytest.raises(SpecError, match="no objective maximises one"):
        accuracy_of(parse_objectives(["min macs", "top1 >= 0.5"]))


def test_the_most_accurate_within_each_bound_is_exported(devices: tuple[str, str]) -> None:
    space, free = tiny_space(), config(devices)
    small, large = space.smallest(), space.largest()
    told = {arch: cheap(free).explain(arch) for arch in (small, large)}
    tight = told[small][f"latency_ms@{devices[1]}"].value * 1.01
    loose = told[large][f"latency_ms@{devices[0]}"].value * 1.01
    goals = ("max top1", f"latency_ms@{{a}} <= {loose}", f"latency_ms@{{b}} <= {tight}")
    found = [
        Candidate(arch, {**told[arch], "top1": Metric(top1, "supernet", n=100)})
        for arch, top1 in ((small, 0.8), (large, 0.9))
    ]
    one = Chosen.of(config(devices, *goals), 1, found)
    assert [(why, c.architecture) for why, c in one.networks(found)] == [
        (f"for {devices[0]}, {devices[1]}", small)
    ]
    two = Chosen.of(config(devices, *goals), 2, found)
    assert {c.architecture: why for why, c in two.networks(found)} == {
        large: f"for {devices[0]}", small: f"for {devices[1]}"
    }  # fmt: skip
    many = Chosen.of(config(devices, *goals), 9, found)
    assert many.fleet == two.fleet
    table = two.to_table()
    assert [c["k"] for c in table["choices"]] == [1, 2]
    assert table["choices"][0]["mean_loss"] == pytest.approx(0.05)


def test_too_few_networks_and_a_device_without_any(devices: tuple[str, str]) -> None:
    a, b = (f"latency_ms@{d}" for d in devices)

    def network(arch: Architecture, top1: float, on_a: float, on_b: float) -> Candidate:
        metrics = {"top1": top1, a: on_a, b: on_b}
        return Candidate(arch, {n: Metric(v, "x") for n, v in metrics.items()})

    small, large = tiny_space().smallest(), tiny_space().largest()
    apart = [network(small, 0.8, 0.01, 0.09), network(large, 0.9, 0.09, 0.01)]
    with pytest.raises(InfeasibleError, match="2 are needed") as caught:
        Chosen.of(config(devices), 1, apart)
    assert "--fleet 2" in caught.value.hint
    assert Chosen.of(config(devices), 2, apart).fleet.mean_loss == 0
    with pytest.raises(InfeasibleError, match=f"bounds of {devices[0]}: the nearest is"):
        Chosen.of(config(devices), 2, apart[1:])


def test_a_device_is_not_asked_about_a_network_that_another_runs(devices: tuple[str, str]) -> None:
    a, b = (load_device(name) for name in devices)
    other = replace(a, name="a-target-alone")
    run: Any = SimpleNamespace(targets=(a, b, other))
    table = {"wanted": 3, "choices": [
        {"k": 1, "assignments": [{"device": d, "digest": "x"} for d in devices]},
        {"k": 2, "assignments": [
            {"device": devices[0], "digest": "x"}, {"device": devices[1], "digest": "y"},
        ]},
    ]}  # fmt: skip
    fleet = fleet_of({"fleet": table})
    assert fleet == {devices[0]: "x", devices[1]: "y"}
    assert asked_targets(run, fleet, "x") == (a, other)
    assert asked_targets(run, fleet, "y") == (b, other)
    assert asked_targets(run, fleet, "exported by hand") == run.targets
    assert asked_targets(run, fleet_of({}), "x") == run.targets
    one = fleet_of({"fleet": {**table, "wanted": 1}})
    assert asked_targets(run, one, "x") == run.targets
