"""Mixed precision in a run: the images that choose it, and latencies of units in each precision.

A device's table is of one precision. The other's is that of the same chip, runtime and threads. A
mixture's latency is the sum of its units', each from the table of its precision, and of the
conversions between them. No table holds conversions: one counts as an addition of two such tensors,
which reads and writes no less. Both tables are among the parents of the file. Where a table
lacks, as for weights of 4 bits, all mixtures are measured if the device is this machine; else those
are predicted of which tables tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgenas.artifacts import derive_seed
from edgenas.errors import ArtifactError, DeviceError, SpecError
from edgenas.events import Event, Report, silent
from edgenas.hardware import DeviceProfile
from edgenas.pipeline.goals import written_objectives
from edgenas.pipeline.metrics import at_device
from edgenas.pipeline.network_files import network_images
from edgenas.pipeline.runs import SESSIONS
from edgenas.spaces import Architecture, Lowering, OpSpec
from edgenas.targets import toolchain_of

if TYPE_CHECKING:
    from edgenas.export.certificate import Latency
    from edgenas.export.choosing import Limits
    from edgenas.export.mixed import Mixing
    from edgenas.export.units import Precisions, UnitPrecision
    from edgenas.latency import Predictor
    from edgenas.pipeline.opening import Opened


def device_of(
    devices: Iterable[DeviceProfile],
    format: str,  # noqa: A002  # the domain's word
) -> DeviceProfile | None:
    """The first of these devices whose runtime runs files of a mixed format; None: none does."""
    family, _, precision = format.partition("-")
    if precision != "mixed":
        return None
    fitting = (d for d in devices if d.format.partition("-")[0] == family)
    return next((d for d in fitting if _runs_mixtures(d)), None)


def devices_of(run: Opened, formats: Iterable[str]) -> dict[str, DeviceProfile]:
    """Of each mixed format among these the device that runs its files, where there is one."""
    found = {name: device_of(run.devices, name) for name in formats}
    return {name: device for name, device in found.items() if device is not None}


def _runs_mixtures(device: DeviceProfile) -> bool:
    """Whether its tool-chain takes floats and integers in one file; accelerators' do not."""
    chain = toolchain_of(device)
    return chain is None or chain.name in ("litert", "onnxruntime", "openvino")


PIXELS = 64 * 2**20
"""Of the images that mixtures are chosen by, at most: 0.8 GB in colour."""


