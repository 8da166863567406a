"""Measured values in place of predicted ones: where a study keeps them, and who measures.

Nobody may change a finished trial of Optuna. A measured value is therefore an attribute of the
study, one for each metric and architecture, written at once and never changed; whoever reads the
study lays it over the trials' own values (`Problem.overlaid`). Optuna's own samplers do not see it.

A measuring worker is a process that makes no trials. It reads the study, picks what matters most,
and stores what its `Instrument` tells, so that it may be killed at any moment.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from edgenas.errors import EdgenasError
from edgenas.events import Event, Report
from edgenas.pareto import Metric
from edgenas.search.nsga2 import ranks
from edgenas.search.problem import History, Problem
from edgenas.search.storage import OpenStudy
from edgenas.search.workers import works_here
from edgenas.spaces import Architecture

if TYPE_CHECKING:
    import optuna

SESSION = 8
"""Architectures that are measured together, at most."""
RANKS = 3
"""Fronts that are measured while trials go on: that of all trials, that of the rest, and so on."""
REST = 5.0
"""While trials go on, a session that kept this machine busy for a second is followed by so many
seconds without one."""
LOOK_S = 0.5
"""Between two looks at the study."""
RETRY_S = 5.0
"""After a session that failed."""
FAILURES = 3
"""After so many failed sessions in a row nobody waits for measurements."""
QUIET_S = 240.0
"""How long a session waits for this host's running trials to end."""
END_S = 900.0
"""How long a search waits at its end until its front is measured."""

_MEASURED, _MEASURER, _AWAITED = "measured", "measurer", "measurements are awaited"

Outcomes = Mapping[Architecture, Metric | str]
"""What was measured, or why it cannot be; an architecture that is missing is tried again."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """What measures one metric of architectures."""

    metric: str
    place: str
    """Names the thing that is measured on: one at a time, among all hosts."""
    held: Callable[[Report], AbstractContextManager[object]]
    """The same among the processes of this host; one that waits reports it."""
    quiet: bool
    """Whether trials on this host disturb it: none runs while it measures."""
    prepare: Callable[[Sequence[Architecture], Report], Callable[[], Outcomes]]
    """Does what takes long and may be done while trials run, and returns the measurement."""


@dataclass(frozen=True, slots=True)
class Measurer:
    """What a measuring worker says of itself in the study."""

    told: str = ""
    failures: int = 0
    """Sessions in a row that failed."""


def read_measured(study: optuna.Study, problem: Problem) -> set[Architecture]:
    """Reads into `problem.measured` what the study has, and returns what was new."""
    new = set()
    known = {_key(metric, arch) for metric, arch in problem.measured}
    for key, table in study.user_attrs.items():
        kind, _, rest = key.partition(" ")
        if kind != _MEASURED or key in known:
            continue
        arch = problem.space.parse(table["architecture"])
        told = table.get("error") or Metric(**table["value"])
        problem.measured[rest.partition(" ")[0], arch] = told
        new.add(arch)
    return new


def store_measured(
    study: optuna.Study, metric: str, arch: Architecture, found: Metric | str
) -> None:
    """Keeps what was measured, or why it cannot be, in the study."""
    told = {"error": found} if isinstance(found, str) else {"value": found.to_table()}
    study.set_user_attr(_key(metric, arch), {"architecture": str(arch), **told})


def keep_measured(
    study: optuna.Study, measured: Mapping[tuple[str, Architecture], Metric | str]
) -> None:
    """Keeps in the study what was measured elsewhere; what it has already is not changed."""
    known = study.user_attrs
    for (metric, arch), found in measured.items():
        if _key(metric, arch) not in known:
            store_measured(study, metric, arch, found)


def _key(metric: str, arch: Architecture) -> str:
    """The study's attribute for a measured value."""
    return f"{_MEASURED} {metric} {arch.digest}"


