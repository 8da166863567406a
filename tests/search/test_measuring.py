"""Measured values over predicted ones: what changes, who measures, kills, quiet, failures."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from edgenas.errors import DeviceError
from edgenas.events import Report
from edgenas.objectives import parse_objectives
from edgenas.pareto import Metric
from edgenas.search import Instrument, Problem, Sharing, measuring, run_search
from edgenas.search.measuring import (
    Outcomes,
    measurer,
    read_measured,
    store_measured,
    tell_measurer,
    unmeasured,
)
from edgenas.search.nsga2 import violating
from edgenas.search.storage import open_study
from edgenas.search.strategies import read_history
from edgenas.search.workers import my_mark
from edgenas.spaces import Architecture
from edgenas.testing.postgres_server import POSTGRES, database
from tests.search.test_workers import OBJECTIVES, SPACE, search, trials_in, worker

SLOWER = 1.25
"""Measured by predicted latency."""


def latency_ms(arch: Architecture) -> float:
    return SPACE.metrics(arch)["latency_ms"]


def measured(arch: Architecture, factor: float = SLOWER) -> Metric:
    value = factor * latency_ms(arch)
    return Metric(value, "measured", 0.9 * value, 1.2 * value, 50)


def instrument(log: Path, *, seconds: float = 0.1, quiet: bool = False) -> Instrument:
    """Keeps in `log` when it measured which architectures."""

    def prepare(archs: Sequence[Architecture], report: Report) -> Callable[[], Outcomes]:
        def measure() -> Outcomes:
            start = time.time()
            time.sleep(seconds)
            with log.open("a") as file:
                names = ";".join(map(str, archs))
                file.write(f"{os.getpid()} {start} {time.time()} {names}\n")
            return {arch: measured(arch) for arch in archs}

        return measure

    return Instrument("latency_ms", "a place", lambda report: nullcontext(), quiet, prepare)


class Crew:
    """A measuring worker that is started again when it is gone; some are killed after a while."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {"resume": True, "trials": 1} | settings
        self.children: list[Any] = []
        self.kill_after_s: list[float] = []
        self.since = 0.0

    def tend(self) -> None:
        if self.kill_after_s and self.children and time.monotonic() > self.since:
            self.children[-1].kill()
            self.children[-1].join()
        if not self.children or not self.children[-1].is_alive():
            self.children.append(worker(**self.settings))
            self.since = time.monotonic() + (self.kill_after_s or [0.0]).pop(0)

    def sharing(self) -> Sharing:
        return Sharing(role="leader", tend=self.tend, measures=lambda: ["latency_ms"])

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.join()


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    found = Crew(storage=tmp_path / "study.db")
    yield found
    found.end()


def measures(log: Path, **settings: Any) -> Sharing:
    return Sharing(role="helper", instrument=instrument(log, **settings))


def in_study(path: Path, act: Callable[[optuna.Study], Any]) -> Any:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        return act(optuna.load_study(study_name="edgenas", storage=storage))
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["surrogate", "tpe"])
def test_a_measured_value_is_seen_by_front_bounds_and_strategies(
    tmp_path: Path, strategy: str
) -> None:
    path = tmp_path / "study.db"
    objectives = parse_objectives(["max top1", "min latency_ms <= 11"])

    def go(trials: int, **more: Any) -> Any:
        return run_search(
            SPACE,
            objectives,
            cheap=lambda arch: {"latency_ms": latency_ms(arch)},
            costly=lambda arch: {"top1": SPACE.metrics(arch)["top1"]},
            strategy=strategy,
            trials=trials,
            storage=path,
            reference={"top1": 0.0, "latency_ms": 20.0},
            **more,
        )

    before = go(25)
    best = before.front.candidates[0].architecture
    fastest = before.front.candidates[-1].architecture
    in_study(path, lambda study: store_measured(study, "latency_ms", best, measured(best, 2.0)))
    in_study(path, lambda study: store_measured(study, "latency_ms", fastest, "cannot run"))
    after = go(25, resume=True)
    (told,) = [c for c in after.candidates if c.architecture == best]
    assert told.metrics["latency_ms"] == measured(best, 2.0)
    assert told.metrics["top1"].origin == "evaluated"
    assert best not in {c.architecture for c in after.front.candidates}
    assert not any(t.feasible for t in after.trials if t.architecture == best)
    assert after.hypervolume < before.hypervolume
    (kept,) = [c for c in after.front.candidates if c.architecture == fastest]
    assert kept.metrics["latency_ms"].origin == "computed"
    stored = [t for t in trials_in(path) if t.user_attrs["architecture"] == str(best)]
    assert all(t.user_attrs["metrics"]["latency_ms"] == latency_ms(best) for t in stored)

    problem = Problem(SPACE, objectives, lambda arch: {"latency_ms": latency_ms(arch)})
    seen: list[float] = []

    def look(study: optuna.Study) -> None:
        for wanted in (set(), {best, fastest}):
            if wanted:
                assert read_measured(study, problem) == wanted
                assert read_measured(study, problem) == set()
            history = read_history(study, problem)
            seen.append(next(t for t in history if t.architecture == best).metrics["latency_ms"])
        assert best not in unmeasured(problem, history, "latency_ms", fronts=99)
        infeasible = violating(problem.evaluated(history), objectives)
        assert best in {t.architecture for t in infeasible}

    in_study(path, look)
    assert seen == [latency_ms(best), 2 * latency_ms(best)]
    assert go(35, resume=True).n_trials == 35


