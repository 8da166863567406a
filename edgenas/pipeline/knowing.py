"""What earlier searches evaluated: a cache of accuracies beside the runs, and warm starts.

The cache only spares work: a metric that is in it is read and not evaluated again, and a search
proposes what it would have proposed without. A warm start is asked for (`search.warm_start`), since
it changes what is proposed: an architecture all of whose metrics come from the same supernet,
images and evaluation is *known*; others are a *hint*, whose worth the surrogate finds out.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.artifacts import digest, io_errors
from edgenas.errors import ArtifactError, ResourceError, SpecError, UsageError
from edgenas.pipeline.metrics import COSTLY
from edgenas.pipeline.runs import find_run
from edgenas.spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    from edgenas.evaluation import Contested
    from edgenas.pipeline.config import SearchConfig
    from edgenas.report.model import Evaluated

CACHE = "evaluations.db"

Metrics = Mapping[str, float]


def basis(metric: str) -> str:
    """By what name the digests of a run hold what a costly metric alone rests on."""
    return "images" if metric == "top1" else metric


def parents_of(metric: str, parents: Mapping[str, str]) -> dict[str, str]:
    """Of a run's digests those that a costly metric rests on; its own one is named `images`."""
    others = {basis(name) for name in COSTLY}
    common = {name: value for name, value in parents.items() if name not in others}
    own = parents.get(basis(metric))
    return common if own is None else {**common, "images": own}


