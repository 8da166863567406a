"""A search on tiny problems: budgets, bounds, caches, refusals, kills, resumption."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import random
import re
import signal
import sqlite3
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from edgenas.errors import (
    ArtifactError,
    DeviceError,
    EdgenasError,
    InfeasibleError,
    Interrupted,
    ResourceError,
    SpecError,
    UsageError,
)
from edgenas.events import Event
from edgenas.objectives import parse_objectives
from edgenas.search import Gains, SearchResult, Stagnation, run_search
from edgenas.search.tabulated import TabulatedSpace
from edgenas.spaces import Architecture

STRATEGIES = ("surrogate", "nsga2", "nsga3", "evolution", "reinforce", "tpe", "random")
OBJECTIVES = parse_objectives(["max top1", "min latency_ms"])


def table(n_genes: int = 5, n_values: int = 3) -> TabulatedSpace:
    """All settings of a few genes; accuracy saturates, latency adds up."""
    genes = {f"g{i}": tuple(range(n_values)) for i in range(n_genes)}
    rows = {}
    for row in itertools.product(range(n_values), repeat=n_genes):
        effort = sum(v * math.sqrt(i + 1) for i, v in enumerate(row)) + (row[0] * row[-1])
        latency = 1.0 + sum(v * (1 + i % 3) for i, v in enumerate(row))
        rows[row] = {"top1": 1 - math.exp(-0.3 * effort - 0.1), "latency_ms": latency}
    return TabulatedSpace(genes, rows)


SPACE = table()


class Recorder:
    """Metric functions that count their calls."""

    def __init__(self, space: TabulatedSpace = SPACE) -> None:
        self.space = space
        self.evaluated: list[Architecture] = []

    def cheap(self, arch: Architecture) -> Mapping[str, float]:
        return {"latency_ms": self.space.metrics(arch)["latency_ms"]}

    def costly(self, arch: Architecture) -> Mapping[str, float]:
        self.evaluated.append(arch)
        return {"top1": self.space.metrics(arch)["top1"]}


def search(recorder: Recorder | None = None, **settings: Any) -> SearchResult:
    recorder = recorder or Recorder()
    settings = {"trials": 30, "cheap": recorder.cheap, "costly": recorder.costly} | settings
    objectives = settings.pop("objectives", OBJECTIVES)
    return run_search(settings.pop("space", recorder.space), objectives, **settings)


def stored(path: Path) -> list[tuple[Any, ...]]:
    """The finished trials of a study as plain values, without numbers and times."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        trials = optuna.load_study(study_name="edgenas", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()
    assert not any(t.state == optuna.trial.TrialState.RUNNING for t in trials)
    return [
        (
            t.params,
            t.values,
            t.constraints,
            {k: v for k, v in t.user_attrs.items() if k not in {"seconds", "worker"}},
        )
        for t in trials
        if t.state == optuna.trial.TrialState.COMPLETE or "error" in t.user_attrs
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_search(strategy: str) -> None:
    first, again, other = (search(strategy=strategy, seed=seed) for seed in (1, 1, 2))
    assert first.candidates == again.candidates
    assert first.front.to_json() == again.front.to_json()
    assert first.hypervolume_history == again.hypervolume_history
    assert first.candidates != other.candidates
    assert first.n_trials == 30
    assert first.stopped_because == "30 trials"
    assert list(first.hypervolume_history) == sorted(first.hypervolume_history)
    assert first.hypervolume > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_architecture_is_evaluated_once(strategy: str) -> None:
    recorder = Recorder(table(3, 3))
    result = search(recorder, strategy=strategy, trials=60)
    assert len(recorder.evaluated) == len(set(recorder.evaluated)) == result.n_evaluated
    assert result.n_trials <= 60
    architectures = [c.architecture for c in result.front.candidates]
    assert len(set(architectures)) == len(architectures)


def test_the_whole_of_a_tiny_space_is_the_end() -> None:
    recorder = Recorder(table(2, 3))
    result = search(recorder, trials=500)
    assert result.n_evaluated == 9
    assert result.n_trials <= 30
    assert result.stopped_because == "every architecture of the space was tried"
    every = [recorder.space.metrics(c.architecture) for c in result.candidates]
    assert result.front.points == sorted(
        ([m["top1"], m["latency_ms"]] for m in every if not any(_beats(o, m) for o in every)),
        reverse=True,
    )


def _beats(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    better = a["top1"] >= b["top1"] and a["latency_ms"] <= b["latency_ms"]
    return better and dict(a) != dict(b)


@pytest.mark.long
@pytest.mark.parametrize("strategy", [*STRATEGIES, "of a package that knows no bounds"])
def test_a_violated_cheap_bound_costs_nothing(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if careless := strategy not in STRATEGIES:
        sampler = optuna.samplers.RandomSampler
        monkeypatch.setattr(
            "edgenas.search.strategies.find_strategy",
            lambda name: lambda p, seed: sampler(seed % 99),
        )
    recorder = Recorder()
    result = search(
        recorder,
        strategy=strategy,
        objectives=parse_objectives(["max top1 >= 0.3", "min latency_ms <= 7"]),
        storage=tmp_path / "study.db",
        trials=10,
    )
    assert recorder.evaluated
    assert all(SPACE.metrics(arch)["latency_ms"] <= 7 for arch in recorder.evaluated)
    trials = stored(tmp_path / "study.db")
    assert len(trials) == 10
    for _, values, constraints, attributes in trials:
        assert all(map(math.isfinite, values))
        excess = attributes["metrics"]["latency_ms"] / 7 - 1
        assert constraints["latency_ms"] == pytest.approx(excess)
        assert ("top1" in attributes["metrics"]) == (excess <= 0)
        assert "top1" in constraints, "Optuna wants the same constraints of all trials"
    assert all(c.values["top1"] >= 0.3 for c in result.front.candidates)
    infeasible = sum(t[2]["latency_ms"] > 0 for t in trials)
    assert infeasible > 0 if careless else infeasible == 0


@pytest.mark.long
def test_nsga2_proposes_no_architecture_twice_and_beats_random() -> None:
    better = 0
    for seed in range(5):
        recorder = Recorder()
        nsga2 = search(recorder, trials=60, seed=seed, reference={"top1": 0, "latency_ms": 20})
        assert len(recorder.evaluated) == 60
        chance = search(
            trials=60, seed=seed, strategy="random", reference={"top1": 0, "latency_ms": 20}
        )
        better += nsga2.hypervolume > chance.hypervolume
    assert better == 5


def test_a_tight_bound_is_met_by_repair() -> None:
    """Random draws have latencies around 10; 3 of 243 architectures meet the bound."""
    recorder = Recorder()
    result = search(
        recorder, objectives=parse_objectives(["max top1", "latency_ms <= 2"]), trials=3
    )
    assert {c.values["latency_ms"] for c in result.candidates} <= {1.0, 2.0}
    assert result.n_evaluated == 3


def test_unreachable_cheap_bounds_are_told_before_anything_is_evaluated() -> None:
    recorder = Recorder()
    with pytest.raises(
        InfeasibleError, match=r"latency_ms <= 0.5: the nearest reached is 1;"
    ) as one:
        search(recorder, objectives=parse_objectives(["max top1", "latency_ms <= 0.5"]))
    assert f"the nearest is {SPACE.smallest()}, with latency_ms = 1" in str(one.value)
    assert one.value.hint == "relax 'latency_ms <= 0.5' to 'latency_ms <= 1'"
    together = parse_objectives(["max top1", "latency_ms <= 3", "size_bytes >= 90"])

    def cheap(arch: Architecture) -> Mapping[str, float]:
        latency = SPACE.metrics(arch)["latency_ms"]
        return {"latency_ms": latency, "size_bytes": 10 * latency}

    with pytest.raises(InfeasibleError, match="together: latency_ms <= 3, size_bytes >= 90") as two:
        search(recorder, objectives=together, cheap=cheap)
    assert not recorder.evaluated
    said = re.findall(r"relax '(.*)' to '(.*)'", two.value.hint)
    texts = ["max top1", *(dict(said).get(str(bound), str(bound)) for bound in together[1:])]
    found = search(recorder, objectives=parse_objectives(texts), cheap=cheap, trials=3)
    assert found.front.candidates, "what the error says to relax is enough"


def test_no_feasible_architecture_at_the_end() -> None:
    with pytest.raises(
        InfeasibleError, match=r"top1 >= 0.9999: the nearest reached is 0\.\d+"
    ) as e:
        search(objectives=parse_objectives(["max top1 >= 0.9999", "min latency_ms <= 9"]))
    assert "none of 30 architectures that were tried" in str(e.value)


@pytest.mark.parametrize("strategy", ["random", "tpe", "gp"])
def test_optunas_samplers_keep_the_cheap_bounds(strategy: str) -> None:
    """3 of 243 architectures meet the bound; a bound on a costly metric is a constraint besides."""
    objectives = parse_objectives(["max top1 >= 0.2", "min latency_ms <= 2"])
    found = search(objectives=objectives, strategy=strategy, trials=24)
    assert all(trial.evaluated for trial in found.trials)
    assert {trial.metrics["latency_ms"] for trial in found.trials} <= {1.0, 2.0}


@pytest.mark.parametrize("strategy", ["surrogate", "random"])
def test_a_search_ends_when_nothing_new_is_within_the_bounds(strategy: str) -> None:
    recorder = Recorder()
    bounded = parse_objectives(["max top1", "min latency_ms <= 2"])
    found = search(recorder, objectives=bounded, strategy=strategy, trials=None, minutes=5)
    assert found.stopped_because == "50 trials proposed nothing new: within reach all was tried"
    assert len(recorder.evaluated) == found.n_evaluated == 3


def test_a_damaged_cache_ends_the_search_and_uses_up_no_trial() -> None:
    def costly(arch: Architecture) -> Mapping[str, float]:
        raise ArtifactError("evaluations.db is damaged", hint="delete it")

    with pytest.raises(ArtifactError, match="is damaged"):
        search(costly=costly)


def test_one_objective_alone() -> None:
    result = search(objectives=parse_objectives(["max top1", "latency_ms <= 9"]), trials=60)
    assert len({c.values["top1"] for c in result.front.candidates}) == 1
    best = max(m["top1"] for m in SPACE.rows.values() if m["latency_ms"] <= 9)
    assert result.front.candidates[0].values["top1"] > 0.95 * best


def test_known_accuracies_are_not_evaluated_again() -> None:
    recorder = Recorder()
    everything = [
        SPACE.architecture(dict(zip(SPACE.genes, row, strict=True))) for row in SPACE.rows
    ]
    known = {arch: {"top1": SPACE.metrics(arch)["top1"]} for arch in everything}
    result = search(recorder, known=known)
    assert not recorder.evaluated
    assert result.n_trials == 0
    assert result.stopped_because == "every architecture of the space was tried"
    assert len(result.candidates) == SPACE.size
    some = dict(list(known.items())[::2])
    search(recorder, known=some)
    assert recorder.evaluated
    assert not {*some} & {*recorder.evaluated}


def test_origins_reach_the_front() -> None:
    result = search(origins={"top1": "supernet"}, fingerprint={"table": "abc"})
    assert {c.metrics["top1"].origin for c in result.front.candidates} == {"supernet"}
    assert {c.metrics["latency_ms"].origin for c in result.front.candidates} == {"computed"}
    assert result.front.parents["table"] == "abc"
    assert result.front.parents["space"] == SPACE.digest


def test_stagnation_and_minutes_stop_a_search() -> None:
    result = search(
        trials=243, stagnation=Stagnation(window=20, tolerance=0.01, minimum=40), seed=3
    )
    assert 40 <= result.n_trials < 243
    assert result.stopped_because.startswith("20 trials added 0.")
    assert search(trials=None, minutes=1e-9).stopped_because == "1e-09 minutes"
    with pytest.raises(SpecError, match="minimum >= window"):
        Stagnation(window=50, minimum=10)


def test_events_tell_progress() -> None:
    events: list[Event] = []
    search(trials=10, report=events.append)
    assert [(e.stage, e.done, e.total) for e in events] == [
        ("search", float(i), 10.0) for i in range(1, 11)
    ]
    assert "hypervolume" in events[-1].message
    assert events[-1].remaining_s == 0


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"trials": None}, UsageError, "needs a budget"),
        ({"trials": 0}, UsageError, "positive budget"),
        ({"trials": None, "minutes": math.nan}, UsageError, "positive budget"),
        ({"strategy": "nsga"}, SpecError, "did you mean 'nsga3'"),
        ({"objectives": parse_objectives(["max top5"])}, SpecError, "have 'top5'"),
        ({"objectives": ()}, SpecError, "none has a direction"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(**settings)


def test_resume_continues_and_costs_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "sub folder é %41?#" / "study.db"
    first = Recorder()
    search(first, trials=4, storage=path)
    with pytest.raises(UsageError, match="already holds a search"):
        search(storage=path)
    second = Recorder()
    resumed = search(second, trials=9, storage=path, resume=True)
    undisturbed = search(trials=9)
    assert resumed.candidates == undisturbed.candidates
    assert resumed.hypervolume_history == undisturbed.hypervolume_history
    assert not set(first.evaluated) & set(second.evaluated)
    third = Recorder()
    assert search(third, trials=9, storage=path, resume=True).front == resumed.front
    assert not third.evaluated
    names = {p.name for p in path.parent.iterdir()}
    assert names <= {"study.db", ".study.db.lock", ".study.db.turn.lock"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is '1', the study's '0'"),
        ({"strategy": "random"}, "strategy is 'random'"),
        ({"space": table(4)}, "space is"),
        ({"objectives": parse_objectives(["max top1"])}, "objectives is 'max top1'"),
        ({"fingerprint": {"table": "def"}}, "table is 'def', the study's 'abc'"),
        ({"fingerprint": {}}, "table is None, the study's 'abc'"),
    ],
)
def test_a_study_of_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "study.db"
    search(storage=path, trials=1, fingerprint={"table": "abc"})
    recorder = Recorder(change.get("space", SPACE))
    settings = {"fingerprint": {"table": "abc"}} | change
    with pytest.raises(SpecError, match="belongs to another search") as caught:
        search(recorder, storage=path, trials=1, resume=True, **settings)
    assert message in str(caught.value)


def test_failures_are_survived_up_to_a_fifth(tmp_path: Path) -> None:
    recorder = Recorder()

    def sometimes(arch: Architecture) -> Mapping[str, float]:
        if int(arch.digest, 16) % 8 == 5:
            raise RuntimeError("lost")
        return recorder.costly(arch)

    path = tmp_path / "study.db"
    result = search(costly=sometimes, trials=12, storage=path, strategy="nsga2")
    assert 0 < result.n_failed <= 2
    assert result.n_trials == 12
    errors = [t[3]["error"] for t in stored(path) if "error" in t[3]]
    assert errors == ["RuntimeError: lost"] * result.n_failed
    again = tmp_path / "again.db"
    for trials in (5, 12):
        search(costly=sometimes, trials=trials, storage=again, resume=True, strategy="nsga2")
    assert stored(again) == stored(path)


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("boom"), 1), (DeviceError("gone", hint="plug it in"), 4)]
)
def test_too_many_failures_end_the_search(error: Exception, code: int) -> None:
    def never(arch: Architecture) -> Mapping[str, float]:
        raise error

    with pytest.raises(EdgenasError, match=r"3 of 3 trials failed.*(boom|gone)") as caught:
        search(costly=never)
    assert caught.value.exit_code == code
    assert caught.value.hint == getattr(error, "hint", "")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_fail_their_trial(bad: float) -> None:
    with pytest.raises(EdgenasError, match="not a finite number"):
        search(costly=lambda arch: {"top1": bad})


