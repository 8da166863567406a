"""What a search writes of its reasons, on the tiny space with an invented device."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import to_json
from edgenas.hardware import load_device
from edgenas.latency import Predictor, table_for
from edgenas.objectives import parse_objectives
from edgenas.pareto import Candidate, Metric
from edgenas.pipeline.explaining import DRAWN, explanation
from edgenas.pipeline.metrics import CheapMetrics
from edgenas.search import FinishedTrial
from edgenas.spaces import Architecture
from edgenas.testing.fakes import tiny_space, write_invented_device

GOALS = parse_objectives(["max top1", "min latency_ms <= 0.025", "size_bytes <= 24000"])


@pytest.fixture
def cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheapMetrics:
    monkeypatch.chdir(tmp_path)
    space = tiny_space()
    device = load_device(write_invented_device(tmp_path, space))
    return CheapMetrics(space, (device,), {device.name: Predictor(table_for(device))})


def candidate(cheap: CheapMetrics, arch: Architecture) -> Candidate:
    top1 = 0.5 + cheap.space.lower(arch).params / 1e5
    return Candidate(arch, {**cheap.explain(arch), "top1": Metric(top1, "supernet", n=100)})


def searched(cheap: CheapMetrics, n: int) -> tuple[list[Candidate], list[FinishedTrial]]:
    """Trials as a search has them: what breaks a cheap bound is not evaluated."""
    rng = random.Random(0)
    archs = list(dict.fromkeys(cheap.space.sample(rng) for _ in range(300)))[:n]
    candidates, trials = [], []
    for number, arch in enumerate(archs):
        free = cheap(arch)
        evaluated = all(g.feasible(free) for g in GOALS[1:])
        found = candidate(cheap, arch)
        candidates += [found] if evaluated else []
        metrics = found.values if evaluated else free
        trials.append(
            FinishedTrial(number, arch, metrics, evaluated, evaluated, seconds=0.1, error="")
        )
    return candidates, trials


def explained(cheap: CheapMetrics, n: int) -> tuple[dict[str, Any], list[Candidate]]:
    candidates, trials = searched(cheap, n)
    chosen = candidates[:2]
    told = explanation(cheap, GOALS, trials, candidates, chosen, seed=0)
    assert explanation(cheap, GOALS, trials, candidates, chosen, seed=0) == told
    return json.loads(to_json(told)), chosen


def test_changes_are_exact_where_that_is_known(cheap: CheapMetrics) -> None:
    told, chosen = explained(cheap, 60)
    candidates, _ = searched(cheap, 60)
    known = {c.architecture.digest: c for c in candidates}
    seen = set()
    for network in chosen:
        rows = told["changes"][network.architecture.digest]
        assert rows
        for row in rows:
            line = str(network.architecture).replace(
                f"{row['gene']}={row['value']}", f"{row['gene']}={row['new']}"
            )
            if not row["gene"].endswith("depth"):  # which brings other choices along
                arch = cheap.space.parse(line)
                assert arch.digest == row["digest"]
                values = cheap(arch)
                for name in ("latency_ms", "size_bytes"):
                    added = row["differences"][name]["value"]
                    assert added == pytest.approx(values[name] - network.values[name])
                broken = [g.name for g in GOALS[1:] if not g.feasible(values)]
                assert row["outside"] == broken
            assert row["differences"]["latency_ms"]["origin"] == "predicted"
            accuracy = row["differences"]["top1"]
            seen.add(accuracy["origin"])
            if row["digest"] in known:
                assert accuracy["origin"] == "supernet"
                wanted = known[row["digest"]].values["top1"] - network.values["top1"]
                assert accuracy["value"] == pytest.approx(wanted)
            else:
                assert accuracy["low"] < accuracy["value"] < accuracy["high"]
                assert accuracy["n"] == len(candidates)
    assert seen == {"supernet", "estimated"}


def test_what_was_measured_is_held_against_what_was_measured_alone(cheap: CheapMetrics) -> None:
    candidates, trials = searched(cheap, 60)
    own = candidates[0]
    off = Metric(1.5 * own.values["latency_ms"], "measured", n=50)
    measured = Candidate(own.architecture, {**own.metrics, "latency_ms": off})
    known = [measured, *candidates[1:]]
    told = explanation(cheap, GOALS, trials, known, [measured], seed=0)
    for row in told["changes"][own.architecture.digest]:
        line = str(own.architecture).replace(
            f"{row['gene']}={row['value']}", f"{row['gene']}={row['new']}"
        )
        if not row["gene"].endswith("depth"):
            added = cheap(cheap.space.parse(line))["latency_ms"] - own.values["latency_ms"]
            assert row["differences"]["latency_ms"]["value"] == pytest.approx(added)


def test_bounds_are_counted_over_trials_and_the_space(cheap: CheapMetrics) -> None:
    told, _ = explained(cheap, 60)
    latency, size = told["bounds"]
    assert [latency["objective"], size["objective"]] == [str(g) for g in GOALS[1:]]
    _, trials = searched(cheap, 60)
    for row, goal, other in ((latency, GOALS[1], GOALS[2]), (size, GOALS[2], GOALS[1])):
        outside = [t for t in trials if not goal.feasible(t.metrics)]
        assert row["trials"] == 60
        assert row["trials_outside"] == len(outside) > 0
        assert row["trials_only"] == sum(other.feasible(t.metrics) for t in outside)
        assert row["drawn"] == DRAWN
        share = len(outside) / len(trials)  # 60 of the space's 72 networks
        assert row["drawn_outside"] / DRAWN == pytest.approx(share, abs=0.15)


def test_a_costly_bound_draws_nothing(cheap: CheapMetrics) -> None:
    goals = parse_objectives(["max top1 >= 0.6", "min latency_ms"])
    candidates, trials = searched(cheap, 40)
    told = explanation(cheap, goals, trials, candidates, [], seed=0)
    (row,) = told["bounds"]
    assert (row["drawn"], row["drawn_outside"]) == (0, 0)


def test_few_trials_say_that_they_are_few(cheap: CheapMetrics) -> None:
    told, chosen = explained(cheap, 12)
    assert told["importances"]
    assert all("too few" in found["problem"] for found in told["importances"])
    assert "too few" in told["estimates"][0]["problem"]
    rows = told["changes"][chosen[0].architecture.digest]
    assert rows
    assert all(r["differences"].get("top1", {"origin": "supernet"})["origin"] == "supernet"
               for r in rows)  # fmt: skip
    assert all("latency_ms" in r["differences"] for r in rows)
