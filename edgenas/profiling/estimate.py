"""Estimates, where a vendor's compiler stands in for the device: Vela for Arm's Ethos-U NPUs.

A model is compiled, and the cycles that the compiler's report counts are its latency. The same
model always gets the same answer: there is nothing to repeat, and no noise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from edgenas import artifacts
from edgenas.errors import DeviceError, MeasurementError
from edgenas.events import Event, Report, silent
from edgenas.hardware import DeviceProfile, installed_version, vela
from edgenas.profiling.timings import Measurements, Timing

FILE = "estimated.json"
SCHEMA = "edgenas.estimates/1"
_SAVE_EVERY = 20


def estimate_models(
    models: Mapping[str, Path],
    device: DeviceProfile,
    *,
    workdir: Path,
    resume: bool = True,
    report: Report = silent,
) -> Measurements:
    """What the compiler says that `models` take on `device`; each timing has n = 1.

    With `resume`, models that `workdir` knows of are not compiled again. A model of which a part
    would run on the host processor failed: the compiler counts no time for that.

    Raises:
        UsageError: a chip that the compiler does not know.
        DeviceError: the compiler is not installed, another version is wanted, or it hangs.
        MeasurementError: no model could be estimated.
    """
    settings = vela.accelerator(device.chip)
    version = installed_version("vela")
    if version is None:
        raise DeviceError("Vela is not installed", hint=vela.EXTRA_HINT)
    if device.runtime_version not in (None, version):
        raise DeviceError(
            f"device {device.name}: Vela {device.runtime_version} is wanted, {version} is installed"
        )
    store = workdir / FILE
    asked = [version, asdict(settings)]
    sums = {key: artifacts.digest([artifacts.sha256_file(p), asked]) for key, p in models.items()}
    known: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    if resume and store.is_file():
        known = dict(artifacts.read_json(store, schema=SCHEMA)["estimates"])
    left = [key for key in models if sums[key] not in known]
    done = len(models) - len(left)
    message = f"Vela {version} for {device.chip}"
    report(Event("estimate", done, len(models), message))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(vela.estimate, models[key], settings): key for key in left}
        try:
            for job in as_completed(jobs):
                key = jobs[job]
                try:
                    known[sums[key]] = {k: float(v) for k, v in asdict(job.result()).items()}
                except MeasurementError as error:
                    failed[key] = str(error)
                done += 1
                report(Event("estimate", done, len(models), message))
                if done % _SAVE_EVERY == 0:
                    _save(store, known)
        finally:
            pool.shutdown(cancel_futures=True)
            _save(store, known)
    timings = {}
    for key in models:
        if (found := known.get(sums[key])) is None:
            continue
        if found["cpu_operators"]:
            failed[key] = f"{found['cpu_operators']:g} of its operators would run on the processor"
            continue
        ms = found["latency_ms"]
        timings[key] = Timing(
            latency_ms=ms,
            p10_ms=ms,
            p50_ms=ms,
            p90_ms=ms,
            n=1,
            n_rounds=1,
            n_contended=0,
            spread=0.0,
            init_ms=0.0,
            first_ms=ms,
            sram_bytes=round(found["sram_bytes"]),
            flash_bytes=round(found["flash_bytes"]),
        )
    if not timings:
        reason = next(iter(failed.values()), "there is nothing to estimate")
        raise MeasurementError(f"device {device.name}: no model could be estimated: {reason}")
    clock = next(known[sums[key]]["clock_hz"] for key in timings)
    conditions = {
        "runtime": device.runtime,
        "runtime_version": version,
        "accelerator": settings.config,
        "system_config": settings.system,
        "memory_mode": settings.memory,
        "clock_hz": clock,
        "latency_of": "cycles counted by the vendor's compiler, at the system's clock",
    }
    return Measurements(device, timings, failed, conditions, complete=True)


def _save(store: Path, known: Mapping[str, Mapping[str, float]]) -> None:
    with artifacts.io_errors(store, "write"):
        store.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(store, {"schema": SCHEMA, "estimates": dict(known)})