def measurer(study: optuna.Study, metric: str) -> Measurer:
    """What the worker that measures `metric` said last."""
    return Measurer(**study.user_attrs.get(f"{_MEASURER} {metric}", {}))


def tell_measurer(study: optuna.Study, metric: str, told: str = "", failures: int = 0) -> None:
    """Says in the study what the worker that measures `metric` is at."""
    study.set_user_attr(f"{_MEASURER} {metric}", {"told": told, "failures": failures})


def await_measurements(study: optuna.Study, *, awaited: bool) -> None:
    """Says in the study whether its search is at the end and waits."""
    study.set_user_attr(_AWAITED, awaited)


def unmeasured(
    problem: Problem, history: History, metric: str, *, fronts: int = 1
) -> list[Architecture]:
    """Members of the present front, then of the next ones, whose `metric` is not measured.

    The front is that of predictions as they are corrected by what was measured, else others than
    the measured ones would stand in it at the end.
    """
    found: dict[Architecture, None] = {}
    nearest = ranks(problem.corrected(history), problem.objectives)
    for rank, _ in itertools.islice(nearest, fronts):
        found |= dict.fromkeys(t.architecture for t in rank)
    return [arch for arch in found if (metric, arch) not in problem.measured]


def measure_on(opened: OpenStudy, problem: Problem, instrument: Instrument) -> NoReturn:
    """Measures what matters most in the study, until the process is stopped.

    A session that fails is tried again after a while; the study says why.

    Raises:
        ResourceError: the study cannot be read or written.
    """
    from edgenas.search.strategies import read_history

    study, metric = opened.study, instrument.metric
    failures, rested_at = 0, time.monotonic()

    def say(event: Event) -> None:
        tell_measurer(study, metric, event.message, failures)

    with opened.lock(f"{study.study_name} {metric}"):  # one host's machine is not another's
        tell_measurer(study, metric)
        while True:
            read_measured(study, problem)
            history, awaited = read_history(study, problem), study.user_attrs.get(_AWAITED)
            wanted = unmeasured(problem, history, metric, fronts=1 if awaited else RANKS)
            if not wanted or (time.monotonic() < rested_at and not awaited):
                time.sleep(LOOK_S)
                continue
            try:
                found, busy_s = _session(opened, instrument, wanted[:SESSION], say)
            except EdgenasError as error:
                failures += 1
                hint = f" ({error.hint})" if error.hint else ""
                tell_measurer(study, metric, f"{error}{hint}", failures)
                time.sleep(RETRY_S)
                continue
            failures, rested_at = 0, time.monotonic() + REST * busy_s
            for arch, outcome in found.items():
                store_measured(study, metric, arch, outcome)
            failed = [f"{a.digest}: {why}" for a, why in found.items() if isinstance(why, str)]
            told = f"{metric} of {len(found) - len(failed)} networks measured"
            tell_measurer(study, metric, "; ".join([told, *failed]))


def _session(
    opened: OpenStudy, instrument: Instrument, archs: Sequence[Architecture], say: Report
) -> tuple[Outcomes, float]:
    """What was measured, and for how many seconds this machine was busy with it."""
    began = time.monotonic()
    measure = instrument.prepare(archs, say)
    busy_s = time.monotonic() - began
    with opened.lock(instrument.place), instrument.held(say):
        if not instrument.quiet:
            return measure(), busy_s
        with opened.turn():  # from here on nobody begins a trial
            began = time.monotonic()
            while _trials_here(opened.study) and time.monotonic() < began + QUIET_S:
                time.sleep(LOOK_S / 5)
            found = {} if _trials_here(opened.study) else measure()
            return found, busy_s + time.monotonic() - began


def _trials_here(study: optuna.Study) -> bool:
    """Whether a trial is worked on by this host; one that waits for another's end is not."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    at_work = [t.user_attrs for t in running if not t.user_attrs.get("waits")]
    return any(works_here(told.get("worker", {})) for told in at_work)
