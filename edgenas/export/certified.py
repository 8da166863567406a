"""Networks to folders of verified files, each with its certificate."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import edgenas
from edgenas import networks
from edgenas.artifacts import io_errors, sha256_file
from edgenas.errors import (
    ArtifactError,
    EdgenasError,
    ExportError,
    SpecError,
    VerificationError,
)
from edgenas.events import Event, Report, silent
from edgenas.export import onnx, tflite
from edgenas.export.certificate import (
    FILE_NAME,
    REJECTED,
    Certificate,
    DataStatement,
    ExportedModel,
    Failure,
    drop_limit,
    recheck,
    write_certificate,
)
from edgenas.export.contract import InputContract, differing_fields, read_document
from edgenas.export.formats import BUILT_IN, FILE_NAMES, FORMATS, MIXED, Format, Precision, exporter
from edgenas.export.jobs import Halt, converter_errors, run_tflite, tool_versions
from edgenas.export.mixed import Mixing, Mixture, mix, onnx_writer, tflite_writer
from edgenas.export.models import (
    check_fit,
    onnx_metadata,
    tflite_jobs,
    torch_logits,
    write_onnx_int8,
)
from edgenas.export.onnx import Activations
from edgenas.export.runners import FloatArray
from edgenas.export.verify import (
    MAX_TOP1_DROP,
    Gate,
    IntArray,
    Verification,
    gates,
    same_gate,
    verify_model,
)
from edgenas.networks import Network
from edgenas.targets import ram_bytes_of_file


@dataclass(frozen=True)
class ExportRequest:
    """A trained network and what its files must say and be compared with.

    `calibration` holds normalised (n, h, w, c) images from the training split, for the ranges of
    int8; `images` and `labels` are the split that the files are verified on.
    """

    network: Network
    folder: Path
    architecture: str
    digest: str
    contract: InputContract
    calibration: FloatArray
    images: FloatArray
    labels: IntArray
    split: str = "test"
    parents: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""
    """What the certificate says of the network's final training."""
    mixing: Mixing | None = None
    """How precisions are chosen in the mixed formats, which need it."""
    data: DataStatement | None = None
    licence: str = ""
    """Of the files; empty: nothing is stated."""
    activations: Activations = "u8"
    """In int8 ONNX."""

    def __post_init__(self) -> None:
        check_fit(self.network, self.contract, self.calibration)
        if not len(self.images) or len(self.images) != len(self.labels):
            raise SpecError(
                f"verification takes as many images as labels, at least one: "
                f"got {len(self.images)} and {len(self.labels)}"
            )

    @property
    def about(self) -> dict[str, str]:
        """What the files say about themselves."""
        return {
            "architecture": self.architecture,
            "digest": self.digest,
            **{f"parent.{name}": digest for name, digest in self.parents.items()},
        }


def export_networks(
    requests: Sequence[ExportRequest],
    *,
    formats: Sequence[str] = FORMATS,
    max_top1_drop: float = MAX_TOP1_DROP,
    threads: int = 1,
    joined: Callable[[Path, Certificate], Certificate] = lambda _, written: written,
    report: Report = silent,
) -> list[Certificate]:
    """Writes each network in these formats, verifies every file, writes each `export.json`.

    That is what `joined` makes of folder and certificate: files that stay there belong into it.

    A file is in its place only once it was verified. One that fails a gate is kept with the suffix
    `.rejected`, a format that cannot be written is listed among the certificate's failures, and the
    others go on; `Certificate.problems` and `.exit_code` say so. Nothing is raised for them.

    Raises:
        ExportError: an unknown format.
        ResourceError: a folder cannot be written.
    """
    specs = {name: exporter(name) for name in formats if name not in MIXED}
    mixed = [name for name in formats if name in MIXED]
    with tempfile.TemporaryDirectory(prefix="edgenas-export-") as name:
        drafts = {str(i): Path(name, str(i)) for i in range(len(requests))}
        folded = {str(i): networks.fold(request.network) for i, request in enumerate(requests)}
        for folder in drafts.values():
            folder.mkdir()
        halt = Halt()
        with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stopped:
            # it waits for a process, which ends if we do; meanwhile we write the rest
            stopped.callback(halt)
            wanted = [name for name in specs if name in BUILT_IN and name.startswith("tflite")]
            if "tflite-mixed" in mixed and "tflite" not in wanted:
                wanted.append("tflite")
            tflite = pool.submit(_write_tflite, requests, folded, drafts, wanted, halt, report)
            failures = {
                str(i): _write_others(request, folded[str(i)], drafts[str(i)], specs, report)
                for i, request in enumerate(requests)
            }
            for key, found in tflite.result().items():
                failures[key] |= found
        certificates = []
        for i, request in enumerate(requests):
            draft, failed = drafts[str(i)], failures[str(i)]
            mixtures: dict[str, Mixture] = {}
            for name in mixed:
                try:
                    mixtures[name] = _mix(request, folded[str(i)], draft, name, report)
                except ExportError as error:
                    failed[name] = _failure(name, error)
            certificates.append(
                _certify(
                    request,
                    draft,
                    formats,
                    failed,
                    mixtures,
                    max_top1_drop=max_top1_drop,
                    threads=threads,
                    report=report,
                )
            )
            certificates[-1] = joined(request.folder, certificates[-1])
            write_certificate(request.folder, certificates[-1])
    return certificates


