"""Certificates repeated: beside the run that made the files, or anywhere from a file and images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.files import MANIFEST
from edgenas.errors import (
    ArtifactError,
    DataError,
    SpecError,
    UsageError,
    VerificationError,
    difference,
    worst_code,
)
from edgenas.events import Report, silent
from edgenas.hardware import also_in, load_device
from edgenas.pipeline.exported import EXPORTS_SCHEMA, exported_row, target_row
from edgenas.pipeline.exporting import fleet_in
from edgenas.pipeline.mixing import devices_of
from edgenas.pipeline.network_files import (
    asked_targets,
    contract_of,
    extract,
    network_images,
    parents_of,
)
from edgenas.pipeline.runs import Outcome, check_sealed, find_run, read_result

if TYPE_CHECKING:
    from edgenas.data import DataSet
    from edgenas.export.certificate import Certificate, ExportedModel, TargetEvidence
    from edgenas.export.contract import InputContract
    from edgenas.export.runners import FloatArray
    from edgenas.export.verify import BoolArray, Gate, IntArray, Verification
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture

    Load = Callable[..., DataSet]
    """Reads a data set as `load_data` does."""

_NOT_REPEATED = (
    "agreement, differences between logits and latencies are not repeated: they need the run"
)


def verify(path: Path, *, data: str = "", report: Report = silent) -> Outcome:
    """The certificates at or below `path` again: digests, every file over the test split, targets.

    `path` is a run's folder, a model's folder, or one exported file. With `data` (a known set, a
    folder, an `.npz`) no run is needed: the file is run over the test split of these images, and
    where they are those that it was verified on, compared with its certificate. Nothing is written.

    Raises:
        UsageError: nothing exported lies there.
        ArtifactError: a file is missing, was changed since it was verified, has no certificate, or
            another one than it should have.
        DataError: the images are of other classes or channels than the file's.
        VerificationError: a file answers in another number of classes, or not with numbers.
    """
    from edgenas.data import load_data

    found = _Found()
    folders, only = _certified_folders(path, found, needed=not data)
    if data:
        root = path
        load = functools.cache(functools.partial(load_data, report=report))  # once for all folders
        for folder in folders:
            _over_images(folder, only, data, found, load, report=report)
    else:
        root = folders[0].resolve().parent.parent
        with also_in(root.parent.parent):  # where runs lies, devices of one's own do
            _in_run(root, path, folders, only, found, report=report)
    document = {
        "schema": EXPORTS_SCHEMA,
        "run": str(root),
        "exports": found.rows,
        "targets": found.targets,
        "failures": found.failures,
        "notes": found.notes,
    }
    return Outcome(root, document, tuple(found.failures), tuple(found.notes), found.exit_code)


@dataclass(slots=True)
class _Found:
    """What a verification tells of."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """Of the formats that could not be written, which `failures` tell as well."""

    @property
    def exit_code(self) -> int:
        missed = [VerificationError.exit_code] * (len(self.failures) > len(self.codes))
        return worst_code([*missed, *self.codes])

    def fail(self, path: str, gates: Sequence[Gate]) -> None:
        """Lists the gates that failed."""
        self.failures += [f"{path}: {g.name}: {g.reason}" for g in gates if g.verdict == "failed"]

    def unwritten(self, certificate: Certificate, place: str) -> None:
        """Lists the formats that could not be written."""
        self.failures += [f"{place}/{f.format}: {f.error}" for f in certificate.failures]
        self.codes += [f.exit_code for f in certificate.failures]

    def told(self, target: TargetEvidence, place: str) -> None:
        """Adds what a target says of a file in `place`."""
        self.targets.append(target_row(target, place))
        if target.problem:
            self.failures.append(f"{place}/{target.problem}")


def _in_run(
    root: Path,
    path: Path,
    folders: Sequence[Path],
    only: str | None,
    found: _Found,
    *,
    report: Report,
) -> None:
    """Files against the run's network in torch, its images, its targets."""
    from edgenas.export.certificate import REJECTED, recheck
    from edgenas.export.certified import verify_again
    from edgenas.export.models import torch_logits
    from edgenas.export.targets import check_targets
    from edgenas.pipeline.opening import open_stages

    if not (root / "run.toml").is_file():
        raise UsageError(
            f"{path} lies in no run: {root} has no run.toml",
            hint="--data SOURCE verifies a file anywhere, over the test split of these images",
        )
    config = find_run(str(root)).config
    for folder in folders:  # cheap, and before any data is read
        _rechecked(folder, only)
    if (root / MANIFEST).is_file():
        check_sealed(root, below=_sealed_of(root, path, folders, only))
    elif (root / "result.json").is_file() and path.resolve() == root:
        raise ArtifactError(
            f"{root / MANIFEST} is missing: nothing tells what the run wrote",
            hint=f"put it back, or edgenas search {root / 'run.toml'} --resume",
        )
    run = open_stages(config, root, resume=True, may_train=False, report=report)
    fleet = fleet_in(root)
    for folder in folders:
        certificate, place = recheck(folder, only), f"models/{folder.resolve().name}"
        arch = run.supernet.space.parse(certificate.architecture)
        _check_network(run, arch, certificate)
        resolution = run.supernet.space.resolution(arch)
        images, labels = network_images(run.data, run.data.test, resolution)
        for model, evidence, gates in verify_again(
            folder,
            contract=contract_of(run, arch),
            images=images,
            labels=labels,
            reference_logits=torch_logits(extract(run, arch), images),
            only=only,
            report=report,
        ):
            gates = (*gates, *_of_device(model))
            again = replace(model, verification=evidence, gates=gates)
            found.rows.append(exported_row(again, f"{place}/{model.path}"))
            found.fail(f"{place}/{model.path}", gates)
        for model in certificate.models:  # they were not run again: as they were found
            if model.path.endswith(REJECTED) and only in (None, model.path):
                found.rows.append(exported_row(model, f"{place}/{model.path}"))
                found.fail(f"{place}/{model.path}", model.gates)
        if only is None:
            found.unwritten(certificate, place)
        devices = asked_targets(run, fleet, certificate.digest)
        asked = certificate if only is None else _alone(certificate, only)
        formats = [model.format for model in certificate.models]
        for target in check_targets(
            folder,
            asked,
            devices,
            images=images,
            wanted=run.config.export.targets,
            mixtures=devices_of(run, formats),
            report=report,
        ):
            if only is None or target.path == only:
                found.told(target, place)


