"""Which latency table a search reads for each device, made now where it can be made now.

For a device elsewhere: its own table. For this machine, the first that holds:

1. the run's own copy (a resumed run reads what it read before);
2. a table measured on this machine that holds every unit of the space;
3. where no known table holds every unit: those that lack are timed now, if that takes at most
   `profile_minutes`;
4. this machine's table or, where that does not know all units or holds less than half of them, the
   known one that resembles this machine most, rescaled by timing a few whole networks here
   (*calibrated*); units that it lacks come from its cost model (*extrapolated* outside its range).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import read_json
from edgenas.errors import (
    ArtifactError,
    DeviceError,
    MeasurementError,
    MissingUnitsError,
    SpecError,
    UsageError,
)
from edgenas.events import NOTICE, Event, Report, silent
from edgenas.hardware import DeviceProfile, find, this_chip, user_folder
from edgenas.pipeline.runs import SESSIONS
from edgenas.spaces import Lowering, OpSpec, SearchSpace

if TYPE_CHECKING:
    from edgenas.export.onnx import Activations
    from edgenas.latency import LatencyTable
    from edgenas.profiling import Converter, Run

TABLES = "tables"
"""The folder of a run that has the tables it was made with."""
CALIBRATION_NETWORKS = 8
"""Whole networks that rescale a table, where none ship."""
ADAPTATION_POOL = 200
"""Networks of a space from which those to be timed on a new device are chosen."""
FIT_NETWORKS = 16
"""Whole networks that a profile's fit is made from."""
CALIBRATION_SCHEMA = "edgenas.calibration/1"
CALIBRATION_SEED = 0
_CONVERT_S = {"onnx": 0.15, "onnx-int8": 0.4, "tflite": 1.4, "tflite-int8": 1.5}
"""Rough seconds that converting one unit takes, from measurements on two shared cores."""
_TIME_S = 0.6
"""Rough seconds that timing one unit takes, all rounds and their warm-up included."""


def tables_for(
    devices: Sequence[DeviceProfile],
    space: SearchSpace,
    folder: Path,
    *,
    copies: Path | None = None,
    profile_minutes: float = 10.0,
    report: Report = silent,
) -> dict[str, LatencyTable]:
    """The table of each device by its name, for the run in `folder`.

    A copy of each is kept in `copies`, by default `folder/tables`, and read where it is there.

    Raises:
        SpecError: a device elsewhere without a table.
        MissingUnitsError: units of the space that no table and no cost model knows.
        DeviceError: this machine could not be timed.
    """
    from edgenas.latency import read_table, write_table

    tables = {}
    for device in devices:
        copy = (copies or folder / TABLES) / f"{device.name}.json"
        if copy.is_file():
            tables[device.name] = read_table(copy)
            continue
        table = _table_for(device, space, folder, profile_minutes=profile_minutes, report=report)
        _check_cover(table, space)
        write_table(table, copy)
        tables[device.name] = read_table(copy)  # as a resumed run will read it
    return tables


def profile_seconds(units: Sequence[OpSpec], device: DeviceProfile) -> float:
    """Roughly what timing these units on this machine takes, conversion included."""
    return len(units) * (_CONVERT_S[device.format] + _TIME_S) + 60


def check_here(device: DeviceProfile) -> None:
    """Refuses a device that is not connected and is not this machine.

    Raises:
        DeviceError: with what can be done.
    """
    from edgenas.hardware.transports import LOCAL

    if device.connection == LOCAL and not device.is_estimated and device.chip != this_chip().name:
        raise DeviceError(
            f"{device.name} is not this machine, whose chip is {this_chip().name}, and its "
            "device file has no [connection]",
            hint=f"edgenas profile {device.name} --kit kit.zip, or a [connection] of kind "
            "'ssh' or 'adb'",
        )


def timed_before(table: LatencyTable | None) -> LatencyTable | None:
    """`table` where its units were timed (or estimated) on its device, so that it can be extended.

    Units of a calibrated table were not: they are timed like those that lack.
    """
    return table if table is not None and table.source in ("measured", "estimated") else None


def profile_here(
    device: DeviceProfile,
    space: SearchSpace,
    *,
    earlier: LatencyTable | None,
    run: Run,
    n_networks: int = FIT_NETWORKS,
) -> LatencyTable:
    """The measured table of a device for all units of `space`, or for those of a kit.

    Where the device runs another version of its runtime than `earlier` is of, all is timed.
    """
    from edgenas.profiling import profile_device
    from edgenas.profiling.session import OtherVersionError

    if run.results is None:
        units, networks = _to_profile(space, earlier, n_networks=n_networks, run=run)
    else:
        units, networks = _of_kit(device, space, run.results, n_networks=n_networks, run=run)
    converter = converter_for(device, report=run.report)
    try:
        return profile_device(device, units, networks, converter, run=run, earlier=earlier)
    except OtherVersionError as error:
        run.report(Event(NOTICE, message=f"{error}: the table is made anew"))
    return profile_here(device, space, earlier=None, run=run, n_networks=n_networks)


