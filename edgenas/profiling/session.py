"""A measurement from the host's side: starts the agent, collects its lines, restarts it, resumes.

Every line of the agent is kept in `measured.jsonl` of the work folder the moment it arrives, so
that a killed agent, a killed host and a lost device cost the visit under way and nothing else.
"""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic, time
from types import MappingProxyType
from typing import Any, Literal, cast

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
from edgenas.pareto import Metric
from edgenas.profiling import agent
from edgenas.profiling.phone import run_on_phone

LINES = "measured.jsonl"
STEADY = 0.05
"""The spread of a model's samples that nobody disturbs, at most."""
SHORTEST_MS = 1e-6
"""No model takes less."""
MAX_LINE = 2**20
"""Characters; longer lines are none of an agent."""
_AGENT = Path(agent.__file__)


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how carefully is measured; see the agent for the rules."""

    rounds: int = 7
    extra_rounds: int = 7
    """At most, for models whose best round no other confirms."""
    seconds: float = 0.3
    """For each model, over all rounds."""
    runs: int = 50
    """At least, for each model, over all rounds."""
    warmup_s: float = 0.1
    warmup_runs: int = 10
    patience: float = 6.0
    """How many times its share of time a model may wait for moments in which nobody disturbs it."""
    retries: int = 3
    """Of a visit during which others took the processor."""
    canary_every_s: float = 60.0
    cool_s: float = 2.0
    on_drift: Literal["auto", "keep", "stop"] = "auto"
    budget_s: float | None = None
    """Ends after a round, at least three, when the next would exceed it; those are then enough."""
    idle_s: float = 120.0
    """Silence after which the device counts as hung."""

    def __post_init__(self) -> None:
        positive = self.rounds, self.runs, self.warmup_runs, self.idle_s, self.canary_every_s
        others = self.seconds, self.warmup_s, self.retries, self.cool_s, self.extra_rounds
        if min(positive) <= 0 or min(*others, self.patience) < 0:
            raise UsageError(f"settings of a measurement must be positive: {self}")


QUICK = Settings(rounds=5, extra_rounds=9, seconds=0.06, runs=15, warmup_s=0.02, cool_s=0.5)
STANDARD = Settings()
FULL = Settings(seconds=1.0, runs=50, warmup_s=0.5)


class OtherVersionError(MeasurementError):
    """The device runs another version of its runtime than the table that was to be extended."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one model takes, batch 1.

    `latency_ms` is the minimum over rounds of the round's median; p10, p50 and p90 are medians
    over rounds of the rounds' own. `n` counts the timed samples. `spread` is the median over
    rounds of 1.4826 x the median absolute deviation, relative to the median. `n_contended` rounds
    had less processor time than they should, or no quiet moments; they count only where there is no
    other. The memory is known where a compiler plans it.
    """

    latency_ms: float
    p10_ms: float
    p50_ms: float
    p90_ms: float
    n: int
    n_rounds: int
    n_contended: int
    spread: float
    init_ms: float
    first_ms: float
    sram_bytes: int | None = None
    flash_bytes: int | None = None
    confirmed: bool = False
    """Whether the two best rounds agree."""

    @property
    def disturbed(self) -> bool:
        """Whether others had a part in it: no round had its processor time, and it wavers as well.

        A machine that always gives less (a container's quota) is steady where nobody disturbs it.
        """
        return self.n_contended == self.n_rounds and not (self.confirmed and self.spread <= STEADY)

    @property
    def metric(self) -> Metric:
        """The latency with p10 and p90 around it; the best round's median may lie outside them."""
        low, high = min(self.p10_ms, self.latency_ms), max(self.p90_ms, self.latency_ms)
        return Metric(self.latency_ms, "measured", low, high, self.n)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a device answered: a timing for each model, the models that failed, the conditions.

    `measured_on` is the day (UTC) of the oldest timing; None where no clock tells it. `reused`
    tells that earlier calls timed all of it.
    """

    device: DeviceProfile
    timings: Mapping[str, Timing]
    failed: Mapping[str, str]
    conditions: Mapping[str, Any]
    complete: bool
    measured_on: str | None = None
    reused: bool = False

    def latency_ms(self) -> dict[str, float]:
        """The one statistic, by key."""
        return {key: timing.latency_ms for key, timing in self.timings.items()}


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
        DeviceError: a device that is known by published figures alone.
    """
    if not models:
        raise UsageError("there is nothing to measure")
    if not device.can_be_timed:
        raise DeviceError(
            f"edgenas cannot time {device.runtime} {device.precision}, which {device.name} runs: "
            "its table rests on published figures",
            hint=f"edgenas devices show {device.name}",
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


def of_last_version(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that were made with the version of the runtime that the last start tells."""
    starts = [r for r in records if r["type"] == "start"]
    return agent.of_version(records, starts[-1]["runtime_version"]) if starts else list(records)


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
            _end_line(file)

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
        _end_line(file)

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
    return of_last_version([r for r in _read_lines(store) if r["nonce"] == job["nonce"]])


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


def _done(records: Sequence[dict[str, Any]], ids: set[str]) -> dict[tuple[str, int], Any]:
    return {place: r for place, r in agent.finished(records).items() if place[0] in ids}


def _progressed(records: Sequence[dict[str, Any]], ids: set[str]) -> int:
    """Grows with every finished visit and every model given up or about to be."""
    return len(_done(records, ids)) + sum(r["type"] in ("failed", "opening") for r in records)


def read_records(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The agent's records among `lines`; what is cut, damaged or of no use is left out.

    It comes from a device: a checksum that fits says that it arrived whole, not that it is sound.
    """
    return [record for record in decoded(lines) if not fault(record)]


def decoded(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of JSON among `lines` that arrived whole, sound or not.

    Raises:
        MeasurementError: one is nested deeper than any agent writes.
    """
    short = (line for line in lines if len(line) <= MAX_LINE)
    try:
        return agent.decode(short)
    except RecursionError:
        raise MeasurementError("the device sent lines that no agent writes") from None


def is_known(record: Mapping[str, Any]) -> bool:
    """Whether an agent writes records of this type."""
    return str(record.get("type")) in _FIELDS


def fault(record: Mapping[str, Any]) -> str:
    """Why a record cannot be used; empty for one that has what its type promises."""
    fields = _FIELDS.get(str(record.get("type")))
    if fields is None:
        return f"its type {record.get('type')!r:.60} is unknown"
    if not isinstance(record.get("nonce"), str):
        return "it belongs to no job"
    for name, fits in fields.items():
        if not fits(record.get(name)):
            return f"{name} is {record.get(name)!r:.60}"
    if record["type"] == "visit" and not (
        record["p10_ms"] <= record["median_ms"] <= record["p90_ms"]
    ):
        times = [record[name] for name in ("p10_ms", "median_ms", "p90_ms")]
        return f"p10_ms, median_ms, p90_ms are {times}, not in this order"
    try:
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # UnicodeEncodeError is one
        return "it holds NaN, an infinity or half a character"
    return ""


def _amount(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= cast(float, value) < 1e9  # NaN is not


def _time(value: object) -> bool:
    return _amount(value) and cast(float, value) >= SHORTEST_MS


def _count(value: object) -> bool:
    return _amount(value) and isinstance(value, int)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _table(value: object) -> bool:
    return isinstance(value, dict)


_FIELDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = MappingProxyType(
    {
        "start": {
            "conditions": _table,
            "runtime_version": _text,
            "agent_sha256": _text,
            "timer_resolution_ns": _count,
        },
        "end": {"conditions": _table},
        "planned": {"key": _text, "name": _text},
        "opening": {"key": _text},
        "opened": {"key": _text},
        "failed": {"key": _text, "reason": _text},
        "model": {"key": _text, "init_ms": _amount, "first_ms": _amount},
        "canary": {"key": _text, "median_ms": _time},
        "void": {"keys": _texts, "round": _count},
        "visit": {
            "key": _text,
            "round": _count,
            "final": _flag,
            "contended": _flag,
            "median_ms": _time,
            "p10_ms": _time,
            "p90_ms": _time,
            "n": _count,
            "spread": _amount,
        },
    }
)
"""What each type of record must hold."""


def _read_lines(store: Path) -> list[dict[str, Any]]:
    if not store.exists():
        return []
    with artifacts.io_errors(store, "read"):
        text = store.read_text("utf-8", errors="replace")
    return read_records(text.splitlines())


def _end_line(file: Any) -> None:
    """Ends a line that was cut off, so that the next one is not lost with it."""
    size = file.seek(0, 2)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")


def collect(
    device: DeviceProfile,
    records: Sequence[dict[str, Any]],
    ids: Mapping[str, str],
    *,
    settings: Settings,
    seed: int,
) -> Measurements:
    """What the records of one job say about the models whose ids are given.

    Raises:
        MeasurementError: no model was timed, or it is not told with which runtime.
    """
    records = of_last_version(records)
    made = {r["key"]: r for r in records if r["type"] == "model"}
    visits: dict[str, list[dict[str, Any]]] = {}
    for (name, _), record in sorted(_done(records, set(ids)).items()):
        if name in made:
            visits.setdefault(name, []).append(record)
    failed = {
        ids[r["key"]]: r["reason"] for r in records if r["type"] == "failed" and r["key"] in ids
    }
    starts = [r for r in records if r["type"] == "start"]
    ends = [r for r in records if r["type"] == "end"]
    if not visits:
        reason = next(iter(failed.values()), "the agent sent no timing")
        raise MeasurementError(f"device {device.name}: no model could be timed: {reason}")
    if not starts:
        raise MeasurementError(
            f"device {device.name}: there are timings, but no whole line of the type 'start', "
            "which says with which runtime",
            hint="repeat the command on the device: it writes one, and times nothing twice",
        )
    timings = {ids[name]: _timing(rounds, made[name]) for name, rounds in visits.items()}
    canaries = [r for r in records if r["type"] == "canary"]
    canary_ms = [float(r["median_ms"]) for r in canaries]
    contended = sum(t.n_contended == t.n_rounds for t in timings.values())
    drift = statistics.median(canary_ms) / min(canary_ms) - 1 if canary_ms else 0.0
    rounds_done = min(map(len, visits.values()))
    wanted = (
        settings.rounds if settings.budget_s is None else min(agent.MIN_ROUNDS, settings.rounds)
    )
    complete = len(timings) + len(failed) == len(ids) and rounds_done >= wanted
    told_shares = [r.get("quiet_share") for r in records if r["type"] == "visit"]
    shares = [x for x in told_shares if isinstance(x, float | int) and 0 <= x <= 1]
    told = {str(r["statistic"]) for rounds in visits.values() for r in rounds if "statistic" in r}
    conditions = {
        "runtime": device.runtime,
        "runtime_version": starts[-1]["runtime_version"],
        "threads": device.threads,
        "before": starts[0]["conditions"],
        "after": ends[-1]["conditions"] if ends else {},
        "virtualised": bool(starts[0]["conditions"].get("virtualised")),
        "timer_resolution_ns": max(r["timer_resolution_ns"] for r in starts),
        **{key: starts[-1][key] for key in ("tool",) if key in starts[-1]},
        **({"statistic": sorted(told)} if told else {}),
        "agent_sha256": starts[-1]["agent_sha256"],
        "settings": {k: v for k, v in asdict(settings).items() if k != "idle_s"},
        "seed": seed,
        "n_starts": len(starts),
        "n_rounds": rounds_done,
        "n_canaries": len(canaries),
        "canary_drift_median": round(drift, 4),
        **({"quiet_share": round(statistics.fmean(shares), 3)} if shares else {}),
        "n_repeated": sum(r["type"] == "visit" and not r["final"] for r in records),
        "n_withdrawn": sum(len(r["keys"]) for r in records if r["type"] == "void"),
        "n_contended": contended,
        "grade": _grade(
            complete=complete,
            all_rounds=rounds_done >= settings.rounds,
            contended=contended / len(timings),
            drift=drift,
        ),
    }
    return Measurements(device, timings, failed, conditions, complete, _day(starts))


def _told_at(start: Mapping[str, Any]) -> int:
    """When a start was heard, in seconds since 1970; 0 where it does not say."""
    value = start.get("time_s")
    return value if isinstance(value, int) else 0


def _day(starts: Sequence[Mapping[str, Any]]) -> str | None:
    """The day of the first start; None where one has no time or one that cannot be."""
    times = [_told_at(start) for start in starts]
    if not all(_YEAR_2025 <= x <= time() + 86400 for x in times):
        return None
    return datetime.datetime.fromtimestamp(min(times), datetime.UTC).date().isoformat()


_YEAR_2025 = 1735689600
"""A clock that says less was never set."""


def _timing(rounds: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> Timing:
    calm = [r for r in rounds if not r["contended"]] or list(rounds)
    best = sorted(float(r["median_ms"]) for r in calm)[:2]

    def middle(name: str) -> float:
        return statistics.median(float(r[name]) for r in calm)

    return Timing(
        latency_ms=best[0],
        p10_ms=middle("p10_ms"),
        p50_ms=middle("median_ms"),
        p90_ms=middle("p90_ms"),
        n=sum(int(r["n"]) for r in calm),
        n_rounds=len(rounds),
        n_contended=sum(bool(r["contended"]) for r in rounds),
        spread=middle("spread"),
        init_ms=float(model["init_ms"]),
        first_ms=float(model["first_ms"]),
        confirmed=best[-1] <= (1 + agent.CONFIRMED) * best[0] and len(best) == 2,
    )


def _grade(*, complete: bool, all_rounds: bool, contended: float, drift: float) -> str:
    """good: all rounds, calm and steady; fair: complete; poor: not complete, or half contended."""
    if not complete or contended > 0.5:
        return "poor"
    return "good" if all_rounds and contended <= 0.05 and drift <= agent.DRIFT else "fair"