@pytest.mark.parametrize(
    ("signal_", "code"), [(KeyboardInterrupt(), 130), (Interrupted("SIGTERM", exit_code=143), 143)]
)
def test_an_interrupt_leaves_what_resume_continues(
    tmp_path: Path, signal_: BaseException, code: int
) -> None:
    path = tmp_path / "study.db"
    recorder = Recorder()

    def interrupted(arch: Architecture) -> Mapping[str, float]:
        if len(recorder.evaluated) == 4:
            raise signal_
        return recorder.costly(arch)

    with pytest.raises(Interrupted, match="after 4 finished trials; all are stored") as caught:
        search(costly=interrupted, storage=path)
    assert caught.value.exit_code == code
    assert "--resume" in caught.value.hint
    assert len(stored(path)) == 4
    assert search(storage=path, trials=7, resume=True).candidates == search(trials=7).candidates


def test_a_full_disk_is_a_resource_error(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    search(storage=path, trials=3)
    pages = sqlite3.connect(path).execute("PRAGMA page_count").fetchone()[0]

    def limit(connection: Any, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages + 3}")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", limit)
    try:
        with pytest.raises(ResourceError, match=r"cannot store the search in .*study\.db.*full"):
            search(storage=path, resume=True, trials=100)
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", limit)
    n = count(path) + 2  # the last one may still be running: it could not be told as failed
    assert 5 < n < 100
    resumed = search(storage=path, resume=True, trials=n)
    assert resumed.candidates == search(trials=n).candidates


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"<html>not a database</html>" * 100)
    with pytest.raises(ArtifactError, match="is damaged"):
        search(storage=path, resume=True)
    path.unlink()
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    optuna.create_study(storage=storage, study_name="mine")
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(ArtifactError, match="no study of edgenas"):
        search(storage=path, resume=True)
    with pytest.raises((ResourceError, SpecError), match=r"study\.db"):
        search(storage=path / "below a file" / "study.db")


