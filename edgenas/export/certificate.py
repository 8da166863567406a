"""`export.json`: what each exported file is, where it comes from and how it was verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import digest, io_errors, problems_of, read_json, sha256_file, write_json
from edgenas.errors import ArtifactError, VerificationError, worst_code
from edgenas.export.contract import InputContract, contract_from, contract_table
from edgenas.export.formats import Precision
from edgenas.export.tflite import LABELS_FILE, labels_text
from edgenas.export.units import Alone, MixedUnit, Precisions, UnitPrecision
from edgenas.export.verify import ClassEvidence, Gate, Verdict, Verification, worst

FILE_NAME = "export.json"
AGAIN = "edgenas export RUN NETWORK writes and verifies the files again"
"""The next step where files are not as they were verified."""
SCHEMA = "edgenas.export/1"

REJECTED = ".rejected"
"""Suffix of a file that failed a gate."""


@dataclass(frozen=True, slots=True)
class Latency:
    """A file's latency with where it comes from (`measured`, `predicted`, ...)."""

    value_ms: float
    origin: str
    low_ms: float | None = None
    high_ms: float | None = None
    n: int | None = None
    rough: bool = False
    """Predicted from a table whose median error is over 20 %."""


@dataclass(frozen=True, slots=True)
class MixedPoint:
    """A mixture that a file in mixed precision was chosen from; the float file is the first.

    Top-1, and its drop against the float file with its paired 95 % interval, are of `n` images of
    the search split.
    """

    precisions: Precisions
    size_bytes: int
    top1: float
    top1_drop: float
    n: int
    latency: Latency | None = None
    chosen: bool = False
    drop_low: float | None = None
    drop_high: float | None = None


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One exported file. `path` is relative to the folder of its `export.json`.

    `operators` counts those that the runtime runs, by name and by the type that they compute in.
    `peak_memory_bytes` is planned: what the activations take beside the file. A file in mixed
    precision states that of each of its `units`, and what it was chosen from.
    """

    path: str
    format: str
    precision: Precision
    sha256: str
    size_bytes: int
    input: InputContract
    verification: Verification
    gates: tuple[Gate, ...]
    device: str = ""
    predicted_ms: Latency | None = None
    measured_ms: Latency | None = None
    units: tuple[MixedUnit, ...] = ()
    curve: tuple[MixedPoint, ...] = ()
    operators: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    peak_memory_bytes: int | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of its gates."""
        return worst(self.gates)

    @property
    def verified(self) -> bool | None:
        """Whether every gate was passed; None where the images do not suffice to say."""
        return {"passed": True, "failed": False, "inconclusive": None}[self.verdict]

    @property
    def unsure(self) -> tuple[str, ...]:
        """What keeps it from being passed, where nothing failed."""
        return tuple(f"{g.name}: {g.reason}" for g in self.gates if g.verdict == "inconclusive")


@dataclass(frozen=True, slots=True)
class Failure:
    """A format that could not be written, and the exit code that stands for it."""

    format: str
    error: str
    hint: str = ""
    exit_code: int = 8


@dataclass(frozen=True, slots=True)
class TargetEvidence:
    """Whether a device takes the file `path`, and who says so.

    `path` is empty where no file of the device's format was exported. `on_npu_share` is the share
    of its `operators` that the accelerator computes; `cycles` and `sram_bytes` are a compiler's
    estimates; `arena_bytes` is what TFLite-Micro takes for tensors and records; `flash_bytes` is
    what the model itself takes. None: not known, or not asked. `reasons` say why the verdict is not
    *passed*, and what the reader must know.
    """

    device: str
    toolchain: str
    verdict: Verdict
    checked_by: str
    path: str = ""
    operators: int | None = None
    on_npu_share: float | None = None
    cycles: int | None = None
    sram_bytes: int | None = None
    arena_bytes: int | None = None
    flash_bytes: int | None = None
    reasons: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """A failed check in one line; empty where it did not fail."""
        if self.verdict != "failed":
            return ""
        return f"{self.path} on {self.device}: {'; '.join(self.reasons)}"


