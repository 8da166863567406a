"""The latency of one network: an architecture of a space, or any model file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import write_atomic
from edgenas.errors import MissingUnitsError, SpecError, UsageError
from edgenas.events import Report, silent
from edgenas.hardware import DeviceProfile, load_device
from edgenas.models import SUFFIXES
from edgenas.pipeline.profiling import space_of
from edgenas.pipeline.provenance import latency_note
from edgenas.pipeline.runs import find_run

MIXED_SHARE = 0.05
"""Of a file's multiplications: where more are in another precision, one table does not tell it."""

if TYPE_CHECKING:
    from edgenas.latency import LatencyPrediction, LatencyTable, Predictor
    from edgenas.spaces import OpSpec


def predict(
    device: str,
    model: str,
    *,
    run: str | None = None,
    runs: Path = Path("runs"),
    page: Path | None = None,
    measure: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """The latency of a network on a device, unit by unit.

    Args:
        device: its name.
        model: an architecture's line, `largest`, `smallest`, or the path of a model file
            (`.onnx`, `.tflite`), which may come from anywhere.
        run: the run (or run file) whose space and table copies are meant; default: the shipped
            supernet's space.
        runs: folder that holds the runs.
        page: where to write the same as an HTML page with a bar for each unit.
        measure: time a model file as well, beside units of the device's table: those say how much
            faster or slower the device is now than when the table was made.
        report: progress of the measurement.

    Raises:
        UsageError: unknown device or run; a file that is not of the device's runtime or precision.
        SpecError: no architecture of the space; a file that is damaged, takes batches, or
            has no operator that costs time; no table for the device.
        MissingUnitsError: operators of the file that nothing is known of, all named.
        ResourceError: the page cannot be written.
        DeviceError: the file cannot be timed.
    """
    profile = load_device(device)
    if Path(model).suffix.lower() in SUFFIXES:
        table = _table(profile, run, runs)
        facts = _predict_file(profile, Path(model), table)
        if measure:
            facts |= _measured(profile, Path(model), table, facts["latency_ms"], report)
    elif measure:
        raise UsageError(
            "--measure times a model file, not an architecture",
            hint="edgenas export writes an architecture's files",
        )
    else:
        facts = _predict_architecture(profile, model, run, runs)
    if page is not None:
        from edgenas.report import prediction_html

        write_atomic(page, prediction_html(facts))
    return facts


def _predict_architecture(
    profile: DeviceProfile, model: str, run: str | None, runs: Path
) -> dict[str, Any]:
    space = space_of(run, runs=runs)
    match model:
        case "largest":
            arch = space.largest()
        case "smallest":
            arch = space.smallest()
        case line:
            arch = space.parse(line)
    from edgenas.latency import Predictor

    table = _table(profile, run, runs)
    predictor, lowering = Predictor(table), space.lower(arch)
    found = predictor.predict(lowering)
    return {
        "device": profile.name,
        "table": table.name,
        "architecture": str(arch),
        "digest": arch.digest,
        **_planned(predictor, list(lowering)),
        **_latency(found, table, profile.name),
    }


def _predict_file(profile: DeviceProfile, path: Path, table: LatencyTable) -> dict[str, Any]:
    from edgenas.latency import Predictor
    from edgenas.models import in_blocks, read_model, sums_in_convolutions

    family = profile.format.split("-")[0]
    if path.suffix.lower() != f".{family}":
        raise UsageError(
            f"{path}: {profile.name} runs .{family} files ({profile.runtime})",
            hint="edgenas devices lists devices of both runtimes",
        )
    graph = read_model(path)
    if not graph.units and not graph.unsupported:
        raise SpecError(
            f"{path}: none of its {len(graph.steps)} operators costs time",
            hint="give a file whose operators compute something",
        )
    if graph.other_share > MIXED_SHARE:
        other = "int8" if graph.precision == "fp32" else "fp32"
        raise UsageError(
            f"{path} is in mixed precision: {graph.other_share:.0%} of its multiplications are in "
            f"{other}, and a table is of one precision",
            hint="what edgenas exported has an export.json, with its latency from both tables",
        )
    if graph.precision != profile.precision:
        raise UsageError(
            f"{path} is {graph.precision}, {profile.name} is a device for {profile.precision}",
            hint="edgenas devices lists devices of both precisions"
            if graph.precision in ("fp32", "int8")
            else "export it in fp32 or int8",
        )
    predictor = Predictor(table)
    graph = sums_in_convolutions(in_blocks(graph, predictor.measured))
    unknown = [f"{step.kind} {step.name}: {step.unsupported}" for step in graph.unsupported]
    unknown += [f"{name}: {op.key}" for name, op in graph.units if not predictor.covers(op)]
    if unknown:
        more = f"; and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise MissingUnitsError(
            f"{path}: table {table.name} knows nothing of {len(unknown)} of its "
            f"{len(graph.steps)} operators: {'; '.join(unknown[:10])}{more}",
            hint=f"edgenas profile {profile.name}, or measure the file itself",
        )
    found = predictor.predict_units(graph.units)
    kinds = [step.kind for step in graph.steps if step.op is not None]
    facts = _latency(found, table, profile.name)
    for unit, kind in zip(facts["units"], kinds, strict=True):
        unit["kind"] = kind
    return {
        "device": profile.name,
        "table": table.name,
        "file": os.fsencode(path).decode(errors="replace"),
        "format": graph.format,
        "precision": graph.precision,
        "size_bytes": graph.size_bytes,
        **_memory(path),
        **_planned(predictor, [op for _, op in graph.units]),
        "macs": graph.macs,
        **facts,
    }