def test_two_searches_do_not_share_a_study(tmp_path: Path) -> None:
    path = tmp_path / "study.db"

    def second(arch: Architecture) -> Mapping[str, float]:
        with pytest.raises(UsageError, match="another search is at work"):
            search(storage=path, resume=True)
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        search(costly=second, storage=path)


SMALL = table(3, 4)
N_TRIALS = 24
"""More than the first population of NSGA-II and the random start of TPE."""


def kill_and_resume(path: Path, strategy: str, kills: int, rng: random.Random) -> int:
    """Kills a searching process `kills` times, then lets it end; how many kills hit a search."""
    hits = 0
    for _ in range(kills):
        before = count(path)
        child = searching(path, strategy)
        deadline = time.monotonic() + 60
        wanted = before + rng.randint(1, 8)
        while child.is_alive() and count(path) < wanted and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        child.kill()
        child.join(60)
        hits += child.exitcode == -signal.SIGKILL
    child = searching(path, strategy)
    child.join(120)
    assert child.exitcode == 0
    return hits


def searching(path: Path, strategy: str) -> Any:
    """A search in a process of its own; forked, since importing would take seconds each time."""
    recorder = Recorder(SMALL)

    def costly(arch: Architecture) -> Mapping[str, float]:
        time.sleep(0.01)
        return recorder.costly(arch)

    def run() -> None:
        search(
            recorder,
            costly=costly,
            strategy=strategy,
            trials=N_TRIALS,
            seed=5,
            storage=path,
            resume=True,
        )

    child = multiprocessing.get_context("fork").Process(target=run)
    with warnings.catch_warnings():  # Python 3.12 warns of other threads; the child uses none
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    return child


