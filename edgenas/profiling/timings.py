"""What the records of a measurement say of its models: a timing for each, and the conditions."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import time
from typing import Any

from edgenas.errors import MeasurementError
from edgenas.hardware import (
    DeviceProfile,
)
from edgenas.pareto import Metric
from edgenas.profiling import agent
from edgenas.profiling.records import finished, of_last_version
from edgenas.profiling.settings import Settings

STEADY = 0.05
"""The spread of a model's samples that nobody disturbs, at most."""


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


class NothingTimedError(MeasurementError):
    """No model could be timed on a device; `failed` says why, by key."""

    def __init__(self, device: DeviceProfile, failed: Mapping[str, str]) -> None:
        reason = next(iter(failed.values()), "the agent sent no timing")
        super().__init__(f"device {device.name}: no model could be timed: {reason}")
        self.failed = failed


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
    for (name, _), record in sorted(finished(records, set(ids)).items()):
        if name in made:
            visits.setdefault(name, []).append(record)
    failed = {
        ids[r["key"]]: r["reason"] for r in records if r["type"] == "failed" and r["key"] in ids
    }
    starts = [r for r in records if r["type"] == "start"]
    ends = [r for r in records if r["type"] == "end"]
    if not visits:
        raise NothingTimedError(device, failed)
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
