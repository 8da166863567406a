"""What earlier searches evaluated: a cache of accuracies beside the runs, and warm starts.

The cache only spares work: an accuracy that is in it is read and not evaluated again, and a search
proposes what it would have proposed without. A warm start is asked for (`search.warm_start`), since
it changes what is proposed: trials of a run with the same supernet, images and evaluation are
*known*; those of another run are a *hint*, whose worth the surrogate finds out.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.artifacts import digest, io_errors
from edgenas.errors import ArtifactError, ResourceError, SpecError, UsageError
from edgenas.pipeline.metrics import COSTLY
from edgenas.pipeline.runs import find_run
from edgenas.spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    from edgenas.report.model import Evaluated

CACHE = "evaluations.db"

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Cache:
    """Costly metrics by architecture in an SQLite file that all runs of a folder share.

    `parents` are the digests of what they rest on: another supernet, other images or another way
    to evaluate is another entry. May be used by several processes at once.
    """

    path: Path
    parents: Mapping[str, str]

    @property
    def key(self) -> str:
        """Names what the metrics rest on."""
        return digest(dict(self.parents))

    def wrapped(
        self, evaluate: Callable[[Architecture], Metrics]
    ) -> Callable[[Architecture], Metrics]:
        """`evaluate`, which is called only for what is not in the cache."""

        def cached(arch: Architecture) -> Metrics:
            with self._open() as connection:
                row = connection.execute(
                    "SELECT metrics FROM evaluations WHERE key = ? AND architecture = ?",
                    (self.key, str(arch)),
                ).fetchone()
            if row is not None and (metrics := _read_metrics(row[0])):
                return metrics
            metrics = dict(evaluate(arch))
            with self._open() as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO evaluations VALUES (?, ?, ?)",
                    (self.key, str(arch), json.dumps(metrics, allow_nan=False)),
                )
            return metrics

        return cached

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


@dataclass(frozen=True)
class WarmStart:
    """What a search knows before its first trial."""

    known: Mapping[Architecture, Metrics] = field(default_factory=dict)
    prior: Mapping[Architecture, Metrics] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def warm_start(
    names: Sequence[str], space: SearchSpace, parents: Mapping[str, str], *, runs: Path
) -> WarmStart:
    """What the runs `names` (below `runs`, or paths) tell of the architectures of `space`.

    Raises:
        SpecError: there is no such run, or it tells nothing of this space.
        ArtifactError: its `trials.json` is damaged.
    """
    from edgenas.report import read_trials

    known: dict[Architecture, Metrics] = {}
    prior: dict[Architecture, Metrics] = {}
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
        trials, rests_on = read_trials(path)
        told = dict(_of_space(trials, space))
        if not told:
            raise SpecError(
                f"search.warm_start: no trial of {path.parent} is an architecture of this space",
                hint="name a run that searched the same space",
            )
        same = dict(rests_on) == dict(parents)
        (known if same else prior).update(told)
        what = "known: same supernet and images" if same else "hints: another supernet or images"
        notes.append(f"warm start from {path.parent}: {len(told)} trials, {what}")
    return WarmStart(known, prior, tuple(notes))


def _of_space(
    trials: Sequence[Evaluated], space: SearchSpace
) -> Iterator[tuple[Architecture, Metrics]]:
    """The costly metrics of the trials that are architectures of `space`."""
    for trial in trials:
        metrics = {name: trial.metrics[name].value for name in COSTLY if name in trial.metrics}
        with contextlib.suppress(SpecError):  # of another space
            if metrics:
                yield space.parse(trial.architecture), metrics