def verify_again(
    folder: Path,
    *,
    contract: InputContract,
    images: FloatArray,
    labels: IntArray,
    reference_logits: FloatArray,
    only: str | None = None,
    threads: int = 1,
    report: Report = silent,
) -> tuple[tuple[ExportedModel, Verification, tuple[Gate, ...]], ...]:
    """Each model of the certificate in `folder` (or `only` one), with new evidence and verdicts.

    Digests are compared first, then what file, certificate and `contract` (that of the float files)
    say of inputs and classes. Nothing is written. Rejected files are left out.

    Raises:
        ArtifactError: a file is missing or was changed, or the certificate is not of this file.
        VerificationError: a file answers in another number of classes, or not with numbers.
    """
    certificate = recheck(folder, only)
    found = []
    for model in certificate.models:
        if model.path.endswith(REJECTED) or (only is not None and model.path != only):
            continue
        path = folder / model.path
        check_stated(path, model, contract)
        evidence = verify_model(
            path,
            images=images,
            labels=labels,
            reference_logits=reference_logits,
            split=model.verification.split,
            threads=threads,
            report=report,
        )
        verdicts = gates(
            path,
            evidence,
            precision=model.precision,
            max_top1_drop=drop_limit(
                model.precision, certificate.max_top1_drop, certificate.max_mixed_drop
            ),
            units=model.units,
        )
        found.append((model, evidence, (*verdicts, same_gate(model.verification, evidence))))
    return tuple(found)


def check_stated(path: Path, model: ExportedModel, contract: InputContract | None = None) -> None:
    """Checks that a file is what its certificate says, and takes images as `contract` says.

    Raises:
        ArtifactError: another format or precision than the file's name has; other inputs or
            classes in the certificate, in the file, or in `contract`.
    """
    try:
        wanted = _file_of(model.format)
    except ExportError as error:
        raise ArtifactError(f"{path}: {FILE_NAME} calls it {model.format!r}: {error}") from error
    if (path.name, model.precision) != wanted:
        raise ArtifactError(
            f"{path}: {FILE_NAME} calls it {model.format} in {model.precision}; a file of this "
            f"format is {' in '.join(wanted)}"
        )
    stated, _ = read_document(path)
    if differ := differing_fields(stated, model.input):
        raise ArtifactError(f"{path} does not take what {FILE_NAME} says it takes: {differ}")
    if contract is not None:
        of_type = {n: getattr(stated, n) for n in ("dtype", "scale", "zero_point")}
        if differ := differing_fields(stated, replace(contract, **of_type)):
            raise ArtifactError(f"{path} is not of these images: {differ}")


def _write_tflite(
    requests: Sequence[ExportRequest],
    folded: Mapping[str, Network],
    drafts: Mapping[str, Path],
    wanted: Sequence[str],
    halt: Halt,
    report: Report,
) -> dict[str, dict[str, Failure]]:
    """These TFLite formats of all networks in one process; failures by network and format."""
    failures: dict[str, dict[str, Failure]] = {key: {} for key in drafts}
    if not wanted or not requests:
        return failures
    items = {
        str(i): (folded[str(i)], r.calibration, r.contract, r.about) for i, r in enumerate(requests)
    }
    try:
        with tflite_jobs(items, wanted, drafts) as jobs:
            errors = run_tflite(jobs, halt=halt, report=report)
    except ExportError as error:
        for key in drafts:
            failures[key] = {n: _failure(n, error) for n in wanted}
        return failures
    for key, why in errors.items():
        for name in wanted:
            if not (drafts[key] / FILE_NAMES[name]).is_file():
                failures[key][name] = _failure(name, ExportError(why))
    return failures


def _write_others(
    request: ExportRequest,
    folded: Network,
    draft: Path,
    specs: Mapping[str, Format],
    report: Report,
) -> dict[str, Failure]:
    failures = {}
    for name, spec in specs.items():
        if name in BUILT_IN and name.startswith("tflite"):
            continue
        report(Event("convert", message=spec.file_name))
        write = spec.write
        float32 = draft / FILE_NAMES["onnx"]
        if name == "onnx-int8":
            source = float32 if float32.is_file() else None
            write = functools.partial(
                write_onnx_int8, source=source, activations=request.activations
            )
        try:
            write(
                folded,
                draft / spec.file_name,
                calibration=request.calibration,
                contract=request.contract,
                about=request.about,
            )
        except ExportError as error:
            failures[name] = _failure(name, error)
    return failures


