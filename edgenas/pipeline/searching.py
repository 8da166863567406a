"""The stage `search`: from a run file to verified models, each step resumable by itself.

data -> supernet (shipped, a path, or trained first) -> latency tables -> study -> front.json,
trials.json -> the chosen networks -> explanation.json -> trained further (`finishing`) ->
models/<digest>/ -> measured on this machine -> result.json, provenance.json -> report ->
manifest.json
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import write_atomic, write_json
from edgenas.errors import DeviceError, EdgenasError, SpecError, UsageError
from edgenas.events import Event, Report, silent
from edgenas.objectives import total_violation
from edgenas.pareto import Candidate, Metric, ParetoFront
from edgenas.pipeline.config import RunConfig, SearchConfig, read_config, write_config
from edgenas.pipeline.correcting import MEASURED, corrected, correcting, read_told
from edgenas.pipeline.evaluating import Evaluator, check_unlabelled, evaluator
from edgenas.pipeline.explaining import EXPLANATION, explanation
from edgenas.pipeline.finishing import finish
from edgenas.pipeline.fleets import Chosen, accuracy_of, check_fleet
from edgenas.pipeline.goals import devices_of, objectives_of
from edgenas.pipeline.knowing import CACHE, Cache, WarmStart, begun, warm_start
from edgenas.pipeline.measuring import Measuring, instrument_for
from edgenas.pipeline.metrics import costly_metrics
from edgenas.pipeline.opening import Opened, open_stages
from edgenas.pipeline.provenance import provenance, reading_notes
from edgenas.pipeline.runs import RESULT_SCHEMA, Outcome, Run, check_clearable, clear, locked, seal
from edgenas.pipeline.selection import choose
from edgenas.pipeline.tables import TABLES
from edgenas.processes import threads_each

if TYPE_CHECKING:
    from edgenas.search import Gradients, SearchResult, Sharing
    from edgenas.search.dashboard import Dashboard

STUDY = "study.db"
ANEW = ".tables"
"""Where a search that begins anew has its tables until it replaces the one before."""
TRIALS_SCHEMA = "edgenas.trials/1"
WORKER_SCHEMA = "edgenas.search-worker/1"


def search(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    workers: int = 1,
    measure: bool = False,
    reach: bool = False,
    unmeasured: Sequence[str] = (),
    storage: str | None = None,
    study: str = "",
    report: Report = silent,
) -> Outcome:
    """Searches, exports, verifies, measures and reports into `folder`; see the module's text.

    With `resume`, finished trials and exported models with a valid certificate are not repeated.
    With `fresh`, all but a trained supernet is deleted as soon as nothing more can be refused.
    `workers` processes evaluate side by side. The study is in the folder, or under the name `study`
    in the PostgreSQL database that the URL `storage` names: all who search with these two, on
    whatever host, work on one search.

    For a fleet (`config.search.fleet`) the exported networks are the best few for all devices, of
    everything that was evaluated; `result.json` has the choice for each number of networks.

    With `measure`, one more process for each device times the networks of the front and near it;
    what it measured counts in place of what was predicted. At the end the search waits for those of
    the front, 15 minutes at most; what was not measured stays predicted. A device where nothing
    could be measured is a failure of exit code 4, after all else was written. Exported files are
    timed on this machine; with `measure`, or `reach` alone, also on devices that are connected.
    `unmeasured` says which devices were not measured before, though they should: failures as well.

    What was measured, now or before, corrects the run's tables for the front: see `correcting`.

    Raises:
        DeviceError: with `measure`, no device can be measured.
        UsageError: a study is there, and neither `resume` nor `fresh` is set.
        SpecError: the run file, the data, a table or the checkpoint is wrong.
        InfeasibleError: no architecture meets the bounds.
        ResourceError: disk, memory, the database, or another process at work in the folder.
        Interrupted: stopped; `resume` goes on.
    """
    from edgenas.pipeline.exporting import export_candidates
    from edgenas.pipeline.file_latency import measure_exports
    from edgenas.report import write_report
    from edgenas.search import check_storage
    from edgenas.search.problem import infeasible

    if resume and fresh:
        raise UsageError("--resume goes on with a search, --fresh begins anew: give one of them")
    if fresh and storage is not None:
        raise UsageError(
            "--fresh does not delete a study in a database, which others may work on",
            hint="--name NEW begins another beside it",
        )
    check_storage(storage)
    objectives = objectives_of(config)
    check_unlabelled(config, objectives)
    if config.search.fleet is not None:
        accuracy_of(objectives)
    measuring = Measuring.on(devices_of(config)) if measure else None
    with locked(folder):
        if fresh:
            check_clearable(folder)
        if (folder / STUDY).exists() and not (resume or fresh):
            raise UsageError(
                f"{folder} holds a search already",
                hint=f"--resume {_resumed(config, folder)}, --fresh begins anew, --name keeps both",
            )
        if not (folder / "run.toml").exists():  # a run from here on, also if it is stopped
            write_config(folder / "run.toml", config)
        tables = folder / (ANEW if fresh else TABLES)
        shutil.rmtree(folder / ANEW, ignore_errors=True)
        run = open_stages(config, folder, resume=resume, tables=tables, report=report)
        if config.search.fleet is not None:
            check_fleet(run)
        searched = _Search.of(run, report=report)
        if fresh:  # only now, when nothing more can be refused
            clear(folder, "supernet", ANEW)
            write_config(folder / "run.toml", config)
            tables.rename(folder / TABLES)
        with _unless_refused(folder / "run.toml"):
            write_config(folder / "run.toml", config)  # helpers read it
            found = searched.lead(
                workers, storage, study, measuring=measuring, resume=resume, report=report
            )
        n_images = searched.evaluate.n_images
        candidates = tuple(_explained(run, c, n_images) for c in found.candidates)
        judged, devices = corrected(run, candidates)
        if devices:
            candidates = tuple(_explained(judged, c, n_images) for c in found.candidates)
        front = ParetoFront(objectives, candidates, run.parents)
        if candidates and not len(front):
            among = f"{len(candidates)} networks, by measured and corrected latencies"
            raise infeasible(
                objectives, {c.architecture: c.values for c in candidates}, among=among
            )
        front.write(folder / "front.json")
        _write_trials(folder / "trials.json", candidates, found, front, searched.rests_on)
        fleet = None
        if config.search.fleet is not None:
            fleet = Chosen.of(config, config.search.fleet, candidates)
        chosen = fleet.networks(candidates) if fleet else choose(front, config.export.top)
        report(Event("explain", message="what each choice matters"))
        networks = [candidate for _, candidate in chosen]
        why = explanation(
            judged.cheap, objectives, found.trials, candidates, networks, seed=config.seed
        )
        write_json(folder / EXPLANATION, why)
        trained = finish(run, [c.architecture for c in networks], report=report)
        runs = {a.device: a.digest for a in fleet.fleet.assignments} if fleet else {}
        exported = export_candidates(run, judged, chosen, fleet=runs, report=report)
        exported = measure_exports(
            run, judged, exported, fleet=runs, reach=reach or measure, report=report
        )
        told, missed = measuring.judged(front, found.measurers) if measuring else ((), ())
        missed = (*missed, *unmeasured)
        failures = (*exported.failures, *missed)
        exit_code = exported.exit_code or (DeviceError.exit_code if missed else 0)
        document = {
            "schema": RESULT_SCHEMA,
            "run": str(folder),
            "trials": found.n_trials,
            "evaluated": found.n_evaluated,
            "stopped_because": found.stopped_because,
            "elapsed_s": round(found.elapsed_s, 2),
            "hypervolume": replace(found, front=front, hypervolume_history=()).hypervolume,
            "gains": asdict(found.gains),  # by the tables as the search read them
            "reference": dict(found.reference),
            "front": [c.to_table() for c in front.candidates],
            "models": {c.architecture.digest: "" if fleet else why for why, c in chosen},
            "exports": exported.rows(folder),
            "targets": exported.targets(folder),
            "failures": list(failures),
            "exit_code": exit_code,
        }
        if fleet:
            document["fleet"] = fleet.to_table()
        if devices:
            document["measured"] = [device.to_table() for device in devices]
        write_json(folder / "result.json", document)
        write_json(folder / "provenance.json", provenance(run, searched.evaluate.facts))
        report(Event("report", message="writing"))
        write_report(folder)
        seal(folder)
        report(Event("report", 1, 1, str(folder / "report.html")))
        notes = (
            *_failed(found),
            *searched.told.notes,
            *searched.evaluate.notes,
            *reading_notes(run),
            *told,
            *trained,
        )
        return Outcome(folder, document, failures, notes, exit_code)


def join_search(
    config: RunConfig,
    folder: Path,
    *,
    storage: str | None,
    study: str,
    workers: int = 1,
    measure: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Evaluates for a search that another host leads, until it is at its end; returns its state.

    Nothing but tables and the run file is written into `folder`. See `search` for the rest.
    """
    from edgenas.search import check_storage

    if storage is None:
        raise UsageError(
            "a worker needs the database that the search is kept in",
            hint="--storage postgresql://USER@HOST/DATABASE; on one machine: --workers N",
        )
    check_storage(storage)
    measuring = Measuring.on(devices_of(config)) if measure else None
    with locked(folder):
        if not (folder / "run.toml").exists():
            write_config(folder / "run.toml", config)
        run = open_stages(config, folder, resume=True, may_train=False, report=report)
        found = _Search.of(run, report=report).lead(
            workers, storage, study, measuring=measuring, resume=True, report=report
        )
    return {
        "schema": WORKER_SCHEMA,
        "study": study,
        "trials": found.n_trials,
        "evaluated": found.n_evaluated,
        "stopped_because": found.stopped_because,
        "hypervolume": found.hypervolume,
    }


