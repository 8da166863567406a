"""Networks of a run as files: extracted, converted, verified, timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import write_json
from edgenas.errors import ArtifactError, DeviceError, SpecError, UsageError, nearest
from edgenas.events import Event, Report, silent
from edgenas.pareto import Candidate, ParetoFront
from edgenas.pipeline.config import RunConfig, known_formats
from edgenas.pipeline.evaluating import calibration_images, evaluator
from edgenas.pipeline.finishing import final_network, final_weights
from edgenas.pipeline.measuring import can_be_measured
from edgenas.pipeline.mixing import device_of, mixing_of, predicted_mixture
from edgenas.pipeline.runs import SESSIONS, Outcome, fleet_of, locked, read_result, seal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgenas.data import DataSet, Images
    from edgenas.export.certificate import (
        Certificate,
        DataStatement,
        ExportedModel,
        Latency,
        TargetEvidence,
    )
    from edgenas.export.certified import ExportRequest
    from edgenas.export.contract import InputContract
    from edgenas.export.onnx import Activations
    from edgenas.hardware import DeviceProfile
    from edgenas.networks import Network
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture, Lowering

    FloatArray = npt.NDArray[np.float32]

EXPORTS_SCHEMA = "edgenas.exports/1"
LATENCY_SCHEMA = "edgenas.model-latency/1"


@dataclass(frozen=True, slots=True)
class Exported:
    """The certificates of several networks by their folders, and what went wrong."""

    certificates: Mapping[Path, Certificate]
    failures: tuple[str, ...]
    exit_code: int

    def rows(self, folder: Path) -> list[dict[str, Any]]:
        """Every file as a row of `result.json`; paths relative to the run's `folder`."""
        return [
            exported_row(model, (place / model.path).relative_to(folder).as_posix())
            for place, certificate in self.certificates.items()
            for model in certificate.models
        ]

    def targets(self, folder: Path) -> list[dict[str, Any]]:
        """What each target says of each network's file, as rows of `result.json`."""
        return [
            target_row(target, place.relative_to(folder).as_posix())
            for place, certificate in self.certificates.items()
            for target in certificate.targets
        ]


def export(
    config: RunConfig,
    folder: Path,
    architecture: str,
    *,
    formats: Sequence[str] | None = None,
    report: Report = silent,
) -> Outcome:
    """One network of a run again: written, verified and timed in `folder/models/<digest>`.

    Files of other formats that lie there stay, as long as they are of the same network.

    Args:
        config: the run's settings.
        folder: the run's folder.
        architecture: a digest on the run's front (its first digits suffice), or a whole line.
        formats: default: the run's.
        report: progress.

    Raises:
        UsageError: no such network on the front, an unknown format.
        SpecError: the line is no architecture of the space.
    """
    from edgenas.pipeline.opening import open_stages

    wanted = tuple(dict.fromkeys(formats or config.export.formats))
    known = known_formats()
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown format {name!r}; {nearest(name, known)}")
    with locked(folder):
        run = open_stages(config, folder, resume=True, may_train=False, report=report)
        arch = find_architecture(run, architecture)
        candidate = Candidate(arch, run.cheap.explain(arch))
        exported = export_candidates(
            run,
            [("asked for", candidate)],
            formats=wanted,
            fleet=fleet_in(folder),
            again=True,
            report=report,
        )
        exported = measure_exports(run, exported, report=report)
        if (folder / "result.json").is_file():
            _retell(folder, exported, arch)
        if (folder / "manifest.json").is_file():
            seal(folder)
    document = {
        "schema": EXPORTS_SCHEMA,
        "run": str(folder),
        "exports": exported.rows(folder),
        "targets": exported.targets(folder),
        "failures": list(exported.failures),
    }
    return Outcome(folder, document, exported.failures, (), exported.exit_code)


