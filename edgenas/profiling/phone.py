"""Timing on a phone without Python: the host runs the agent's rounds, `benchmark_model` the models.

Rules, records and their meaning are the agent's: it is the same class with another way to time one
model. What the tool does not tell is left out: no share of processor time, so no round counts as
contended, and whole microseconds only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgenas.artifacts import sha256_file
from edgenas.errors import MeasurementError
from edgenas.hardware import AdbTransport
from edgenas.hardware.transports import limited
from edgenas.profiling import agent
from edgenas.profiling.benchmark_output import BenchmarkOutput, parse_benchmark

_ASK = """uname -m; uname -r; cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor || echo
getprop ro.product.model || echo; getprop ro.kernel.qemu || echo; getprop ro.boot.qemu || echo"""
_PATIENCE = 5.0
"""How many times the silence allowed a command may take that is never silent."""
_ENVIRONMENT: Mapping[str, str] = MappingProxyType({})


def run_on_phone(
    link: AdbTransport,
    tool: Path,
    job: Mapping[str, Any],
    done: list[dict[str, Any]],
    keep: Callable[[dict[str, Any]], None],
    *,
    idle_s: float,
) -> None:
    """Measures what `done` lacks of `job` and hands each new record to `keep`.

    Raises:
        DeviceError: the phone cannot be reached, hangs, or was lost.
        MeasurementError: the tool's output was garbage twice in a row.
    """
    there = link.push({"benchmark_model": tool})["benchmark_model"]
    phone = _Phone(link, there, job, done, keep, idle_s=idle_s)
    phone.command(["chmod", "755", there])
    sha256 = sha256_file(tool)
    keep(
        {
            "type": "start",
            "conditions": phone.conditions(),
            "runtime": job["runtime"],
            "runtime_version": job["runtime_version"] or f"benchmark_model-{sha256[:12]}",
            "tool": f"benchmark_model {sha256}",
            "agent_sha256": sha256_file(Path(agent.__file__)),
            "timer_resolution_ns": 1000,
        }
    )
    complete = phone.run()
    keep({"type": "end", "complete": complete, "conditions": phone.conditions()})


class _Phone(agent.Job):
    """A job whose models are timed by a tool on a phone."""

    def __init__(
        self,
        link: AdbTransport,
        tool: str,
        job: Mapping[str, Any],
        done: list[dict[str, Any]],
        emit: Callable[[dict[str, Any]], None],
        *,
        idle_s: float,
    ) -> None:
        super().__init__(dict(job), done, emit)
        self.link, self.tool, self.idle_s = link, tool, idle_s
        self.stops = job["on_drift"] == "stop"  # `auto` asks about the host

    def conditions(self) -> dict[str, Any]:
        """What the phone tells about itself."""
        _, lines = self.command(["sh", "-c", _ASK])
        names = ("machine", "kernel", "governor", "product", "qemu", "boot_qemu")
        found = dict(zip(names, lines, strict=False))
        virtualised = "1" in (found.pop("qemu", ""), found.pop("boot_qemu", ""))
        return {**{k: v for k, v in found.items() if v}, "virtualised": virtualised}

    def command(self, argv: list[str]) -> tuple[int, list[str]]:
        """Exit status and output of a command on the phone."""
        lines: list[str] = []
        take = limited(lines.append, _PATIENCE * self.idle_s, what="the command on the phone")
        ended = self.link.run(argv, idle_s=self.idle_s, on_line=take, environment=_ENVIRONMENT)
        return ended.returncode, lines

    def _open(self, key: str) -> tuple[Callable[[], object], int] | None:
        if key in self.opened:
            return self.opened[key]
        self.emit({"type": "opening", "key": key})
        status, text = self._benchmark(key, runs=1, seconds=0.0)
        if status:
            said = [line for line in text.splitlines() if line.strip()]
            last = said[-1] if said else "it said nothing"
            self._fail(key, f"benchmark_model ended with status {status}: {last}"[:500])
            return None
        found = self._parsed(key, text, runs=1, seconds=0.0)
        self.emit({"type": "opened", "key": key})
        if key not in self.known:
            self.known.add(key)
            times = {"init_ms": round(found.init_ms, 4), "first_ms": round(found.first_ms, 4)}
            self.emit({"type": "model", "key": key, **times})
        self.opened[key] = (lambda: None), 1
        return self.opened[key]

    def _time(self, key: str, invoke: Callable[[], object], batch: int) -> dict[str, Any]:
        rounds = self.job["rounds"]
        runs, seconds = -(-self.job["runs"] // rounds), self.job["seconds"] / rounds
        _, text = self._benchmark(key, runs=runs, seconds=seconds)
        found = self._parsed(key, text, runs=runs, seconds=seconds)
        return {
            "n": found.n,
            "batch": batch,
            "min_ms": round(found.min_ms, 7),
            "median_ms": round(found.middle_ms, 7),
            "p10_ms": round(found.low_ms, 7),
            "p90_ms": round(found.high_ms, 7),
            "spread": round(found.spread, 5),
            "statistic": "median, p5, p95" if found.has_median else "mean, minimum, maximum",
            "contended": False,
        }

    def _parsed(self, key: str, text: str, *, runs: int, seconds: float) -> BenchmarkOutput:
        """The output's figures; where it has none, those of one more call."""
        try:
            return parse_benchmark(text)
        except MeasurementError:
            return parse_benchmark(self._benchmark(key, runs=runs, seconds=seconds)[1])

    def _benchmark(self, key: str, *, runs: int, seconds: float) -> tuple[int, str]:
        """Exit status and output of the tool for one model, in a process of its own."""
        argv = [self.tool, f"--graph={self.models[key]}"]
        argv += [f"--num_threads={self.job['threads']}", "--use_xnnpack=true"]
        argv += [f"--num_runs={runs}", f"--min_secs={seconds:g}"]
        argv += [f"--max_secs={max(10, math.ceil(10 * seconds))}"]
        argv += [f"--warmup_runs={self.job['warmup_runs']}"]
        argv += [f"--warmup_min_secs={self.job['warmup_s']:g}"]
        if self.job["affinity"]:
            argv = ["taskset", f"{sum(1 << cpu for cpu in self.job['affinity']):x}", *argv]
        # builds differ in what goes to which stream
        status, lines = self.command(["sh", "-c", 'exec "$@" 2>&1', "sh", *argv])
        return status, "\n".join(lines)