def _measured(
    profile: DeviceProfile, path: Path, table: LatencyTable, predicted_ms: float, report: Report
) -> dict[str, Any]:
    """The file timed now, with the prediction brought to the device's present pace."""
    from dataclasses import replace

    from edgenas.artifacts import sha256_file
    from edgenas.pipeline.tables import check_here, converter_for, measuring
    from edgenas.profiling import time_model

    if profile.is_estimated:
        raise UsageError(
            f"--measure times a model on hardware; {profile.name} is estimated by Vela",
            hint="edgenas devices lists devices that can be timed",
        )
    check_here(profile)
    run = measuring(profile, f"file-{sha256_file(path)[:12]}", quick=True, report=report)
    timing, drift = time_model(
        path,
        table,
        profile,
        converter_for(profile, report=report),
        run=replace(run, resume=False),
    )
    return {
        "measured_ms": timing.latency_ms,
        "measured_p10_ms": timing.p10_ms,
        "measured_p90_ms": timing.p90_ms,
        "measured_n": timing.n,
        "drift": drift,
        "error": predicted_ms * drift / timing.latency_ms - 1,
    }


def _memory(path: Path) -> dict[str, int]:
    """Bytes of the activations, as in certificates; of int8 TFLite, TFLite-Micro's arena in all."""
    from edgenas.models import micro_arena_of_file, read_model
    from edgenas.targets import ram_bytes_of_file

    graph = read_model(path)
    if graph.format == "tflite" and graph.precision == "int8":
        arena = micro_arena_of_file(path)
        return {"peak_memory_bytes": arena.activations, "micro_arena_bytes": arena.total}
    return {"peak_memory_bytes": ram_bytes_of_file(path)}


def _planned(predictor: Predictor, units: Sequence[OpSpec]) -> dict[str, float]:
    """What the device's compiler would plan, where the table says."""
    memory = predictor.memory(units)
    if memory is None:
        return {}
    return {"sram_bytes": memory.sram_bytes, "flash_bytes": memory.flash_bytes}


def _table(profile: DeviceProfile, run: str | None, runs: Path) -> LatencyTable:
    """The run's own copy, where a run is named that has one; else the device's."""
    from edgenas.latency import read_table, table_for

    if run is not None and not Path(run).is_file():
        copy = find_run(run, runs=runs).folder / "tables" / f"{profile.name}.json"
        if copy.is_file():
            return read_table(copy)
    return table_for(profile)


def _latency(found: LatencyPrediction, table: LatencyTable, device: str) -> dict[str, Any]:
    from edgenas.latency import energy_mj

    return {
        "latency_ms": found.latency_ms,
        "low_ms": found.low_ms,
        "high_ms": found.high_ms,
        "measured_share": found.measured_share,
        "origin": found.origin,
        "source": table.source,
        "error_median": table.error_median,
        "rough": table.rough,
        "note": latency_note(device, table),
        "energy_mj": energy_mj(table, found.latency_ms),
        "units": [
            {
                "name": u.name,
                "key": u.key,
                "ms": u.latency_ms,
                "low_ms": u.low_ms,
                "high_ms": u.high_ms,
                "origin": u.origin,
            }
            for u in found.per_unit
        ],
    }
