"""Networks of a run as files: extracted, converted, verified, held against targets."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import edgenas
from edgenas.artifacts import write_json
from edgenas.errors import ArtifactError, DeviceError, ExportError, SpecError, UsageError, nearest
from edgenas.events import Event, Report, silent
from edgenas.pareto import Candidate, ParetoFront
from edgenas.pipeline.config import RunConfig, known_formats
from edgenas.pipeline.correcting import corrected
from edgenas.pipeline.evaluating import calibration_images
from edgenas.pipeline.exported import EXPORTS_SCHEMA, Exported, gathered
from edgenas.pipeline.file_latency import measure_exports
from edgenas.pipeline.mixing import devices_of, mixing_of, tables_of_mixtures
from edgenas.pipeline.network_files import (
    asked_targets,
    contract_of,
    extract,
    network_images,
    outcome_of_training,
    parents_of,
    statement_of,
)
from edgenas.pipeline.runs import Outcome, fleet_of, locked, read_result, resealing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgenas.export.certificate import Certificate, ExportedModel, Failure
    from edgenas.export.certified import ExportRequest
    from edgenas.export.onnx import Activations
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture


def export(
    config: RunConfig,
    folder: Path,
    architecture: str,
    *,
    formats: Sequence[str] | None = None,
    report: Report = silent,
) -> Outcome:
    """One network of a run again: written, verified and timed in `folder/models/<digest>`.

    Files of other formats that lie there stay.

    Args:
        config: the run's settings.
        folder: the run's folder.
        architecture: a digest on the run's front (its first digits suffice), or a whole line.
        formats: default: the run's.
        report: progress.

    Raises:
        UsageError: no such network on the front, an unknown format; files of other formats would
            be left without a certificate.
        SpecError: the line is no architecture of the space.
    """
    from edgenas.pipeline.opening import open_stages
    from edgenas.report.write import FILES

    wanted = tuple(dict.fromkeys(formats or config.export.formats))
    known = known_formats()
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown format {name!r}; {nearest(name, known)}")
    with locked(folder):
        run = open_stages(config, folder, resume=True, may_train=False, report=report)
        arch = find_architecture(run, architecture)
        candidate = Candidate(arch, run.cheap.explain(arch))
        judged, fleet = _judged(run), fleet_in(folder)
        its = (f"models/{arch.digest}", "run.toml")  # whose settings may be edited in between
        with resealing(folder, *its, *FILES, changed=("result.json",)):
            exported = export_candidates(
                run,
                judged,
                [("asked for", candidate)],
                formats=wanted,
                fleet=fleet,
                again=True,
                report=report,
            )
            exported = measure_exports(run, judged, exported, fleet=fleet, report=report)
            if (folder / "result.json").is_file():
                _retell(folder, exported, arch)
    document = {
        "schema": EXPORTS_SCHEMA,
        "run": str(folder),
        "exports": exported.rows(folder),
        "targets": exported.targets(folder),
        "failures": list(exported.failures),
    }
    return Outcome(folder, document, exported.failures, (), exported.exit_code)


def _judged(run: Opened) -> Opened:
    """The run with its tables corrected by what its search measured."""
    from edgenas.report import read_trials

    path = run.folder / "trials.json"
    if not path.is_file():
        return run
    space = run.supernet.space
    trials, _ = read_trials(path)
    return corrected(run, [Candidate(space.parse(t.architecture), t.metrics) for t in trials])[0]


def _retell(folder: Path, exported: Exported, arch: Architecture) -> None:
    """Puts what was exported into result and report."""
    from edgenas.report import write_report

    result, place = dict(read_result(folder)), f"models/{arch.digest}"

    def of_others(path: str) -> bool:
        return path != place and not path.startswith(f"{place}/")

    others, targets = (
        [row for row in result[key] if of_others(row["path"])] for key in ("exports", "targets")
    )
    still = list(filter(of_others, result["failures"]))
    result |= {
        "exports": [*others, *exported.rows(folder)],
        "targets": [*targets, *exported.targets(folder)],
        "failures": [*still, *exported.failures],
        "exit_code": exported.exit_code or _code_of(still, result["exit_code"]),
    }
    if "models" in result:
        result["models"] = {arch.digest: "asked for", **result["models"]}
    write_json(folder / "result.json", result)
    write_report(folder)


def _code_of(still: Sequence[str], before: int) -> int:
    """The exit code of a result with these failures of others; those of no model are devices'."""
    if any(failure.startswith("models/") for failure in still):
        return before
    return DeviceError.exit_code if still else 0


