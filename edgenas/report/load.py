"""From a run folder to a `RunView`.

    run.toml                      the run file
    front.json                    edgenas.front/1
    result.json                   edgenas.search-result/1: trials, elapsed_s, exports [{"path",
                                  "format", "sha256", "size_bytes", "verified", "top1", "top1_drop",
                                  "agreement", "predicted_ms", "measured_ms"}]; optional in each:
                                  "n_images", "device", "predicted_origin", "low_ms", "high_ms"
    trials.json                   optional, edgenas.trials/1: {"trials": [{"number", "architecture",
                                  "digest", "metrics", "feasible", "state"}], "reference":
                                  {objective: value}}; `state` "complete" is shown, `reference` is
                                  where the hypervolume is measured from
    provenance.json               optional, edgenas.provenance/1: "tables" [{"device", "source",
                                  "digest", "date", "error_median", "error_within_10",
                                  "n_validation"}]; every other key is a section, shown as it is
    models/<digest>/latency.json  optional, edgenas.model-latency/1: {"latencies": [{"device",
                                  "origin", "latency_ms", "low_ms", "high_ms", "units": [{"name",
                                  "key", "ms", "origin", "inputs"}]}]}; or one such device at the
                                  top; "inputs" may be left out of a plain chain
    models/<digest>/export.json   shown through result.json; its "why" (chosen for what) is used

Files may hold more than is read here: a report shows what it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import edgenas
from edgenas.artifacts import read_json, read_toml
from edgenas.errors import ArtifactError, SpecError
from edgenas.objectives import Objective, directed
from edgenas.pareto import Metric, ParetoFront, hypervolume
from edgenas.report.model import (
    DeviceLatency,
    Evaluated,
    ExportedFile,
    ExportedModel,
    RunView,
    Table,
    Unit,
    UnitTime,
)
from edgenas.spaces import OpSpec

RESULT_SCHEMA = "edgenas.search-result/1"
TRIALS_SCHEMA = "edgenas.trials/1"
LATENCY_SCHEMA = "edgenas.model-latency/1"
PROVENANCE_SCHEMA = "edgenas.provenance/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


_T = TypeVar("_T", bound=_Part)


class _Metric(_Part):
    value: float
    origin: str = Field(min_length=1)
    low: float | None = None
    high: float | None = None
    n: int | None = None


class _Trial(_Part):
    number: int
    architecture: str
    digest: str
    metrics: dict[str, _Metric]
    feasible: bool = True
    state: str = "complete"


class _Trials(_Part):
    trials: list[_Trial]
    reference: dict[str, float] = {}


class _Export(_Part):
    path: str
    format: str
    sha256: str
    size_bytes: int
    verified: bool | None
    top1: float | None = None
    top1_drop: float | None = None
    agreement: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    n_images: int | None = None
    device: str | None = None
    predicted_origin: str | None = None
    low_ms: float | None = None
    high_ms: float | None = None


class _Result(_Part):
    trials: int | None = None
    elapsed_s: float | None = None
    exports: list[_Export] = []


class _UnitTime(_Part):
    name: str = ""
    key: str
    ms: float
    origin: str
    inputs: list[int] | None = None


class _Latency(_Part):
    device: str
    origin: str
    latency_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    units: list[_UnitTime]


class _Latencies(_Part):
    latencies: list[_Latency]


class _Table(_Part):
    device: str
    source: str
    digest: str = ""
    date: str = ""
    error_median: float | None = None
    error_within_10: float | None = None
    n_validation: int | None = None


class _Tables(_Part):
    tables: list[_Table] = []


def load_run(run: Path) -> RunView:
    """The view of the run in folder `run`.

    Raises:
        SpecError: not a run folder, or one without a front.
        ArtifactError: a file is damaged, or the parts do not fit together.
    """
    if not (run / "front.json").is_file():
        raise SpecError(
            f"{run}: no front.json: the search has not finished, or this is no run folder",
            hint=f"edgenas search {run / 'run.toml'} --resume",
        )
    front = ParetoFront.read(run / "front.json")
    result = _read(run / "result.json", RESULT_SCHEMA, _Result) or _Result()
    trials = _read(run / "trials.json", TRIALS_SCHEMA, _Trials)
    facts = run / "provenance.json"
    found = _read(facts, PROVENANCE_SCHEMA, _Tables)
    tables = found.tables if found else []
    provenance = read_json(facts, schema=PROVENANCE_SCHEMA) if found else {}
    evaluated = _evaluated(trials.trials) if trials else ()
    numbers = {c.digest: c.number for c in reversed(evaluated)}
    sections = list(_sections(provenance))
    if front.parents:
        sections.append(("Parents, by digest", tuple(sorted(front.parents.items()))))
    if (run / "run.toml").is_file():
        sections.append(("Run file", tuple(_rows(read_toml(run / "run.toml")))))
    return RunView(
        name=run.resolve().name,
        goals=front.objectives,
        front=tuple(
            Evaluated(
                str(c.architecture),
                c.architecture.digest,
                dict(c.metrics),
                numbers.get(c.architecture.digest),
            )
            for c in front.candidates
        ),
        trials=evaluated,
        models=_models(run, front, result.exports, tables),
        tables=tuple(Table(**t.model_dump()) for t in tables),
        hypervolume=_course(evaluated, front.objectives, trials.reference if trials else {}),
        n_trials=len(trials.trials) if result.trials is None and trials else result.trials,
        elapsed_s=result.elapsed_s,
        provenance=tuple(sections),
        notes=_notes(provenance),
        version=edgenas.__version__,
    )


def _read(path: Path, schema: str, kind: type[_T]) -> _T | None:
    """The part of `path` that a report shows, or None where there is no such file."""
    if not path.is_file():
        return None
    return _valid(path, read_json(path, schema=schema), kind)


def _valid(path: Path, value: object, kind: type[_T]) -> _T:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]
        )
        raise ArtifactError(f"{path}: {problems}") from error


def _evaluated(trials: Sequence[_Trial]) -> tuple[Evaluated, ...]:
    return tuple(
        Evaluated(
            t.architecture,
            t.digest,
            {name: Metric(**metric.model_dump()) for name, metric in t.metrics.items()},
            t.number,
            t.feasible,
        )
        for t in sorted(trials, key=lambda t: t.number)
        if t.state.lower() == "complete"
    )


def _course(
    trials: Sequence[Evaluated], goals: Sequence[Objective], reference: Mapping[str, float]
) -> tuple[tuple[int, float], ...]:
    """The hypervolume of the feasible trials so far, after each trial that changed it.

    Without a `reference` it is the worst value of each objective among the feasible trials.
    """
    axes = directed(goals)
    points: list[tuple[int, list[float]]] = []
    for trial in trials:
        if trial.feasible and all(axis.name in trial.metrics for axis in axes):
            point = [trial.metrics[axis.name].value for axis in axes]
            points.append((trial.number or 0, point))
    if len(axes) < 2 or not points:
        return ()
    worst = [
        (min if axis.direction == "max" else max)(point[i] for _, point in points)
        for i, axis in enumerate(axes)
    ]
    origin = [reference.get(axis.name, worst[i]) for i, axis in enumerate(axes)]
    directions = [axis.direction or "min" for axis in axes]
    kept: list[list[float]] = []
    course: list[tuple[int, float]] = []
    for number, point in points:
        if not any(_no_worse(other, point, axes) for other in kept):
            kept = [other for other in kept if not _no_worse(point, other, axes)] + [point]
            course.append((number, hypervolume(kept, directions, origin)))
    last = max(trial.number or 0 for trial in trials)
    if course[-1][0] < last:
        course.append((last, course[-1][1]))
    return tuple(course)


def _no_worse(a: Sequence[float], b: Sequence[float], axes: Sequence[Objective]) -> bool:
    return all(
        x >= y if axis.direction == "max" else x <= y for x, y, axis in zip(a, b, axes, strict=True)
    )


def _models(
    run: Path, front: ParetoFront, exports: Sequence[_Export], tables: Sequence[_Table]
) -> tuple[ExportedModel, ...]:
    """The exported models in the front's order; models of no candidate of the front come last."""
    files: dict[str, list[_Export]] = {}
    for export in exports:
        path = _inside(run, export.path)
        digest = PurePosixPath(path).parent.name
        files.setdefault(digest, []).append(export.model_copy(update={"path": path}))
    candidates = {c.architecture.digest: c for c in front.candidates}
    models = []
    for digest in sorted(
        files, key=lambda d: (list(candidates).index(d) if d in candidates else len(candidates), d)
    ):
        folder = run / "models" / digest
        certificate = _certificate(folder / "export.json")
        units, latencies = _latencies(folder / "latency.json")
        candidate = candidates.get(digest)
        models.append(
            ExportedModel(
                architecture=str(candidate.architecture)
                if candidate
                else str(certificate.get("architecture", "")),
                digest=digest,
                metrics=dict(candidate.metrics) if candidate else {},
                files=tuple(_file(export, latencies, tables) for export in files[digest]),
                units=units,
                latencies=latencies,
                why=str(certificate.get("why", "")),
            )
        )
    return tuple(models)


