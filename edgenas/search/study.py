"""The search: an Optuna study that survives kills, repeats under its seed, and says why it stopped.

Optuna is the ledger: every trial is asked from a sampler that is built anew from a seed derived
from (root seed, number of finished trials), and told before the next one. So a study that was
killed and resumed has the same trials as one that was left alone (one worker).

A candidate whose *cheap* metrics violate a bound is never evaluated at a cost. Its trial is told
as infeasible: each bound is a constraint of Optuna (<= 0 is feasible), and an objective that was
not evaluated gets the worst finite value seen so far (0 before there is one). Samplers order
infeasible trials by their constraints, so this placeholder decides nothing; it is not among the
trial's `metrics`, which alone are read back.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed, digest
from edgenas.errors import (
    EdgenasError,
    Interrupted,
    ResourceError,
    SpecError,
    UsageError,
)
from edgenas.events import Event, Report, silent
from edgenas.objectives import Objective, check_objectives, directed, total_violation
from edgenas.pareto import Candidate, Metric, ParetoFront, hypervolume
from edgenas.search.problem import (
    MetricFunction,
    Problem,
    Trial,
    check_reachable,
    infeasible,
    params_of,
    reference_point,
)
from edgenas.search.storage import open_study, quiet_optuna
from edgenas.spaces import Architecture, Choices

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

FAILED_SHARE = 0.2
"""A search stops when more than this share of its trials (of at least 10) failed."""


@dataclass(frozen=True, slots=True)
class Stagnation:
    """Stop when `window` trials in a row add less than `tolerance` of the hypervolume."""

    window: int = 60
    tolerance: float = 0.001
    minimum: int = 120
    """Trials that are made in any case."""

    def __post_init__(self) -> None:
        if self.window < 1 or self.tolerance < 0 or self.minimum < self.window:
            raise SpecError(f"stagnation: {self}: window >= 1, tolerance >= 0, minimum >= window")


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial that came to its end.

    `evaluated`: it has every objective's metric, since no cheap bound was violated. `seconds` is
    what it took in all: the strategy, the metrics (nothing, where they were known) and storage.
    """

    architecture: Architecture
    metrics: Mapping[str, float]
    evaluated: bool
    feasible: bool
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, over all its sessions.

    `candidates` are the evaluated architectures, each once, in the order of their evaluation, those
    that were known before first; `n_evaluated` counts what this search evaluated itself;
    `hypervolume_history` is the front's after each finished trial, against `reference`.
    """

    candidates: tuple[Candidate, ...]
    front: ParetoFront
    n_trials: int
    n_evaluated: int
    n_failed: int
    elapsed_s: float
    reference: Mapping[str, float]
    hypervolume_history: tuple[float, ...]
    stopped_because: str
    trials: tuple[FinishedTrial, ...] = ()

    @property
    def hypervolume(self) -> float:
        """Of the front, against `reference`."""
        return self.hypervolume_history[-1] if self.hypervolume_history else 0.0


def run_search(
    space: Choices,
    objectives: Sequence[Objective],
    *,
    cheap: MetricFunction,
    costly: MetricFunction,
    strategy: str = "surrogate",
    trials: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    storage: Path | None = None,
    resume: bool = False,
    fingerprint: Mapping[str, str] = MappingProxyType({}),
    reference: Mapping[str, float] | None = None,
    stagnation: Stagnation | None = None,
    known: Mapping[Architecture, Mapping[str, float]] = MappingProxyType({}),
    prior: Mapping[Architecture, Mapping[str, float]] = MappingProxyType({}),
    origins: Mapping[str, str] = MappingProxyType({}),
    report: Report = silent,
) -> SearchResult:
    """The feasible, undominated architectures that `strategy` finds within the budget.

    Args:
        space: what to choose from.
        objectives: with the names that `cheap` and `costly` return.
        cheap: metrics that cost nothing; called first, and as often as strategies like.
        costly: metrics that are evaluated once an architecture, and never against a cheap bound.
        strategy: a name; see `edgenas.search.strategies`.
        trials: finished trials to reach, those of earlier sessions included.
        minutes: time to spend on trials, those of earlier sessions included.
        seed: root of every random choice.
        storage: an SQLite file; None keeps the study in memory.
        resume: whether to go on with the study in `storage`, if there is one.
        fingerprint: digests of what the metrics rest on (data, supernet, table, ...); a study
            with another fingerprint, space, objectives, seed or strategy is not resumed.
        reference: the hypervolume's reference point by objective; where absent, an objective's
            bound or else the worst value evaluated.
        stagnation: when to stop although the budget is not used up.
        known: costly metrics that earlier searches evaluated: strategies and the front have them
            from the start, at no cost.
        prior: costly metrics of architectures on other images or another supernet; the surrogate
            finds out what they are worth here.
        origins: the word for where each metric comes from (`predicted`, `supernet`, ...).
        report: receives an event a trial.

    Raises:
        UsageError: no budget; a study that exists without `resume`; another search at work on it.
        SpecError: an unknown strategy, a missing metric, a study with another fingerprint.
        InfeasibleError: no architecture meets the bounds.
        ResourceError: the disk is full or cannot be written.
        Interrupted: on KeyboardInterrupt; what is finished is stored.
        EdgenasError: more than a fifth of the trials failed; it names the first error.
    """
    from edgenas.search.strategies import find_strategy

    check_objectives(objectives)
    if trials is None and minutes is None:
        raise UsageError("a search needs a budget", hint="set trials, minutes or both")
    if (trials is not None and trials < 1) or (minutes is not None and not 0 < minutes < math.inf):
        raise UsageError(f"a search needs a positive budget: {trials=}, {minutes=}")
    make_sampler = find_strategy(strategy)
    cheap = _remembered(cheap)
    earlier = _earlier(space, objectives, cheap, known, seed)
    problem = Problem(space, tuple(objectives), cheap, earlier, prior)
    check_reachable(problem, random.Random(derive_seed(seed, "reachable")))
    marks = {
        **fingerprint,
        "space": space.digest,
        "objectives": ", ".join(map(str, objectives)),
        "seed": str(seed),
        "strategy": strategy,
        **_warm_marks(known, prior),
    }
    with quiet_optuna(), open_study(storage, objectives, marks, resume=resume) as study:
        complete = {t.architecture: known[t.architecture] for t in earlier}
        search = _Search(problem, costly, study, complete, dict(reference or {}))
        try:
            search.reap()
            while True:
                because = search.enough(trials, minutes, stagnation)
                if because:
                    break
                study.sampler = make_sampler(problem, derive_seed(seed, "trial", search.n_finished))
                search.one_trial()
                report(search.event(trials, minutes))
        except (KeyboardInterrupt, Interrupted) as error:
            search.abandon()
            raise Interrupted(
                f"search stopped after {search.n_finished} finished trials; all are stored"
                if storage
                else "search stopped",
                hint="the same command with --resume goes on" if storage else "",
                exit_code=getattr(error, "exit_code", 130),
            ) from None
        return search.result(marks, origins, because)


@dataclass(slots=True)
class _Search:
    """One session over a study; everything it counts is read from the study's trials."""

    problem: Problem
    costly: MetricFunction
    study: optuna.Study
    known: dict[Architecture, Mapping[str, float]]
    reference: dict[str, float]
    finished: list[FinishedTrial] = field(default_factory=list)
    first_error: Exception | None = None
    started: float = field(default_factory=time.monotonic)
    earlier_s: float = 0.0

    def reap(self) -> None:
        """Reads the study; trials that a killed session left running are told as failed."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
            if "metrics" in trial.user_attrs:  # evaluated, even if killed before it was told
                arch = self.problem.space.parse(trial.user_attrs["architecture"])
                self._remember(arch, trial.user_attrs["metrics"])
            if trial.state == TrialState.COMPLETE or "error" in trial.user_attrs:
                self._finish(trial.user_attrs)
        self.earlier_s = sum(f.seconds for f in self.finished)

    @property
    def earlier(self) -> list[FinishedTrial]:
        """What other studies evaluated, as if it had been tried here."""
        objectives = self.problem.objectives
        return [
            FinishedTrial(
                trial.architecture,
                trial.metrics,
                evaluated=True,
                feasible=total_violation(objectives, trial.metrics) == 0,
                seconds=0.0,
                error="",
            )
            for trial in self.problem.earlier
        ]

    @property
    def everything(self) -> list[FinishedTrial]:
        """Earlier trials and this study's finished ones."""
        return [*self.earlier, *self.finished]

    @property
    def elapsed_s(self) -> float:
        """Time spent on the trials of earlier sessions, and in this one."""
        return self.earlier_s + time.monotonic() - self.started

    @property
    def n_finished(self) -> int:
        """Complete and failed trials, without those that were cut off: the seeds' numbering."""
        return len(self.finished)

    @property
    def n_failed(self) -> int:
        return sum(bool(f.error) for f in self.finished)

    def one_trial(self) -> None:
        """Asks, evaluates and tells one trial."""
        from optuna.trial import TrialState

        from edgenas.search.strategies import distributions

        space = self.problem.space
        spent_s = sum(f.seconds for f in self.finished)
        trial = self.study.ask(distributions(space))
        arch = space.architecture(trial.params)
        trial.set_user_attr("architecture", str(arch))
        try:
            metrics = self._evaluate(arch)
        except Exception as error:  # whatever a metric raises fails its trial only
            if isinstance(error, _FATAL):
                raise
            self.first_error = self.first_error or error
            trial.set_user_attr("seconds", self.elapsed_s - spent_s)
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
            self._finish(trial.user_attrs)
            logger.info("trial %d failed: %s", trial.number, error)
            self._stop_if_failing()
            return
        for objective in self.problem.objectives:
            if objective.bound is not None and objective.name in metrics:
                trial.set_constraint(objective.name, objective.violation(metrics))
        trial.set_user_attr("seconds", self.elapsed_s - spent_s)
        # Last: from here on the evaluation is kept, whatever happens to the trial.
        trial.set_user_attr("metrics", dict(metrics))
        self.study.tell(trial, self._values(metrics))
        self._remember(arch, metrics)
        self._finish(trial.user_attrs)
        logger.info("trial %d: %s: %s", trial.number, arch.digest, metrics)

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

    def _finish(self, attributes: Mapping[str, Any]) -> None:
        arch = self.problem.space.parse(attributes["architecture"])
        metrics = attributes.get("metrics", {})
        evaluated = all(o.name in metrics for o in self.problem.objectives)
        self.finished.append(
            FinishedTrial(
                arch,
                metrics,
                evaluated=evaluated,
                feasible=evaluated and total_violation(self.problem.objectives, metrics) == 0,
                seconds=attributes.get("seconds", 0.0),
                error=attributes.get("error", ""),
            )
        )

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        """The directed objectives' values for Optuna, with placeholders (see the module's text)."""
        values = []
        for axis in directed(self.problem.objectives):
            seen = [f.metrics for f in self.finished if axis.name in f.metrics]
            worst = max(seen, key=axis.loss, default={axis.name: 0.0})
            values.append(metrics.get(axis.name, worst[axis.name]))
        return values

    def _stop_if_failing(self) -> None:
        if self.n_failed <= FAILED_SHARE * max(10, self.n_finished):
            return
        first = next(f for f in self.finished if f.error)
        error = EdgenasError(
            f"{self.n_failed} of {self.n_finished} trials failed, so the search stopped; "
            f"the first error, of {first.architecture}: {first.error}",
            hint=getattr(self.first_error, "hint", ""),
        )
        error.exit_code = getattr(self.first_error, "exit_code", error.exit_code)
        raise error from self.first_error

    def abandon(self) -> None:
        """Tells the trial that was cut off as failed; it counts for nothing."""
        from optuna.trial import TrialState

        # A second Ctrl-C or a storage that fails too: the next session reaps the trial.
        with contextlib.suppress(Exception, KeyboardInterrupt):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def enough(
        self, trials: int | None, minutes: float | None, stagnation: Stagnation | None
    ) -> str:
        """Why no further trial is made, or nothing."""
        if trials is not None and self.n_finished >= trials:
            return f"{trials} trials"
        if minutes is not None and self.elapsed_s >= 60 * minutes:
            return f"{minutes:g} minutes"
        tried = {f.architecture for f in self.everything if not f.error}
        if len(tried) >= self.problem.space.size:
            return "every architecture of the space was tried"
        if stagnation and self.n_finished >= stagnation.minimum:
            reference = self.reference_point()
            now = self._hypervolume(self.n_finished, reference)
            before = self._hypervolume(self.n_finished - stagnation.window, reference)
            if now > 0 and now - before <= stagnation.tolerance * now:
                return f"{stagnation.window} trials added {now / max(before, 1e-300) - 1:.2%}"
        return ""

    def reference_point(self) -> dict[str, float]:
        """The given reference, else an objective's bound, else the worst value evaluated."""
        evaluated = [f.metrics for f in self.everything if f.evaluated]
        return {**reference_point(self.problem.objectives, evaluated), **self.reference}

    def _hypervolume(self, n: int, reference: Mapping[str, float]) -> float:
        axes = directed(self.problem.objectives)
        counted = [*self.earlier, *self.finished[:n]]
        points = [[a.value(f.metrics) for a in axes] for f in counted if f.feasible]
        return hypervolume(
            points, [a.direction for a in axes if a.direction], [reference[a.name] for a in axes]
        )

    def event(self, trials: int | None, minutes: float | None) -> Event:
        """Progress after a trial, by whichever budget is nearer its end."""
        spent_s = self.elapsed_s
        shares = [self.n_finished / trials] if trials else []
        shares += [spent_s / (60 * minutes)] if minutes else []
        share = min(1.0, max(shares))
        feasible = sum(f.feasible for f in self.finished)
        hv = self._hypervolume(self.n_finished, self.reference_point())
        return Event(
            "search",
            done=self.n_finished if trials else spent_s,
            total=trials or 60 * (minutes or 0),
            message=f"{feasible} feasible, hypervolume {hv:.5g}",
            remaining_s=spent_s * (1 - share) / share if share > 0 else None,
        )

    def result(
        self, marks: Mapping[str, str], origins: Mapping[str, str], because: str
    ) -> SearchResult:
        """Everything evaluated so far and its front.

        Raises:
            InfeasibleError: if nothing feasible was found.
        """
        objectives = self.problem.objectives
        if not any(f.feasible for f in self.everything):
            reached = [f.metrics for f in self.everything if f.metrics]
            if reached:
                raise infeasible(objectives, reached)
        own = {f.architecture for f in self.finished if f.evaluated}
        once = {f.architecture: f.metrics for f in self.everything if f.evaluated}
        candidates = []
        for arch, metrics in once.items():
            cheap = self.problem.cheap(arch)
            words = {n: "computed" if n in cheap else "evaluated" for n in metrics}
            words |= {n: word for n, word in origins.items() if n in metrics}
            candidates.append(Candidate(arch, {n: Metric(v, words[n]) for n, v in metrics.items()}))
        reference = self.reference_point()
        return SearchResult(
            tuple(candidates),
            ParetoFront(objectives, tuple(candidates), marks),
            n_trials=self.n_finished,
            n_evaluated=len(own),
            n_failed=self.n_failed,
            elapsed_s=self.elapsed_s,
            reference=reference,
            hypervolume_history=self.history(reference),
            stopped_because=because,
            trials=tuple(self.finished),
        )

    def history(self, reference: Mapping[str, float]) -> tuple[float, ...]:
        """Hypervolume after each finished trial."""
        values: list[float] = []
        for n, last in enumerate(self.finished, 1):
            changed = last.feasible or not values
            values.append(self._hypervolume(n, reference) if changed else values[-1])
        return tuple(values)