def export_candidates(
    run: Opened,
    judged: Opened,
    chosen: Sequence[tuple[str, Candidate]],
    *,
    formats: Sequence[str] | None = None,
    fleet: Mapping[str, str] = MappingProxyType({}),
    again: bool = False,
    report: Report = silent,
) -> Exported:
    """Exports and verifies the chosen networks; files that a certificate holds for are kept.

    Mixtures are chosen by the tables of `judged`, the run as measured networks correct it.
    `fleet` has by device the network (digest) that it runs: it is not asked about another of them.
    Only formats that lack are written (`again`: all of `formats`, while files of further formats
    stay, and so does one that cannot be written again); of those that are kept, only mixtures rest
    on what tables say. Beside the models lies what runs them (`export.ready`). A gate that is
    missed does not raise, nor does a target that takes no file: they are among the failures.
    """
    from edgenas.export.certified import export_networks

    wanted, known = tuple(formats or run.config.export.formats), known_formats()
    folders = {c.architecture: run.folder / "models" / c.architecture.digest for _, c in chosen}
    split = functools.cache(functools.partial(network_images, run.data, run.data.test))
    done: dict[Path, Certificate] = {}
    requests: dict[tuple[str, ...], list[ExportRequest]] = {}
    for why, candidate in chosen:
        folder = folders[candidate.architecture]
        kept = _kept(run, judged, candidate.architecture, folder, wanted, again=again)
        if again:
            _refuse_orphans(folder, kept, wanted)
        written = set()
        if kept is not None:
            done[folder] = kept
            written = set() if again else {model.format for model in kept.models}
        if lacking := tuple(name for name in wanted if name not in written):
            told = f"{candidate.architecture.digest} ({why}): {', '.join(lacking)}"
            report(Event("export", message=told))
            requests.setdefault(lacking, []).append(
                _request(run, judged, candidate, folder, lacking, fleet, split, report)
            )
    order = list(dict.fromkeys((*run.config.export.formats, *known)))

    def joined(folder: Path, written: Certificate) -> Certificate:
        kept = done.get(folder)
        done[folder] = written if kept is None else _joined(kept, written, order)
        return done[folder]

    for lacking, group in requests.items():
        export_networks(
            group,
            formats=lacking,
            max_top1_drop=run.config.max_top1_drop,
            joined=joined,
            report=report,
        )
    ordered = {folders[c.architecture]: done[folders[c.architecture]] for _, c in chosen}
    return gathered(run.folder, _on_targets(run, judged, ordered, fleet, report=report))


def _on_targets(
    run: Opened,
    judged: Opened,
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
        images, _ = network_images(run.data, few, run.supernet.space.resolution(arch))
        devices = asked_targets(run, fleet, arch.digest)
        wanted = run.config.export.targets
        formats = [model.format for model in certificate.models]
        told = check_targets(
            folder,
            certificate,
            devices,
            images=images,
            wanted=wanted,
            mixtures=devices_of(run, formats),
            report=report,
        )
        parents = {**tables_of_mixtures(judged, formats), **run.parents, **parents_of(run, arch)}
        found[folder] = replace(
            certificate,
            targets=told,
            parents=parents,
            data=statement_of(run),
            licence=run.config.export.licence,
        )
        write_certificate(folder, found[folder])
        _delete_others(folder, found[folder])
        write_ready(folder, found[folder], image_size=run.data.image_size)
    return found


def _delete_others(folder: Path, certificate: Certificate) -> None:
    """Deletes model files that the certificate does not list: of former weights or tools."""
    from edgenas.export.certificate import REJECTED

    listed = {model.path for model in certificate.models}
    for name in _file_names().values():
        for path in (name, name + REJECTED):
            if path not in listed:
                (folder / path).unlink(missing_ok=True)


def fleet_in(folder: Path) -> dict[str, str]:
    """What each device of a run runs, where its search was for a fleet and is finished."""
    return fleet_of(read_result(folder)) if (folder / "result.json").is_file() else {}


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
        short = len(text) < 4
        what = "is too short for a network" if short else f"names {len(matches)} networks"
        raise UsageError(
            f"{text!r} {what} of {run.folder / 'front.json'}; "
            + nearest(text, [arch.digest for arch in known]),
            hint="an architecture's line works too: quote it",
        )
    return matches[0]


def _request(
    run: Opened,
    judged: Opened,
    candidate: Candidate,
    folder: Path,
    formats: Sequence[str],
    fleet: Mapping[str, str],
    split: Callable[[int], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]],
    report: Report,
) -> ExportRequest:
    """`split` gives the test split at a resolution: networks share it, as it may be gigabytes."""
    from edgenas.export.certified import ExportRequest
    from edgenas.export.formats import MIXED

    arch = candidate.architecture
    resolution = run.supernet.space.resolution(arch)
    sample = calibration_images(run.data, run.config.seed)
    calibration, _ = network_images(run.data, sample, resolution)
    images, labels = split(resolution)
    mixing = None
    if not MIXED.keys().isdisjoint(formats):
        devices = asked_targets(run, fleet, arch.digest)
        mixing = mixing_of(judged, arch, devices=devices, report=report)
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
        weights=outcome_of_training(run, arch),
        mixing=mixing,
        data=statement_of(run),
        licence=run.config.export.licence,
        activations=_activations(run),
    )