def help_search(
    config: RunConfig, folder: Path, *, storage: str | None, study: str, device: str = ""
) -> None:
    """What a process that the leader of a search on this machine has started does.

    It makes trials, or measures on the run's `device`.
    """
    from edgenas.search import Sharing

    run = open_stages(config, folder, resume=True, may_train=False)
    named = next((d for d in run.devices if d.name == device), None)
    instrument = None if named is None else instrument_for(run, named)
    sharing = Sharing(study, "helper", instrument=instrument)
    _Search.of(run).run_study(storage, sharing, resume=True, report=silent)


@contextlib.contextmanager
def dashboard(
    run: Run, *, storage: str | None = None, study: str | None = None, port: int = 0
) -> Iterator[Dashboard]:
    """The run's study in optuna-dashboard; see `edgenas.search.dashboard`.

    `storage` is the URL of the database that the search is kept in, if it is not in the run's
    folder; the study's name there is `study`, or the run's.
    """
    from edgenas.search.dashboard import dashboard as shown

    name = study or run.config.name or run.folder.name
    with shown(storage or run.folder / STUDY, name, port=port) as found:
        yield found


@dataclass(frozen=True)
class _Search:
    """What the workers of a search have in common."""

    run: Opened
    evaluate: Evaluator
    told: WarmStart

    @classmethod
    def of(cls, run: Opened, *, report: Report = silent) -> _Search:
        metrics = costly_metrics(objectives_of(run.config))
        evaluate = evaluator(run.supernet, run.data, run.config, metrics, report=report)
        told = warm_start(
            run.config.search.warm_start,
            run.supernet.space,
            {**run.rests_on, **evaluate.rests_on},
            runs=run.folder.parent,
            metrics=metrics,
        )
        search = cls(run, evaluate, told)
        search = replace(search, evaluate=replace(evaluate, kept=search.cache.contested))
        search = replace(search, told=search._begun(report))
        if run.config.search.trials == 0 and not search.told.known:
            raise SpecError(
                "search.trials is 0, and what earlier searches tell is not of this supernet, these "
                "images and this seed, or is out of bounds",
                hint="set trials to 1 or more",
            )
        return search

    def _begun(self, report: Report) -> WarmStart:
        """What earlier runs tell, and the networks evaluated that the run file says to begin with.

        Those that a cheap bound keeps out are not evaluated.
        """
        run, told = self.run, self.told
        lines = begun(run.config.search.begin_with, run.supernet.space)
        objectives = objectives_of(run.config)
        evaluated = self.cache.wrapped(self.evaluate, self.evaluate.metrics)
        known = dict(told.known)
        for done, arch in enumerate(lines, 1):
            if arch not in known and total_violation(objectives, run.cheap(arch)) == 0:
                known[arch] = evaluated(arch)
            report(Event("begin", done, len(lines), "networks evaluated before the first trial"))
        prior = {arch: metrics for arch, metrics in told.prior.items() if arch not in known}
        return replace(told, known=known, prior=prior)

    @property
    def cache(self) -> Cache:
        """Where evaluations are kept."""
        return Cache(self.run.folder.parent / CACHE, self.rests_on)

    @property
    def rests_on(self) -> dict[str, str]:
        """The digests that the costly metrics of this search rest on."""
        return {**self.run.rests_on, **self.evaluate.rests_on}

    def lead(
        self,
        workers: int,
        storage: str | None,
        study: str,
        *,
        measuring: Measuring | None,
        resume: bool,
        report: Report,
    ) -> SearchResult:
        """Works on the study with `workers` - 1 helpers, and one for each device to measure."""
        from edgenas.data import threads
        from edgenas.pipeline.helping import Task, helpers
        from edgenas.search import Sharing

        each = threads_each(workers)
        task = Task(str(self.run.folder.absolute()), each, storage, study)
        tasks = {f"worker {k}": task for k in range(2, workers + 1)}  # the leader is worker 1
        metrics = {} if measuring is None else measuring.metrics
        by_metric = {metric: f"measuring {device.name}" for metric, device in metrics.items()}
        for metric, device in metrics.items():
            tasks[by_metric[metric]] = replace(task, threads=1, device=device.name)
        _ = self.evaluate.contested  # once, before helpers ask for it, and no part of `minutes`
        if not tasks:
            return self.run_study(storage, Sharing(study), resume=resume, report=report)
        few = contextlib.nullcontext() if workers == 1 else threads(each)
        with few, helpers(tasks, report=report) as crew:

            def measures() -> list[str]:
                return [metric for metric, name in by_metric.items() if crew.works(name)]

            sharing = Sharing(study, "leader", crew.tend, measures)
            return self.run_study(storage, sharing, resume=resume, report=report)

    def run_study(
        self, storage: str | None, sharing: Sharing, *, resume: bool, report: Report
    ) -> SearchResult:
        """Works on the study; see `edgenas.search.run_search`."""
        from edgenas.search import Stagnation, run_search

        run, settings = self.run, self.run.config.search
        marks = {**run.parents, **self.evaluate.rests_on}
        if settings.strategy == "gradient":
            marks |= gradient_marks(settings)
        if settings.fleet is not None:  # loads are shares of the bounds, which no objective tells
            marks |= {"bounds": ", ".join(settings.objectives)}
        patience = settings.patience
        return run_search(
            run.supernet.space,
            objectives_of(run.config),
            cheap=run.cheap,
            costly=self.cache.wrapped(self.evaluate, self.evaluate.metrics),
            known=self.told.known,
            prior=self.told.prior,
            strategy=settings.strategy,
            trials=run.config.max_trials,
            minutes=settings.minutes,
            stagnation=None if patience is None else Stagnation(patience, minimum=2 * patience),
            seed=run.config.seed,
            storage=storage or run.folder / STUDY,
            resume=resume,
            sharing=sharing,
            fingerprint=marks,
            gradients=gradients_of(run),
            measured=read_told(run.folder / MEASURED, run.supernet.space),
            correct=correcting(run),
            report=report,
        )