def _mix(
    request: ExportRequest, folded: Network, draft: Path, name: str, report: Report
) -> Mixture:
    """Writes the file of a mixed format into `draft`, from the float file there.

    Raises:
        ExportError: no mixture loses little enough; the float file could not be written.
    """
    if request.mixing is None:
        raise ExportError(f"{name}: precisions are chosen on a search split, and there is none")
    source = draft / FILE_NAMES[name.removesuffix("-mixed")]
    contract, about, calibration = request.contract, request.about, request.calibration
    with contextlib.ExitStack() as stack:
        if name == "onnx-mixed":
            stack.enter_context(converter_errors(name))
            if not source.is_file():
                write_float = exporter("onnx").write
                write_float(folded, source, calibration=calibration, contract=contract, about=about)
            told = onnx_metadata(contract, about)
            writer = onnx_writer(
                source, folded.lowering, calibration, told, activations=request.activations
            )
            write = stack.enter_context(writer)
        else:
            if not source.is_file():
                raise ExportError(f"{name}: the float32 file that it is made from was not written")
            items = {"network": (folded, calibration, contract, about)}
            (job,) = stack.enter_context(tflite_jobs(items, ["tflite"], {"network": draft}))
            write = tflite_writer(source, job, draft / "ranges.npz")
        return mix(
            folded.lowering,
            source,
            draft / MIXED[name],
            format=name,
            write=write,
            mixing=request.mixing,
            report=report,
        )


def _certify(
    request: ExportRequest,
    draft: Path,
    formats: Sequence[str],
    failures: dict[str, Failure],
    mixtures: Mapping[str, Mixture],
    *,
    max_top1_drop: float,
    threads: int,
    report: Report,
) -> Certificate:
    reference = torch_logits(request.network, request.images)
    max_mixed_drop = request.mixing.max_drop if request.mixing and mixtures else None
    models = []
    for name in formats:
        if name in failures:
            continue
        file_name, precision = _file_of(name)
        mixture = mixtures.get(name, Mixture((), ()))
        path = draft / file_name
        try:
            evidence = verify_model(
                path,
                images=request.images,
                labels=request.labels,
                reference_logits=reference,
                split=request.split,
                threads=threads,
                report=report,
            )
            contract, _ = read_document(path)
        except (VerificationError, SpecError) as error:
            failures[name] = _failure(name, error, exit_code=5)
            _place(path, request.folder, file_name, rejected=True)
            continue
        found = gates(
            path,
            evidence,
            precision=precision,
            max_top1_drop=drop_limit(precision, max_top1_drop, max_mixed_drop),
            units=mixture.units,
        )
        rejected = any(gate.verdict == "failed" for gate in found)
        models.append(
            ExportedModel(
                path=_place(path, request.folder, file_name, rejected=rejected),
                format=name,
                precision=precision,
                sha256=sha256_file(path),
                size_bytes=path.stat().st_size,
                input=contract,
                verification=evidence,
                gates=found,
                units=mixture.units,
                curve=mixture.curve,
                operators=_counted(path),
                peak_memory_bytes=_planned_memory(path),
            )
        )
    return Certificate(
        architecture=request.architecture,
        digest=request.digest,
        macs=request.network.lowering.macs,
        params=request.network.lowering.params,
        models=tuple(models),
        failures=tuple(failures[name] for name in formats if name in failures),
        parents=dict(request.parents),
        tools=_tools(formats),
        max_top1_drop=max_top1_drop,
        weights=request.weights,
        max_mixed_drop=max_mixed_drop,
        data=request.data,
        licence=request.licence,
    )


def _file_of(name: str) -> tuple[str, Precision]:
    """The name and the precision of a format's file."""
    if name in MIXED:
        return MIXED[name], "mixed"
    spec = exporter(name)
    return spec.file_name, spec.precision


def _counted(path: Path) -> dict[str, dict[str, int]]:
    """How many operators of each name compute in each type, as the runtime runs them."""
    run = tflite.operators_run if path.suffix == ".tflite" else onnx.operators_run
    found: dict[str, dict[str, int]] = {}
    for (name, kind), n in sorted(Counter(run(path)).items()):
        found.setdefault(name, {})[kind] = n
    return found


def _planned_memory(path: Path) -> int | None:
    """Bytes of the file's activations, as planned; None of a file that cannot be planned here."""
    try:
        return ram_bytes_of_file(path)
    except (SpecError, ValueError):
        return None


def _place(source: Path, folder: Path, name: str, *, rejected: bool) -> str:
    """Puts the file into `folder` under the name that is returned; not also under the other."""
    from edgenas.artifacts import replacing

    final, stale = (name + REJECTED, name) if rejected else (name, name + REJECTED)
    target = folder / final
    if source.is_file():
        with io_errors(target, "write"), replacing(target) as temporary:
            shutil.copyfile(source, temporary)
    (folder / stale).unlink(missing_ok=True)
    return final


def _tools(formats: Sequence[str]) -> dict[str, str]:
    found = {"edgenas": edgenas.__version__}
    for name in formats:
        if name in BUILT_IN or name in MIXED:
            found |= tool_versions(name)
    return dict(sorted(found.items()))


def _failure(name: str, error: EdgenasError, *, exit_code: int | None = None) -> Failure:
    return Failure(name, str(error), error.hint, exit_code or error.exit_code)


__all__ = [
    "FILE_NAME",
    "ExportRequest",
    "export_networks",
    "verify_again",
]