def mixing_of(
    run: Opened,
    arch: Architecture,
    *,
    devices: Collection[DeviceProfile],
    report: Report = silent,
) -> Mixing:
    """How the precisions of a network's units are chosen: on images of the search split.

    Of the run's bounds those count that are of one of `devices`, which may run the network.
    """
    from edgenas.export.choosing import Limits
    from edgenas.export.mixed import IMAGES, Mixing

    resolution = run.supernet.space.resolution(arch)
    n = min(IMAGES, max(1, PIXELS // resolution**2))
    drawn = run.data.search.drawn(n, seed=derive_seed(run.config.seed, "mixed precision"))
    images, labels = network_images(run.data, drawn, resolution)

    def timings(format: str) -> _Timing | None:  # noqa: A002
        device = device_of(run.devices, format)
        return None if device is None else _Timing(run, device, _predictors(run, device), report)

    def limits(format: str) -> Limits:  # noqa: A002
        device = device_of(run.devices, format)
        return Limits() if device is None or device not in devices else _limits(run, device)

    return Mixing(images, labels, run.config.export.max_mixed_drop, timings, limits)


def _limits(run: Opened, device: DeviceProfile) -> Limits:
    """What the run file, or the device's own memory, bounds of a file on it."""
    from edgenas.export.choosing import Limits

    bounds = {o.name: o.bound for o in written_objectives(run.config) if o.relation == "<="}
    found = {
        metric: bound
        for metric in ("size_bytes", "latency_ms", "peak_memory_bytes")
        if (bound := bounds.get(at_device(metric, device, run.devices))) is not None
    }
    return Limits(**found)


def tables_of_mixtures(run: Opened, formats: Iterable[str]) -> dict[str, str]:
    """Digests of the tables that mixtures in these formats rest on, as parents of their files.

    Where measured networks corrected them, that of the corrected one has a name of its own.
    """
    found = {}
    for device in devices_of(run, formats).values():
        for precision, predictor in _predictors(run, device).items():
            its = device if precision == device.precision else in_other_precision(device)
            table = predictor.table
            ours = table.conditions.get("calibrated_from_digest") == run.tables[device.name].digest
            corrected = ours or "calibrated_like" in table.conditions
            found[f"table {its.name}{', corrected' if corrected else ''}"] = table.digest
    return found


def predicted_mixture(
    run: Opened, device: DeviceProfile, lowering: Lowering, precisions: Sequence[UnitPrecision]
) -> Latency | None:
    """What a network takes on `device` with its units in these precisions; None: no table tells."""
    return _predict(_predictors(run, device), lowering, precisions)


Predictors = Mapping[str, "Predictor"]
"""By precision."""


def _predictors(run: Opened, device: DeviceProfile) -> Predictors:
    """What predicts a device in its own precision and, where there is such a table, in the other.

    Both must be of one word: a prediction from measured units and a calibrated one do not compare.
    Where measured networks corrected the own one (`correcting`), the other is corrected likewise.
    """
    from edgenas.latency import Predictor, table_for
    from edgenas.latency.calibrate import rescaled_like

    own = run.cheap.predictors[device.name]
    found: dict[str, Predictor] = {device.precision: own}
    other = in_other_precision(device)
    if other.name == device.name:  # it does not say its precision
        return found
    try:
        table = run.tables.get(other.name) or table_for(other)
    except (SpecError, ArtifactError):
        return found
    stated = run.tables[device.name]
    if table.source == stated.source:
        corrected = own.table.digest != stated.digest
        found[other.precision] = Predictor(rescaled_like(table, own.table) if corrected else table)
    return found


def in_other_precision(device: DeviceProfile) -> DeviceProfile:
    """The same chip, runtime and threads, in int8 for fp32 and in fp32 for int8."""
    other: Literal["fp32", "int8"] = "int8" if device.precision == "fp32" else "fp32"
    name = device.name.replace(f"-{device.precision}", f"-{other}")
    return replace(device, name=name, precision=other)


@dataclass(frozen=True)
class _Timing:
    """What is known of latency on `device`; see `edgenas.export.mixed.Timing`."""

    run: Opened
    device: DeviceProfile
    predictors: Predictors
    report: Report

    def unit(self, op: OpSpec, precision: UnitPrecision) -> Latency | None:
        from edgenas.export.certificate import Latency

        predictor = self.predictors.get(precision)
        if predictor is None or not predictor.covers(op):
            return None
        return Latency(predictor.unit_ms(op), predictor.predict_units([("", op)]).origin)

    def points(
        self, lowering: Lowering, files: Mapping[Path, Precisions]
    ) -> Mapping[Path, Latency]:
        told = {path: _predict(self.predictors, lowering, p) for path, p in files.items()}
        found = {path: latency for path, latency in told.items() if latency is not None}
        if len(found) < len(files) and self.device.is_local:
            return self._measured(list(files))
        return found

    def _measured(self, files: Sequence[Path]) -> dict[Path, Latency]:
        """All of them, or none: of a few no choice can be made."""
        from edgenas.export.certificate import Latency
        from edgenas.profiling.session import measure
        from edgenas.profiling.settings import QUICK

        name = self.device.name
        self.report(Event("measure", message=f"{len(files)} mixtures on {name}"))
        try:
            timings = measure(
                {path.name: path for path in files},
                self.device,
                workdir=self.run.folder / SESSIONS / f"{name}-mixtures",
                settings=QUICK,
                seed=self.run.config.seed,
                resume=False,
                report=self.report,
            ).timings
        except DeviceError as error:
            self.report(Event("measure", 1, 1, f"not measured: {error}"))
            return {}
        metrics = {path: timings[path.name].metric for path in files if path.name in timings}
        if len(metrics) < len(files):
            return {}
        return {p: Latency(m.value, m.origin, m.low, m.high, m.n) for p, m in metrics.items()}


def _predict(
    predictors: Predictors, lowering: Lowering, precisions: Sequence[UnitPrecision]
) -> Latency | None:
    """The sum over units, each from the table of its precision, and conversions between them."""
    from edgenas.export.certificate import Latency

    if any(name not in predictors for name in precisions):
        return None
    if any(not predictors[p].covers(op) for op, p in zip(lowering, precisions, strict=True)):
        return None
    whole = {name: predictors[name].predict(lowering) for name in set(precisions)}
    parts = [whole[name].per_unit[i] for i, name in enumerate(precisions)]
    value, low, high = (
        sum(getattr(part, name) for part in parts) for name in ("latency_ms", "low_ms", "high_ms")
    )
    slowest = predictors["fp32"] if "fp32" in predictors else next(iter(predictors.values()))
    for op in _conversions(lowering, precisions):
        if not slowest.covers(op):
            return None
        value, high = value + slowest.unit_ms(op), high + 2 * slowest.unit_ms(op)
    extrapolated = any(found.origin == "extrapolated" for found in whole.values())
    origin = "extrapolated" if extrapolated else next(iter(whole.values())).origin
    rough = any(predictors[name].table.rough for name in set(precisions))
    return Latency(value, origin, low, high, rough=rough)


def _conversions(lowering: Lowering, precisions: Sequence[UnitPrecision]) -> list[OpSpec]:
    """An addition for each tensor that is converted, the file's own input and output included."""
    integer = [name != "fp32" for name in precisions]
    shapes = []
    for i, node in enumerate(lowering.nodes):
        sources = [False if j < 0 else integer[j] for j in node.inputs]
        shape = [lowering.in_chw if j < 0 else lowering.nodes[j].op.out_chw for j in node.inputs]
        shapes += [chw for chw, source in zip(shape, sources, strict=True) if source != integer[i]]
    if integer[-1]:
        shapes.append(lowering.nodes[-1].op.out_chw)
    return [OpSpec.of("add", c=c, h=h, w=w) for c, h, w in shapes]