def _inside(run: Path, path: str) -> str:
    """`path` relative to the run folder: it may be so already, or absolute, or from elsewhere."""
    parts = PurePosixPath(Path(path).as_posix()).parts
    if not (run / path).is_file() and "models" in parts:
        last = len(parts) - 1 - parts[::-1].index("models")
        return PurePosixPath(*parts[last:]).as_posix()
    if Path(path).is_absolute() and Path(path).is_relative_to(run.resolve()):
        return Path(path).relative_to(run.resolve()).as_posix()
    return PurePosixPath(*parts).as_posix()


def _certificate(path: Path) -> Mapping[str, Any]:
    return read_json(path, schema="edgenas.export/1") if path.is_file() else {}


def _latencies(path: Path) -> tuple[tuple[Unit, ...], tuple[DeviceLatency, ...]]:
    """The network's units, and its latency on each device of the file."""
    if not path.is_file():
        return (), ()
    table = read_json(path, schema=LATENCY_SCHEMA)
    if "latencies" not in table:
        table = {"latencies": [{k: v for k, v in table.items() if k != "schema"}]}
    found = _valid(path, table, _Latencies).latencies
    networks = [_units(path, latency.units) for latency in found]
    if any(network != networks[0] for network in networks):
        raise ArtifactError(f"{path}: its devices do not list the same units")
    return networks[0] if networks else (), tuple(
        DeviceLatency(
            latency.device,
            latency.origin,
            latency.latency_ms,
            latency.low_ms,
            latency.high_ms,
            tuple(UnitTime(unit.ms, unit.origin) for unit in latency.units),
        )
        for latency in found
    )