def profile_models(
    device: DeviceProfile,
    space: SearchSpace,
    *,
    earlier: LatencyTable | None,
    run: Run,
    n_networks: int = FIT_NETWORKS,
) -> dict[str, Path]:
    """The model files that `profile_here` times for the same arguments."""
    from edgenas.profiling import models_to_time

    units, networks = _to_profile(space, earlier, n_networks=n_networks, run=run)
    converter = converter_for(device, report=run.report)
    return models_to_time(units, networks, converter, earlier=earlier, report=run.report)


def _to_profile(
    space: SearchSpace, earlier: LatencyTable | None, *, n_networks: int, run: Run
) -> tuple[Sequence[OpSpec], dict[str, Lowering]]:
    """The units that lack, and the networks of the fit: as many as the time allows for."""
    from edgenas.profiling.plan import affordable, calibration_networks, missing_units

    architectures = calibration_networks(space, n_networks, seed=run.seed)
    networks = {arch.digest: space.lower(arch) for arch in architectures}
    units = missing_units(space.units(), earlier)
    if (budget_s := run.settings.budget_s) is None:
        return units, networks
    return affordable(space, units, networks, int(budget_s / _TIME_S), seed=run.seed)


def _of_kit(
    device: DeviceProfile, space: SearchSpace, results: Path, *, n_networks: int, run: Run
) -> tuple[Sequence[OpSpec], dict[str, Lowering]]:
    """The units and networks that a kit held, as its results name them.

    Raises:
        SpecError: there are no such results, or they are damaged.
        UsageError: the kit is of another space.
    """
    from edgenas.profiling.kit import planned
    from edgenas.profiling.plan import calibration_networks
    from edgenas.profiling.runs import named_models

    units, names = named_models(planned(device, results, settings=run.settings, seed=run.seed))
    architectures = calibration_networks(space, n_networks, seed=run.seed)
    known = {arch.digest: space.lower(arch) for arch in architectures}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"{results}: the kit was made for another space: network {unknown[0]} is none of this",
            hint="give the --run that the kit was written with; its README has the command",
        )
    return units, {name: known[name] for name in names}


def calibrate_here(
    device: DeviceProfile,
    table: LatencyTable,
    space: SearchSpace,
    *,
    run: Run,
) -> LatencyTable:
    """`table` of another machine rescaled for this one, from a few whole networks timed here.

    The networks that ship with edgenas, where `table` knows all units of the space; else networks
    of the space, converted now.
    """
    from edgenas.profiling import calibrate_device
    from edgenas.profiling.plan import calibration_networks, missing_units

    networks: dict[str, tuple[Lowering, Path]] = {}
    if not missing_units(space.units(), table):
        networks = shipped_networks(device.format)
        networks = {n: pair for n, pair in networks.items() if not missing_units(pair[0], table)}
    if len(networks) < 3:
        chosen = calibration_networks(space, CALIBRATION_NETWORKS, seed=run.seed)
        lowerings = {arch.digest: space.lower(arch) for arch in chosen}
        run.report(Event("calibrate", message=f"converting {len(lowerings)} networks"))
        files = converter_for(device, report=run.report).networks(lowerings)
        networks = {name: (lowerings[name], files[name]) for name in lowerings}
    run.report(Event("calibrate", message=f"{device.name}: timing {len(networks)} networks"))
    return calibrate_device(device, table, networks, run=run)


def adapt_here(
    device: DeviceProfile, space: SearchSpace, *, n_networks: int, run: Run
) -> LatencyTable:
    """A table of `device` from `n_networks` whole networks timed on it and all known tables.

    Raises:
        DeviceError: no known table covers the space; the device cannot be timed.
    """
    from edgenas.latency import other_tables
    from edgenas.latency.adapt import Adaptation
    from edgenas.profiling import adapt_device
    from edgenas.profiling.plan import spread_architectures

    spread = spread_architectures(space, min(ADAPTATION_POOL, space.size), seed=0)
    pool = [space.lower(arch) for arch in spread]
    try:
        adaptation = Adaptation(other_tables(device.name), pool)
    except SpecError as error:
        raise DeviceError(
            f"device {device.name}: {error}",
            hint=f"edgenas profile {device.name} measures it in full",
        ) from error
    rows = adaptation.choose(n_networks)
    run.report(Event("profile", message=f"converting {len(rows)} networks"))
    files = converter_for(device, report=run.report).networks({str(r): pool[r] for r in rows})
    networks = {row: files[str(row)] for row in rows}
    return adapt_device(device, adaptation, networks, space.units(), run=run)


def shipped_networks(format: str) -> dict[str, tuple[Lowering, Path]]:  # noqa: A002
    """The converted networks that ship for calibration in `format`, by name; may be none."""
    from edgenas.export.jobs import read_lowering
    from edgenas.pipeline.shipped import FOLDER

    index = FOLDER / "calibration" / "networks.json"
    if not index.is_file():
        return {}
    table = read_json(index, schema=CALIBRATION_SCHEMA)
    found = {}
    for name, entry in table["networks"].items():
        file = entry["files"].get(format)
        if file is not None and (path := index.parent / file).is_file():
            found[str(name)] = (read_lowering(entry["lowering"]), path)
    return found


