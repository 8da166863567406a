"""The trials of a search: asked from Optuna, evaluated, told; read back by whoever works on them.

A candidate whose *cheap* metrics violate a bound is never evaluated at a cost. Its trial is told
as infeasible: each bound is a constraint of Optuna (<= 0 is feasible), and an objective that was
not evaluated gets the worst finite value seen so far (0 before there is one); a bound on it counts
as met. Samplers order infeasible trials by their constraints, so these placeholders decide nothing;
they are not among the trial's `metrics`, which alone are read back.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed
from edgenas.errors import ArtifactError, EdgenasError, Interrupted, ResourceError, SpecError
from edgenas.objectives import directed, total_violation
from edgenas.search.measuring import read_measured
from edgenas.search.problem import MetricFunction, Problem
from edgenas.search.storage import OpenStudy
from edgenas.search.workers import Watch, my_mark
from edgenas.spaces import Architecture

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

FAILED_SHARE = 0.2
"""A search stops when more than this share of its trials (of at least 10) failed."""


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial that came to its end.

    `evaluated`: it has every objective's metric, since no cheap bound was violated. `seconds` is
    what it took in all: the strategy, the metrics (nothing, where they were known) and storage.
    """

    number: int
    architecture: Architecture
    metrics: Mapping[str, float]
    evaluated: bool = False
    feasible: bool = False
    seconds: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Ledger:
    """One session over a study; everything it counts is read from the study's trials."""

    problem: Problem
    costly: MetricFunction
    opened: OpenStudy
    alone: bool
    """Whether no other process works on the study, so that its running trials are orphans."""
    known: dict[Architecture, Mapping[str, float]]
    """Costly metrics of what was evaluated, here or in an earlier search."""
    finished: list[FinishedTrial] = field(default_factory=list)
    first_error: Exception | None = None
    started: float = field(default_factory=time.monotonic)
    own_s: float = 0.0
    """What the trials of this session took."""
    asked_at: float = field(default_factory=time.monotonic)
    """When the last trial of this session ended: the next one takes from then on."""
    mark: Mapping[str, str] = field(default_factory=my_mark)
    watch: Watch = field(default_factory=Watch)
    read: set[int] = field(default_factory=set)
    """Numbers of the trials that ended, one way or another."""
    n_running: int = 0
    """Trials that other workers are at."""

    @property
    def study(self) -> optuna.Study:
        """The study whose trials these are."""
        return self.opened.study

    def read_measured(self) -> None:
        """Puts measured values in place of predicted ones, and judges their trials anew."""
        if new := read_measured(self.study, self.problem):
            self.finished = [self._judged(f) if f.architecture in new else f for f in self.finished]

    def sync(self) -> None:
        """Reads what has ended or was measured since, and reaps trials whose worker is gone.

        A reaped trial counts for nothing. Alone, the same is proposed again, since the history is
        the same; in company, what it was to try is queued. To be called in one's own turn.
        """
        from optuna.trial import TrialState

        self.read_measured()
        self.n_running = 0
        trials = self.study.get_trials(deepcopy=False)
        waiting = [_queued(t) for t in trials if t.state == TrialState.WAITING]
        for trial in trials:
            if trial.number in self.read or trial.state == TrialState.WAITING:
                continue
            if trial.state == TrialState.RUNNING:
                if not self._orphaned(trial):
                    self.n_running += 1
                    continue
                # What was queued is drawn gene by gene: its worker may have died in between.
                wanted = _queued(trial) or dict(trial.params)
                whole = len(wanted) == len(self.problem.space.genes)
                # Queued first, and once: whoever reaps may be killed between the two, too.
                if not self.alone and whole and wanted not in waiting:
                    self.study.enqueue_trial(wanted)
                trial = self._reaped(trial.number)
                if trial.state == TrialState.FAIL:
                    logger.info("trial %d: its worker is gone; it is tried again", trial.number)
            self.read.add(trial.number)
            if "metrics" in trial.user_attrs:  # evaluated, even if killed before it was told
                arch = self.problem.space.parse(trial.user_attrs["architecture"])
                self._remember(arch, trial.user_attrs["metrics"])
            if trial.state == TrialState.COMPLETE or "error" in trial.user_attrs:
                self._finish(trial.number, trial.user_attrs)

    def _reaped(self, number: int) -> FrozenTrial:
        """The trial, told as failed: or as its worker ended it, whose last word came just now."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with contextlib.suppress(UpdateFinishedTrialError):
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        return self.study.get_trials(deepcopy=False)[number]

    def _orphaned(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on a running trial; without a mark, its worker died as it asked."""
        mark = trial.user_attrs.get("worker")
        if self.alone or mark is None:
            return True
        return self.watch.gone(mark, self.study.user_attrs)

    def is_full(self, trials: int | None) -> bool:
        """Whether the trials that are running elsewhere use up the budget."""
        return trials is not None and self.n_finished + self.n_running >= trials

    def seed(self, root: int) -> int:
        """Of the next trial: alone a function of what is finished, in company unique."""
        parts = [] if self.alone else [len(self.read) + self.n_running]
        return derive_seed(root, "trial", self.n_finished, *parts)

    @property
    def earlier(self) -> list[FinishedTrial]:
        """What other studies evaluated, as if it had been tried here."""
        return [
            self._judged(FinishedTrial(trial.number, trial.architecture, trial.metrics))
            for trial in self.problem.earlier
        ]

    @property
    def everything(self) -> list[FinishedTrial]:
        """Earlier trials and this study's finished ones."""
        return [*self.earlier, *self.finished]

    @property
    def elapsed_s(self) -> float:
        """Time spent in this session; where nobody else does, also on earlier sessions' trials."""
        others_s = sum(f.seconds for f in self.finished) - self.own_s if self.alone else 0.0
        return others_s + time.monotonic() - self.started

    @property
    def n_finished(self) -> int:
        """Complete and failed trials, without those that were cut off: the seeds' numbering."""
        return len(self.finished)

    @property
    def n_failed(self) -> int:
        """Trials whose evaluation raised."""
        return sum(bool(f.error) for f in self.finished)

    def ask(self) -> optuna.Trial:
        """A new trial, marked as ours."""
        from optuna.trial import TrialState

        from edgenas.search.strategies import distributions

        genes = distributions(self.problem.space)
        while self._is_queued_twice(trial := self.study.ask(genes)):
            self.study.tell(trial.number, state=TrialState.FAIL)
        trial.set_user_attr("worker", dict(self.mark))
        arch = self.problem.space.architecture(trial.params)
        trial.set_user_attr("architecture", str(arch))
        return trial

    def _is_queued_twice(self, trial: optuna.Trial) -> bool:
        """Whether a trial from the queue is made already.

        What a killed worker sent to a database last may arrive after the next one has read.
        """
        from optuna.trial import TrialState

        if self.alone:
            return False
        trials = self.study.get_trials(deepcopy=False)
        if not _queued(trials[trial.number]):
            return False
        arch = str(self.problem.space.architecture(trial.params))
        return any(
            other.number != trial.number
            and other.user_attrs.get("architecture") == arch
            and other.state in (TrialState.COMPLETE, TrialState.RUNNING)
            for other in trials
        )

    def is_made_elsewhere(self, trial: optuna.Trial) -> bool:
        """Whether another worker was at the trial's architecture before, and still is.

        What has ended since is read. To be called in one's own turn.
        """
        from optuna.trial import TrialState

        arch = self.problem.space.architecture(trial.params)
        if self.alone or arch in self.known:
            return False
        running = any(
            other.number < trial.number
            and other.user_attrs.get("architecture") == str(arch)
            and not self._orphaned(other)
            for other in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        )
        self.sync()  # after the look: what ran no more then is known now
        return running

    def evaluate(self, trial: optuna.Trial) -> None:
        """Evaluates and tells a trial.

        One that was taken from us, since we seemed to be gone, counts where it was tried again.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError):
            self._evaluate_and_tell(trial)

    def _evaluate_and_tell(self, trial: optuna.Trial) -> None:
        from optuna.trial import TrialState

        arch = self.problem.space.architecture(trial.params)
        try:
            metrics = self._evaluate(arch)
        except Exception as error:  # whatever a metric raises fails its trial only
            if isinstance(error, _FATAL):
                raise
            self.first_error = self.first_error or error
            trial.set_user_attr("seconds", self._lap_s())
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            self._told(trial)
            logger.info("trial %d failed: %s", trial.number, error)
            self._stop_if_failing()
            return
        for objective in self.problem.objectives:
            if objective.bound is not None:  # Optuna wants the same constraints of all trials
                known = objective.name in metrics
                trial.set_constraint(objective.name, objective.violation(metrics) if known else 0.0)
        trial.set_user_attr("seconds", self._lap_s())
        # Last: from here on the evaluation is kept, whatever happens to the trial.
        trial.set_user_attr("metrics", dict(metrics))
        told = self.study.tell(trial, self._values(metrics), skip_if_finished=True)
        if told.state != TrialState.COMPLETE:
            return
        self._remember(arch, metrics)
        self._told(trial)
        logger.info("trial %d: %s: %s", trial.number, arch.digest, metrics)

    def _lap_s(self) -> float:
        """Seconds since the last trial of this session ended."""
        now = time.monotonic()
        lap, self.asked_at = now - self.asked_at, now
        self.own_s += lap
        return lap

    def _told(self, trial: optuna.Trial) -> None:
        self.read.add(trial.number)
        self._finish(trial.number, trial.user_attrs)

    def _evaluate(self, arch: Architecture) -> Mapping[str, float]:
        """Cheap metrics, and the costly ones too unless a cheap bound is violated."""
        metrics = dict(self.problem.cheap(arch))
        if total_violation(self.problem.objectives, metrics) == 0:
            if arch not in self.known:
                self.known[arch] = dict(self.costly(arch))
            metrics = {**self.known[arch], **metrics}
            for objective in self.problem.objectives:
                if objective.name not in metrics:
                    raise _MissingMetricError(
                        f"objective '{objective}': neither the cheap nor the costly metrics "
                        f"have {objective.name!r}; they have {', '.join(sorted(metrics))}"
                    )
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise SpecError(f"{name} of {arch} is {value}, not a finite number")
        return {name: float(value) for name, value in metrics.items()}

    def _remember(self, arch: Architecture, metrics: Mapping[str, float]) -> None:
        cheap = self.problem.cheap(arch)
        if costly := {n: v for n, v in metrics.items() if n not in cheap}:
            self.known.setdefault(arch, costly)

    def _finish(self, number: int, attributes: Mapping[str, Any]) -> None:
        told = FinishedTrial(
            number,
            self.problem.space.parse(attributes["architecture"]),
            attributes.get("metrics", {}),
            seconds=attributes.get("seconds", 0.0),
            error=attributes.get("error", ""),
        )
        bisect.insort(self.finished, self._judged(told), key=lambda f: f.number)

    def _judged(self, trial: FinishedTrial) -> FinishedTrial:
        """The trial with what was measured of it, evaluated or not, feasible or not."""
        objectives = self.problem.objectives
        metrics = self.problem.overlaid(trial.architecture, trial.metrics)
        evaluated = all(o.name in metrics for o in objectives)
        feasible = evaluated and total_violation(objectives, metrics) == 0
        return replace(trial, metrics=metrics, evaluated=evaluated, feasible=feasible)

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        """The directed objectives' values for Optuna, with placeholders (see the module's text)."""
        values = []
        for axis in directed(self.problem.objectives):
            seen = [f.metrics for f in self.finished if axis.name in f.metrics]
            worst = max(seen, key=axis.loss, default={axis.name: 0.0})
            values.append(metrics.get(axis.name, worst[axis.name]))
        return values

    def _stop_if_failing(self) -> None:
        if self.n_failed > FAILED_SHARE * max(10, self.n_finished):
            raise self.failing() from self.first_error

    def failing(self) -> EdgenasError:
        """The error for trials that failed, with the first one's message and exit code."""
        first = next(f for f in self.finished if f.error)
        error = EdgenasError(
            f"{self.n_failed} of {self.n_finished} trials failed, so the search stopped; "
            f"the first error, of {first.architecture}: {first.error}",
            hint=getattr(self.first_error, "hint", ""),
        )
        error.exit_code = getattr(self.first_error, "exit_code", error.exit_code)
        return error

    def abandon(self) -> None:
        """Tells the trial that was cut off as failed; it counts for nothing."""
        from optuna.trial import TrialState

        # A second Ctrl-C or a storage that fails too: the next session reaps the trial.
        with contextlib.suppress(Exception, KeyboardInterrupt):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if self.alone or trial.user_attrs.get("worker") == self.mark:
                    self.study.tell(trial.number, state=TrialState.FAIL)


def _queued(trial: FrozenTrial) -> dict[str, Any]:
    """The genes that a trial was queued with; nothing, where a sampler chose them."""
    return dict(trial.system_attrs.get("fixed_params", {}))


class _MissingMetricError(SpecError):
    """An objective that no metric function knows: wrong for every trial, so it ends the search."""


_FATAL = (Interrupted, ResourceError, ArtifactError, MemoryError, _MissingMetricError)
"""What ends a search at once rather than failing a trial."""