@dataclass(frozen=True)
class Cache:
    """Costly metrics by architecture, and the contested images, in an SQLite file of all runs.

    `parents` are the digests of what they rest on: another supernet, other images or another way
    to evaluate is another entry. Each metric is an entry by itself, so that a search for one more
    evaluates that one alone. May be used by several processes at once.
    """

    path: Path
    parents: Mapping[str, str]

    def wrapped(
        self,
        evaluate: Callable[[Architecture, Sequence[str]], Metrics],
        metrics: Sequence[str] = ("top1",),
    ) -> Callable[[Architecture], Metrics]:
        """All `metrics` of an architecture; `evaluate` is asked for those not in the cache."""
        keys = {name: digest(parents_of(name, self.parents)) for name in metrics}

        def cached(arch: Architecture) -> Metrics:
            found: dict[str, float] = {}
            with self._open() as connection:
                for name, key in keys.items():
                    row = connection.execute(
                        "SELECT metrics FROM evaluations WHERE key = ? AND architecture = ?",
                        (key, str(arch)),
                    ).fetchone()
                    stored = {} if row is None else _read_metrics(row[0])
                    found |= {k: v for k, v in stored.items() if k == name}
            if missing := [name for name in metrics if name not in found]:
                new = evaluate(arch, missing)
                with self._open() as connection:
                    connection.executemany(
                        "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?)",
                        [
                            (keys[k], str(arch), json.dumps({k: new[k]}, allow_nan=False))
                            for k in missing
                        ],
                    )
                found |= {name: new[name] for name in missing}
            return {name: found[name] for name in metrics}

        return cached

    def contested(self, find: Callable[[], Contested]) -> Contested:
        """What `find` found for a search with these parents, or finds now."""
        key = digest(parents_of("top1", self.parents))
        with self._open() as connection:
            row = connection.execute("SELECT found FROM contested WHERE key = ?", (key,)).fetchone()
        if row is not None and (kept := _read_contested(row[0])):
            return kept
        found = find()
        with self._open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO contested VALUES (?, ?)", (key, json.dumps(asdict(found)))
            )
        return found

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with io_errors(self.path, "write"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS evaluations "
                    "(key TEXT, architecture TEXT, metrics TEXT, PRIMARY KEY (key, architecture))"
                )
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS contested (key TEXT PRIMARY KEY, found TEXT)"
                )
                with connection:
                    yield connection
        except sqlite3.OperationalError as error:
            raise ResourceError(
                f"{self.path}: {error}", hint="free the disk, or its lock"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ArtifactError(
                f"{self.path} is damaged: {error}", hint="delete it: it only spares evaluations"
            ) from error


def _read_metrics(text: str) -> dict[str, float]:
    """Metrics as they were stored; nothing where they are no finite numbers."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    whole = isinstance(found, dict) and all(
        isinstance(v, float | int) and math.isfinite(v) for v in found.values()
    )
    return {str(name): float(value) for name, value in found.items()} if whole else {}


def _read_contested(text: str) -> Contested | None:
    """Contested images as they were stored; nothing where it is something else."""
    from edgenas.evaluation import Contested

    try:
        found = json.loads(text)
        index, others, n = tuple(found["index"]), found["others_right"], found["n"]
    except (ValueError, TypeError, KeyError):
        return None
    whole = all(type(i) is int and 0 <= i < n for i in index) if type(n) is int else False
    return Contested(index, others, n) if whole and type(others) is int else None


@dataclass(frozen=True)
class WarmStart:
    """What a search knows before its first trial."""

    known: Mapping[Architecture, Metrics] = field(default_factory=dict)
    prior: Mapping[Architecture, Metrics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def warm_start(
    names: Sequence[str],
    space: SearchSpace,
    parents: Mapping[str, str],
    *,
    runs: Path,
    metrics: Sequence[str] = ("top1",),
) -> WarmStart:
    """What the runs `names` (below `runs`, or paths) tell of these metrics, in `space`.

    Raises:
        SpecError: there is no such run, or it tells nothing of this space.
        ArtifactError: its `trials.json` is damaged.
    """
    from edgenas.report import read_trials

    known: dict[Architecture, dict[str, float]] = {}
    prior: dict[Architecture, dict[str, float]] = {}
    notes = []
    for name in names:
        try:
            path = find_run(name, runs=runs).folder / "trials.json"
        except UsageError as error:
            raise SpecError(f"search.warm_start: {error}", hint=error.hint) from error
        if not path.is_file():
            raise SpecError(
                f"search.warm_start: {path.parent} has no finished search",
                hint="finish it with --resume, or leave it out",
            )
        try:
            trials, rests_on = read_trials(path)
        except ArtifactError as error:
            raise ArtifactError(
                f"search.warm_start: {error}", hint=f"leave {path.parent} out, or search it anew"
            ) from error
        told = dict(_of_space(trials, space, metrics))
        if not told:
            raise SpecError(
                f"search.warm_start: no trial of {path.parent} is an architecture of this space",
                hint="name a run that searched the same space",
            )
        there = {name for values in told.values() for name in values}
        same = {n for n in there if parents_of(n, rests_on) == parents_of(n, parents)}
        for arch, values in told.items():
            for metric, value in values.items():
                (known if metric in same else prior).setdefault(arch, {})[metric] = value
        lacking = [name for name in metrics if name not in same]
        if not same:
            what = "hints: another supernet or images"
        elif lacking:
            what = f"hints: {', '.join(lacking)} not evaluated alike"
        else:
            what = "known: same supernet and images"
        notes.append(f"warm start from {path.parent}: {len(told)} trials, {what}")
    for arch in [arch for arch, values in known.items() if len(values) < len(metrics)]:
        prior[arch] = {**prior.get(arch, {}), **known.pop(arch)}  # not all: a hint
    return WarmStart(known, prior, tuple(notes))


def check_told(settings: SearchConfig, space: SearchSpace, *, runs: Path) -> None:
    """Refuses earlier runs and networks to begin with that tell nothing of `space`.

    Raises:
        SpecError: as `warm_start` and `begun`; no trials, and nothing to make a front of.
        ArtifactError: a run's `trials.json` is damaged.
    """
    told = warm_start(settings.warm_start, space, {}, runs=runs)
    lines = begun(settings.begin_with, space)
    if settings.trials == 0 and not (told.known or told.prior or lines):
        raise SpecError(
            "search.trials is 0, and no earlier search tells anything to make a front of",
            hint="set trials to 1 or more, or name a run in warm_start",
        )


def begun(lines: Sequence[str], space: SearchSpace) -> list[Architecture]:
    """The architectures of `search.begin_with`.

    Raises:
        SpecError: a line that is none of this space.
    """
    try:
        return [space.parse(line) for line in lines]
    except SpecError as error:
        raise SpecError(f"search.begin_with: {error}", hint=error.hint) from error


def _of_space(
    trials: Sequence[Evaluated], space: SearchSpace, metrics: Sequence[str]
) -> Iterator[tuple[Architecture, Metrics]]:
    """These metrics of the trials that are architectures of `space`."""
    for trial in trials:
        values = {name: trial.metrics[name].value for name in metrics if name in trial.metrics}
        with contextlib.suppress(SpecError):  # of another space
            if values:
                yield space.parse(trial.architecture), values