@contextlib.contextmanager
def _unless_refused(path: Path) -> Iterator[None]:
    """What is done to the file stays, unless the study turns out to be of another search."""
    before = path.read_text("utf-8")
    try:
        yield
    except SpecError:
        write_atomic(path, before)
        raise


def gradients_of(run: Opened) -> Gradients:
    """What the strategy `gradient` learns from in this run."""
    from edgenas.search import Gradients
    from edgenas.supernet import LossGradient

    settings = run.config.search
    of = LossGradient(run.supernet, run.data, partial_channels=settings.gradient_partial_channels)
    return Gradients(of, settings.gradient_steps, settings.gradient_progressive_depth)


def gradient_marks(settings: SearchConfig) -> dict[str, str]:
    """What a study's fingerprint says of how the strategy `gradient` is set."""
    return {
        "gradient": f"{settings.gradient_steps} steps, {settings.gradient_partial_channels:g} of "
        f"the channels, progressive depth {settings.gradient_progressive_depth}"
    }


def _resumed(config: RunConfig, folder: Path) -> str:
    """What resuming the search in `folder` with these settings would do."""
    with contextlib.suppress(EdgenasError):
        before = read_config(folder / "run.toml").search
        fleet = config.search.fleet
        fleets = before.fleet is not None and fleet not in (None, before.fleet)
        same = replace(before, fleet=fleet) == config.search
        if fleets and same and (folder / "result.json").is_file():
            return f"chooses at most {fleet} of its networks and evaluates nothing anew"
    return "goes on with it"


