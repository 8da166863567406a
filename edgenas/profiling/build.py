"""From a device to its table: convert, measure in one interleaved run, fit."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgenas.artifacts import digest
from edgenas.errors import MeasurementError, SpecError
from edgenas.events import NOTICE, Event, Report, silent
from edgenas.hardware import DeviceProfile
from edgenas.latency import (
    CostModel,
    Entry,
    Fit,
    LatencyTable,
    Sample,
    TableDevice,
    drift_factor,
    fit_cost,
    fit_networks,
)
from edgenas.latency.fit import MIN_NETWORKS, Granularity, sum_of_parts
from edgenas.latency.table import ROUGH_ERROR, implausibility, implausible
from edgenas.profiling.kit import RESULTS
from edgenas.profiling.plan import anchor_units, primitives
from edgenas.profiling.runs import (
    N_ANCHORS,
    Converter,
    Run,
    measure_models,
    network_key,
    network_models,
    today,
    unit_key,
    unit_models,
)
from edgenas.profiling.timings import Timing
from edgenas.spaces import Lowering, OpSpec

MAX_DRIFT = 1.25
"""A device that takes so many times as long as it did, or as little, is no longer the same."""
MAX_IMPLAUSIBLE = 0.05
"""More units than this share that cannot be true are no mishap."""


def models_to_time(
    units: Iterable[OpSpec],
    networks: Mapping[str, Lowering],
    converter: Converter,
    *,
    earlier: LatencyTable | None = None,
    report: Report = silent,
) -> dict[str, Path]:
    """The model files that `profile_device` times for these arguments, by their keys."""
    timed, _ = _units_to_time(units, earlier)
    return _models(timed, networks, converter, report)


def profile_device(
    device: DeviceProfile,
    units: Iterable[OpSpec],
    networks: Mapping[str, Lowering],
    converter: Converter,
    *,
    run: Run,
    earlier: LatencyTable | None = None,
) -> LatencyTable:
    """The measured table of `device`: every unit timed, and fits from the whole `networks`.

    Units and networks are timed in one run of the agent, interleaved. At least 8 networks of
    varying depth are needed; those whose parts were not all timed do not count. With `earlier`,
    a table of the same device, its units are kept and the new ones brought to the same time by
    anchors; without `networks` its fits, which rest on these units, are kept too. Where a kit's
    results are read, `units` are those of the kit: what it shares with `earlier` are the anchors,
    and an `earlier` of which the kit has every unit has no say.

    Raises:
        SpecError: too few networks for a fit; a kit that shares no unit with `earlier`.
        OtherVersionError: the device runs another version of its runtime than `earlier` is of.
        MeasurementError: a device error, a measurement that is not complete, or one of which too
            many units cannot be true.
        ArtifactError: `earlier` is of another device.
    """
    wanted = list(dict.fromkeys(units))
    by_kit = run.results is not None
    if earlier is not None and by_kit and set(earlier.entries) <= set(wanted):
        earlier = None
    timed, anchors = _units_to_time(wanted, earlier, by_kit=by_kit)
    if earlier is not None:
        earlier.check_device(device)
        run = replace(run, table_version=earlier.device.runtime_version)
    if earlier is not None and not anchors:
        raise SpecError(
            f"{run.results}: the kit has no unit of the table of {device.name}: the two cannot be "
            "compared",
            hint=f"edgenas profile {device.name} --fresh --from-kit {run.results} takes the kit's "
            "units alone",
        )
    models = _models(timed, networks, converter, run.report)
    found = measure_models(models, device, run)
    if not found.complete:
        raise MeasurementError(
            f"device {device.name}: the measurement is not complete "
            f"({len(found.timings)} of {len(models)} models)",
            hint="repeat the command: it resumes"
            if run.results is None
            else f"repeat the kit's command on the device: it goes on; then bring {RESULTS} back",
        )
    if found.reused:
        told = f"all was timed before, on {found.measured_on}, and is taken over as it is"
        hint = f"edgenas profile {device.name} --fresh times it anew"
        run.report(Event(NOTICE, message=f"{told}; {hint}"))
    entries = {
        op: _entry(found.timings[unit_key(op)]) for op in timed if unit_key(op) in found.timings
    }
    excluded = {op.key: found.failed[unit_key(op)] for op in timed if unit_key(op) in found.failed}
    drift, created, doubts = 1.0, found.measured_on or today(), []
    if earlier is not None:
        now = {op.key: entries[op].latency_ms for op in anchors if op in entries}
        then = {op.key: earlier.entries[op].latency_ms for op in anchors}
        drift = drift_factor(now, then)
        doubts = _doubts(now, then, drift)
        created = min(created, earlier.created)
        entries = dict(earlier.entries) | {
            op: _scaled(entry, 1 / drift)
            for op, entry in entries.items()
            if op not in earlier.entries
        }
    entries, left_out = _plausible(device, entries)
    excluded |= left_out
    cost_model = fit_cost({op: entry.latency_ms for op, entry in entries.items()})
    whole = {
        name: found.timings[network_key(name)].latency_ms / drift
        for name in networks
        if network_key(name) in found.timings
    }
    if earlier is not None and not networks:
        fits = earlier.fits
    else:
        own = {name: networks[name] for name in whole}
        calls = not device.is_estimated
        fits = fit_all(entries, own, whole, model=cost_model, calls=calls)
    if not fits:
        raise SpecError(
            f"device {device.name}: a fit needs {MIN_NETWORKS} whole networks all of whose parts "
            f"were timed; {len(whole)} networks were timed",
            hint="profile more units, or other networks",
        )
    if earlier is not None and networks and fits[0].error_mean > ROUGH_ERROR:
        doubts.append(f"whole networks are {100 * fits[0].error_mean:.0f} % off what it says")
    if doubts:
        told = f"the table that was extended does not agree with what was timed now: {doubts[0]}"
        hint = f"edgenas profile {device.name} --fresh times all anew"
        run.report(Event(NOTICE, message=f"{told}; {hint}"))
    return LatencyTable(
        device=TableDevice.of(device, runtime_version=str(found.conditions["runtime_version"])),
        source="estimated" if device.is_estimated else "measured",
        created=created,
        entries=entries,
        fits=fits,
        cost_model=cost_model,
        conditions={
            **found.conditions,
            **({"grade": "poor", "doubts": doubts} if doubts else {}),
            "drift_since_earlier": round(drift, 5),
            "networks": digest(sorted(op.key for net in networks.values() for op in net)),
            "host_python": platform.python_version(),
            **_memory_fit(entries, networks, found.timings),
        },
        excluded=excluded,
    )


def fit_all(
    entries: Mapping[OpSpec, Entry],
    networks: Mapping[str, Lowering],
    measured_ms: Mapping[str, float],
    *,
    calls: bool,
    model: CostModel | None,
) -> tuple[Fit, ...]:
    """A fit for each granularity in which at least 8 of the networks are covered by `entries`.

    `calls`: whether each entry holds what a call of the runtime costs. `model`: the cost model of
    the entries, which tells the call and what else a model of one part pays; without it, and where
    that makes the fit worse, a call is what the cheapest part takes.
    """
    cheapest = min(entry.latency_ms for entry in entries.values()) if calls else 0.0
    ways: list[tuple[float, Mapping[str, float] | None]] = [(cheapest, None)]
    if calls and model is not None and model.call_ms:
        ways.append((model.call_ms, model.edges))
    fits = []
    for granularity in _GRANULARITIES:
        covered = {}
        for name, net in networks.items():
            parts = list(net if granularity == "unit" else net.primitive())
            if all(op in entries for op in parts):
                covered[name] = [(op, entries[op].latency_ms) for op in parts]
        if len(covered) < MIN_NETWORKS:
            continue
        found = []
        for call_ms, edges in ways:
            samples = []
            for name, times in covered.items():
                total, n_parts = sum_of_parts(times, call_ms=call_ms, edges=edges)
                samples.append(Sample(total + call_ms, n_parts, measured_ms[name]))
            found.append(
                fit_networks(samples, granularity=granularity, call_ms=call_ms, edges=edges)
            )
        fits.append(min(found, key=lambda fit: fit.error_mean))
    return tuple(fits)


def compare_granularities(
    device: DeviceProfile,
    networks: Mapping[str, Lowering],
    converter: Converter,
    *,
    run: Run,
) -> LatencyTable:
    """A table of the networks' units *and* their primitives, with a fit for each.

    All were timed in one run, so that the leave-one-out errors of the two fits can be compared.
    """
    units = list(dict.fromkeys(op for net in networks.values() for op in net))
    return profile_device(device, [*units, *primitives(units)], networks, converter, run=run)


_GRANULARITIES: tuple[Granularity, ...] = ("unit", "primitive")


def _units_to_time(
    units: Iterable[OpSpec], earlier: LatencyTable | None, *, by_kit: bool = False
) -> tuple[list[OpSpec], list[OpSpec]]:
    """Those that `earlier` lacks with its anchors, and the anchors.

    A kit has timed what it has: all `units`, of which those in `earlier` are the anchors.
    """
    wanted = list(dict.fromkeys(units))
    if earlier is None:
        return wanted, []
    if by_kit:
        return wanted, [op for op in wanted if op in earlier.entries]
    anchors = anchor_units(earlier, N_ANCHORS)
    new = [op for op in wanted if op not in earlier.entries]
    return list(dict.fromkeys([*new, *anchors])), anchors


def _doubts(now_ms: Mapping[str, float], then_ms: Mapping[str, float], drift: float) -> list[str]:
    """Why units that were timed before do not agree with the same units timed now."""
    doubts = []
    if not 1 / MAX_DRIFT <= drift <= MAX_DRIFT:
        doubts.append(f"the device takes {drift:.3g} times as long as it did")
    apart = statistics.median(abs(now_ms[key] / then_ms[key] / drift - 1) for key in now_ms)
    if apart > ROUGH_ERROR:
        doubts.append(f"units are {100 * apart:.0f} % apart from what they took (median)")
    return doubts


def _plausible(
    device: DeviceProfile, entries: Mapping[OpSpec, Entry]
) -> tuple[dict[OpSpec, Entry], dict[str, str]]:
    """The units that a table can be read with, and why the others are left out.

    Raises:
        MeasurementError: these are too many to be a mishap.
    """
    left, excluded = dict(entries), {}

    def off(pair: tuple[OpSpec, float]) -> float:
        op, expected = pair
        return abs(math.log(left[op].latency_ms / expected))

    while found := implausible(left, fit_cost({op: e.latency_ms for op, e in left.items()})):
        op, expected = max(found, key=off)
        excluded[op.key] = implausibility(left.pop(op), expected)
        if len(excluded) > max(1, MAX_IMPLAUSIBLE * len(entries)):
            key, reason = next(iter(excluded.items()))
            raise MeasurementError(
                f"device {device.name}: over {len(excluded) - 1} of {len(entries)} units cannot be "
                f"true; {key}: {reason}",
                hint=f"edgenas profile {device.name} --fresh, with the device idle",
            )
    return left, excluded


def _models(
    timed: Sequence[OpSpec],
    networks: Mapping[str, Lowering],
    converter: Converter,
    report: Report,
) -> dict[str, Path]:
    report(Event("convert", message=f"{len(timed)} units, {len(networks)} networks"))
    return unit_models(timed, converter) | network_models(networks, converter)


def _entry(timing: Timing) -> Entry:
    return Entry(
        timing.latency_ms,
        timing.p10_ms,
        timing.p50_ms,
        # Medians over rounds of each quantile: the least round may, rarely, lie above p90.
        max(timing.p90_ms, timing.latency_ms),
        timing.n,
        timing.sram_bytes,
        timing.flash_bytes,
    )


def _memory_fit(
    entries: Mapping[OpSpec, Entry],
    networks: Mapping[str, Lowering],
    timings: Mapping[str, Timing],
) -> dict[str, Any]:
    """How a network's memory follows from its units', where it is known; each left out in turn.

    SRAM is the most that one unit needs, times a factor: what lies beside it. Flash is the sum.
    """
    sram: list[float] = []
    flash: list[float] = []
    for name, net in networks.items():
        whole = timings.get(network_key(name))
        units = [entries[op] for op in net if op in entries]
        if whole is None or len(units) < len(net):
            continue
        if whole.sram_bytes is None or whole.flash_bytes is None:
            return {}
        sram.append(whole.sram_bytes / max(unit.sram_bytes or 0 for unit in units))
        flash.append(whole.flash_bytes / sum(unit.flash_bytes or 0 for unit in units))
    if len(sram) < MIN_NETWORKS:
        return {}
    errors = []
    for i, ratio in enumerate(sram):
        factor = statistics.median([*sram[:i], *sram[i + 1 :]])
        errors.append(abs(factor / ratio - 1))
    return {
        "memory": {
            "sram_factor": round(statistics.median(sram), 4),
            "sram_error_median": round(statistics.median(errors), 4),
            "sram_error_max": round(max(errors), 4),
            "flash_error_max": round(max(abs(1 / ratio - 1) for ratio in flash), 4),
            "n_networks": len(sram),
        }
    }


def _scaled(entry: Entry, factor: float) -> Entry:
    return replace(
        entry,
        latency_ms=entry.latency_ms * factor,
        p10_ms=entry.p10_ms * factor,
        p50_ms=entry.p50_ms * factor,
        p90_ms=entry.p90_ms * factor,
    )
