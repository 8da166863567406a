"""Several processes on one study: counts, kills, heartbeats; in a file and in a real PostgreSQL."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from edgenas.errors import ResourceError, SpecError, UsageError
from edgenas.objectives import parse_objectives
from edgenas.search import SearchResult, Sharing, run_search, workers
from edgenas.search.ledger import Ledger
from edgenas.search.problem import Problem
from edgenas.search.storage import OpenStudy
from edgenas.search.strategies import distributions
from edgenas.search.tabulated import TabulatedSpace
from edgenas.search.workers import Watch, beat_name, my_mark
from edgenas.spaces import Architecture
from edgenas.testing.postgres_server import POSTGRES, database
from tests.search.test_study import table

SPACE = table(6, 3)
OBJECTIVES = parse_objectives(["max top1", "min latency_ms"])
REFERENCE = {"top1": 0.0, "latency_ms": 20.0}


def search(
    space: TabulatedSpace = SPACE, *, seconds: float = 0.0, log: Path | None = None, **settings: Any
) -> SearchResult:
    def cheap(arch: Architecture) -> Mapping[str, float]:
        return {"latency_ms": space.metrics(arch)["latency_ms"]}

    def costly(arch: Architecture) -> Mapping[str, float]:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{os.getpid()} {arch}\n")
        time.sleep(seconds)
        return {"top1": space.metrics(arch)["top1"]}

    settings = {"trials": 40, "cheap": cheap, "costly": costly, "reference": REFERENCE} | settings
    return run_search(space, OBJECTIVES, **settings)


def worker(**settings: Any) -> Any:
    """A search in a process of its own; forked, since importing would take seconds each time."""
    child = multiprocessing.get_context("fork").Process(target=search, kwargs=settings)
    with warnings.catch_warnings():  # Python 3.12 warns of other threads; the child uses none
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    return child


def led(**shared: Any) -> SearchResult:
    """A search on this machine whose leader has two helpers, all of which end well."""
    crew: list[Any] = []

    def tend() -> None:
        if not crew:
            helper = Sharing(role="helper")
            crew.extend(worker(**shared, resume=True, sharing=helper) for _ in range(2))

    found = search(**shared, sharing=Sharing(role="leader", tend=tend))
    for child in crew:
        child.join(30)
    assert [child.exitcode for child in crew] == [0, 0]
    return found


def trials_in(storage: Path | str, name: str = "edgenas") -> list[optuna.trial.FrozenTrial]:
    address = f"sqlite:///{storage}" if isinstance(storage, Path) else storage
    url = sqlalchemy.make_url(address)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    opened = optuna.storages.RDBStorage(
        url.render_as_string(hide_password=False),
        engine_kwargs={"poolclass": sqlalchemy.NullPool},  # nothing stays open where it raises
    )
    try:
        return optuna.load_study(study_name=name, storage=opened).get_trials()
    finally:
        opened.remove_session()
        opened.engine.dispose()


def check_accounts(trials: list[optuna.trial.FrozenTrial], wanted: int) -> None:
    """Every trial is complete, or was cut off and counts for nothing."""
    states = Counter(t.state for t in trials)
    assert states[TrialState.COMPLETE] == wanted
    assert not states[TrialState.RUNNING]
    assert not states[TrialState.WAITING]
    assert not any("error" in t.user_attrs for t in trials)


@pytest.mark.long
@pytest.mark.parametrize(
    "strategy",
    ["surrogate", *(pytest.param(s, marks=pytest.mark.slow) for s in ("nsga2", "tpe"))],
)
def test_a_leader_and_its_helpers_make_the_trials_together(tmp_path: Path, strategy: str) -> None:
    path, log = tmp_path / "study.db", tmp_path / "log"
    shared: dict[str, Any] = {"seconds": 0.05, "log": log, "storage": path, "strategy": strategy}
    found = led(**shared)
    assert found.n_trials == 40
    trials = trials_in(path)
    check_accounts(trials, 40)
    by = Counter(t.user_attrs["worker"]["pid"] for t in trials)
    assert len(by) == 3, "one of the workers had nothing to do"
    if strategy != "tpe":
        assert len(log.read_text().split("\n")) - 1 == found.n_evaluated == 40


def test_a_helper_that_is_faster_than_its_leader_waits_for_the_study(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    shared: dict[str, Any] = {"seconds": 0.05, "storage": path, "strategy": "random"}
    child = worker(**shared, resume=True, sharing=Sharing(role="helper"))
    time.sleep(0.5)
    assert child.is_alive()
    assert not path.exists()
    search(**shared, sharing=Sharing(role="leader"))
    child.join(30)
    assert child.exitcode == 0
    trials = trials_in(path)
    check_accounts(trials, 40)
    assert {t.user_attrs["worker"]["pid"] for t in trials} == {str(os.getpid()), str(child.pid)}


def test_a_helper_does_not_wait_for_a_study_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenas.search.storage.TURN_S", 0.2)
    path = tmp_path / "study.db"
    with pytest.raises(ResourceError, match=r"study.db was not there after 0 s") as caught:
        search(storage=path, resume=True, sharing=Sharing(role="helper"))
    assert "still runs" in caught.value.hint
    assert not path.exists()


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["surrogate", "random", "tpe"])
def test_no_network_is_evaluated_by_two_workers_at_once(tmp_path: Path, strategy: str) -> None:
    """Three workers, four networks: most proposals are what another one is just evaluating."""
    log = tmp_path / "log"
    shared: dict[str, Any] = {
        "space": table(2, 2),
        "seconds": 0.5,
        "log": log,
        "storage": tmp_path / "study.db",
        "strategy": strategy,
        "trials": 12,
    }
    found = led(**shared)
    evaluated = [line.split(" ", 1)[1] for line in log.read_text("utf-8").splitlines()]
    assert len(evaluated) == len(set(evaluated)) == found.n_evaluated


def killed_and_restarted(storage: Path | str, log: Path, rng: random.Random, n: int) -> int:
    """Four workers, three of which are killed with -9 and started again, `n` times in all."""
    settings: dict[str, Any] = {"storage": storage, "seconds": 0.1, "log": log, "trials": 60}
    crew: list[Any] = []
    if isinstance(storage, str):
        crew = [worker(**settings) for _ in range(4)]
        log.touch()
    else:
        crew = [worker(**settings, sharing=Sharing(role="leader"))]
        while not log.exists():
            time.sleep(0.01)
        settings |= {"resume": True, "sharing": Sharing(role="helper")}
        crew += [worker(**settings) for _ in range(3)]
    hits = 0
    for i in range(n):
        k = 1 + i % 3
        while crew[k].is_alive() and f"{crew[k].pid} " not in log.read_text():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        hits += crew[k].is_alive()
        crew[k].kill()
        crew[k].join()
        crew[k] = worker(**settings)
    for child in crew:
        child.join(60)
    assert [child.exitcode for child in crew] == [0] * 4
    return hits


def check_killed(storage: Path | str, log: Path) -> None:
    trials = trials_in(storage)
    check_accounts(trials, 60)
    architectures = [t.user_attrs["architecture"] for t in trials if t.state == TrialState.COMPLETE]
    assert len(set(architectures)) == 60, "an architecture was tried twice"
    lost = [t for t in trials if t.state == TrialState.FAIL]
    assert lost, "no kill hit a trial"
    again = {a for t in lost if (a := t.user_attrs.get("architecture"))}
    assert again <= set(architectures), "what a killed worker was at was not tried again"
    evaluated = Counter(line.split(maxsplit=1)[1] for line in log.read_text().splitlines())
    assert sum(evaluated.values()) <= 60 + len(lost)
    reader = search(storage=storage, trials=60, resume=True)
    assert len(reader.front.candidates) == len({c.architecture for c in reader.front.candidates})
    # Four at once know less of each other's trials than one knows of his own: a little is lost.
    alone = [search(trials=60, seed=seed).hypervolume for seed in range(3)]
    chance = [search(trials=60, seed=s, strategy="random").hypervolume for s in range(3)]
    assert reader.hypervolume >= 0.99 * min(alone) > max(chance)


@pytest.mark.slow
def test_killed_helpers_lose_nothing(tmp_path: Path) -> None:
    path, log = tmp_path / "study.db", tmp_path / "log"
    assert killed_and_restarted(path, log, random.Random(0), 9) >= 6
    check_killed(path, log)


@pytest.mark.long
def test_killed_workers_lose_nothing_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    log = tmp_path / "log"
    assert killed_and_restarted(postgresql_url, log, random.Random(1), 9) >= 6
    check_killed(postgresql_url, log)


def test_hosts_that_name_the_same_study_share_it(postgresql_url: str) -> None:
    first = search(storage=postgresql_url, trials=8, sharing=Sharing("shared"))
    second = search(storage=postgresql_url, trials=8, sharing=Sharing("shared"))
    assert second.candidates == first.candidates
    assert (
        search(storage=postgresql_url, trials=8, sharing=Sharing("of its own"), seed=1).n_trials
        == 8
    )
    with pytest.raises(SpecError, match="seed is '1', the study's '0'") as caught:
        search(storage=postgresql_url, trials=8, sharing=Sharing("shared"), seed=1)
    assert "tables/" in caught.value.hint


@pytest.mark.parametrize(
    ("storage", "error", "message"),
    [
        ("mysql://user@host/name", UsageError, "is no URL of a PostgreSQL database"),
        ("study.db", UsageError, "is no URL of a PostgreSQL database"),
        ("postgresql://u:secret@127.0.0.1:1/d", ResourceError, r"u:\*\*\*@127.*refused"),
    ],
)
def test_a_database_that_is_none(storage: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        search(storage=storage)
    assert "secret" not in str(caught.value)


def test_a_server_that_goes_away_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    log = tmp_path / "log"
    log.touch()
    with database() as found:
        child = worker(storage=found, seconds=0.05, trials=500, log=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and child.is_alive():
            if len(log.read_text().splitlines()) > 3:
                break
            time.sleep(0.05)
        assert child.is_alive(), capfd.readouterr().err
    child.join(60)
    assert child.exitcode == 1  # the error that the parent would have told
    told = capfd.readouterr().err
    assert "ResourceError: cannot store the search in postgresql://" in told


def empty_study() -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize"])


def abandoned() -> tuple[optuna.Study, optuna.Trial]:
    """A study, and its running trial whose worker is gone."""
    study = empty_study()
    lost = study.ask(distributions(SPACE))
    lost.set_user_attr("worker", {**my_mark(), "started": "long ago"})
    lost.set_user_attr("architecture", str(SPACE.architecture(lost.params)))
    return study, lost


def shared_ledger(
    study: optuna.Study, costly: Callable[[Architecture], Mapping[str, float]] = lambda arch: {}
) -> Ledger:
    """Of one worker among several."""
    problem = Problem(SPACE, OBJECTIVES, lambda arch: {"latency_ms": 1.0})
    opened = OpenStudy(study, alone=False, turn=contextlib.nullcontext)
    return Ledger(problem, costly, opened, alone=False, known={})


def test_who_is_killed_while_he_reaps_loses_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead worker's trial is queued, though its first reaper dies too, and it is queued once."""
    study, lost = abandoned()

    steps: list[str] = []

    def until_killed(name: str) -> Callable[..., object]:
        """The step, if it is the first of the two."""
        step = getattr(study, name)

        def made(*args: object, **kwargs: object) -> object:
            if steps:
                raise KeyboardInterrupt
            steps.append(name)
            return step(*args, **kwargs)

        return made

    with monkeypatch.context() as patched:
        for name in ("tell", "enqueue_trial"):
            patched.setattr(study, name, until_killed(name))
        with pytest.raises(KeyboardInterrupt):
            shared_ledger(study).sync()
    shared_ledger(study).sync()
    told = study.get_trials()
    assert [trial.state for trial in told] == [TrialState.FAIL, TrialState.WAITING]
    assert study.ask(distributions(SPACE)).params == lost.params