@dataclass(frozen=True, slots=True)
class DataStatement:
    """The images that a network was trained, chosen and verified on: what finds them again.

    `images` counts them by split. `licence` is what the run file or the known set states; empty:
    nothing.
    """

    name: str
    digest: str
    seed: int
    image_size: int
    channels: int
    images: Mapping[str, int]
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The exported files of one network. `parents` are digests by what they stand for."""

    architecture: str
    digest: str
    macs: int
    params: int
    models: tuple[ExportedModel, ...]
    failures: tuple[Failure, ...] = ()
    parents: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    max_top1_drop: float = 0.01
    targets: tuple[TargetEvidence, ...] = ()
    weights: str = ""
    """What came of its final training, if there was one."""
    max_mixed_drop: float | None = None
    """What mixtures may lose, when they are chosen and when they are verified; None without any."""
    data: DataStatement | None = None
    licence: str = ""
    """Of the network's files, as the run file states it; empty: nothing is stated."""

    def problems(self) -> tuple[str, ...]:
        """What went wrong, one line a file or format: failed gates and formats not written."""
        lines = [
            f"{model.path}: {gate.name}: {gate.reason}"
            for model in self.models
            for gate in model.gates
            if gate.verdict == "failed"
        ]
        lines += [target.problem for target in self.targets if target.problem]
        return (*lines, *(f"{f.format}: {f.error}" for f in self.failures))

    @property
    def exit_code(self) -> int:
        """0; 5 if a file failed a gate, a target or a run; else of what was not written."""
        verdicts = [m.verdict for m in self.models] + [t.verdict for t in self.targets]
        missed = [VerificationError.exit_code] * ("failed" in verdicts)
        return worst_code([*missed, *(failure.exit_code for failure in self.failures)])


def drop_limit(precision: Precision, max_top1_drop: float, max_mixed_drop: float | None) -> float:
    """What a file of this precision may lose of top-1 on the split that it is verified on."""
    if precision != "mixed" or max_mixed_drop is None:
        return max_top1_drop
    return min(max_top1_drop, max_mixed_drop)


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Writes `export.json` into `folder`; what is not there is left out of it."""
    table = asdict(certificate)
    for row, model in zip(table["models"], certificate.models, strict=True):
        row["input"] = contract_table(model.input)
        row["verified"] = model.verified
        if not model.units:
            del row["units"], row["curve"]
    table["parents"] = dict(certificate.parents)
    table["tools"] = dict(certificate.tools)
    if not certificate.targets:
        del table["targets"]
    for name in ("max_mixed_drop", "data"):
        if table[name] is None:
            del table[name]
    write_json(folder / FILE_NAME, sealed({"schema": SCHEMA, **table}))


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the digest of all that it says, so that a later change of it is found."""
    said = {name: value for name, value in table.items() if name != "content_digest"}
    return {**said, "content_digest": digest(said)}


def read_certificate(folder: Path) -> Certificate:
    """The certificate in `folder`.

    Raises:
        ArtifactError: missing keys, unknown keys, wrong types, a path outside the folder, another
            content than it was written with.
    """
    path = folder / FILE_NAME
    table = read_json(path, schema=SCHEMA)
    try:
        file = _File.model_validate(table)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {problems_of(error)}", hint=AGAIN) from error
    if sealed(table) != table:
        raise ArtifactError(
            f"{path} was changed since it was written: its content has another digest than the "
            f"{file.content_digest} that it states",
            hint=AGAIN,
        )
    models = []
    for row in file.models:
        if PurePosixPath(row.path).name != row.path or row.path in (".", ".."):
            raise ArtifactError(f"{path}: {row.path!r} is not the name of a file beside it")
        model = ExportedModel(
            path=row.path,
            format=row.format,
            precision=row.precision,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            input=contract_from(row.input, origin=str(path)),
            verification=_verification(row.verification),
            gates=tuple(Gate(**gate.model_dump()) for gate in row.gates),
            device=row.device,
            predicted_ms=_latency(row.predicted_ms),
            measured_ms=_latency(row.measured_ms),
            units=tuple(map(_unit, row.units)),
            curve=tuple(map(_point, row.curve)),
            operators=row.operators,
            peak_memory_bytes=row.peak_memory_bytes,
        )
        if model.verified != row.verified:
            raise ArtifactError(f"{path}: {row.path}: 'verified' contradicts the gates")
        models.append(model)
    return Certificate(
        architecture=file.architecture,
        digest=file.digest,
        macs=file.macs,
        params=file.params,
        models=tuple(models),
        failures=tuple(Failure(**f.model_dump()) for f in file.failures),
        parents=file.parents,
        tools=file.tools,
        max_top1_drop=file.max_top1_drop,
        targets=tuple(
            TargetEvidence(**{**t.model_dump(), "reasons": tuple(t.reasons)}) for t in file.targets
        ),
        weights=file.weights,
        max_mixed_drop=file.max_mixed_drop,
        data=None if file.data is None else DataStatement(**file.data.model_dump()),
        licence=file.licence,
    )


def recheck(folder: Path, only: str | None = None) -> Certificate:
    """The certificate in `folder`, after comparing each file (or `only` one) with its SHA-256.

    The labels beside them, where there are any, are compared with the classes.

    Raises:
        ArtifactError: a file is missing or was changed; the certificate is of no file at all.
    """
    certificate = read_certificate(folder)
    if not certificate.models and not certificate.failures:
        raise ArtifactError(f"{folder / FILE_NAME} lists no file")
    for model in certificate.models:
        if only is not None and model.path != only:
            continue
        check_file(folder, model)
    labels = folder / LABELS_FILE
    if labels.is_file() and certificate.models:
        with io_errors(labels, "read"):
            found = labels.read_bytes().replace(b"\r\n", b"\n")  # as git writes it on Windows
        if found != labels_text(certificate.models[0].input.classes).encode():
            raise ArtifactError(
                f"{labels} was changed: it has other classes than {FILE_NAME}", hint=AGAIN
            )
    return certificate


