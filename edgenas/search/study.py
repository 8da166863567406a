"""The search: an Optuna study that survives kills, repeats under its seed, and says why it stopped.

Optuna is the ledger: every trial is asked from a sampler that is built anew from a seed derived
from (root seed, number of finished trials), and told before the next one. So a study that was
killed and resumed has the same trials as one that was left alone (one worker).

Several workers share a study: whoever has the turn, one at a time, proposes on the strength of all
trials, those under way included; then he evaluates while others have theirs.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from edgenas.artifacts import derive_seed, digest
from edgenas.errors import Interrupted, SpecError, UsageError
from edgenas.events import Event, Report, silent
from edgenas.objectives import Objective, check_objectives, directed
from edgenas.pareto import Candidate, Metric, ParetoFront, hypervolume
from edgenas.search.ledger import FinishedTrial, Ledger
from edgenas.search.measuring import (
    END_S,
    FAILURES,
    Instrument,
    Measurer,
    await_measurements,
    keep_measured,
    measure_on,
    measurer,
    tell_measurer,
    unmeasured,
)
from edgenas.search.problem import (
    Correct,
    Gradients,
    MetricFunction,
    Problem,
    Trial,
    check_reachable,
    infeasible,
    params_of,
    reference_point,
)
from edgenas.search.storage import STUDY, Where, open_study, quiet_optuna
from edgenas.search.workers import beating
from edgenas.spaces import Architecture, Choices

REMEMBERED = 50_000
"""Architectures whose cheap metrics are kept: gradients look at hundreds for each step."""
REPEATS = 50
"""So many trials in a row of architectures that were tried before end a search."""
WAIT_S = 0.2
"""Between two looks at the trials that others are at."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a process takes part in a study that several work on."""

    name: str = STUDY
    """Of the study in a database."""
    role: Literal["alone", "leader", "helper"] = "alone"
    """Of a study in a file: who opens it is alone with it, or leads helpers that join him. Whoever
    names a database shares it with all that do."""
    tend: Callable[[], None] = lambda: None
    """Called before each trial, and while waiting for those of others."""
    measures: Callable[[], Collection[str]] = tuple
    """The metrics that measuring workers see to now. At the end the search waits until they have
    measured its front, `END_S` at most."""
    instrument: Instrument | None = None
    """With it, a helper makes no trials but measures, until it is interrupted."""


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
class Gains:
    """Of the last `n` trials of a search `k` raised the hypervolume.

    `chance` bounds that of a further one to do so, with a confidence of 95 %, as long as later
    trials are no better than these: the upper bound of Clopper and Pearson 1934 (with k = 0 about
    3 / n). Gains come ever more rarely, which makes it cautious.
    """

    n: int
    k: int
    chance: float

    @classmethod
    def of(cls, history: Sequence[float], last: int) -> Gains:
        """Of the hypervolume after each trial."""
        from scipy.stats import beta

        before, now = [0.0, *history][-last - 1 : -1], history[-last:]
        n, k = len(now), sum(b > a for a, b in zip(before, now, strict=True))
        return cls(n, k, 1.0 if k == n else float(beta.ppf(0.95, k + 1, n - k)))


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
    measurers: Mapping[str, str] = field(default_factory=dict)
    """What the measuring worker of each metric said last."""

    @property
    def hypervolume(self) -> float:
        """Of the front, against `reference`."""
        if self.hypervolume_history:
            return self.hypervolume_history[-1]
        axes = directed(self.front.objectives)  # no trial was made: what was known is the front
        origin = [self.reference[axis.name] for axis in axes]
        return hypervolume(self.front.points, self.front.directions, origin)

    @property
    def gains(self) -> Gains:
        """Of the later half of the trials."""
        return Gains.of(self.hypervolume_history, max(1, len(self.hypervolume_history) // 2))


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
    storage: Where = None,
    resume: bool = False,
    sharing: Sharing = Sharing(),
    fingerprint: Mapping[str, str] = MappingProxyType({}),
    reference: Mapping[str, float] | None = None,
    stagnation: Stagnation | None = None,
    known: Mapping[Architecture, Mapping[str, float]] = MappingProxyType({}),
    prior: Mapping[Architecture, Mapping[str, float]] = MappingProxyType({}),
    origins: Mapping[str, str] = MappingProxyType({}),
    gradients: Gradients | None = None,
    measured: Mapping[tuple[str, Architecture], Metric | str] = MappingProxyType({}),
    correct: Correct | None = None,
    report: Report = silent,
) -> SearchResult:
    """The feasible, undominated architectures that `strategy` finds within the budget.

    Args:
        space: what to choose from.
        objectives: with the names that `cheap` and `costly` return.
        cheap: metrics that cost nothing; called first, and as often as strategies like.
        costly: metrics that are evaluated once an architecture, and never against a cheap bound.
        strategy: a name; see `edgenas.search.strategies`.
        trials: finished trials to reach, those of earlier sessions and other workers included; 0
            makes a front of what is `known`.
        minutes: time to spend on trials, those of earlier sessions included; where several workers
            share the study, of this session alone.
        seed: root of every random choice.
        storage: an SQLite file; None keeps the study in memory; the URL of a PostgreSQL database,
            `postgresql://...`, is shared by all who name it.
        resume: whether to go on with the study in the file, if there is one.
        sharing: how to work on it with other processes; a seed then repeats nothing.
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
        gradients: of a supernet's loss, for the strategy `gradient`.
        measured: what was measured elsewhere, by metric and architecture, or why it cannot be; kept
            in the study as what its measuring workers find.
        correct: what measured architectures say of the others; it tells whom to measure next, and
            changes nothing that strategies see.
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
    least = 0 if known else 1
    if (trials is not None and trials < least) or (
        minutes is not None and not 0 < minutes < math.inf
    ):
        raise UsageError(f"a search needs a positive budget: {trials=}, {minutes=}")
    make_sampler = find_strategy(strategy)
    cheap = _remembered(cheap)
    earlier = _earlier(space, objectives, cheap, known, seed)
    seeded = gradients and replace(gradients, seed=derive_seed(seed, "gradients"))
    problem = Problem(space, tuple(objectives), cheap, earlier, prior, seeded, correct=correct)
    check_reachable(problem, random.Random(derive_seed(seed, "reachable")))
    marks = {
        **fingerprint,
        "space": space.digest,
        "objectives": ", ".join(map(str, objectives)),
        "seed": str(seed),
        "strategy": strategy,
        **_warm_marks(known, prior),
    }
    opening = open_study(
        storage,
        objectives,
        marks,
        resume=resume,
        name=sharing.name,
        joins=sharing.role == "helper",
    )
    with quiet_optuna(), opening as opened:
        complete = {t.architecture: known[t.architecture] for t in earlier}
        alone = opened.alone and sharing.role == "alone"
        in_database = isinstance(storage, str)
        keep_measured(opened.study, measured)
        ledger = Ledger(problem, costly, opened, alone, complete)
        search = _Search(ledger, dict(reference or {}))
        try:
            if sharing.instrument is not None:
                measure_on(opened, problem, sharing.instrument)
            search.expect_measurements(sharing)
            with beating(opened.study, ledger.mark) if in_database else nullcontext():
                because = ""
                while not because:
                    sharing.tend()
                    trial, waits = None, False
                    with opened.turn():
                        ledger.sync()
                        search.hear(sharing.measures(), report)
                        because = search.enough(trials, minutes, stagnation)
                        if not because and not ledger.is_full(trials):
                            opened.study.sampler = make_sampler(problem, ledger.seed(seed))
                            trial = ledger.ask()
                            if waits := ledger.is_made_elsewhere(trial):
                                trial.set_user_attr("waits", True)
                    if trial is not None:
                        while waits:
                            sharing.tend()
                            time.sleep(WAIT_S)
                            with opened.turn():
                                if not (waits := ledger.is_made_elsewhere(trial)):
                                    trial.set_user_attr("waits", False)
                        ledger.evaluate(trial)
                        report(search.event(trials, minutes))
                    elif not because:  # others are at the last trials, or may be killed at them
                        time.sleep(WAIT_S)
                search.await_measurements(sharing, report)
        except (KeyboardInterrupt, Interrupted) as error:
            ledger.abandon()
            raise Interrupted(
                f"search stopped after {ledger.n_finished} finished trials; all are stored"
                if storage
                else "search stopped",
                hint="the same command with --resume goes on" if storage else "",
                exit_code=getattr(error, "exit_code", 130),
            ) from None
        return search.result(marks, origins, because)


@dataclass(frozen=True, slots=True)
class _Search:
    """What is read from a ledger: when to stop, the hypervolume, progress, the result."""

    ledger: Ledger
    reference: Mapping[str, float]
    """What the caller gave of the reference point."""
    heard: dict[str, Measurer] = field(default_factory=dict)
    """What the measuring worker of each metric said last."""

    def hear(self, metrics: Collection[str], report: Report) -> None:
        """Passes on what the workers that measure `metrics` have to say."""
        for metric in metrics:
            said = measurer(self.ledger.study, metric)
            if said.told and said.told != self.heard.get(metric, Measurer()).told:
                report(Event("measure", message=said.told))
            self.heard[metric] = said

    def expect_measurements(self, sharing: Sharing) -> None:
        """Clears what an earlier session left in the study for measuring workers, or by them."""
        if metrics := sharing.measures():
            await_measurements(self.ledger.study, awaited=False)
        for metric in metrics:
            tell_measurer(self.ledger.study, metric)

    def await_measurements(self, sharing: Sharing, report: Report) -> None:
        """Waits until the front is measured, where that is to be expected; see `END_S`."""
        from edgenas.search.strategies import read_history

        study, problem = self.ledger.study, self.ledger.problem
        if sharing.measures():
            await_measurements(study, awaited=True)
        until, last = time.monotonic() + END_S, -1
        while time.monotonic() < until:
            sharing.tend()
            metrics = sharing.measures()
            self.hear(metrics, report)
            self.ledger.read_measured()
            history = read_history(study, problem)
            left = [
                arch
                for metric in metrics
                if self.heard[metric].failures < FAILURES
                for arch in unmeasured(problem, history, metric)
            ]
            if not left:
                return
            if len(left) != last:
                report(Event("measure", message=f"still to be measured of the front: {len(left)}"))
                last = len(left)
            time.sleep(WAIT_S)

    def enough(
        self, trials: int | None, minutes: float | None, stagnation: Stagnation | None
    ) -> str:
        """Why no further trial is made, or nothing."""
        if trials is not None and self.ledger.n_finished >= trials:
            return f"{trials} trials"
        if minutes is not None and self.ledger.elapsed_s >= 60 * minutes:
            return f"{minutes:g} minutes"
        done = [f.architecture for f in self.ledger.everything if not f.error]
        tried = set(done)
        if len(tried) >= self.ledger.problem.space.size:
            return "every architecture of the space was tried"
        if len(done) > REPEATS and len(set(done[:-REPEATS])) == len(tried):
            return f"{REPEATS} trials proposed nothing new: within reach all was tried"
        if stagnation and self.ledger.n_finished >= stagnation.minimum:
            reference = self.reference_point()
            now = self._hypervolume(self.ledger.n_finished, reference)
            before = self._hypervolume(self.ledger.n_finished - stagnation.window, reference)
            if now > 0 and now - before <= stagnation.tolerance * now:
                gains = Gains.of(self.history(reference), stagnation.window)
                return (
                    f"{stagnation.window} trials added {now / max(before, 1e-300) - 1:.2%}; a "
                    f"further one adds anything with a chance of at most {gains.chance:.0%}"
                )
        return ""

    def reference_point(self) -> dict[str, float]:
        """The given reference, else an objective's bound, else the worst value evaluated."""
        evaluated = [f.metrics for f in self.ledger.everything if f.evaluated]
        return {**reference_point(self.ledger.problem.objectives, evaluated), **self.reference}

    def _hypervolume(self, n: int, reference: Mapping[str, float]) -> float:
        axes = directed(self.ledger.problem.objectives)
        counted = [*self.ledger.earlier, *self.ledger.finished[:n]]
        points = [[a.value(f.metrics) for a in axes] for f in counted if f.feasible]
        return hypervolume(
            points, [a.direction for a in axes if a.direction], [reference[a.name] for a in axes]
        )

    def event(self, trials: int | None, minutes: float | None) -> Event:
        """Progress after a trial, by whichever budget is nearer its end."""
        spent_s = self.ledger.elapsed_s
        shares = [self.ledger.n_finished / trials] if trials else []
        shares += [spent_s / (60 * minutes)] if minutes else []
        share = min(1.0, max(shares))
        feasible = sum(f.feasible for f in self.ledger.finished)
        hv = self._hypervolume(self.ledger.n_finished, self.reference_point())
        return Event(
            "search",
            done=self.ledger.n_finished if trials else spent_s,
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
            EdgenasError: every trial failed.
        """
        objectives = self.ledger.problem.objectives
        if not any(f.feasible for f in self.ledger.everything):
            reached = {f.architecture: f.metrics for f in self.ledger.everything if f.metrics}
            if reached:
                among = f"{len(reached)} architectures that were tried"
                raise infeasible(objectives, reached, among=among)
            if self.ledger.n_failed:
                raise self.ledger.failing() from self.ledger.first_error
        own = {f.architecture for f in self.ledger.finished if f.evaluated}
        once = {f.architecture: f.metrics for f in self.ledger.everything if f.evaluated}
        candidates = []
        for arch, metrics in once.items():
            cheap = self.ledger.problem.cheap(arch)
            words = {n: "computed" if n in cheap else "evaluated" for n in metrics}
            words |= {n: word for n, word in origins.items() if n in metrics}
            told = {n: Metric(v, words[n]) for n, v in metrics.items()}
            measured = {n: self.ledger.problem.measured.get((n, arch)) for n in metrics}
            told |= {n: found for n, found in measured.items() if isinstance(found, Metric)}
            candidates.append(Candidate(arch, told))
        reference = self.reference_point()
        return SearchResult(
            tuple(candidates),
            ParetoFront(objectives, tuple(candidates), marks),
            n_trials=self.ledger.n_finished,
            n_evaluated=len(own),
            n_failed=self.ledger.n_failed,
            elapsed_s=self.ledger.elapsed_s,
            reference=reference,
            hypervolume_history=self.history(reference),
            stopped_because=because,
            trials=tuple(self.ledger.finished),
            measurers={metric: said.told for metric, said in self.heard.items()},
        )

    def history(self, reference: Mapping[str, float]) -> tuple[float, ...]:
        """Hypervolume after each finished trial."""
        values: list[float] = []
        for n, last in enumerate(self.ledger.finished, 1):
            changed = last.feasible or not values
            values.append(self._hypervolume(n, reference) if changed else values[-1])
        return tuple(values)


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
    @functools.lru_cache(maxsize=REMEMBERED)
    def remembered(arch: Architecture) -> Mapping[str, float]:
        return MappingProxyType(dict(cheap(arch)))

    return remembered
