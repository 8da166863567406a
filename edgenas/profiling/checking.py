"""A table against what is timed now: whole networks that its fit has not seen, or a model file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edgenas.errors import MeasurementError, MissingUnitsError
from edgenas.hardware import DeviceProfile
from edgenas.latency import (
    LatencyTable,
    Predictor,
    Validation,
    compare,
    drift_factor,
    repeat_error,
)
from edgenas.latency.validate import REPEAT
from edgenas.profiling.plan import anchor_units
from edgenas.profiling.runs import (
    N_ANCHORS,
    Converter,
    Run,
    measure_models,
    network_key,
    unit_key,
    unit_models,
)
from edgenas.profiling.timings import Timing
from edgenas.spaces import Lowering


def validate_table(
    table: LatencyTable,
    device: DeviceProfile,
    networks: Mapping[str, Lowering],
    converter: Converter,
    *,
    run: Run,
    known: Iterable[LatencyTable] = (),
    max_attempts: int = 4,
) -> Validation:
    """Predictions of `table` against whole networks timed now, unseen by its fit.

    Every network is timed twice, and anchor units of the table beside them, all interleaved in
    one run. Networks whose two timings differ by more than 5 % are timed again, with the anchors,
    up to `max_attempts` runs; none is dropped. The nearest device of the baselines is one of
    `known`, the tables of other devices.

    Raises:
        MissingUnitsError: the table cannot predict one of the networks.
        MeasurementError: a network or all anchors could not be timed.
    """
    predictor = Predictor(table)
    predicted = {name: predictor.predict(net).latency_ms for name, net in networks.items()}
    anchors = anchor_units(table, N_ANCHORS)
    anchor_models = unit_models(anchors, converter)
    files = converter.networks(networks)
    then = {unit_key(op): table.entries[op].latency_ms for op in anchors}
    now: dict[str, float] = {}
    measured: dict[str, tuple[float, float]] = {}
    attempts: dict[str, int] = {}
    left = sorted(networks)
    for attempt in range(1, max_attempts + 1):
        models = dict(anchor_models)
        for name in left:
            models |= {f"{network_key(name)} {i}": files[name] for i in (1, 2)}
        again = replace(run, workdir=run.workdir / f"run-{attempt}", seed=run.seed + attempt)
        found = measure_models(models, device, again)
        if found.failed:
            key, reason = min(found.failed.items())
            raise MeasurementError(f"device {device.name}: {key}: {reason}")
        times = found.latency_ms()
        moment = {key: times[key] for key in then if key in times}
        now = now or moment
        # Later runs are brought to the first one's moment.
        since = drift_factor(moment, now)
        for name in left:
            first, second = (times[f"{network_key(name)} {i}"] / since for i in (1, 2))
            measured[name] = first, second
            attempts[name] = attempt
        left = [name for name in left if repeat_error(*measured[name]) > REPEAT]
        if not left:
            break
    checked = compare(
        predicted,
        measured,
        anchors_now_ms=now,
        anchors_table_ms=then,
        attempts=attempts,
        macs={name: net.macs for name, net in networks.items()},
        known_ms=_predictions(known, networks),
    )
    if device.is_estimated:
        return replace(checked, against="against the compiler's estimate of the whole")
    return checked


def time_model(
    path: Path, table: LatencyTable, device: DeviceProfile, converter: Converter, *, run: Run
) -> tuple[Timing, float]:
    """How long a model file takes, and how much slower the device is than when `table` was made.

    Anchor units of the table are timed in the same run, interleaved; the second value is the median
    of now / then over them, 1 for a table that holds no unit.

    Raises:
        MeasurementError: the file could not be timed.
    """
    anchors = anchor_units(table, N_ANCHORS)
    models = {**unit_models(anchors, converter), "file": path}
    found = measure_models(models, device, run)
    if "file" not in found.timings:
        raise MeasurementError(
            f"device {device.name}: {path}: {found.failed.get('file', 'not timed')}"
        )
    then = {unit_key(op): table.entries[op].latency_ms for op in anchors}
    times = found.latency_ms()
    now = {key: times[key] for key in then if key in times}
    return found.timings["file"], drift_factor(now, then) if now else 1.0


def _predictions(
    tables: Iterable[LatencyTable], networks: Mapping[str, Lowering]
) -> dict[str, dict[str, float]]:
    """What each table says of the networks; those that lack a part of one are left out."""
    found = {}
    for table in tables:
        predictor = Predictor(table)
        with contextlib.suppress(MissingUnitsError):
            found[table.name] = {
                name: predictor.predict(net).latency_ms for name, net in networks.items()
            }
    return found
