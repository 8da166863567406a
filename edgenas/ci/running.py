"""`ci run`: makes what is stale, target by target, and locks each one as it is finished.

The run of a target lies in a folder of its own, `runs/<target>-<digest>`: named after the facts
and what it knows of the run before, so that a run that was stopped is found again and goes on, and
what the lock names is never touched. One that is not here, as in a fresh clone, is made again from
the front in the lock under the name that it has there, so that the lock stays.

The lock is written when a run is whole and verified, and is all that makes it the target's; folders
that it no longer names are deleted after that. `runs/<target>` is a link to the one
it names.

A run is an ordinary `edgenas search`, of a run file that says what the last run knows: its trials
(`warm_start`), its front (`begin_with`), how many trials more. Exported files are copied from the
last run and kept where their certificates hold.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgenas import processes
from edgenas.artifacts import digest, io_errors, read_json, write_json
from edgenas.ci import worker
from edgenas.ci.facts import HERE, Reader
from edgenas.ci.lock import LOCK, entry_of, read_lock, write_lock
from edgenas.ci.planning import RUNS, Plan, TargetPlan, plan
from edgenas.ci.stages import Facts
from edgenas.ci.targets import TARGETS, Target
from edgenas.errors import EdgenasError, Interrupted, worst_code
from edgenas.events import Event, Report, silent
from edgenas.pipeline.config import RunConfig, write_config
from edgenas.pipeline.runs import find_run, locked, read_result, seal
from edgenas.pipeline.searching import search
from edgenas.pipeline.training import train
from edgenas.report import read_trials

SCHEMA = "edgenas.ci-run/1"
START = "ci.json"
START_SCHEMA = "edgenas.ci-start/1"
"""What a run's folder was prepared for; written last, so that it is whole."""

_WAIT_S = 0.2
"""Between two looks at the processes that are at work."""


