"""A search of a whole run with nothing found, or corrected by measurements."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edgenas.artifacts import toml_value
from edgenas.cli.main import main
from edgenas.errors import DataError
from edgenas.pareto import Metric, ParetoFront, hypervolume
from edgenas.pipeline.config import SearchConfig, read_config
from edgenas.pipeline.correcting import MEASURED, write_told
from edgenas.pipeline.evaluating import Evaluator
from edgenas.pipeline.opening import open_stages
from edgenas.pipeline.runs import read_result
from edgenas.pipeline.searching import gradients_of
from edgenas.testing.fakes import tiny_space
from tests.pipeline.conftest import written

pytestmark = pytest.mark.long

RUN = Path("runs/tiny")
SEARCH = ["search", "run.toml", "--quiet"]


def measured(times: float) -> None:
    """Leaves a run in which all networks but one took so many times what the table says."""
    space = tiny_space()
    _, *trials = json.loads((RUN / "trials.json").read_text("utf-8"))["trials"]
    assert len(trials) >= 3
    told = {
        ("latency_ms", space.parse(t["architecture"])): Metric(
            times * t["metrics"]["latency_ms"]["value"], "measured"
        )
        for t in trials
    }
    write_told(RUN / MEASURED, told)


def test_a_search_of_which_every_trial_fails_is_no_success(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*args: object) -> None:
        raise DataError("an image is gone")

    monkeypatch.setattr(Evaluator, "__call__", failing)
    Path("runs/evaluations.db").unlink()
    assert main([*SEARCH, "--fresh", "--trials", "2"]) == 3
    assert "2 of 2 trials failed" in capfd.readouterr().err


def test_measurements_that_leave_no_network_within_its_bounds(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trials = json.loads((RUN / "trials.json").read_text("utf-8"))["trials"]
    slowest = max(t["metrics"]["latency_ms"]["value"] for t in trials)
    written('"min latency_ms"]', f'"min latency_ms <= {1.01 * slowest}"]')
    written("trials = 3", "trials = 8")
    assert main([*SEARCH, "--fresh"]) == 0
    before = (RUN / "front.json").read_bytes()
    measured(100)
    assert main([*SEARCH, "--resume"]) == 7
    assert "by measured and corrected latencies" in capfd.readouterr().err
    assert (RUN / "front.json").read_bytes() == before


def test_the_hypervolume_is_that_of_the_front_that_is_told(model: Path) -> None:
    def matches() -> None:
        result, front = read_result(RUN), ParetoFront.read(RUN / "front.json")
        reference = [result["reference"][name] for name in ("top1", "latency_ms")]
        expected = hypervolume(front.points, front.directions, reference)
        assert result["hypervolume"] == pytest.approx(expected)

    written("trials = 3", "trials = 8")
    assert main([*SEARCH, "--resume"]) == 0
    matches()
    before = (RUN / "front.json").read_bytes()
    measured(1.2)
    assert main([*SEARCH, "--resume"]) == 0
    assert (RUN / "front.json").read_bytes() != before
    matches()


def test_no_trials_and_nothing_known_of_this_seed(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = Path("run.toml").read_text("utf-8").replace('name = "tiny"', 'name = "other"\nseed = 5')
    text = text.replace("trials = 3", 'trials = 0\nwarm_start = ["tiny"]')
    Path("other.toml").write_text(text, "utf-8")
    assert main(["search", "other.toml", "--quiet"]) == 3
    assert "search.trials is 0" in capfd.readouterr().err


def test_a_training_that_was_killed_before_its_last_file_goes_on(model: Path) -> None:
    weights = RUN / "supernet" / "supernet.safetensors"
    before = weights.read_bytes()
    (RUN / "supernet" / "supernet.json").unlink()
    assert main(["train", "run.toml", "--resume", "--quiet"]) == 0
    assert weights.read_bytes() == before


def test_patience_ends_a_search_that_finds_no_more(model: Path) -> None:
    written("trials = 3", "trials = 60\npatience = 4")
    assert main([*SEARCH, "--resume"]) == 0
    result = read_result(RUN)
    assert 8 <= result["trials"] < 60
    assert result["stopped_because"].startswith("4 trials added 0.")


def test_settings_of_gradients_reach_them_and_another_is_another_search(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = {
        "gradient_steps": 3,
        "gradient_partial_channels": 0.5,
        "gradient_progressive_depth": True,
    }
    assert [*changed] == [f.name for f in fields(SearchConfig) if f.name.startswith("gradient_")]
    written("trials = 3", 'trials = 2\nstrategy = "gradient"')
    assert main([*SEARCH, "--fresh"]) == 0
    text = Path("run.toml").read_text("utf-8")
    assert "[train]" in text
    for key, value in changed.items():
        line = f"{key} = {toml_value(value)}\n\n[train]"
        Path("run.toml").write_text(text.replace("[train]", line), "utf-8")
        capfd.readouterr()
        assert main([*SEARCH, "--resume"]) == 3
        assert "belongs to another search: gradient is " in capfd.readouterr().err
    config = read_config(Path("run.toml"))
    config = replace(config, search=replace(config.search, **changed))
    found = gradients_of(open_stages(config, RUN, resume=True, may_train=False))
    assert [found.steps, found.of.partial_channels, found.progressive_depth] == [*changed.values()]
