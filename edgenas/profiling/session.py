"""A measurement from the host's side: starts the agent, collects its lines, restarts it, resumes.

Every line of the agent is kept in `measured.jsonl` of the work folder the moment it arrives, so
that a killed agent, a killed host and a lost device cost the visit under way and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic, time
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from edgenas import artifacts
from edgenas.errors import DeviceError, MeasurementError, UsageError
from edgenas.events import NOTICE, Event, Report, silent
from edgenas.hardware import (
    AdbTransport,
    DeviceProfile,
    LocalTransport,
    Transport,
    held,
    installed_version,
    transport_for,
)
from edgenas.hardware.transports import RESUMES
from edgenas.profiling import agent
from edgenas.profiling.phone import run_on_phone
from edgenas.profiling.records import end_line, finished, of_last_version, read_lines, read_records
from edgenas.profiling.settings import STANDARD, Settings
from edgenas.profiling.timings import Measurements, collect

LINES = "measured.jsonl"
_AGENT = Path(agent.__file__)


class OtherVersionError(MeasurementError):
    """The device runs another version of its runtime than the table that was to be extended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be timed: each model's key by its id, and the agent's job without `models`."""

    ids: Mapping[str, str]
    job: Mapping[str, Any]


def plan_job(
    models: Mapping[str, Path],
    device: DeviceProfile,
    *,
    settings: Settings,
    seed: int,
    canary: str | None = None,
    link: Transport | None = None,
) -> Plan:
    """The job that times `models` on `device`; its nonce names everything but the models.

    An id names a model's key and its file's content. `link` is what the device is reached through;
    None: by hand.

    Raises:
        UsageError: no models; an unknown canary.
        DeviceError: a device that is known by published figures alone, or takes several images.
    """
    if not models:
        raise UsageError("there is nothing to measure")
    if not device.can_be_timed:
        raise DeviceError(
            f"edgenas cannot time {device.runtime} {device.precision}, which {device.name} runs: "
            "its table rests on published figures",
            hint=f"edgenas devices show {device.name}",
        )
    if device.batch != 1:  # no model file holds more
        raise DeviceError(
            f"{device.name}: {device.why_unmeasured}", hint="batch = 1 in the device's file"
        )
    if canary is not None and canary not in models:
        raise UsageError(f"canary {canary!r} is none of the {len(models)} models")
    sums = {key: artifacts.sha256_file(path) for key, path in models.items()}
    ids = {artifacts.digest([key, sums[key]]): key for key in models}
    if canary is None:
        by_size = sorted(models, key=lambda key: (models[key].stat().st_size, key))
        canary = by_size[len(by_size) // 2]  # the smallest is all overhead, the largest costs time
    return Plan(
        ids,
        {
            "schema": agent.JOB_SCHEMA,
            "nonce": nonce_of(device, settings=settings, seed=seed, link=link),
            "runtime": device.runtime,
            "runtime_version": device.runtime_version,
            "threads": device.threads,
            "affinity": list(device.affinity),
            "seed": seed,
            "canary": artifacts.digest([canary, sums[canary]]),
            **{k: v for k, v in asdict(settings).items() if k != "idle_s"},
        },
    )


def nonce_of(
    device: DeviceProfile, *, settings: Settings, seed: int, link: Transport | None = None
) -> str:
    """What tells the job of `plan_job` from others; the models are no part of it."""
    here = installed_version(device.runtime) if isinstance(link, LocalTransport) else None
    version = device.runtime_version or here or "unknown"
    how = {k: v for k, v in asdict(settings).items() if k not in ("idle_s", "budget_s")}
    measured_by = [artifacts.sha256_file(_AGENT)]
    if isinstance(link, AdbTransport) and link.tool is not None:
        measured_by.append(artifacts.sha256_file(link.tool))
    return artifacts.digest([device.digest, version, how, seed, *measured_by])


def measure(
    models: Mapping[str, Path],
    device: DeviceProfile,
    *,
    workdir: Path,
    settings: Settings = STANDARD,
    seed: int = 0,
    canary: str | None = None,
    resume: bool = True,
    transport: Transport | None = None,
    table_version: str | None = None,
    report: Report = silent,
) -> Measurements:
    """Times `models` on `device`, all in one run of the agent, interleaved.

    With `resume`, finished rounds in `workdir` of the same files, settings, seed and runtime are
    not measured again. `canary` is a key of `models`; the file of middle size where it is None.
    `table_version` is the runtime's version in the table that the timings are to extend. While
    another process times on the device, it waits.

    Raises:
        UsageError: no models; an unknown canary.
        DeviceError: the device hangs, the runtime is missing or another version than its file
            wants, or the agent keeps dying; what was measured is kept and counts when the call is
            repeated.
        OtherVersionError: the runtime is not `table_version`; told before anything is timed.
        MeasurementError: no model could be timed.
        ResourceError: the work folder cannot be written.
    """
    link = transport_for(device.connection) if transport is None else transport
    plan = plan_job(models, device, settings=settings, seed=seed, canary=canary, link=link)
    with artifacts.io_errors(workdir, "use"):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(workdir / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise DeviceError(
                f"{workdir}: another measurement is under way there", hint="wait for it to end"
            ) from error
    try:
        store = workdir / LINES
        if not resume:
            store.unlink(missing_ok=True)
        paths = link.push({f"{i}.model": models[key] for i, key in plan.ids.items()})
        job = {**plan.job, "models": {i: paths[f"{i}.model"] for i in plan.ids}}
        drive = _drive if link.python else _drive_tool

        def check(version: str) -> None:
            check_version(device, version, table_version=table_version)

        begun = _starts(_session(store, job))
        with held(device.connection, report=report):
            records = drive(link, job, store, check, idle_s=settings.idle_s, report=report)
    finally:
        lock.release()
    found = collect(device, records, plan.ids, settings=settings, seed=seed)
    starts = _starts(records)
    now = starts[len(begun) if len(starts) > len(begun) else 0]
    return replace(found, reused=all(r["type"] != "visit" for r in records[now:]))


def check_version(device: DeviceProfile, version: str, *, table_version: str | None = None) -> None:
    """Whether the device runs the version of its runtime that its file and its table name.

    Raises:
        DeviceError: another than the file's.
        OtherVersionError: another than the table's.
    """
    if device.runtime_version not in (None, version):
        where = device.path or f"device {device.name}"
        raise DeviceError(
            f"{where}: runtime_version is {device.runtime_version!r}, but {device.name} runs "
            f"{device.runtime} {version}",
            hint="change one of them: the device's file, or what is installed there",
        )
    if table_version not in (None, version):
        raise OtherVersionError(
            f"device {device.name} runs {device.runtime} {version}, its table has {table_version}",
            hint=f"edgenas profile {device.name} --fresh",
        )


def _drive(
    link: Transport,
    job: Mapping[str, Any],
    store: Path,
    check: Callable[[str], None],
    *,
    idle_s: float,
    report: Report,
) -> list[dict[str, Any]]:
    """Runs the agent until it ends in order; all records of this job, old and new.

    `check` is called with the version of the runtime, and raises where it will not do.
    """
    job_path = store.with_name("job.json")
    artifacts.write_json(job_path, job)
    records = _session(store, job)
    ids, rounds = set(job["models"]), int(job["rounds"])
    progress = _Progress(report, ids, rounds)
    progress.begin(records)
    barren = 0  # starts in a row that brought nothing new
    while True:
        before = _progressed(records, ids)
        heard = monotonic()
        with artifacts.io_errors(store, "write"), store.open("a+b") as file:
            end_line(file)

            def keep(line: str) -> None:
                nonlocal heard
                found = [r for r in read_records([line]) if r["nonce"] == job["nonce"]]
                if not found:
                    if monotonic() - heard > idle_s:
                        raise DeviceError(
                            f"the device sent no record for {idle_s:g} s, but lines such as "
                            f"{line[:100]!r}; its command was stopped",
                            hint=RESUMES,
                        )
                    return
                heard = monotonic()
                record = found[0]
                if record["type"] == "start":
                    check(record["runtime_version"])
                    record["time_s"] = int(time())  # not the device's clock, which may be unset
                file.write(agent.encode(record).encode() + b"\n")
                file.flush()
                records.append(record)
                if record["type"] == "start" and len(of_last_version(records)) < len(records):
                    records[:] = [record]
                    progress.begin(records)
                    told = f"the runtime is now {record['runtime_version']}: all is timed anew"
                    report(Event(NOTICE, message=told))
                progress.step(record)

            file.flush()
            paths = link.push({"agent.py": _AGENT, "job.json": job_path, LINES: store})
            ended = link.run(
                [link.python, paths["agent.py"], paths["job.json"], "--done", paths[LINES]],
                idle_s=idle_s,
                on_line=keep,
                environment={"OMP_NUM_THREADS": str(job["threads"]), "PYTHONUNBUFFERED": "1"},
            )
        orderly = bool(records) and records[-1]["type"] == "end"
        if ended.returncode in (0, 3) and orderly:
            return records
        told = ended.stderr.strip().splitlines()
        if ended.returncode in _REFUSALS:
            raise DeviceError(
                told[-1] if told else "the agent could not start",
                hint=_REFUSALS[ended.returncode],
            )
        barren = barren + 1 if _progressed(records, ids) == before else 0
        if barren >= 2:
            last = told[-1] if told else "it said nothing"
            raise DeviceError(
                f"the agent on the device ended with status {ended.returncode}: {last}",
                hint=RESUMES,
            )


_REFUSALS: Mapping[int, str] = MappingProxyType(
    {
        2: "edgenas doctor",
        4: "edgenas doctor",
        5: "name other processors in the affinity of the device's file, or none",
    }
)
"""Exit codes of an agent that did not begin, with what to do."""


def _drive_tool(
    link: Transport,
    job: Mapping[str, Any],
    store: Path,
    check: Callable[[str], None],
    *,
    idle_s: float,
    report: Report,
) -> list[dict[str, Any]]:
    """The same for a device without Python: the host runs the rounds, a tool there the models."""
    if not isinstance(link, AdbTransport) or link.tool is None:
        raise DeviceError("the device has no Python, and no other tool times models there")
    records = _session(store, job)
    progress = _Progress(report, set(job["models"]), int(job["rounds"]))
    progress.begin(records)
    with artifacts.io_errors(store, "write"), store.open("a+b") as file:
        end_line(file)

        def keep(record: dict[str, Any]) -> None:
            found = {**record, "nonce": job["nonce"]}
            if found["type"] == "start":
                check(found["runtime_version"])
                found["time_s"] = int(time())
            file.write(agent.encode(found).encode() + b"\n")
            file.flush()
            records.append(found)
            progress.step(found)

        run_on_phone(link, link.tool, job, list(records), keep, idle_s=idle_s)
    return records


def _starts(records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where a run of the agent begins."""
    return [i for i, record in enumerate(records) if record["type"] == "start"]