def _sealed_of(
    root: Path, path: Path, folders: Sequence[Path], only: str | None
) -> list[str] | None:
    """What a run's manifest is asked about: the files that a verification rests on; None: all."""
    from edgenas.export.certificate import FILE_NAME

    if path.resolve() == root:
        return None
    places = [folder.resolve().relative_to(root).as_posix() for folder in folders]
    if only is None:
        return places
    return [f"{place}/{name}" for place in places for name in (only, FILE_NAME)]


def _rechecked(folder: Path, only: str | None) -> Certificate:
    """The certificate, its files and what a microcontroller is built of compared with it."""
    from edgenas.export.certificate import recheck
    from edgenas.export.ready import check_micro

    certificate = recheck(folder, only)
    if only is None:
        check_micro(folder, certificate)
    return certificate


def _alone(certificate: Certificate, path: str) -> Certificate:
    return replace(certificate, models=tuple(m for m in certificate.models if m.path == path))


def _check_network(run: Opened, arch: Architecture, certificate: Certificate) -> None:
    """Refuses a certificate of another network, other images or other weights than the run's.

    Raises:
        ArtifactError: naming both.
    """
    place = f"models/{arch.digest}"
    hint = f"edgenas export {run.folder} {arch.digest}"
    lowering = run.supernet.space.lower(arch)
    facts = {
        "digest": (certificate.digest, arch.digest),
        "macs": (certificate.macs, lowering.macs),
        "params": (certificate.params, lowering.params),
    }
    for name, (said, is_) in facts.items():
        if said != is_:
            raise ArtifactError(
                f"{place}: {name} {said} by its certificate, {is_} by its architecture", hint=hint
            )
    then, now = certificate.parents, parents_of(run, arch)
    for name in ("weights", *sorted(run.rests_on)):
        said, is_ = (parents.get(name, "inherited") for parents in (then, now))
        if said != is_:
            raise ArtifactError(
                f"{place}: exported with the {name} {said}, the run now has {is_}", hint=hint
            )