def test_what_earlier_searches_knew_is_measured_too(tmp_path: Path) -> None:
    known = {SPACE.largest(): {"top1": 1.0}}
    path = tmp_path / "study.db"
    before = search(storage=path, trials=3, known=known)
    assert SPACE.largest() in {c.architecture for c in before.front.candidates}
    told = measured(SPACE.largest(), 9.0)
    in_study(path, lambda study: store_measured(study, "latency_ms", SPACE.largest(), told))
    after = search(storage=path, trials=3, known=known, resume=True)
    (largest,) = [c for c in after.candidates if c.architecture == SPACE.largest()]
    assert largest.metrics["latency_ms"] == told


def check_front(result: Any) -> None:
    assert {c.metrics["latency_ms"].origin for c in result.front.candidates} == {"measured"}
    for candidate in result.front.candidates:
        assert candidate.metrics["latency_ms"] == measured(candidate.architecture)


@pytest.mark.long
def test_the_end_waits_for_the_front_and_a_killed_worker_loses_nothing(
    tmp_path: Path, crew: Crew
) -> None:
    log = tmp_path / "log"
    crew.settings["sharing"] = measures(log, seconds=0.3)
    crew.kill_after_s = [0.5, 0.9, 0.6, 0.7, 0.8]  # each at work on a session, or storing it
    check_front(result := search(storage=tmp_path / "study.db", sharing=crew.sharing()))
    assert len(crew.children) >= 4
    rows = [line.split(maxsplit=3)[3].split(";") for line in log.read_text().splitlines()]
    done = [name for row in rows for name in row]
    assert len(done) <= len(set(done)) + 5 * measuring.SESSION, "what was stored is done again"
    assert result.measurers["latency_ms"].startswith("latency_ms of ")


@pytest.mark.long
def test_no_trial_runs_here_while_a_quiet_instrument_measures(
    tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "REST", 0.0)
    monkeypatch.setattr(measuring, "LOOK_S", 0.05)
    log, path = tmp_path / "log", tmp_path / "study.db"
    crew.settings["sharing"] = measures(log, quiet=True)
    helpers = [{"storage": path, "sharing": Sharing(role="helper"), "resume": True}] * 2
    also: list[Any] = []

    def tend() -> None:
        crew.tend()
        if not also and path.exists():
            also.extend(worker(**settings, seconds=0.1) for settings in helpers)

    sharing = Sharing(role="leader", tend=tend, measures=lambda: ["latency_ms"])
    check_front(search(storage=path, sharing=sharing, seconds=0.1))
    for child in also:
        child.join(30)
    sessions = [tuple(map(float, line.split()[1:3])) for line in log.read_text().splitlines()]
    done = [t for t in trials_in(path) if t.state == TrialState.COMPLETE]
    assert len(done) == 40
    trials = [
        (t.datetime_start.timestamp(), t.datetime_complete.timestamp())
        for t in done
        if t.datetime_start and t.datetime_complete and "waits" not in t.user_attrs
    ]
    last = max(end for _, end in trials)
    assert any(start < last for start, _ in sessions), "it measured at the end only"
    for start, end in sessions:
        assert not [t for t in trials if t[0] < end - 0.01 and start + 0.01 < t[1]]


def test_a_trial_that_waits_for_the_same_of_another_worker_is_no_work() -> None:
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr("worker", my_mark())
    assert measuring._trials_here(study)
    trial.set_user_attr("waits", True)
    assert not measuring._trials_here(study)
    trial.set_user_attr("waits", False)
    assert measuring._trials_here(study)


def test_a_failing_instrument_is_told_and_not_waited_for(
    tmp_path: Path, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "RETRY_S", 0.05)

    def prepare(archs: Sequence[Architecture], report: Report) -> Callable[[], Outcomes]:
        raise DeviceError("the board is not there", hint="plug it in")

    broken = Instrument("latency_ms", "a place", lambda report: nullcontext(), False, prepare)
    crew.settings["sharing"] = Sharing(role="helper", instrument=broken)
    told: list[str] = []
    result = search(
        storage=tmp_path / "study.db",
        sharing=crew.sharing(),
        report=lambda event: told.append(event.message),
    )
    assert told.count("the board is not there (plug it in)") == 1
    assert result.measurers == {"latency_ms": "the board is not there (plug it in)"}
    assert {c.metrics["latency_ms"].origin for c in result.candidates} == {"computed"}