class _MissingMetricError(SpecError):
    """An objective that no metric function knows: wrong for every trial, so it ends the search."""


_FATAL = (Interrupted, ResourceError, MemoryError, _MissingMetricError)
"""What ends a search at once rather than failing a trial."""


def _earlier(
    space: Choices,
    objectives: Sequence[Objective],
    cheap: MetricFunction,
    known: Mapping[Architecture, Mapping[str, float]],
    seed: int,
) -> tuple[Trial, ...]:
    """Known architectures as trials; those that lack an objective's metric are left out."""
    rng = random.Random(derive_seed(seed, "earlier"))
    trials: list[Trial] = []
    for arch, costly in known.items():
        metrics = {**costly, **cheap(arch)}
        if all(o.name in metrics for o in objectives):
            trials.append(
                Trial(len(trials) - len(known), arch, params_of(space, arch, rng), metrics)
            )
    return tuple(trials)


def _warm_marks(
    known: Mapping[Architecture, Mapping[str, float]],
    prior: Mapping[Architecture, Mapping[str, float]],
) -> dict[str, str]:
    """What a warm start adds to a study's fingerprint: trials follow from it too."""
    told = {"known": known, "prior": prior}
    return {
        name: digest([[str(arch), sorted(values.items())] for arch, values in found.items()])
        for name, found in told.items()
        if found
    }


def _remembered(cheap: MetricFunction) -> MetricFunction:
    memory: dict[Architecture, Mapping[str, float]] = {}

    def remembered(arch: Architecture) -> Mapping[str, float]:
        if arch not in memory:
            memory[arch] = MappingProxyType(dict(cheap(arch)))
        return memory[arch]

    return remembered