def _retell(folder: Path, exported: Exported, arch: Architecture) -> None:
    """Puts what was exported again into result and report, where the network was in the result."""
    from edgenas.report import write_report

    result, place = dict(read_result(folder)), f"models/{arch.digest}"

    def of_others(path: str) -> bool:
        return path != place and not path.startswith(f"{place}/")

    others = [row for row in result["exports"] if of_others(row["path"])]
    if len(others) < len(result["exports"]):
        targets = [row for row in result["targets"] if of_others(row["path"])]
        result |= {
            "exports": [*others, *exported.rows(folder)],
            "targets": [*targets, *exported.targets(folder)],
            "failures": [*filter(of_others, result["failures"]), *exported.failures],
        }
        write_json(folder / "result.json", result)
    write_report(folder)


def export_candidates(
    run: Opened,
    chosen: Sequence[tuple[str, Candidate]],
    *,
    formats: Sequence[str] | None = None,
    fleet: Mapping[str, str] = MappingProxyType({}),
    again: bool = False,
    report: Report = silent,
) -> Exported:
    """Exports and verifies the chosen networks; files that a certificate holds for are kept.

    `fleet` has by device the network (digest) that it runs: it is not asked about another of them.
    Only formats that lack are written (`again`: all of `formats`, while files of further formats
    stay); of those that are kept, only mixtures rest on what tables say. Beside the models lie
    `latency.json` and what runs them (`export.ready`). A gate that is missed does
    not raise, nor does a target that takes no file: they are among the failures.
    """
    from edgenas.export.certified import export_networks

    wanted, known = tuple(formats or run.config.export.formats), known_formats()
    folders = {c.architecture: run.folder / "models" / c.architecture.digest for _, c in chosen}
    done: dict[Path, Certificate] = {}
    requests: dict[tuple[str, ...], list[ExportRequest]] = {}
    for why, candidate in chosen:
        folder = folders[candidate.architecture]
        others = [name for name in known if name not in wanted]
        kept = _kept(run, candidate.architecture, folder, others if again else wanted, again=again)
        written = set()
        if kept is not None:
            done[folder] = kept
            written = {model.format for model in kept.models}
        if lacking := tuple(name for name in wanted if name not in written):
            told = f"{candidate.architecture.digest} ({why}): {', '.join(lacking)}"
            report(Event("export", message=told))
            requests.setdefault(lacking, []).append(
                _request(run, candidate, folder, lacking, report)
            )
    order = list(dict.fromkeys((*run.config.export.formats, *known)))
    for lacking, group in requests.items():
        certificates = export_networks(
            group,
            formats=lacking,
            max_top1_drop=run.config.export.max_top1_drop,
            report=report,
        )
        for request, certificate in zip(group, certificates, strict=True):
            kept = done.get(request.folder)
            joined = certificate if kept is None else _joined(kept, certificate, order)
            done[request.folder] = joined
    for _, candidate in chosen:
        _write_latency(run, candidate.architecture, folders[candidate.architecture])
    ordered = {folders[c.architecture]: done[folders[c.architecture]] for _, c in chosen}
    return _exported(run.folder, _on_targets(run, ordered, fleet, report=report))


def _on_targets(
    run: Opened,
    certificates: Mapping[Path, Certificate],
    fleet: Mapping[str, str],
    *,
    report: Report,
) -> dict[Path, Certificate]:
    """The certificates with the evidence of the run's targets and the digests of its tables.

    Writes what lies ready beside the files.
    """
    from edgenas.export.certificate import write_certificate
    from edgenas.export.ready import write_ready
    from edgenas.export.targets import ANSWERS, check_targets

    few = run.data.test.drawn(ANSWERS, seed=run.config.seed)
    found = {}
    for folder, certificate in certificates.items():
        arch = run.supernet.space.parse(certificate.architecture)
        images, _ = network_images(run.data, few, _resolution(run, arch))
        devices = asked_targets(run, fleet, arch.digest)
        told = check_targets(folder, certificate, devices, images=images, report=report)
        parents = {**run.parents, **parents_of(run, arch)}
        found[folder] = replace(certificate, targets=told, parents=parents)
        write_certificate(folder, found[folder])
        write_ready(folder, found[folder], image_size=run.data.image_size)
    return found