def activations_on(device: DeviceProfile) -> Activations:
    """The type of int8 activations in ONNX that is the fast one there: u8 on x86, s8 on ARM."""
    if device.chip == this_chip().name:
        x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    else:
        x86 = device.chip.startswith(("amd-", "intel-"))
    return "u8" if x86 else "s8"


def converter_for(
    device: DeviceProfile, *, folder: Path | None = None, report: Report = silent
) -> Converter:
    """What makes model files for `device`, cached in the user's cache folder."""
    from edgenas.export.jobs import convert_networks, convert_units
    from edgenas.profiling import Converter

    how: Mapping[str, Any] = {
        "format": device.format,
        "folder": folder or cache_folder() / "models",
        "activations": activations_on(device),
        "report": report,
    }

    def units(ops: Sequence[OpSpec]) -> Mapping[str, Path]:
        return convert_units(ops, **how)

    def networks(lowerings: Mapping[str, Lowering]) -> Mapping[str, Path]:
        return convert_networks(lowerings, **how)

    return Converter(units, networks)


def cache_folder() -> Path:
    """The user's cache folder; whatever lies there can be made again."""
    import platformdirs

    return platformdirs.user_cache_path("edgenas", appauthor=False)


def write_measured(table: LatencyTable, path: Path) -> None:
    """Writes a table that was measured now.

    Raises:
        MeasurementError: it could not be read again, for what stands in it.
    """
    from edgenas.latency import check_readable, write_table

    try:
        check_readable(table)
    except ArtifactError as error:
        raise MeasurementError(
            f"{error}: what was measured cannot be true, and {path} was not written",
            hint=f"edgenas profile {table.name} --fresh, with the device idle",
        ) from error
    write_table(table, path)


def measuring(
    device: DeviceProfile,
    purpose: str,
    *,
    folder: Path | None = None,
    quick: bool = True,
    minutes: float | None = None,
    seed: int = CALIBRATION_SEED,
    report: Report = silent,
) -> Run:
    """How this machine is timed: quick or standard rounds, in a work folder that resumes."""
    from edgenas.profiling import Run
    from edgenas.profiling.settings import QUICK, STANDARD

    settings = QUICK if quick else STANDARD
    if minutes is not None:
        settings = replace(settings, budget_s=60 * minutes)
    workdir = (folder or cache_folder() / "sessions") / f"{device.name}-{purpose}"
    return Run(workdir, settings=settings, seed=seed, report=report)


def _table_for(
    device: DeviceProfile,
    space: SearchSpace,
    folder: Path,
    *,
    profile_minutes: float,
    report: Report,
) -> LatencyTable:
    from edgenas.latency import load_table, nearest_table, table_for
    from edgenas.profiling.plan import missing_units

    if not device.is_local:
        return table_for(device)
    own = load_table(device.name) if find("latency_tables", device.name) else None
    if own is not None:
        own.check_device(device)
    if own is not None and not missing_units(space.units(), own):
        return own
    earlier = timed_before(own)
    missing = missing_units(space.units(), earlier)
    base = own
    if own is None or _unknown(own, space) or _of_another_space(own, space):
        base = nearest_table(device, space.units()) or own
    known = base is not None and not missing_units(space.units(), base)
    if not known and profile_seconds(missing, device) <= 60 * profile_minutes:
        run = measuring(device, space.digest, report=report)
        table = profile_here(device, space, earlier=earlier, run=run)
        write_measured(table, user_folder("latency_tables") / f"{device.name}.json")
        return table
    if base is None:
        raise DeviceError(
            f"no table resembles {device.name} ({device.runtime}, {device.precision}), and timing "
            f"its {len(missing)} units would take about "
            f"{profile_seconds(missing, device) / 60:.0f} minutes",
            hint=f"edgenas profile {device.name}, or raise [search] profile_minutes",
        )
    run = measuring(device, "calibrate", folder=folder / SESSIONS, report=report)
    return calibrate_here(device, base, space, run=run)


def _check_cover(table: LatencyTable, space: SearchSpace) -> None:
    """Refuses a table that some network of the space could not be predicted with.

    Raises:
        MissingUnitsError: with the units.
    """
    if missing := _unknown(table, space):
        shown = "; ".join(missing[:5]) + (
            f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        )
        raise MissingUnitsError(
            f"table {table.name} knows neither by timing nor by its cost model {len(missing)} "
            f"units of the space: {shown}",
            hint=f"edgenas profile {table.name} --run run.toml",
        )


def _of_another_space(table: LatencyTable, space: SearchSpace) -> bool:
    """Whether `table` holds less than half of the units of `space`, whatever it can extrapolate."""
    from edgenas.profiling.plan import missing_units

    units = list(space.units())
    return 2 * len(missing_units(units, table)) > len(units)


def _unknown(table: LatencyTable, space: SearchSpace) -> list[str]:
    """The units of `space` that neither `table` nor its cost model knows."""
    from edgenas.latency import Predictor

    predictor = Predictor(table)
    return sorted(op.key for op in space.units() if not predictor.covers(op))