def undisturbed(path: Path, strategy: str) -> list[tuple[Any, ...]]:
    search(Recorder(SMALL), strategy=strategy, trials=N_TRIALS, seed=5, storage=path)
    return stored(path)


def count(path: Path) -> int:
    """Trials in the file so far, read without Optuna."""
    if not path.exists():
        return -1
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0])
    except sqlite3.OperationalError:
        return -1
    finally:
        connection.close()


@pytest.mark.long
def test_killed_and_resumed_is_as_undisturbed(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    assert kill_and_resume(path, "nsga2", 2, random.Random(0)) > 0
    assert stored(path) == undisturbed(tmp_path / "undisturbed.db", "nsga2")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["surrogate", "nsga2", "reinforce", "tpe"])
def test_many_kills(tmp_path: Path, strategy: str) -> None:
    expected = undisturbed(tmp_path / "undisturbed.db", strategy)
    rng, hits = random.Random(0), 0
    for i in range(8):
        path = tmp_path / f"killed-{i}.db"
        hits += kill_and_resume(path, strategy, 5, rng)
        assert stored(path) == expected
    assert hits > 8, "most kills found nothing to kill"


def test_gains_bound_the_chance_of_a_further_one() -> None:
    none = Gains.of([1.0] * 61, 60)
    assert (none.n, none.k) == (60, 0)
    assert none.chance == pytest.approx(1 - 0.05 ** (1 / 60))  # exact: (1 - p)^60 = 0.05
    some = Gains.of([1.0, 2.0, 2.0, 3.0, 3.0], 4)
    assert (some.n, some.k) == (4, 2)
    assert some.chance == pytest.approx(0.9024, abs=1e-4)  # of a binomial table
    assert Gains.of([1.0, 2.0], 10) == Gains(2, 2, 1.0)
    assert Gains.of([], 1) == Gains(0, 0, 1.0)


def test_a_stop_says_how_likely_a_further_gain_is() -> None:
    stop = Stagnation(window=20, tolerance=0.5, minimum=40)
    result = search(strategy="random", trials=200, stagnation=stop)
    assert re.search(
        r"20 trials added [\d.]+%; a further one adds anything with a chance of at most \d+%",
        result.stopped_because,
    )
    assert result.gains.n == result.n_trials // 2
