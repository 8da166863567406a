"""`edgenas.lock`: what `ci run` made for each target, and from what it made it.

TOML, sorted, one fact a line: no dates, no paths or names of a machine, so that two runs on the
same facts give the same bytes, a change reads well as a diff, and changes to different targets
merge. It is committed beside `targets.toml`.

    [target.phone]                       the folder of its run, below the folder of runs
    [target.phone.from]                  the facts that its results rest on (see `stages`)
    [target.phone.noted]                 tables that were measured again since, within their noise
    [target.phone.digests]               of the front's file, and of what it was made from
    [target.phone.front.<digest>]        a network of the front, or of the fleet, its metrics
    [target.phone.fleet]                 of a fleet the network that each device runs
    [target.phone.files."models/..."]    an exported file, what its certificate says
    [target.phone.certificates.<digest>] of what a certificate is of
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import (
    digest,
    io_errors,
    read_json,
    read_toml,
    sha256_file,
    toml_value,
    write_atomic,
)
from edgenas.ci.stages import Fact, Facts
from edgenas.ci.targets import Target
from edgenas.errors import ArtifactError, SpecError
from edgenas.objectives import Objective
from edgenas.pareto import FRONT_SCHEMA, Metric, ParetoFront
from edgenas.pipeline.runs import fleet_of, read_result
from edgenas.spaces import Architecture
from edgenas.spaces.architecture import split_line

if TYPE_CHECKING:
    from edgenas.export.certificate import Certificate, ExportedModel

LOCK = Path("edgenas.lock")
SCHEMA = "edgenas.lock/1"
FRONT = "front.json"
MAX_BYTES = 32 * 2**20

_HEAD = f"""\
# What `edgenas ci run` made for each target, and from what. Commit it; do not edit it.
# Where a merge leaves a conflict, take either side of a target: `edgenas ci run` mends the rest.
schema = "{SCHEMA}"
"""


@dataclass(frozen=True, slots=True)
class Network:
    """A network of a front: its line and its metrics, those of a device with the device's name."""

    architecture: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class File:
    """An exported file and what its certificate says; accuracies are over `n_images`."""

    format: str
    sha256: str
    size_bytes: int
    top1: float
    top1_drop: float
    n_images: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What the lock holds of a target. `front` and `certificates` are by a network's digest.

    `fleet` has by device the digest of what it runs; empty where the target is no fleet.
    """

    run: str
    facts: Facts
    digests: Mapping[str, str]
    front: Mapping[str, Network]
    files: Mapping[str, File]
    certificates: Mapping[str, str]
    noted: Mapping[str, str] = field(default_factory=dict)
    fleet: Mapping[str, str] = field(default_factory=dict)

    @property
    def exported(self) -> tuple[str, ...]:
        """Digests of the networks that files were written of, sorted."""
        written = {path.split("/")[1] for path in self.files}
        return tuple(sorted(written))

    def runs(self, digest: str, device: str | None) -> bool:
        """Whether a network is held to what is asked of `device`; None: of no device by name."""
        return device is None or self.fleet.get(device, digest) == digest


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _FileRow(_Strict):
    format: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(gt=0)
    top1: float = Field(ge=0, le=1)
    top1_drop: float = Field(ge=-1, le=1)
    n_images: int = Field(gt=0)
    verdict: Literal["passed", "inconclusive"]


class _EntryRows(_Strict):
    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    from_: dict[str, str | bool | int | float] = Field(alias="from")
    noted: dict[str, str] = {}
    digests: dict[str, str]
    front: dict[str, dict[str, str | float | int]]
    files: dict[str, _FileRow]
    certificates: dict[str, str]
    fleet: dict[str, str] = {}


class _LockFile(_Strict):
    schema_: Literal["edgenas.lock/1"] = Field(alias="schema")
    target: dict[str, _EntryRows] = {}


def read_lock(path: Path, *, hint: str = "") -> dict[str, Entry]:
    """The entries in `path` by target; none where there is no such file, or an empty one.

    `hint` is what to do about a damaged one; default: to restore it from git.

    Raises:
        ArtifactError: no lock, damaged, edited, of another version, or with a merge's conflict.
    """
    if not path.exists() or not path.stat().st_size:
        return {}
    hint = hint or (
        f"restore it from git: git checkout HEAD -- {path}; without it edgenas ci run makes every "
        "target anew"
    )
    try:
        table = read_toml(path, max_bytes=MAX_BYTES)
    except SpecError as error:
        _check_merged(path)
        raise ArtifactError(str(error), hint=hint) from error
    _check_version(path, table.get("schema"))
    try:
        file = _LockFile.model_validate(table)
        return {name: _entry(name, rows) for name, rows in file.target.items()}
    except ValidationError as error:
        problems = list(map(_problem, error.errors()))
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ArtifactError(f"{path}: {'; '.join(problems[:5])}{more}", hint=hint) from error
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}", hint=hint) from error


def _check_merged(path: Path) -> None:
    """Refuses a file in which a merge left a conflict.

    Raises:
        ArtifactError: with the conflict's first line.
    """
    with io_errors(path, "read"):
        lines = path.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ", "||||||| ")):
            raise ArtifactError(
                f"{path}, line {number}: a merge left a conflict: {line!r}",
                hint="take either side of each target whole: edgenas ci run mends the rest",
            )


def _check_version(path: Path, found: object) -> None:
    """Refuses what is no lock, or one of another version.

    Raises:
        ArtifactError: with the schema found.
    """
    kind = SCHEMA.split("/")[0]
    if not isinstance(found, str) or found.split("/")[0] != kind:
        raise ArtifactError(
            f"{path}: schema is {found!r}, that of a lock is {SCHEMA!r}",
            hint="name the lock that edgenas ci run wrote, such as edgenas.lock",
        )
    if found != SCHEMA:
        raise ArtifactError(
            f"{path}: schema is {found!r}, written by another edgenas; this one reads {SCHEMA!r}",
            hint="use the edgenas that wrote it: pip install --upgrade edgenas",
        )


def write_lock(path: Path, entries: Mapping[str, Entry]) -> None:
    """Writes the entries to `path`, whole or not at all; nothing where they are there already."""
    text = lock_text(entries)
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomic(path, text)


def lock_text(entries: Mapping[str, Entry]) -> str:
    """The text of the lock."""
    parts = [_HEAD]
    for name, entry in sorted(entries.items()):
        where = ("target", name)
        parts.append(_table(where, {"run": entry.run}))
        parts.append(_table((*where, "from"), entry.facts))
        if entry.noted:
            parts.append(_table((*where, "noted"), entry.noted))
        parts.append(_table((*where, "digests"), entry.digests))
        parts += [
            _table((*where, "front", key), {"architecture": n.architecture, **n.metrics})
            for key, n in sorted(entry.front.items())
        ]
        if entry.fleet:
            parts.append(_table((*where, "fleet"), entry.fleet))
        parts += [
            _table(
                (*where, "files", file),
                {name: getattr(row, name) for name in _FileRow.model_fields},
            )
            for file, row in sorted(entry.files.items())
        ]
        parts.append(_table((*where, "certificates"), entry.certificates))
    return "\n".join(parts)


def entry_of(target: Target, folder: Path, facts: Facts) -> Entry:
    """What the finished run in `folder` is to be locked as.

    Raises:
        SpecError: the run is not finished.
        ArtifactError: a file of it is damaged.
    """
    from edgenas.export.certificate import read_certificate
    from edgenas.report import read_trials

    result = read_result(folder)
    front = ParetoFront.read(folder / FRONT)
    files: dict[str, File] = {}
    certificates: dict[str, str] = {}
    for row in result["exports"]:
        network = Path(row["path"]).parent
        certificate = read_certificate(folder / network)
        certificates[certificate.digest] = certificate_digest(certificate)
        files |= {f"{network.as_posix()}/{m.path}": file_of(m) for m in certificate.models}
    named = {o.name for o in target.objectives} | {"top1"}
    networks = {}
    fleet = fleet_of(result)
    found = {c.architecture.digest: (str(c.architecture), c.metrics) for c in front.candidates}
    if not set(fleet.values()) <= found.keys():  # a fleet is chosen of all that was evaluated
        trials, _ = read_trials(folder / "trials.json")
        found |= {
            t.digest: (t.architecture, t.metrics) for t in trials if t.digest in fleet.values()
        }
    for key, (line, told) in found.items():
        metrics = {target.qualified(name): metric.value for name, metric in told.items()}
        kept = {n: v for n, v in metrics.items() if n in named or n.startswith("latency_ms")}
        networks[key] = Network(line, kept)
    return Entry(
        run=folder.name,
        facts=dict(facts),
        digests={FRONT: sha256_file(folder / FRONT), **front.parents},
        front=networks,
        files=files,
        certificates=certificates,
        fleet=fleet,
    )


def certificate_digest(certificate: Certificate) -> str:
    """Of what a certificate is of: network, files, parents, limit.

    Its figures are left out: another machine finds slightly other ones on the same files, and
    `ci check` compares them with those locked.
    """
    c = certificate
    files = sorted((model.path, model.sha256) for model in c.models)
    return digest([c.architecture, sorted(c.parents.items()), files, c.max_top1_drop])


def stored_metrics(target: Target, folder: Path) -> dict[str, dict[str, Metric]]:
    """The metrics with their intervals of each network of the front in `folder`, by its digest.

    Reads the file alone: that its candidates are a front was checked when it was made.

    Raises:
        ArtifactError: damaged.
    """
    path = folder / FRONT
    table = read_json(path, schema=FRONT_SCHEMA)
    try:
        return {
            row["digest"]: {
                target.qualified(name): Metric(**metric) for name, metric in row["metrics"].items()
            }
            for row in table["candidates"]
        }
    except (KeyError, TypeError, AttributeError, SpecError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def file_of(model: ExportedModel) -> File:
    """What is locked of an exported file."""
    evidence = model.verification
    return File(
        format=model.format,
        sha256=model.sha256,
        size_bytes=model.size_bytes,
        top1=evidence.top1,
        top1_drop=evidence.top1_drop,
        n_images=evidence.n,
        verdict=model.verdict,
    )


def _entry(name: str, rows: _EntryRows) -> Entry:
    for fact, value in rows.from_.items():
        if fact.startswith("bound "):
            try:
                Objective.parse(f"{fact.removeprefix('bound ')} {value}")
            except SpecError as error:
                raise SpecError(f"target.{name}.from: {fact!r} is {value!r}: {error}") from error
    front = {}
    for key, row in rows.front.items():
        line = row.pop("architecture", None)
        if not isinstance(line, str) or _digest_of(line) != key:
            raise SpecError(f"target.{name}.front.{key}: its architecture is another one: {line!r}")
        metrics = {metric: _number(f"target.{name}.front.{key}", v) for metric, v in row.items()}
        front[key] = Network(line, metrics)
    files = {path: File(**row.model_dump()) for path, row in rows.files.items()}
    for path in files:
        parts = path.split("/")
        if len(parts) != 3 or parts[0] != "models" or parts[1] not in front or ".." in parts:
            raise SpecError(f"target.{name}.files: {path!r} is no file of a network of its front")
    written = {path.split("/")[1] for path in files}
    if alone := sorted(written ^ rows.certificates.keys()):
        raise SpecError(f"target.{name}: {alone[0]} has files or a certificate, and not both")
    for device, key in rows.fleet.items():
        if key not in front:
            raise SpecError(f"target.{name}.fleet: {device} runs {key!r}, of which nothing is said")
    return Entry(
        run=rows.run,
        facts=dict(rows.from_),
        digests=rows.digests,
        front=front,
        files=files,
        certificates=rows.certificates,
        noted=rows.noted,
        fleet=rows.fleet,
    )


def _problem(error: Any) -> str:
    """One finding of pydantic, with the value found."""
    given = error.get("input")
    shown = "" if isinstance(given, dict | list) else f" (found {given!r:.60})"
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}{shown}"


def _digest_of(line: str) -> str:
    """The digest of the architecture that `line` is of, whatever its space."""
    space, choices = split_line(line)
    return Architecture(space, tuple(choices.items())).digest


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SpecError(f"{where}: {value!r} is not a number")
    return float(value)


def _table(path: tuple[str, ...], rows: Mapping[str, Fact]) -> str:
    lines = [f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(name)} = {toml_value(value)}" for name, value in sorted(rows.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else toml_value(name)
