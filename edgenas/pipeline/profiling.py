"""The stage `profile`, the check of a table, and the benchmark of predictions."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import io_errors, write_json
from edgenas.errors import ArtifactError, SpecError, UsageError
from edgenas.events import NOTICE, Event, Report, silent
from edgenas.hardware import (
    FORMATS,
    DeviceProfile,
    load_device,
    load_device_file,
    local_name,
    this_chip,
)
from edgenas.pipeline.config import read_config
from edgenas.pipeline.devices import read_any_table
from edgenas.pipeline.runs import find_run
from edgenas.pipeline.tables import (
    CALIBRATION_SEED,
    FIT_NETWORKS,
    adapt_here,
    check_here,
    converter_for,
    measuring,
    profile_here,
    profile_models,
    timed_before,
    write_measured,
)

if TYPE_CHECKING:
    from edgenas.latency import LatencyTable, Validation
    from edgenas.spaces import SearchSpace

MAX_ERROR = 0.10
"""Median error on whole networks above which `edgenas table validate` ends with 5."""


def profile(
    device: str,
    *,
    run_file: Path | None = None,
    quick: bool = False,
    models: int | None = None,
    minutes: float | None = None,
    fresh: bool = False,
    results: Path | None = None,
    folder: Path = Path("latency_tables"),
    report: Report = silent,
) -> list[dict[str, Any]]:
    """Measures `device` into `folder/<device>.json` and returns what was written.

    Args:
        device: a name, `local` for all four runtimes and precisions of this machine with one
            thread, or the path of a device file.
        run_file: whose space is measured; default: that of the shipped supernet.
        quick: shorter rounds.
        models: instead of every unit, time so many whole networks and combine them with what is
            known of other devices (see `latency.adapt`).
        minutes: time what tells most in so long, and stop then, at the end of a round.
        fresh: time all anew; neither what an earlier call timed nor an earlier table counts.
        results: what the agent of a kit wrote on the device, which is then not reached.
        folder: for the tables.
        report: progress.

    Raises:
        UsageError: an unknown device; `results` with several devices or with `models`; `models`
            where a table of measured units would be lost.
        ArtifactError: `results` are none, or of another kit.
        DeviceError: it cannot be reached or timed; what was measured is kept.
        MeasurementError: what was measured cannot be true.
    """
    devices = devices_named(device)
    if results is not None:
        _one_device(device, devices, models=models)
    if models is not None and not fresh:
        _refuse_loss(devices, folder, report=report)
    space = space_of(None if run_file is None else str(run_file))
    written = []
    for profiled in devices:
        started = time.monotonic()
        hear, notes = _noting(report)
        if results is None:
            check_here(profiled)
        run = measuring(profiled, space.digest, quick=quick, minutes=minutes, report=hear)
        run = replace(run, results=results, resume=not fresh)
        path = folder / f"{profiled.name}.json"
        if models is not None:
            table = adapt_here(profiled, space, n_networks=models, run=run)
        else:
            earlier = None if fresh else _earlier(profiled, path, report=hear)
            table = profile_here(profiled, space, earlier=earlier, run=run)
        write_measured(table, path)
        written.append(
            {
                "device": profiled.name,
                "table": str(path),
                "source": table.source,
                "entries": len(table.entries),
                "excluded": len(table.excluded),
                "error_mean": table.fits[0].error_mean if table.fits else None,
                "grade": table.conditions.get("grade"),
                "date": table.created,
                "notes": notes,
                "elapsed_s": round(time.monotonic() - started, 1),
            }
        )
    return written


def profile_kit(
    device: str,
    kit: Path,
    *,
    back: str,
    run_file: Path | None = None,
    quick: bool = False,
    models: int | None = None,
    minutes: float | None = None,
    fresh: bool = False,
    folder: Path = Path("latency_tables"),
    report: Report = silent,
) -> dict[str, Any]:
    """Writes what measures `device` by hand, where no connection leads: agent, models and job.

    Arguments as for `profile`; `back` is the command for the results, quoted in the kit's README.

    Raises:
        UsageError: an unknown device, several, or `models`.
    """
    from edgenas.profiling import write_kit

    devices = devices_named(device)
    profiled = _one_device(device, devices, models=models)
    space = space_of(None if run_file is None else str(run_file))
    hear, notes = _noting(report)
    run = measuring(profiled, space.digest, quick=quick, minutes=minutes, report=hear)
    path = folder / f"{profiled.name}.json"
    earlier = None if fresh else _earlier(profiled, path, report=hear)
    files = profile_models(profiled, space, earlier=earlier, run=run)
    write_kit(files, profiled, kit, back=back, settings=run.settings, seed=run.seed)
    return {
        "device": profiled.name,
        "kit": str(kit),
        "models": len(files),
        "size_bytes": kit.stat().st_size,
        "notes": notes,
    }


def _noting(report: Report) -> tuple[Report, list[str]]:
    """`report`, and the list that it then adds every notice to: a result repeats them."""
    notes: list[str] = []

    def hear(event: Event) -> None:
        if event.stage == NOTICE:
            notes.append(event.message)
        report(event)

    return hear, notes


def _earlier(device: DeviceProfile, path: Path, *, report: Report) -> LatencyTable | None:
    """The table in `path`, to be extended; None where there is none that can be, which is told.

    One that cannot be read is set aside.
    """
    from edgenas.latency import read_table

    if not path.is_file():
        return None
    try:
        table = read_table(path)
        if table.name != device.name:
            raise ArtifactError(f"{path}: it holds the table of {table.name!r}")
    except ArtifactError as error:
        aside = path.with_name(f"{path.name}.damaged")
        with io_errors(aside, "write"):
            path.replace(aside)
        report(Event(NOTICE, message=f"{error}; it is now {aside}, and a new one is made"))
        return None
    try:
        table.check_device(device)
    except ArtifactError as error:
        report(Event(NOTICE, message=f"{error}: the table is made anew"))
        return None
    return timed_before(table)


def _refuse_loss(devices: Sequence[DeviceProfile], folder: Path, *, report: Report) -> None:
    """Refuses to put a few whole networks in the place of units that were timed one by one."""
    for device in devices:
        path = folder / f"{device.name}.json"
        if earlier := _earlier(device, path, report=report):
            raise UsageError(
                f"{path} was {earlier.source}, unit by unit: --models would put less in its place",
                hint="--fresh does; without --models the table is extended",
            )


def _one_device(
    name: str, devices: Sequence[DeviceProfile], *, models: int | None
) -> DeviceProfile:
    """The one device of a kit."""
    if len(devices) != 1:
        raise UsageError(
            f"{name!r} means {len(devices)} devices; a kit is for one",
            hint=f"edgenas profile {devices[0].name} --kit kit.zip",
        )
    if devices[0].is_estimated:
        raise UsageError(
            f"{devices[0].name} needs no kit: Vela estimates it on any machine",
            hint=f"edgenas profile {devices[0].name}",
        )
    if models is not None:
        raise UsageError("a kit measures a device in full: it does not go with --models")
    return devices[0]


def validate_table(
    name: str, *, networks: int = 24, report: Report = silent
) -> tuple[dict[str, Any], str]:
    """Times whole networks that the table's fit has not seen, and compares with its predictions."""
    table = read_any_table(name)
    try:
        device = load_device(name)
    except UsageError:
        device = load_device(table.name)
    facts = _validated(table, device, space_of(None), networks=networks, seed=1, report=report)
    facts["passed"] = facts["error_median"] <= MAX_ERROR
    text = (
        f"{table.name}: median error {100 * facts['error_median']:.1f} %, "
        f"{100 * facts['error_within_10']:.0f} % within 10 %, largest "
        f"{100 * facts['error_max']:.1f} %, n = {facts['n']}"
    )
    return facts, text