def _over_images(
    folder: Path, only: str | None, source: str, found: _Found, load: Load, *, report: Report
) -> None:
    """Files of a folder over the test split of `source`, wherever they lie."""
    from edgenas.export.certificate import FILE_NAME, REJECTED, drop_limit
    from edgenas.export.certified import check_stated
    from edgenas.export.contract import read_document
    from edgenas.export.runners import probe
    from edgenas.export.verify import answered_again

    if not (folder / FILE_NAME).is_file():  # by the file's own word
        path = folder / str(only)
        found.notes.append(f"{path} has no certificate: nothing to compare with")
        contract, _ = read_document(path)
        probe(path)
        unstated = _images(source, None, contract, path, load)
        right, _, _ = _answers(path, contract, unstated, report=report)
        found.rows.append(_row_of(path, None, right))
        return
    certificate = _rechecked(folder, only)
    data: DataSet | None = None
    for model in certificate.models:
        path = folder / model.path
        if only not in (None, model.path):
            continue
        if model.path.endswith(REJECTED):
            found.fail(str(path), model.gates)
            continue
        check_stated(path, model)
        if data is None:
            data = _images(source, certificate, model.input, path, load)
            if data.digest != certificate.parents.get("data"):
                found.notes.append(
                    f"{source} is not what the files were verified on (digest {data.digest}, "
                    f"then {certificate.parents.get('data')}): only accuracies are told"
                )
        right, labels, images = _answers(path, model.input, data, report=report)
        row = _row_of(path, model, right)
        if data.digest == certificate.parents.get("data"):
            now = answered_again(model.verification, right, labels)
            limit = drop_limit(
                model.precision, certificate.max_top1_drop, certificate.max_mixed_drop
            )
            gates = (*_repeated(path, model, now, limit), *_of_device(model))
            again = replace(model, gates=gates)
            row |= {"verified": again.verified, "unsure": list(again.unsure)}
            row["top1_drop"] = now.top1_drop
            found.fail(str(path), gates)
            _targets_again(folder, certificate, model, images, found, report=report)
            if _NOT_REPEATED not in found.notes:
                found.notes.append(_NOT_REPEATED)
        found.rows.append(row)
    if only is None:
        found.unwritten(certificate, str(folder))


def _targets_again(
    folder: Path,
    certificate: Certificate,
    model: ExportedModel,
    images: FloatArray,
    found: _Found,
    *,
    report: Report,
) -> None:
    """Asks the certificate's targets about one of its files, as far as they are known here."""
    from edgenas.export.targets import check_targets

    for stated in certificate.targets:
        if stated.path != model.path:
            continue
        try:
            device = load_device(stated.device)
        except (SpecError, UsageError) as error:
            found.notes.append(f"{stated.device} is not asked about {model.path}: {error}")
            continue
        only = _alone(certificate, model.path)
        for target in check_targets(
            folder,
            only,
            [device],
            images=images,
            wanted=[device.name],
            mixtures={model.format: device},
            report=report,
        ):
            found.told(target, str(folder))


def _of_device(model: ExportedModel) -> list[Gate]:
    """What a device itself said of the file, which is not repeated."""
    from edgenas.export.verify import ON_DEVICE

    return [gate for gate in model.gates if gate.name == ON_DEVICE]


def _repeated(
    path: Path, model: ExportedModel, now: Verification, max_top1_drop: float
) -> tuple[Gate, ...]:
    """What a certificate demands, as far as it can be asked without the network in torch."""
    from edgenas.export.verify import drop_gate, integer_gate, same_gate, units_gate

    gates = [
        same_gate(model.verification, now),
        drop_gate(now, max_top1_drop=max_top1_drop),
    ]
    if model.precision == "int8":
        gates.append(integer_gate(path))
    elif model.precision == "mixed":
        gates.append(units_gate(path, model.units))
    return tuple(gates)


def _images(
    source: str,
    certificate: Certificate | None,
    contract: InputContract,
    path: Path,
    load: Load,
) -> DataSet:
    """The images of `source`, cut into splits as they were when the file was made.

    Raises:
        DataError: of other classes or channels than the file's.
    """
    stated = certificate.data if certificate is not None else None
    data = load(
        source,
        seed=stated.seed if stated else 0,
        image_size=stated.image_size if stated else None,
    )
    if data.classes != contract.classes:
        raise DataError(
            f"{path} names {len(contract.classes)} classes, {source} has {len(data.classes)}: it "
            + difference(contract.classes, data.classes),
            hint="take the images that it was trained for, or others of the same classes",
        )
    if data.channels != contract.shape[3]:
        raise DataError(
            f"{path} takes {contract.shape[3]} channels, {source} has {data.channels}",
            hint="take images like those that it was trained for",
        )
    return data


