"""`edgenas measure`: the first networks of a front on their devices, and the front judged anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgenas.errors import DeviceError, ExportError, MeasurementError, UsageError
from edgenas.events import Event, Report, silent
from edgenas.pareto import Metric, ParetoFront
from edgenas.pipeline.config import RunConfig
from edgenas.pipeline.correcting import MEASURED, Told, read_told, write_told
from edgenas.pipeline.goals import devices_of
from edgenas.pipeline.measuring import Measuring, instrument_for
from edgenas.pipeline.opening import Opened, open_stages
from edgenas.pipeline.runs import Outcome, locked
from edgenas.pipeline.searching import search
from edgenas.pipeline.selection import choose
from edgenas.spaces import Architecture


def measure(
    config: RunConfig,
    folder: Path,
    *,
    top: int | None = None,
    storage: str | None = None,
    study: str = "",
    report: Report = silent,
) -> Outcome:
    """Times the first `top` networks of a run's front, or all, on each device; judges it anew.

    The first are those that would be exported: the most accurate, the knee, the fastest, then
    spread. What is measured is kept in `measured.json` at once, so that a call that was stopped
    goes on with the next. Then latencies that were measured stand in place of predicted ones, the
    others are predicted by the run's corrected tables (`correcting`), and front, exports, report
    and manifest are made again. No trial is made.

    Raises:
        UsageError: the run's search is not finished.
        DeviceError: no device can be measured, or reached; the run is as it was, but for what had
            been measured before. Where only some could, that is a failure of the outcome.
        ExportError: likewise, where the first device's files cannot be written.
    """
    if not (folder / "result.json").is_file():
        raise UsageError(
            f"{folder}: its search is not finished, so there is no front to measure",
            hint=f"edgenas search {folder / 'run.toml'} --resume, with --measure at once",
        )
    measuring = Measuring.on(devices_of(config))
    with locked(folder):
        run = open_stages(config, folder, resume=True, may_train=False, report=report)
        failures, notes = _measured(run, measuring, top, report)
    outcome = search(
        config,
        folder,
        resume=True,
        storage=storage,
        study=study,
        reach=True,
        unmeasured=failures,
        report=report,
    )
    return replace(outcome, notes=(*measuring.notes, *notes, *outcome.notes))


def _measured(
    run: Opened, measuring: Measuring, top: int | None, report: Report
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Measures and keeps it; a failure for each device that failed, and notes on single networks.

    Raises:
        DeviceError, ExportError: every device failed; as the first did.
    """
    from edgenas.search.measuring import SESSION

    path = run.folder / MEASURED
    told: Told = read_told(path, run.supernet.space)
    failed: dict[str, DeviceError | ExportError] = {}
    notes = []
    for metric, device in measuring.metrics.items():
        instrument = instrument_for(run, device)
        wanted = _wanted(run, metric, top)
        left = [arch for arch in wanted if not isinstance(told.get((metric, arch)), Metric)]
        stage = f"measure {device.name}"
        report(Event(stage, 0, len(left), f"{len(left)} networks"))
        for start in range(0, len(left), SESSION):
            archs = left[start : start + SESSION]
            try:
                ready = instrument.prepare(archs, report)
                with instrument.held(report):
                    found = ready()
            except (DeviceError, ExportError) as error:
                failed[device.name] = error
                break
            told |= {(metric, arch): outcome for arch, outcome in found.items()}
            write_told(path, told)
            n = start + len(archs)
            report(Event(stage, n, len(left), f"{len(found)} networks measured"))
        if device.name in failed:
            continue
        said = {arch: told.get((metric, arch), "other programs disturbed it") for arch in left}
        problems = {arch: why for arch, why in said.items() if isinstance(why, str)}
        if problems and not any(m == metric and isinstance(told[m, a], Metric) for m, a in told):
            some = next(iter(problems.values()))
            failed[device.name] = MeasurementError(f"{device.name} measured nothing: {some}")
        notes += [
            f"{arch.digest} was not measured on {device.name}: {why}"
            for arch, why in problems.items()
        ]
    again = f"edgenas measure {run.folder} goes on once it is mended"
    if len(failed) == len(measuring.metrics):
        first = next(iter(failed.values()))
        kind = ExportError if isinstance(first, ExportError) else DeviceError
        raise kind(f"{first}; {again}", hint=first.hint) from first
    failures = (f"{name}: not measured: {error}; {again}" for name, error in failed.items())
    return tuple(failures), tuple(notes)


def _wanted(run: Opened, metric: str, top: int | None) -> list[Architecture]:
    """The first networks of the front whose `metric` was not measured."""
    front = ParetoFront.read(run.folder / "front.json", parse=run.supernet.space.parse)
    chosen = choose(front, len(front) if top is None else top)
    return [c.architecture for _, c in chosen if c.metrics[metric].origin != "measured"]