def bench_latency(
    devices: Sequence[str] = (),
    *,
    networks: int = 24,
    seed: int = 0,
    quick: bool = False,
    save: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """Predicted against measured latency of whole networks, device by device.

    The networks are spread over MACs and depth and drawn apart from those of the fit; anchor units
    are timed interleaved, since the machine drifts (see `latency.validate`).

    Raises:
        SpecError: a device without a table.
        DeviceError: it cannot be timed.
    """
    import platform

    from edgenas.latency import table_for

    named = [load_device(d) for d in devices] or devices_named("local")
    rows: list[dict[str, Any]] = []
    for device in named:
        table = table_for(device)
        report(Event("bench", len(rows), len(named), device.name))
        rows.append(
            _validated(
                table,
                device,
                space_of(None),
                networks=networks,
                seed=seed + 1,
                quick=quick,
                report=report,
            )
        )
    report(Event("bench", len(named), len(named)))
    facts = {
        "devices": rows,
        "machine": {"chip": this_chip().title, "cpus": this_chip().n_cpus},
        "python": platform.python_version(),
        "networks": networks,
        "seed": seed,
        "command": shlex.join(
            [
                *("edgenas", "bench", "latency"),
                *(word for name in devices for word in ("--device", name)),
                *("--networks", str(networks), "--seed", str(seed)),
                *(("--quick",) if quick else ()),
            ]
        ),
    }
    if save is not None:
        write_json(save, {"schema": "edgenas.bench-latency/1", **facts})
    return facts


def devices_named(name: str) -> list[DeviceProfile]:
    """The device of this name or file; `local`: this machine in all runtimes, one thread."""
    if name == "local":
        return [load_device(local_name(*pair, threads=1)) for pair in FORMATS]
    if name.endswith(".toml"):
        return [load_device_file(Path(name))]
    return [load_device(name)]


def space_of(run: str | None, *, runs: Path = Path("runs")) -> SearchSpace:
    """The space of a run or run file; with neither, that of the shipped supernet.

    Raises:
        UsageError: no such run.
        SpecError: the run file is wrong.
    """
    from edgenas.pipeline.shipped import DEFAULT_SET, supernets
    from edgenas.pipeline.training import read_data, supernet_file
    from edgenas.spaces.mobile import default_space
    from edgenas.spaces.registry import space_from

    if run is None:
        known = supernets()
        if DEFAULT_SET in known:
            return supernet_space(known[DEFAULT_SET])
        return default_space(image_size=28, in_channels=1, n_classes=10)
    if Path(run).is_file():
        config, folder = read_config(Path(run)), None
    else:
        found = find_run(run, runs=runs)
        config, folder = found.config, found.folder
    checkpoint = config.supernet.checkpoint
    if checkpoint == "shipped":
        from edgenas.pipeline.shipped import supernet_path

        return supernet_space(supernet_path(config.data.source))
    if checkpoint is not None:
        return supernet_space(Path(checkpoint))
    if folder is not None and supernet_file(folder).is_file():
        return supernet_space(supernet_file(folder))
    data = read_data(config)
    return space_from(
        config.space,
        image_size=data.image_size,
        in_channels=data.channels,
        n_classes=len(data.classes),
    )


def supernet_space(checkpoint: Path) -> SearchSpace:
    """The space of a supernet, from its sidecar alone.

    Raises:
        SpecError: there is none, or it is damaged.
    """
    from edgenas.artifacts import read_json
    from edgenas.spaces.mobile import from_table

    sidecar = checkpoint.with_suffix(".json")
    if not sidecar.is_file():
        raise SpecError(
            f"cannot read {sidecar}: there is no such file",
            hint=f"copy it from where {checkpoint.name} was trained: both lie in one folder; or "
            "train one: edgenas train run.toml",
        )
    table = dict(read_json(sidecar, schema="edgenas.supernet/1")["space"])
    return from_table(table, in_channels=table["in_channels"], n_classes=table["n_classes"])


def _validated(
    table: LatencyTable,
    device: DeviceProfile,
    space: SearchSpace,
    *,
    networks: int,
    seed: int,
    quick: bool = False,
    report: Report,
) -> dict[str, Any]:
    from edgenas.latency import other_tables
    from edgenas.profiling import validate_table as validate
    from edgenas.profiling.plan import calibration_networks

    check_here(device)
    table.check_device(device)
    # those that fits are made from are left out: a fit is not its own judge
    fitted = calibration_networks(space, FIT_NETWORKS, seed=CALIBRATION_SEED)
    chosen = calibration_networks(space, networks, seed=seed, exclude=fitted)
    run = measuring(device, f"validate-{seed}", quick=quick, seed=seed, report=report)
    run = replace(run, resume=False)
    found: Validation = validate(
        table,
        device,
        {arch.digest: space.lower(arch) for arch in chosen},
        converter_for(device, report=report),
        run=run,
        known=other_tables(table.name),
    )
    return {
        "device": device.name,
        "table": table.name,
        "source": table.source,
        "error_within_10": found.within_10,
        **{k: v for k, v in found.to_json().items() if k not in ("kind", "within_10")},
    }