def check_file(folder: Path, model: ExportedModel) -> None:
    """Compares a file in `folder` with the SHA-256 that its certificate states.

    Raises:
        ArtifactError: it is missing or was changed.
    """
    path = folder / model.path
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, but {FILE_NAME} lists it", hint=AGAIN)
    if path.stat().st_size != model.size_bytes or sha256_file(path) != model.sha256:
        raise ArtifactError(
            f"{path} was changed since it was verified: its SHA-256 differs from {FILE_NAME}",
            hint=AGAIN,
        )


def _latency(row: _Latency | None) -> Latency | None:
    return None if row is None else Latency(**row.model_dump())


def _verification(row: _Verification) -> Verification:
    classes = tuple(ClassEvidence(**c.model_dump()) for c in row.classes)
    return Verification(**{**row.model_dump(), "classes": classes})


def _unit(row: _Unit) -> MixedUnit:
    alone = tuple(Alone(**a.model_dump()) for a in row.alone)
    return MixedUnit(**{**row.model_dump(), "alone": alone})


def _point(row: _Point) -> MixedPoint:
    stated = {"precisions": tuple(row.precisions), "latency": _latency(row.latency)}
    return MixedPoint(**{**row.model_dump(), **stated})


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Latency(_Row):
    value_ms: float = Field(gt=0)
    origin: str
    low_ms: float | None
    high_ms: float | None
    n: int | None
    rough: bool = False


class _Class(_Row):
    n: int = Field(ge=0)
    top1: float | None = Field(ge=0, le=1)
    top1_drop: float | None = Field(ge=-1, le=1)


class _Verification(_Row):
    n: int = Field(gt=0)
    top1: float = Field(ge=0, le=1)
    reference_top1: float = Field(ge=0, le=1)
    top1_drop: float
    drop_low: float
    drop_high: float
    agreement: float = Field(ge=0, le=1)
    n_disagree: int = Field(ge=0)
    max_abs_difference: float = Field(ge=0)
    mean_abs_difference: float = Field(ge=0)
    logit_rms: float = Field(ge=0)
    logit_scale: float
    split: str
    classes: list[_Class] = []


class _Gate(_Row):
    name: str
    verdict: Literal["passed", "failed", "inconclusive"]
    reason: str


class _Alone(_Row):
    precision: UnitPrecision
    top1_drop: float
    noise: float = Field(ge=0)
    saved_bytes: int
    saved_ms: float | None
    origin: str = ""
    n: int = 0


class _Unit(_Row):
    name: str
    key: str
    precision: UnitPrecision
    operators: int = Field(ge=0)
    alone: list[_Alone]
    note: str


class _Point(_Row):
    precisions: list[UnitPrecision]
    size_bytes: int = Field(gt=0)
    top1: float = Field(ge=0, le=1)
    top1_drop: float
    n: int = Field(gt=0)
    latency: _Latency | None
    chosen: bool
    drop_low: float | None = None
    drop_high: float | None = None


class _Model(_Row):
    path: str
    format: str
    precision: Precision
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)
    input: dict[str, Any]
    verification: _Verification
    gates: list[_Gate]
    verified: bool | None
    device: str
    predicted_ms: _Latency | None
    measured_ms: _Latency | None
    units: list[_Unit] = []
    curve: list[_Point] = []
    operators: dict[str, dict[str, int]] = {}
    peak_memory_bytes: int | None = Field(None, ge=0)


class _Failure(_Row):
    format: str
    error: str
    hint: str
    exit_code: int


class _Target(_Row):
    device: str
    toolchain: str
    verdict: Literal["passed", "failed", "inconclusive"]
    checked_by: str
    path: str
    operators: int | None
    on_npu_share: float | None = Field(ge=0, le=1)
    cycles: int | None
    sram_bytes: int | None
    arena_bytes: int | None
    flash_bytes: int | None
    reasons: list[str]


class _Data(_Row):
    name: str
    digest: str
    seed: int
    image_size: int = Field(ge=8, le=1024)
    channels: int = Field(ge=1)
    images: dict[str, int]
    licence: str


class _File(_Row):
    schema_: str = Field(alias="schema")
    content_digest: str
    architecture: str
    digest: str
    macs: int = Field(ge=0)
    params: int = Field(ge=0)
    models: list[_Model]
    failures: list[_Failure]
    parents: dict[str, str]
    tools: dict[str, str]
    max_top1_drop: float = Field(ge=0, le=1)
    targets: list[_Target] = []
    weights: str = ""
    max_mixed_drop: float | None = Field(None, ge=0, le=1)
    data: _Data | None = None
    licence: str = ""