def asked_targets(run: Opened, fleet: Mapping[str, str], digest: str) -> tuple[DeviceProfile, ...]:
    """The targets whose word on a network counts: of a fleet not those that run another one."""
    if digest not in fleet.values():
        return run.targets
    return tuple(device for device in run.targets if fleet.get(device.name, digest) == digest)


def fleet_in(folder: Path) -> dict[str, str]:
    """What each device of a run runs, where its search was for a fleet and is finished."""
    return fleet_of(read_result(folder)) if (folder / "result.json").is_file() else {}


def measure_exports(
    run: Opened, exported: Exported, *, reach: bool = False, report: Report = silent
) -> Exported:
    """The certificates with predicted latency, and measured where the device is this machine.

    With `reach`, also where it is connected. All files of one device are timed in one interleaved
    session. A device that cannot be timed leaves them unmeasured, with a word in the progress; it
    fails nothing.
    """
    from edgenas.export.certificate import REJECTED, Latency, write_certificate
    from edgenas.profiling.session import QUICK, measure

    certificates = dict(exported.certificates)

    def reached(device: DeviceProfile) -> bool:
        return device.is_local or (reach and can_be_measured(device))

    def told_of(model: ExportedModel) -> DeviceProfile | None:
        """The device whose latency the certificate tells: one that can be timed goes first."""
        if model.path.endswith(REJECTED):
            return None
        mixed = device_of(run, model.format)
        its = [d for d in run.devices if model.format == d.format or mixed == d]
        return next(filter(reached, its), next(iter(its), None))

    for device in run.devices:

        def runs(model: ExportedModel, device: DeviceProfile = device) -> bool:
            return told_of(model) == device

        files = {
            f"{folder.name}/{model.path}": folder / model.path
            for folder, certificate in certificates.items()
            for model in certificate.models
            if runs(model) and not (model.measured_ms is not None and model.device == device.name)
        }
        timings: Mapping[str, Any] = {}
        if files and reached(device):
            report(Event("measure", message=f"{len(files)} exported files on {device.name}"))
            try:
                timings = measure(
                    files,
                    device,
                    workdir=run.folder / SESSIONS / f"{device.name}-exports",
                    settings=QUICK,
                    seed=run.config.seed,
                    report=report,
                ).timings
            except DeviceError as error:
                report(Event("measure", 1, 1, f"not measured: {error}"))
        for folder, certificate in certificates.items():
            arch = run.supernet.space.parse(certificate.architecture)
            lowering = run.supernet.space.lower(arch)
            models = []
            for model in certificate.models:
                if runs(model):
                    measured = model.measured_ms if model.device == device.name else None
                    if timing := timings.get(f"{folder.name}/{model.path}"):
                        low = min(timing.latency_ms, timing.p10_ms)  # it is the best round's
                        measured = Latency(
                            timing.latency_ms, "measured", low, timing.p90_ms, timing.n
                        )
                    model = replace(
                        model,
                        device=device.name,
                        predicted_ms=_predicted(run, device, lowering, model),
                        measured_ms=measured,
                    )
                models.append(model)
            certificates[folder] = replace(certificate, models=tuple(models))
            write_certificate(folder, certificates[folder])
    return _exported(run.folder, certificates)


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


def extract(run: Opened, arch: Architecture) -> Network:
    """The plain network of `arch` with its final weights.

    Where it has none, with inherited ones, BatchNorm recalibrated.

    Raises:
        ArtifactError: the final weights are damaged.
    """
    network = final_network(run, arch)
    if network is not None:
        return network
    return evaluator(run.supernet, run.data, run.config).network(arch).cpu()