@dataclass(frozen=True, slots=True)
class Work:
    """A run to be made."""

    name: str
    target: Target
    folder: Path
    config: RunConfig
    facts: Facts
    noted: dict[str, str]
    last: Path | None
    """The folder of the run before, where it is whole enough to be used."""
    stale: tuple[str, ...]
    copies: tuple[str, ...]
    """Of the run before, what the new one begins with: `models`, tables."""
    again: bool = False
    """Whether it takes the place of the locked run, which is not here."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of one target."""

    name: str
    state: str
    """`fresh`, `made`, `gone` or `failed`."""
    run: str = ""
    stale: tuple[str, ...] = ()
    reasons: dict[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trials: int = 0
    evaluated: int = 0
    elapsed_s: float = 0.0
    """From the training of its supernet to verified files, in this call."""
    files: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    hint: str = ""
    exit_code: int = 0

    def document(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "target": self.name,
            "state": self.state,
            "run": self.run or None,
            "stale": [{"stage": s, "reasons": why} for s, why in self.reasons.items()],
            "notes": list(self.notes),
            "trials": self.trials,
            "evaluated": self.evaluated,
            "elapsed_s": round(self.elapsed_s, 2),
            "files": list(self.files),
            "failures": list(self.failures),
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True, slots=True)
class Ran:
    """What `ci run` did."""

    targets: tuple[Made, ...]

    @property
    def exit_code(self) -> int:
        """0 where every target is as its facts want it."""
        return worst_code(made.exit_code for made in self.targets)

    def document(self) -> dict[str, Any]:
        """As `ci run --json` prints it (schema `edgenas.ci-run/1`)."""
        return {
            "schema": SCHEMA,
            "targets": [made.document() for made in self.targets],
            "exit_code": self.exit_code,
        }

    def text(self) -> str:
        """For people: each target, what was done, its files."""
        lines = []
        for made in self.targets:
            match made.state:
                case "fresh":
                    lines.append(f"{made.name}: nothing stale")
                case "gone":
                    lines.append(f"{made.name}: no longer a target; it went from the lock")
                case "failed":
                    lines.append(f"{made.name}: FAILED, the lock keeps what it had")
                    lines += [f"  {failure}" for failure in made.failures]
                    lines += [f"  try: {made.hint}"] * bool(made.hint)
                case _:
                    lines.append(
                        f"{made.name}: {', '.join(made.stale)} done: {made.trials} trials, "
                        f"{made.evaluated} of them evaluated, {made.elapsed_s:.0f} s in all"
                    )
                    lines += [f"  {file}" for file in made.files]
            lines += [f"  {note}" for note in made.notes]
        return "\n".join(lines)


def run(
    targets: Path = TARGETS,
    *,
    lock: Path = LOCK,
    runs: Path = RUNS,
    only: Sequence[str] = (),
    jobs: int | None = None,
    report: Report = silent,
) -> Ran:
    """Makes what is stale, and locks each target that is finished and verified.

    A target that fails leaves the others and its own lock as they are. A run that was stopped goes
    on with the next call.

    Args:
        targets: the targets file.
        lock: the lock.
        runs: the folder of runs.
        only: these targets alone.
        jobs: targets side by side, each in a process with its share of the cores; default: one
            for every two cores.
        report: progress.

    Raises:
        UsageError: `only` names no target.
        SpecError: a file is missing or wrong.
        ResourceError: another process is at work in the folder of runs.
        Interrupted: stopped by a signal.
    """
    with locked(runs):
        reader = Reader(runs)
        todo = plan(targets, lock=lock, runs=runs, only=only, reader=reader)
        if trained := _train(todo, reader, report):
            reader = Reader(runs)
            todo = plan(targets, lock=lock, runs=runs, only=only, reader=reader)
        works = [
            work_for(t, t.target, reader, runs)
            for t in todo.targets
            if t.stale and t.target is not None
        ]
        found: dict[str, Made] = {}
        for work, failure, seconds in _worked(works, jobs, report):
            made = _commit(work, failure, todo, lock, runs)
            if work.name in trained:
                made = replace(made, stale=("supernet", *made.stale))
            seconds += trained.get(work.name, 0.0)
            made = replace(made, elapsed_s=seconds)
            found[work.name] = made
            report(Event("target", message=f"{made.name}: {made.state}"))
        _tidy(todo, lock, runs)
        return Ran(tuple(found.get(t.name) or _untouched(t) for t in todo.targets))


def work_for(t: TargetPlan, target: Target, reader: Reader, runs: Path) -> Work:
    """The run that makes what is stale of a target."""
    entry, config, searches = t.entry, reader.resolved(target), "search" in t.stale
    last = None
    if entry is not None and t.begins != "cold" and _is_whole(runs / entry.run):
        last = runs / entry.run
    again = _again(t, last)
    if again and entry is not None:
        folder, last = runs / entry.run, None
    else:
        known = last is not None and searches
        key = [dict(t.facts), entry.run if entry else None, known, t.begins, t.share]
        folder = runs / f"{t.name}-{digest(key)[:8]}"
    settings, trials = config.search, config.max_trials
    if t.share < 1:
        settings = replace(
            settings,
            trials=None if searches and trials is None else int((trials or 0) * t.share),
            minutes=settings.minutes * t.share if searches and settings.minutes else None,
        )
        if searches and settings.trials is not None:
            settings = replace(settings, trials=max(1, settings.trials))
    if entry is not None and t.begins != "cold":
        settings = replace(
            settings,
            warm_start=() if last is None else (str(last.absolute()),),
            begin_with=tuple(network.architecture for _, network in sorted(entry.front.items())),
        )
    facts, noted = dict(t.facts), {}
    copies = []
    if last is not None and entry is not None:
        if not {"revision export", "revision verify"} & {change.fact for change in t.changes}:
            copies.append("models")
        for device in config.search.devices:
            name = f"table {device}"
            same = facts[name] == entry.facts.get(name)
            if not searches and not same:  # measured again, within its noise
                noted[name], facts[name] = str(facts[name]), entry.facts[name]
            if not searches or (same and facts[name] == HERE):
                copies.append(f"tables/{device}.json")
    config = replace(config, name=folder.name, search=settings)
    return Work(t.name, target, folder, config, facts, noted, last, t.stale, tuple(copies), again)


def _is_whole(folder: Path) -> bool:
    """Whether a run can begin with the trials in `folder`; else it has the front in the lock."""
    try:
        find_run(str(folder))
        read_trials(folder / "trials.json")
    except EdgenasError:
        return False
    return True


def _again(t: TargetPlan, last: Path | None) -> bool:
    """Whether nothing but results lacks, and nothing of the locked run is left to begin with.

    One that is being made again counts as not here until it is whole.
    """
    if {change.fact for change in t.changes if change.stage} != {"results"}:
        return False
    if last is None:
        return True
    with contextlib.suppress(EdgenasError):
        return read_json(last / START, schema=START_SCHEMA).get("again") is True
    return False


def prepare(work: Work) -> None:
    """The work's folder with its run file and what it takes over, if that is not there already."""
    start: dict[str, Any] = {"run": work.folder.name, "target": work.name, "from": dict(work.facts)}
    if work.again:
        start["again"] = True
    with contextlib.suppress(EdgenasError):
        before = read_json(work.folder / START, schema=START_SCHEMA)
        if [before.get(key) for key in ("run", "again")] == [start["run"], start.get("again")]:
            write_config(work.folder / "run.toml", work.config)  # a gate may have changed
            return
    with io_errors(work.folder, "write"):
        shutil.rmtree(work.folder, ignore_errors=True)
        work.folder.mkdir(parents=True)
        for name in work.copies:
            source, copy = (work.last or work.folder) / name, work.folder / name
            if source.is_dir():
                shutil.copytree(source, copy)
            elif source.is_file():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, copy)
    write_config(work.folder / "run.toml", work.config)
    write_json(work.folder / START, {"schema": START_SCHEMA, **start})