def test_the_end_waits_no_longer_than_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenas.search.study.END_S", 0.5)
    sharing = Sharing(role="leader", measures=lambda: ["latency_ms"])
    began = time.monotonic()
    result = search(storage=tmp_path / "study.db", trials=5, sharing=sharing)
    assert time.monotonic() - began < 20
    assert result.n_trials == 5


def test_a_failure_of_an_earlier_session_is_forgotten(tmp_path: Path, crew: Crew) -> None:
    path = tmp_path / "study.db"
    search(storage=path, trials=5)
    in_study(path, lambda study: tell_measurer(study, "latency_ms", "gone", 99))
    assert in_study(path, lambda study: measurer(study, "latency_ms").failures) == 99
    crew.settings["sharing"] = measures(tmp_path / "log")
    check_front(search(storage=path, trials=5, resume=True, sharing=crew.sharing()))


@pytest.mark.slow
def test_on_a_database_one_host_measures_and_another_takes_over(tmp_path: Path) -> None:
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with database() as url:
        logs = [tmp_path / "a", tmp_path / "b"]
        crew = [worker(storage=url, trials=1, sharing=measures(log, seconds=0.05)) for log in logs]
        try:
            search(storage=url, trials=6)
            until = time.monotonic() + 30
            while not any(log.exists() for log in logs) and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(1)
            first = 0 if logs[0].exists() else 1
            assert not logs[1 - first].exists(), "both measured"
            crew[first].kill()
            crew[first].join()
            sharing = Sharing(measures=lambda: ["latency_ms"])
            check_front(search(storage=url, trials=30, sharing=sharing))
            assert logs[1 - first].exists()
        finally:
            for child in crew:
                child.kill()
                child.join()


@pytest.mark.slow
def test_two_studies_measure_on_one_place_in_turn(tmp_path: Path) -> None:
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with database() as url:
        logs = [tmp_path / "a", tmp_path / "b"]
        crew = []
        try:
            for log in logs:
                settings = {"storage": url, "trials": 15}
                search(**settings, sharing=Sharing(log.name))
                helper = Sharing(log.name, "helper", instrument=instrument(log, seconds=0.4))
                crew.append(worker(**settings, sharing=helper))
            for log in logs:
                waits = Sharing(log.name, measures=lambda: ["latency_ms"])
                check_front(search(**settings, sharing=waits))
        finally:
            for child in crew:
                child.kill()
                child.join()
        lines = [line for log in logs for line in log.read_text().splitlines()]
        spans = sorted(tuple(map(float, line.split()[1:3])) for line in lines)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_the_queue_begins_with_the_front(tmp_path: Path) -> None:
    search(storage=tmp_path / "study.db", trials=30)
    problem = Problem(SPACE, OBJECTIVES, lambda arch: {"latency_ms": latency_ms(arch)})
    marks: dict[str, str] = in_study(
        tmp_path / "study.db", lambda study: study.user_attrs["fingerprint"]
    )
    with open_study(tmp_path / "study.db", OBJECTIVES, marks, resume=True) as opened:
        history = read_history(opened.study, problem)
    front = unmeasured(problem, history, "latency_ms")
    more = unmeasured(problem, history, "latency_ms", fronts=3)
    assert more[: len(front)] == front
    assert len(more) > len(front)
    problem.measured["latency_ms", front[0]] = measured(front[0], 1.0)
    assert unmeasured(problem, history, "latency_ms") == front[1:]


def test_what_a_correction_brings_into_the_front_is_measured_too(tmp_path: Path) -> None:
    search(storage=tmp_path / "study.db", trials=30)
    marks: dict[str, str] = in_study(
        tmp_path / "study.db", lambda study: study.user_attrs["fingerprint"]
    )
    told: list[int] = []

    def correct(metric: str, known: Mapping[Architecture, Metric]) -> Any:
        assert metric == "latency_ms"
        told.append(len(known))
        return None if len(known) < 3 else lambda arch: latency_ms(arch) / 2

    plain = Problem(SPACE, OBJECTIVES, lambda arch: {"latency_ms": latency_ms(arch)})
    problem = dataclasses.replace(plain, measured={}, memory={}, correct=correct)
    with open_study(tmp_path / "study.db", OBJECTIVES, marks, resume=True) as opened:
        history = read_history(opened.study, plain)
    front = unmeasured(problem, history, "latency_ms")
    assert front == unmeasured(plain, history, "latency_ms")
    for arch in front:  # as predicted: what is predicted of the others halves
        for each in plain, problem:
            each.measured["latency_ms", arch] = measured(arch, 1.0)
    assert unmeasured(plain, history, "latency_ms") == []
    more = unmeasured(problem, history, "latency_ms")
    assert more
    assert not set(more) & set(front)
    unmeasured(problem, history, "latency_ms")
    assert told == [len(front)], "once for what is known"
    for arch in more:
        problem.measured["latency_ms", arch] = measured(arch, 0.5)
    assert not set(unmeasured(problem, history, "latency_ms")) & set(more)