def _activations(run: Opened) -> Activations:
    """Those of the files whose units were timed: of the run's first device that runs int8 ONNX."""
    from edgenas.pipeline.tables import activations_on

    devices = [device for device in run.targets if device.format == "onnx-int8"]
    return activations_on(devices[0]) if devices else "u8"


def _kept(
    run: Opened,
    judged: Opened,
    arch: Architecture,
    folder: Path,
    wanted: Sequence[str],
    *,
    again: bool,
) -> Certificate | None:
    """The certificate in `folder` of what still holds of the `wanted` formats; None: nothing.

    Its files are whole and of these parents, its tools are those that would write the others. Files
    of further formats are deleted, unless the wanted ones are all written `again`.
    """
    from edgenas.export.certificate import read_certificate, write_certificate
    from edgenas.export.jobs import tool_versions

    try:
        found = read_certificate(folder)
    except (ArtifactError, SpecError):
        return None
    parents = {n: value for n, value in found.parents.items() if not n.startswith("table ")}
    same = parents == parents_of(run, arch) and found.weights == outcome_of_training(run, arch)
    if not same or found.max_top1_drop != run.config.max_top1_drop:
        return None
    formats = [model.format for model in found.models]
    now_tables = _tables({**tables_of_mixtures(judged, formats), **run.parents})
    mixtures = (  # as they would be chosen now
        _tables(found.parents) == now_tables
        and found.max_mixed_drop == run.config.export.max_mixed_drop
    )
    models = tuple(
        model
        for model in found.models
        if (again or model.format in wanted)
        and (mixtures or model.precision != "mixed")
        and _is_whole(folder, model)
        and _has_activations(folder, model, _activations(run))
    )
    kept = {model.format for model in models}
    written = wanted if again else set(wanted) - kept
    now = {k: v for name in written for k, v in tool_versions(name).items()}
    if written:
        now["edgenas"] = edgenas.__version__
    if any(found.tools.get(name, version) != version for name, version in now.items()):
        return None  # a certificate has one version of a tool
    if again:
        failures = tuple(f for f in found.failures if f.format not in wanted)
        return replace(found, models=models, failures=failures) if models or failures else None
    if others := [model.path for model in found.models if model not in models]:
        used = {"edgenas", *(name for format_ in kept for name in tool_versions(format_))}
        tools = {name: version for name, version in found.tools.items() if name in used}
        found = replace(found, models=models, tools=tools)
        write_certificate(folder, found)  # first: it lists no file that is not there
        for name in others:
            (folder / name).unlink(missing_ok=True)
    return replace(found, failures=())


def _refuse_orphans(folder: Path, kept: Certificate | None, wanted: Sequence[str]) -> None:
    """Raises where a certificate of the `wanted` formats would say nothing of files beside them."""
    listed = set() if kept is None else {model.path for model in kept.models}
    orphans = {
        format_: name
        for format_, name in _file_names().items()
        if format_ not in wanted and name not in listed and (folder / name).is_file()
    }
    if orphans:
        formats = " ".join(f"--format {name}" for name in (*wanted, *orphans))
        raise UsageError(
            f"{folder}: {', '.join(orphans.values())} would be left without a certificate: the one "
            "there is damaged, or not of these files as the run would write them now",
            hint=f"edgenas export {folder.parent.parent} {folder.name} {formats}",
        )


def _file_names() -> dict[str, str]:
    """By format how its file is called, of plug-ins that can be loaded too."""
    from edgenas.export.formats import MIXED, exporter

    found = dict(MIXED)
    for name in known_formats():
        if name not in MIXED:
            with contextlib.suppress(ExportError):
                found[name] = exporter(name).file_name
    return found


def _is_whole(folder: Path, model: ExportedModel) -> bool:
    from edgenas.export.certificate import check_file

    try:
        check_file(folder, model)
    except ArtifactError:
        return False
    return True


def _has_activations(folder: Path, model: ExportedModel, wanted: Activations) -> bool:
    """Whether an ONNX file of ours, if it is one with integers, has them as they are `wanted`."""
    from edgenas.export.onnx import activations_of

    ours = model.format in ("onnx-int8", "onnx-mixed")
    return not ours or activations_of(folder / model.path) in (None, wanted)


def _tables(parents: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parents.items() if name.startswith("table ")}


def _joined(kept: Certificate, written: Certificate, order: Sequence[str]) -> Certificate:
    """One certificate of what was written now, and of kept files that it did not replace."""

    def place(of: ExportedModel | Failure) -> int:
        return order.index(of.format) if of.format in order else len(order)

    formats = {model.format for model in written.models}
    files = (*(model for model in kept.models if model.format not in formats), *written.models)
    models = sorted(files, key=place)
    failures = sorted((*kept.failures, *written.failures), key=place)
    tools = dict(sorted({**kept.tools, **written.tools}.items()))
    drop = written.max_mixed_drop if written.max_mixed_drop is not None else kept.max_mixed_drop
    if all(model.precision != "mixed" for model in models):
        drop = None
    return replace(
        written,
        models=tuple(models),
        failures=tuple(failures),
        tools=tools,
        max_mixed_drop=drop,
    )