def _session(store: Path, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What earlier calls left of this job."""
    return of_last_version([r for r in read_lines(store) if r["nonce"] == job["nonce"]])


class _Progress:
    """Events with the time that is left, from the pace of this run."""

    def __init__(self, report: Report, ids: set[str], rounds: int) -> None:
        self.report, self.ids, self.rounds = report, ids, rounds
        self.done: set[tuple[str, int]] = set()
        self.start: tuple[float, int] | None = None

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Counts anew, from what was measured before."""
        self.done, self.start = set(), None
        for record in records:
            self.note(record)

    def note(self, record: Mapping[str, Any]) -> None:
        """Keeps count; rounds beyond the planned ones are no part of the total."""
        if record["type"] == "void":
            self.done -= {(key, record["round"]) for key in record["keys"]}
            return
        planned = record.get("key") in self.ids and record.get("round", 0) < self.rounds
        if record["type"] == "visit" and record["final"] and planned:
            self.done.add((record["key"], record["round"]))

    def step(self, record: Mapping[str, Any]) -> None:
        """Keeps count and reports it."""
        self.note(record)
        if record["type"] != "visit":
            return
        now, done, total = monotonic(), len(self.done), len(self.ids) * self.rounds
        if self.start is None:
            self.start = now, done
        since, first = self.start
        left = (now - since) / (done - first) * (total - done) if done > first else None
        message = "timing" if record["round"] < self.rounds else "timing again what wavers"
        self.report(Event("measure", done, total, message, remaining_s=left))


def _progressed(records: Sequence[dict[str, Any]], ids: set[str]) -> int:
    """Changes with every finished visit, and every model given up or about to be.

    A model that was opened and then timed to no end is no progress.
    """
    opening = Counter(str(r["key"]) for r in records if r["type"] == "opening")
    opening.subtract(r["key"] for r in records if r["type"] == "opened")
    given_up = sum(r["type"] == "failed" for r in records)
    return int(len(finished(records, ids)) + given_up + opening.total())