def _answers(
    path: Path, contract: InputContract, data: DataSet, *, report: Report
) -> tuple[BoolArray, IntArray, FloatArray]:
    """Of each test image whether the file names it rightly, its label, and what the file took."""
    from edgenas.export.runners import open_model
    from edgenas.export.verify import right_of, run_opened

    if contract.value_range != (0.0, 1.0) or contract.shape[1] != contract.shape[2]:
        raise SpecError(f"{path}: cannot prepare images for {contract.shape}")
    runner = open_model(path)
    if runner.shape != contract.shape:
        raise SpecError(f"{path} takes {runner.shape}, though it says {contract.shape} of itself")
    as_it_asks = replace(data, mean=contract.mean, std=contract.std)
    images, labels = network_images(as_it_asks, data.test, contract.shape[1])
    logits = run_opened(runner, images, name=path.name, report=report)
    right = right_of(logits, labels, n_classes=len(contract.classes), name=str(path))
    return right, labels, images


def _row_of(path: Path, model: ExportedModel | None, right: BoolArray) -> dict[str, Any]:
    """A row of `exported_row`'s form, of what is known without the network in torch."""
    from edgenas.artifacts import sha256_file

    row = {} if model is None else exported_row(model, str(path))
    return {
        "format": None,
        "sha256": sha256_file(path),
        "size_bytes": path.stat().st_size,
        **row,
        "path": str(path),
        "verified": None,
        "top1": float(right.mean()),
        "top1_drop": None,
        "agreement": None,
        "n_images": len(right),
    }


def _certified_folders(path: Path, found: _Found, *, needed: bool) -> tuple[list[Path], str | None]:
    """Folders with a certificate at or below `path`, and the one file that is meant, if so.

    Not `needed`: one file may be without. Networks that a run exported before, and has not chosen
    since, are left out, and told.
    """
    if path.is_file():
        return [path.parent], _certified_file(path, needed=needed)
    if (path / "export.json").is_file():
        return [path], None
    if not path.exists():
        raise UsageError(
            f"{path}: there is no such file or folder",
            hint="edgenas verify runs/NAME, a model's folder in it, or one model file",
        )
    folders = sorted(p.parent for p in path.glob("models/*/export.json"))
    if (path / "result.json").is_file():
        chosen = read_result(path).get("models", [folder.name for folder in folders])
        for name in chosen:
            if not (path / "models" / name / "export.json").is_file():
                raise ArtifactError(
                    f"{path / 'models' / name}: the run exported this network, and its "
                    "certificate, export.json, is missing",
                    hint=f"edgenas export {path} {name}",
                )
        found.notes += [
            f"{folder} is not among the networks that the run has now: edgenas verify {folder}"
            for folder in folders
            if folder.name not in chosen
        ]
        folders = [folder for folder in folders if folder.name in chosen]
    found.notes += [  # of an export that was stopped
        f"{folder} has no certificate: edgenas export {path} {folder.name}"
        for folder in sorted(path.glob("models/*/"))
        if any(folder.glob("model*")) and not (folder / "export.json").is_file()
    ]
    if not folders:
        raise UsageError(
            f"{path}: no export.json here or in models/*: nothing exported to verify",
            hint="edgenas verify runs/NAME, or FILE --data SOURCE for a model file without a run",
        )
    return folders, None


def _certified_file(path: Path, *, needed: bool) -> str | None:
    """The name under which the certificate beside `path` lists it; None: it is the certificate.

    Raises:
        ArtifactError: there is no certificate, though `needed`, or it does not list the file.
    """
    from edgenas.export.certificate import FILE_NAME, read_certificate
    from edgenas.export.contract import read_document

    if path.name == FILE_NAME:
        return None
    hint = (
        "edgenas verify repeats certificates of models that a run exported: runs/NAME; with "
        "--data SOURCE it runs any model file of edgenas's over these images"
    )
    if not (path.parent / FILE_NAME).is_file():
        if not needed:
            return path.name
        try:
            origin = f"by its own word it is network {read_document(path)[1].get('digest')}"
        except SpecError as error:
            origin = str(error)
        raise ArtifactError(
            f"{path} has no certificate: no {FILE_NAME} lies beside it ({origin})", hint=hint
        )
    listed = [model.path for model in read_certificate(path.parent).models]
    if path.name not in listed:
        raise ArtifactError(
            f"{path} is not in the certificate beside it, which lists {', '.join(listed)}",
            hint=hint,
        )
    return path.name