@pytest.mark.parametrize("between", ["get_trials", "tell"])
def test_what_a_killed_worker_sent_last_counts(
    between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may reach the database after the reaper has read, or after optuna has looked once more."""
    study, lost = abandoned()
    ledger = shared_ledger(study)
    storage = study._storage

    def last_word() -> None:
        monkeypatch.undo()
        lost.set_user_attr("metrics", {"top1": 0.5, "latency_ms": 1.0})
        study.tell(lost, [0.5, 1.0])

    def read(*args: Any, **kwargs: Any) -> Any:
        trials = optuna.Study.get_trials(study)
        last_word()
        return trials

    def write(*args: Any, **kwargs: Any) -> Any:
        last_word()
        return storage.set_trial_state_values(*args, **kwargs)

    if between == "get_trials":
        monkeypatch.setattr(study, "get_trials", read)
    else:
        monkeypatch.setattr(storage, "set_trial_state_values", write)
    ledger.sync()
    assert study.get_trials()[lost.number].state == TrialState.COMPLETE
    assert [f.metrics for f in ledger.finished] == [{"top1": 0.5, "latency_ms": 1.0}]


@pytest.mark.parametrize("fails", [False, True])
def test_a_trial_that_was_taken_from_us_counts_here_only_if_it_failed(
    *, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We seemed to be gone: another worker reaped it as we were about to tell."""
    study = empty_study()

    def costly(arch: Architecture) -> dict[str, float]:
        if fails:
            raise ValueError("no such network")
        return {"top1": 0.5}

    ledger = shared_ledger(study, costly)
    trial = ledger.ask()
    tell = study.tell

    def late(*args: Any, **kwargs: Any) -> Any:
        tell(trial.number, state=TrialState.FAIL)
        return tell(*args, **kwargs)

    monkeypatch.setattr(study, "tell", late)
    ledger.evaluate(trial)
    assert [bool(f.error) for f in ledger.finished] == [True] * fails


def test_who_is_killed_as_he_takes_up_a_lost_trial_loses_it_not() -> None:
    """A queued trial runs before it has its genes: killed in between, it is queued once more."""
    study = empty_study()
    genes = {name: domain.choices[0] for name, domain in distributions(SPACE).items()}
    study.enqueue_trial(genes)
    taken = study.ask()  # no gene is drawn yet, and no mark is set
    shared_ledger(study).sync()
    told = study.get_trials()
    assert [trial.state for trial in told] == [TrialState.FAIL, TrialState.WAITING]
    assert taken.params == {}
    assert study.ask(distributions(SPACE)).params == genes


def test_what_two_reapers_queued_is_tried_once() -> None:
    study = empty_study()
    genes = {name: domain.choices[0] for name, domain in distributions(SPACE).items()}
    for _ in range(2):
        study.enqueue_trial(genes)
    ledger = shared_ledger(study)
    assert ledger.ask().params == genes
    assert ledger.ask().number == 2, "the second is no trial of its own"
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


def test_a_worker_elsewhere_is_gone_when_its_beat_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    mark = {"host": "elsewhere", "pid": "7", "started": "1.0"}
    watch = Watch()
    for beat in range(5):
        now[0] += 0.9 * workers.SILENT_S
        assert not watch.gone(mark, {beat_name(mark): beat})
    now[0] += 0.9 * workers.SILENT_S
    assert not watch.gone(mark, {beat_name(mark): 4})
    now[0] += 0.2 * workers.SILENT_S
    assert watch.gone(mark, {beat_name(mark): 4})
    assert not watch.gone(mark, {beat_name(mark): 5}), "it is heard of again"
    silent = {**mark, "pid": "8"}
    assert not watch.gone(silent, {})
    now[0] += 1.1 * workers.SILENT_S
    assert watch.gone(silent, {}), "it never beat"


def test_a_process_of_this_host_is_known_by_its_start() -> None:
    mine = my_mark()
    watch = Watch()
    assert not watch.gone(mine, {})
    assert watch.gone({**mine, "started": "12.00"}, {}), "another process has that number now"
    assert watch.gone({**mine, "pid": str(2**22 + 1)}, {})
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    assert child.pid is not None
    child.join()
    assert watch.gone({**mine, "pid": str(child.pid)}, {})