def _failed(found: SearchResult) -> list[str]:
    """What a reader must know of trials that failed."""
    failed = [trial for trial in found.trials if trial.error]
    if not failed:
        return []
    first = f"the first, of {failed[0].architecture}: {failed[0].error}"
    return [f"{len(failed)} of {found.n_trials} trials failed and count for nothing; {first}"]


def _explained(run: Opened, candidate: Candidate, n_images: Mapping[str, int]) -> Candidate:
    """The candidate with intervals and origins beside its values."""
    metrics = dict(run.cheap.explain(candidate.architecture))
    for name, metric in candidate.metrics.items():
        if metric.origin == "measured":
            metrics[name] = metric
        elif name not in metrics:
            origin = "simulated" if name == "top1_int8" else "supernet"
            metrics[name] = Metric(metric.value, origin, n=n_images[name])
    return Candidate(candidate.architecture, run.cheap.completed(metrics))


def _write_trials(
    path: Path,
    candidates: Sequence[Candidate],
    found: SearchResult,
    front: ParetoFront,
    rests_on: Mapping[str, str],
) -> None:
    trials = [
        {
            "number": number,
            **candidate.to_table(),
            "feasible": total_violation(front.objectives, candidate.values) == 0,
            "state": "complete",
        }
        for number, candidate in enumerate(candidates)
    ]
    write_json(
        path,
        {
            "schema": TRIALS_SCHEMA,
            "trials": trials,
            "reference": dict(found.reference),
            "parents": dict(rests_on),
        },
    )