def _train(todo: Plan, reader: Reader, report: Report) -> dict[str, float]:
    """Trains the supernets that stale targets have none of; by those targets how long it took."""
    lacking = {
        t.name: t.target
        for t in todo.targets
        if t.target is not None and t.target.trains and t.stale
        if not reader.checkpoint(t.target).is_file()
    }
    seconds: dict[Path, float] = {}
    for target in lacking.values():
        folder = reader.training_folder(target)
        if folder not in seconds:  # not with one before it
            begun = time.monotonic()
            train(target.config, folder, resume=True, report=report)
            seconds[folder] = time.monotonic() - begun
    return {name: seconds[reader.training_folder(target)] for name, target in lacking.items()}


def _worked(
    works: Sequence[Work], jobs: int | None, report: Report
) -> Iterator[tuple[Work, EdgenasError | None, float]]:
    """Each work once it came to its end, with the error that it ended with, and its seconds."""
    jobs = min(len(works), jobs or max(1, processes.threads_each(1) // 2))
    if jobs > 1:
        yield from _side_by_side(works, jobs, report)
        return
    for work in works:
        begun = time.monotonic()
        prepare(work)

        def told(event: Event, name: str = work.name) -> None:
            report(replace(event, stage=f"{name}: {event.stage}"))

        failure = None
        try:
            measure = work.target.measure
            search(work.config, work.folder, resume=True, measure=measure, report=told)
        except Interrupted:
            raise
        except EdgenasError as error:
            failure = error
        yield work, failure, time.monotonic() - begun


def _side_by_side(
    works: Sequence[Work], jobs: int, report: Report
) -> Iterator[tuple[Work, EdgenasError | None, float]]:
    """Each work in a process of its own, `jobs` at a time; none outlives this one."""
    waiting = list(works)
    busy: dict[str, tuple[Work, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                work = waiting.pop(0)
                begun = time.monotonic()
                prepare(work)
                report(Event("target", message=f"{work.name}: {', '.join(work.stale)}"))
                busy[work.name] = work, _started(work, jobs), begun
            time.sleep(_WAIT_S)
            ended = [name for name, (_, process, _) in busy.items() if process.poll() is not None]
            for name in ended:
                work, process, begun = busy.pop(name)
                failure = worker.failure(work.folder, process.returncode)
                yield work, failure, time.monotonic() - begun
    finally:
        processes.end(process for _, process, _ in busy.values())


def _started(work: Work, jobs: int) -> subprocess.Popen[bytes]:
    threads = processes.threads_each(jobs)
    return worker.start(work.folder, threads=threads, measure=work.target.measure)


def _commit(work: Work, failure: EdgenasError | None, todo: Plan, lock: Path, runs: Path) -> Made:
    """Locks a finished run, or says what it failed of."""
    t = next(t for t in todo.targets if t.name == work.name)
    made = Made(t.name, "failed", work.folder.name, t.stale, t.reasons, t.notes)
    if failure is not None:
        return replace(
            made, failures=(str(failure),), hint=failure.hint, exit_code=failure.exit_code
        )
    result = read_result(work.folder)
    if result["exit_code"]:
        hint = "edgenas ci run makes its files again, and keeps what it found"
        return replace(
            made, failures=tuple(result["failures"]), hint=hint, exit_code=result["exit_code"]
        )
    _keep_only_exported(work.folder, [row["path"] for row in result["exports"]])
    entry = replace(entry_of(work.target, work.folder, work.facts), noted=work.noted)
    write_lock(lock, {**read_lock(lock), t.name: entry})
    _point_to(runs, t.name, entry.run)
    return replace(
        made,
        state="made",
        trials=int(result["trials"]),
        evaluated=int(result["evaluated"]),
        files=tuple(str(work.folder / row["path"]) for row in result["exports"]),
    )


def _keep_only_exported(folder: Path, paths: Sequence[str]) -> None:
    """Deletes models that were taken over and not chosen again."""
    chosen = {(folder / path).parent for path in paths}
    with io_errors(folder, "clear"):
        for model in (folder / "models").iterdir():
            if model not in chosen:
                shutil.rmtree(model)
    seal(folder)


def _point_to(runs: Path, name: str, run: str) -> None:
    """Turns `runs/<name>` to the locked run, and deletes the target's other ones; '': all of them.

    The link is a help for people: where there is something else by its name, or links cannot be
    made, it is left out.
    """
    link = runs / name
    with contextlib.suppress(OSError):
        if not run and link.is_symlink():
            link.unlink()
        elif run and (link.readlink() != Path(run) if link.is_symlink() else not link.exists()):
            new = runs / f".{name}.new"
            new.unlink(missing_ok=True)
            new.symlink_to(run, target_is_directory=True)
            new.replace(link)
    for folder in runs.glob(f"{name}-*"):
        ours = re.fullmatch(r"[0-9a-f]{8}", folder.name.removeprefix(f"{name}-"))
        if ours and folder.name != run and (folder / START).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def _tidy(todo: Plan, lock: Path, runs: Path) -> None:
    """Takes from the lock what is no target any more, and notes tables measured again.

    Deletes runs that the lock does not name: one that was killed may have left some.
    """
    entries = read_lock(lock)
    for t in todo.targets:
        if t.state == "gone":
            entries.pop(t.name, None)
            _point_to(runs, t.name, "")
        elif t.state == "fresh" and t.entry is not None:
            _point_to(runs, t.name, t.entry.run)
            noted = {
                change.fact: str(t.facts[change.fact])
                for change in t.changes
                if change.fact.startswith("table ")
            }
            entries[t.name] = replace(t.entry, noted=noted)
    write_lock(lock, entries)


def _untouched(t: TargetPlan) -> Made:
    run = "" if t.entry is None else t.entry.run
    return Made(t.name, t.state, run, notes=t.notes)