def network_images(
    data: DataSet, images: Images, resolution: int
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Normalised (n, h, w, c) images and their labels, as exported files take them."""
    import numpy as np

    from edgenas.data import prepare

    prepared = prepare(images.pixels, resolution=resolution, mean=data.mean, std=data.std)
    pixels = np.ascontiguousarray(prepared.permute(0, 2, 3, 1).numpy())
    return pixels, images.labels.numpy()


def find_architecture(run: Opened, text: str) -> Architecture:
    """The architecture that `text` means: a line, or (the start of) a digest.

    A digest is looked for on the front, then among all that was evaluated.

    Raises:
        UsageError: no or several networks of the front have such a digest.
        SpecError: a line that is no architecture of the space.
    """
    from edgenas.report import read_trials

    space = run.supernet.space
    if text in ("largest", "smallest"):
        return space.largest() if text == "largest" else space.smallest()
    if " " in text.strip():
        return space.parse(text.strip())
    front = ParetoFront.read(run.folder / "front.json", parse=space.parse)
    known = [c.architecture for c in front.candidates]
    matches = [arch for arch in known if arch.digest.startswith(text)]
    if not matches and (run.folder / "trials.json").is_file():
        trials, _ = read_trials(run.folder / "trials.json")
        lines = {t.architecture for t in trials if t.digest.startswith(text)}
        matches = [space.parse(line) for line in lines]
    if len(matches) != 1 or len(text) < 4:
        raise UsageError(
            f"{text!r} names {len(matches)} networks of {run.folder / 'front.json'}; "
            + nearest(text, [arch.digest for arch in known]),
            hint="an architecture's line works too: quote it",
        )
    return matches[0]


def _request(
    run: Opened, candidate: Candidate, folder: Path, formats: Sequence[str], report: Report
) -> ExportRequest:
    from edgenas.export.certified import ExportRequest
    from edgenas.export.formats import MIXED

    arch = candidate.architecture
    resolution = _resolution(run, arch)
    sample = calibration_images(run.data, run.config.seed)
    calibration, _ = network_images(run.data, sample, resolution)
    images, labels = network_images(run.data, run.data.test, resolution)
    return ExportRequest(
        network=extract(run, arch),
        folder=folder,
        architecture=str(arch),
        digest=arch.digest,
        contract=contract_of(run, arch),
        calibration=calibration,
        images=images,
        labels=labels,
        parents=parents_of(run, arch),
        weights=_told(run, arch),
        mixing=None if MIXED.keys().isdisjoint(formats) else mixing_of(run, arch, report=report),
        data=_statement(run),
        licence=run.config.export.licence,
        activations=_activations(run),
    )


def _activations(run: Opened) -> Activations:
    """Those of the files whose units were timed: of the run's first device that runs int8 ONNX."""
    from edgenas.pipeline.tables import activations_on

    devices = [device for device in run.targets if device.format == "onnx-int8"]
    return activations_on(devices[0]) if devices else "u8"


def contract_of(run: Opened, arch: Architecture) -> InputContract:
    """What a float file of the network takes and answers."""
    from edgenas.data import RESIZE
    from edgenas.export.contract import InputContract

    resolution = _resolution(run, arch)
    return InputContract(
        shape=(1, resolution, resolution, run.data.channels),
        mean=run.data.mean,
        std=run.data.std,
        classes=run.data.classes,
        resize=RESIZE,
    )


def _statement(run: Opened) -> DataStatement:
    from edgenas.data import licence_of
    from edgenas.export.certificate import DataStatement

    data, source = run.data, run.config.data
    return DataStatement(
        name=data.name,
        digest=data.digest,
        seed=run.config.seed,
        image_size=data.image_size,
        channels=data.channels,
        images={split: len(part) for split, part in data.splits.items()},
        licence=source.licence or licence_of(source.source),
    )


def parents_of(run: Opened, arch: Architecture) -> dict[str, str]:
    """The digests that the files of a network rest on. Tables only say which network is chosen."""
    found = final_weights(run, arch)
    name = None if found is None else found.digest
    return run.rests_on if name is None else {**run.rests_on, "weights": name}


def _told(run: Opened, arch: Architecture) -> str:
    """What came of the network's final training."""
    found = final_weights(run, arch)
    return "" if found is None else found.told


def _resolution(run: Opened, arch: Architecture) -> int:
    return run.supernet.space.resolution(arch)


def _kept(
    run: Opened, arch: Architecture, folder: Path, formats: Sequence[str], *, again: bool
) -> Certificate | None:
    """The certificate in `folder` of what need not be written again of `formats`; None: nothing.

    Its files are whole and of these parents, its tools are those that would write the others. Files
    of further formats are deleted, unless those are written `again`.
    """
    from edgenas.export.certificate import recheck, write_certificate
    from edgenas.export.jobs import tool_versions

    try:
        found = recheck(folder)
    except (ArtifactError, SpecError):
        return None
    parents = {n: value for n, value in found.parents.items() if not n.startswith("table ")}
    same = parents == parents_of(run, arch) and found.weights == _told(run, arch)
    if not same or found.max_top1_drop != run.config.export.max_top1_drop:
        return None
    mixed_drop = run.config.export.max_mixed_drop
    if found.max_mixed_drop is not None and found.max_mixed_drop != mixed_drop:
        return None
    tables = _tables(found.parents) == _tables(run.parents)  # mixtures are chosen by them
    models = tuple(
        model
        for model in found.models
        if model.format in formats and (tables or model.precision != "mixed")
    )
    kept = {model.format for model in models}
    missing = set(known_formats() if again else formats) - kept
    now = {k: v for name in missing for k, v in tool_versions(name).items()}
    if any(found.tools.get(name, version) != version for name, version in now.items()):
        return None  # a certificate has one version of a tool
    if again:
        return replace(found, models=models, failures=()) if models else None
    if others := [model.path for model in found.models if model not in models]:
        used = {"edgenas", *(name for format_ in kept for name in tool_versions(format_))}
        tools = {name: version for name, version in found.tools.items() if name in used}
        found = replace(found, models=models, tools=tools)
        write_certificate(folder, found)  # first: it lists no file that is not there
        for name in others:
            (folder / name).unlink(missing_ok=True)
    return replace(found, failures=())


def _tables(parents: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parents.items() if name.startswith("table ")}


def _joined(kept: Certificate, written: Certificate, order: Sequence[str]) -> Certificate:
    """One certificate of the files that were kept and those that were written now."""
    files = (*kept.models, *written.models)
    models = sorted(files, key=lambda model: order.index(model.format))
    tools = dict(sorted({**kept.tools, **written.tools}.items()))
    drop = written.max_mixed_drop if written.max_mixed_drop is not None else kept.max_mixed_drop
    return replace(written, models=tuple(models), tools=tools, max_mixed_drop=drop)


def _write_latency(run: Opened, arch: Architecture, folder: Path) -> None:
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


def _exported(folder: Path, certificates: Mapping[Path, Certificate]) -> Exported:
    failures = tuple(
        f"{place.relative_to(folder).as_posix()}/{problem}"
        for place, certificate in certificates.items()
        for problem in certificate.problems()
    )
    codes = [certificate.exit_code for certificate in certificates.values()]
    code = 5 if 5 in codes else max(codes, default=0)
    return Exported(certificates, failures, code)


def exported_row(model: ExportedModel, path: str) -> dict[str, Any]:
    """A file as a row of `result.json`."""
    predicted, measured = model.predicted_ms, model.measured_ms
    return {
        "path": path,
        "format": model.format,
        "sha256": model.sha256,
        "size_bytes": model.size_bytes,
        "verified": model.verified,
        "top1": model.verification.top1,
        "top1_drop": model.verification.top1_drop,
        "agreement": model.verification.agreement,
        "n_images": model.verification.n,
        "device": model.device or None,
        "predicted_ms": None if predicted is None else predicted.value_ms,
        "predicted_origin": None if predicted is None else predicted.origin,
        "low_ms": None if predicted is None else predicted.low_ms,
        "high_ms": None if predicted is None else predicted.high_ms,
        "measured_ms": None if measured is None else measured.value_ms,
        "rough": predicted is not None and predicted.rough,
        **({"units": {u.name: u.precision for u in model.units}} if model.units else {}),
    }


def target_row(target: TargetEvidence, place: str) -> dict[str, Any]:
    """Evidence with the path of its file, or of its network's folder, in the run's folder."""
    return {**asdict(target), "path": f"{place}/{target.path}" if target.path else place}