def _units(path: Path, units: Sequence[_UnitTime]) -> tuple[Unit, ...]:
    try:
        return tuple(
            Unit(u.name, OpSpec.parse(u.key), (i - 1,) if u.inputs is None else tuple(u.inputs))
            for i, u in enumerate(units)
        )
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _file(
    export: _Export, latencies: Sequence[DeviceLatency], tables: Sequence[_Table]
) -> ExportedFile:
    device = export.device or ""
    known = {latency.device: latency for latency in latencies}
    if not device:  # a file runs on the device of its runtime and precision
        device = next(
            (name for name in [*known, *(t.device for t in tables)] if _suits(export.format, name)),
            "",
        )
    latency = known.get(device)
    predicted = None
    if export.predicted_ms is not None:
        origin = export.predicted_origin or (latency.origin if latency else "predicted")
        low = export.low_ms if export.low_ms is not None else (latency.low_ms if latency else None)
        high = (
            export.high_ms if export.high_ms is not None else (latency.high_ms if latency else None)
        )
        if low is None or high is None or not low <= export.predicted_ms <= high:
            low = high = None
        predicted = Metric(export.predicted_ms, origin, low, high)
    return ExportedFile(
        format=export.format,
        path=export.path,
        sha256=export.sha256,
        size_bytes=export.size_bytes,
        verified=export.verified,
        top1=export.top1,
        top1_drop=export.top1_drop,
        agreement=export.agreement,
        n_images=export.n_images,
        predicted_ms=predicted,
        measured_ms=None if export.measured_ms is None else Metric(export.measured_ms, "measured"),
        device=device,
    )


def _suits(format: str, device: str) -> bool:  # noqa: A002
    """Whether a device, named `<chip>-<runtime>-<precision>-t<n>`, runs files of this format."""
    kind, _, precision = format.partition("-")
    runtime = {"onnx": "onnxruntime", "tflite": "litert"}.get(kind, kind)
    return f"-{runtime}-{precision or 'fp32'}-" in f"-{device}-"


def _sections(
    provenance: Mapping[str, Any],
) -> Sequence[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every table of the file as a section; what stands outside of one comes first."""
    plain = {k: v for k, v in provenance.items() if not isinstance(v, Mapping)}
    plain = {k: v for k, v in plain.items() if k not in ("schema", "tables")}
    sections = [("Run", tuple(_rows(plain)))] if plain else []
    for name, value in provenance.items():
        if isinstance(value, Mapping) and value:
            sections.append((name.replace("_", " ").capitalize(), tuple(_rows(value))))
    return sections


def _rows(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested tables as dotted names with their values as text."""
    rows: list[tuple[str, str]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value, 1):
                row = item if isinstance(item, Mapping) else {"": item}
                rows += _rows(row, f"{prefix}{name}[{i}].")
        else:
            rows.append((f"{prefix}{name}", _spelt(value)))
    return rows


def _spelt(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_spelt(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _notes(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """What the machine's own facts warn of."""
    flags = {name.rpartition(".")[2]: value for name, value in _rows(provenance)}
    notes = []
    if flags.get("virtualised") == "yes":
        notes.append("The machine is virtualised: neighbours may have disturbed its timings.")
    if flags.get("emulated") == "yes":
        notes.append("The device was emulated: its timings are not those of the real one.")
    return tuple(notes)
