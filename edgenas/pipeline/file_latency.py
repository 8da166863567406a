"""Latency of exported files: what tables predict, and what is measured on devices in reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import write_json
from edgenas.errors import DeviceError
from edgenas.events import Event, Report, silent
from edgenas.pipeline.exported import Exported, gathered
from edgenas.pipeline.measuring import can_be_measured
from edgenas.pipeline.mixing import device_of, predicted_mixture
from edgenas.pipeline.network_files import asked_targets
from edgenas.pipeline.runs import SESSIONS

if TYPE_CHECKING:
    from edgenas.export.certificate import Certificate, ExportedModel, Latency
    from edgenas.hardware import DeviceProfile
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture, Lowering

LATENCY_SCHEMA = "edgenas.model-latency/1"


def measure_exports(
    run: Opened,
    judged: Opened,
    exported: Exported,
    *,
    fleet: Mapping[str, str] = MappingProxyType({}),
    reach: bool = False,
    report: Report = silent,
) -> Exported:
    """The certificates with predicted latency, and measured where the device is this machine.

    With `reach`, also where it is connected. All files of one device are timed in one interleaved
    session. A device that cannot be timed leaves them unmeasured, with a word in the progress; it
    fails nothing. A file that it refuses to run fails a gate until it runs it. `fleet` is as in
    `export_candidates`.

    Files that were not measured are predicted by the tables of `judged`, the run as measured
    networks correct it, and so is `latency.json` beside them; a prediction beside a measurement is
    the tables' own.
    """
    from edgenas.export.certificate import REJECTED, Latency, write_certificate
    from edgenas.profiling.session import measure
    from edgenas.profiling.settings import QUICK
    from edgenas.profiling.timings import NothingTimedError

    certificates = dict(exported.certificates)

    def reached(device: DeviceProfile) -> bool:
        return device.is_local or (reach and can_be_measured(device))

    def told_of(model: ExportedModel, certificate: Certificate) -> DeviceProfile | None:
        """The device whose latency the certificate tells: one that can be timed goes first."""
        if model.path.endswith(REJECTED):
            return None
        asked = asked_targets(run, fleet, certificate.digest)
        mixed = device_of(run.devices, model.format)
        its = [d for d in run.devices if d in asked and (model.format == d.format or mixed == d)]
        return next(filter(reached, its), next(iter(its), None))

    for device in run.devices:

        def runs(
            model: ExportedModel, certificate: Certificate, device: DeviceProfile = device
        ) -> bool:
            return told_of(model, certificate) == device

        files = {
            f"{folder.name}/{model.path}": folder / model.path
            for folder, certificate in certificates.items()
            for model in certificate.models
            if runs(model, certificate)
            and not (model.measured_ms is not None and model.device == device.name)
        }
        timings: Mapping[str, Any] = {}
        refused: Mapping[str, str] = {}
        if files and reached(device):
            report(Event("measure", message=f"{len(files)} exported files on {device.name}"))
            try:
                found = measure(
                    files,
                    device,
                    workdir=run.folder / SESSIONS / f"{device.name}-exports",
                    settings=QUICK,
                    seed=run.config.seed,
                    resume=False,  # what was refused or disturbed may run now
                    report=report,
                )
                timings, refused = found.timings, found.failed
            except DeviceError as error:
                if isinstance(error, NothingTimedError):
                    refused = error.failed
                report(Event("measure", 1, 1, f"not measured: {error}"))
        for folder, certificate in certificates.items():
            arch = run.supernet.space.parse(certificate.architecture)
            lowering = run.supernet.space.lower(arch)
            models = []
            for model in certificate.models:
                if runs(model, certificate):
                    measured = model.measured_ms if model.device == device.name else None
                    name = f"{folder.name}/{model.path}"
                    if timing := timings.get(name):
                        m = timing.metric
                        measured = Latency(m.value, "measured", m.low, m.high, m.n)
                    if name in timings or name in refused:
                        model = _asked(model, device, refused.get(name))
                    tables = judged if measured is None else run
                    model = replace(
                        model,
                        device=device.name,
                        predicted_ms=_predicted(tables, device, lowering, model),
                        measured_ms=measured,
                    )
                models.append(model)
            certificates[folder] = replace(certificate, models=tuple(models))
            write_certificate(folder, certificates[folder])
    for folder, certificate in certificates.items():
        _write_latency(judged, run.supernet.space.parse(certificate.architecture), folder)
    return gathered(run.folder, certificates)


def _asked(model: ExportedModel, device: DeviceProfile, why: str | None) -> ExportedModel:
    """The file with the word of the device itself: `why` it does not run it, None if it does."""
    from edgenas.export.verify import ON_DEVICE, Gate

    gates = tuple(gate for gate in model.gates if gate.name != ON_DEVICE)
    if why is not None:
        gates += (Gate(ON_DEVICE, "failed", f"{device.name} does not run it: {why}"),)
    return replace(model, gates=gates)


def _predicted(
    run: Opened, device: DeviceProfile, lowering: Lowering, model: ExportedModel
) -> Latency | None:
    """The predicted latency of a file of the network; None where tables do not tell."""
    from edgenas.export.certificate import Latency

    if model.precision == "mixed":
        return predicted_mixture(run, device, lowering, [unit.precision for unit in model.units])
    predictor = run.cheap.predictors[device.name]
    found = predictor.predict(lowering)
    rough = predictor.table.rough
    return Latency(found.latency_ms, found.origin, found.low_ms, found.high_ms, rough=rough)


def _write_latency(run: Opened, arch: Architecture, folder: Path) -> None:
    """Writes `latency.json`: what tables predict for the network, unit by unit, on each device."""
    lowering = run.supernet.space.lower(arch)
    latencies = []
    for device in run.devices:
        predictor = run.cheap.predictors[device.name]
        found = predictor.predict(lowering)
        latencies.append(
            {
                "device": device.name,
                "origin": found.origin,
                "rough": predictor.table.rough,
                "latency_ms": found.latency_ms,
                "low_ms": found.low_ms,
                "high_ms": found.high_ms,
                "units": [
                    {
                        "name": unit.name,
                        "key": unit.key,
                        "ms": unit.latency_ms,
                        "origin": unit.origin,
                        "inputs": list(node.inputs),
                    }
                    for unit, node in zip(found.per_unit, lowering.nodes, strict=True)
                ],
            }
        )
    write_json(folder / "latency.json", {"schema": LATENCY_SCHEMA, "latencies": latencies})
