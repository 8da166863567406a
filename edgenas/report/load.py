"""From a run folder to a `RunView`; `_parts` says which files are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import edgenas
from edgenas.artifacts import read_json, read_toml
from edgenas.errors import ArtifactError, SpecError
from edgenas.fleet import Assignment, Fleet
from edgenas.objectives import Objective, directed
from edgenas.pareto import Metric, ParetoFront, hypervolume
from edgenas.report import _parts as parts
from edgenas.report.model import (
    Alone,
    Change,
    Cut,
    DeviceLatency,
    Estimate,
    Evaluated,
    ExportedFile,
    ExportedModel,
    FleetView,
    Gains,
    Importance,
    MeasuredDevice,
    MeasuredNetwork,
    MixedUnit,
    Mixture,
    OfClass,
    RunView,
    Table,
    TargetCheck,
    Unit,
    UnitTime,
)
from edgenas.spaces import OpSpec


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
    result = parts.read(run / "result.json", parts.RESULT_SCHEMA, parts.Result) or parts.Result()
    trials = parts.read(run / "trials.json", parts.TRIALS_SCHEMA, parts.Trials)
    facts = run / "provenance.json"
    found = parts.read(facts, parts.PROVENANCE_SCHEMA, parts.Tables)
    tables = found.tables if found else []
    why = run / "explanation.json"
    told = parts.read(why, parts.EXPLANATION_SCHEMA, parts.Explanation) or parts.Explanation()
    provenance = read_json(facts, schema=parts.PROVENANCE_SCHEMA) if found else {}
    evaluated = _evaluated(run / "trials.json", trials.trials) if trials else ()
    numbers = {c.digest: c.number for c in reversed(evaluated)}
    certificates = {
        path.parent.name: parts.valid(
            path, read_json(path, schema=parts.EXPORT_SCHEMA), parts.Certificate
        )
        for path in sorted(run.glob("models/*/export.json"))
        if result.models is None or path.parent.name in result.models
    }
    sections = list(_sections(provenance))
    tools: dict[str, dict[str, None]] = {}  # each name's versions: networks may differ
    for certificate in certificates.values():
        for name, version in certificate.tools.items():
            tools.setdefault(name, {})[version] = None
    if tools:
        rows = tuple((name, ", ".join(tools[name])) for name in sorted(tools))
        sections.append(("Export tools", rows))
    sections += _images(certificates.values())
    if front.parents:
        sections.append(("Parents, by digest", tuple(sorted(front.parents.items()))))
    settings = _rows(read_toml(run / "run.toml")) if (run / "run.toml").is_file() else []
    if settings:
        sections.append(("Run file", tuple(settings)))
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
        models=tuple(
            replace(model, changes=_changes(why, told.changes.get(model.digest, ())))
            for model in _models(run, front, result, certificates, tables, evaluated)
        ),
        tables=tuple(Table(**t.model_dump()) for t in tables),
        hypervolume=_course(evaluated, front.objectives, trials.reference if trials else {}),
        n_trials=len(trials.trials) if result.trials is None and trials else result.trials,
        elapsed_s=result.elapsed_s,
        provenance=tuple(sections),
        notes=_notes(provenance),
        version=edgenas.__version__,
        made_by=str(provenance.get("edgenas", "")),
        importances=tuple(map(_importance, told.importances)),
        stopped_because=result.stopped_because,
        gains=None if result.gains is None else Gains(**result.gains.model_dump()),
        measured=tuple(_measured(run / "result.json", device) for device in result.measured),
        fleet=None if result.fleet is None else _fleet(run / "result.json", result.fleet),
        estimates=tuple(Estimate(**e.model_dump()) for e in told.estimates),
        cuts=_cuts(why, told.bounds),
        parents=dict(front.parents),
        rests_on=dict(trials.parents) if trials else {},
        reference=dict(trials.reference) if trials else {},
        settings=dict(settings),
    )


def read_trials(path: Path) -> tuple[tuple[Evaluated, ...], Mapping[str, str]]:
    """The trials in `trials.json`, and by digest what their accuracies rest on.

    Raises:
        ArtifactError: damaged, or of another version.
    """
    trials = parts.valid(path, read_json(path, schema=parts.TRIALS_SCHEMA), parts.Trials)
    return _evaluated(path, trials.trials), trials.parents


def _evaluated(path: Path, trials: Sequence[parts.Trial]) -> tuple[Evaluated, ...]:
    try:
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
    except SpecError as error:  # an interval that does not hold its value
        raise ArtifactError(f"{path}: {error}") from error


def _importance(found: parts.Importance) -> Importance:
    genes = sorted(found.genes.items(), key=lambda pair: (-pair[1], pair[0]))
    return Importance(found.metric, found.n, found.top, tuple(genes), found.chance, found.problem)


def _cuts(path: Path, bounds: Sequence[parts.Cut]) -> tuple[Cut, ...]:
    try:
        return tuple(
            Cut(Objective.parse(b.objective), **b.model_dump(exclude={"objective"})) for b in bounds
        )
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _fleet(path: Path, found: parts.Fleet) -> FleetView:
    try:
        fleets = tuple(
            Fleet(
                choice.k,
                tuple(
                    Assignment(
                        a.device,
                        a.digest,
                        a.accuracy,
                        a.loss,
                        Metric(**a.latency_ms.model_dump()),
                    )
                    for a in choice.assignments
                ),
                choice.gap,
            )
            for choice in sorted(found.choices, key=lambda choice: choice.k)
        )
        bounds = {d: tuple(map(Objective.parse, texts)) for d, texts in found.bounds.items()}
    except SpecError as error:  # no objective, or an interval that does not hold its value
        raise ArtifactError(f"{path}: fleet: {error}") from error
    named = [[a.device for a in fleet.assignments] for fleet in fleets]
    if fleets[0].k > found.wanted or any(set(devices) != set(bounds) for devices in named):
        raise ArtifactError(f"{path}: fleet: its parts do not fit together")
    return FleetView(found.wanted, found.accuracy, bounds, fleets)


def _measured(path: Path, found: parts.MeasuredDevice) -> MeasuredDevice:
    try:
        networks = tuple(
            MeasuredNetwork(
                n.digest,
                Metric(**n.predicted.model_dump()),
                Metric(**n.measured.model_dump()),
                n.place_predicted,
                n.place,
            )
            for n in found.networks
        )
    except SpecError as error:  # an interval that does not hold its value
        raise ArtifactError(f"{path}: measured: {error}") from error
    return MeasuredDevice(found.device, found.correction.told, networks)


def _changes(path: Path, changes: Sequence[parts.Change]) -> tuple[Change, ...]:
    try:
        return tuple(
            Change(
                c.gene,
                c.value,
                c.new,
                c.digest,
                {name: Metric(**metric.model_dump()) for name, metric in c.differences.items()},
                tuple(c.outside),
            )
            for c in changes
        )
    except SpecError as error:  # an interval that does not hold its value
        raise ArtifactError(f"{path}: {error}") from error


def _course(
    trials: Sequence[Evaluated], goals: Sequence[Objective], reference: Mapping[str, float]
) -> tuple[tuple[int, float], ...]:
    """The hypervolume of the feasible trials so far, after each trial that may have changed it.

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
    run: Path,
    front: ParetoFront,
    result: parts.Result,
    certificates: Mapping[str, parts.Certificate],
    tables: Sequence[parts.Table],
    evaluated: Sequence[Evaluated],
) -> tuple[ExportedModel, ...]:
    """The exported models in the front's order; others come last, with their trial's metrics."""
    rows: dict[str, dict[str, parts.Export]] = {digest: {} for digest in certificates}
    for export in result.exports:
        path = PurePosixPath(_inside(run, export.path))
        rows.setdefault(path.parent.name, {})[path.name] = export
    order = {c.architecture.digest: i for i, c in enumerate(front.candidates)}
    known = {c.digest: (c.architecture, c.metrics) for c in evaluated}
    known |= {c.architecture.digest: (str(c.architecture), c.metrics) for c in front.candidates}
    models = []
    for digest in sorted(rows, key=lambda d: (order.get(d, len(order)), d)):
        certificate = certificates.get(digest)
        architecture, metrics = known.get(digest, ("", {}))
        units, latencies = _latencies(run / "models" / digest / "latency.json")
        files = {}
        for name, export in rows[digest].items():
            files[name] = _file(_inside(run, export.path), export, latencies, tables)
        for row in certificate.models if certificate else ():
            told = files.get(row.path)
            files[row.path] = _certified(f"models/{digest}/{row.path}", row, told)
        models.append(
            ExportedModel(
                architecture=certificate.architecture if certificate else architecture,
                digest=digest,
                metrics=dict(metrics),
                files=tuple(files.values()),
                units=units,
                latencies=latencies,
                why=(result.models or {}).get(digest, ""),
                failures=tuple((f.format, f.error) for f in certificate.failures)
                if certificate
                else (),
                targets=tuple(
                    _target(f"models/{digest}", target)
                    for target in (certificate.targets if certificate else ())
                ),
                weights=certificate.weights if certificate else "",
                parents=certificate.parents if certificate else {},
                max_mixed_drop=certificate.max_mixed_drop if certificate else None,
            )
        )
    return tuple(models)


def _images(
    certificates: Iterable[parts.Certificate],
) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """What the certificates state of images and licences, once where they agree."""
    found = []
    for certificate in certificates:
        if (data := certificate.data) is None:
            continue
        rows = (
            ("images", f"{data.name}, digest {data.digest}, cut by seed {data.seed}"),
            ("size", f"{data.image_size}x{data.image_size}, {data.channels} channels"),
            *((f"{split} split", f"{n:,} images") for split, n in data.images.items()),
            ("licence of the images", data.licence or "not stated"),
            ("licence of the files", certificate.licence or "not stated"),
        )
        if ("Images and licences", rows) not in found:
            found.append(("Images and licences", rows))
    return found


def _target(place: str, row: parts.Target) -> TargetCheck:
    path = f"{place}/{row.path}" if row.path else place
    return TargetCheck(**{**row.model_dump(), "path": path, "reasons": tuple(row.reasons)})


def _certified(path: str, row: parts.Certified, told: ExportedFile | None) -> ExportedFile:
    """A file by its certificate; latencies that only `told` (from result.json) has are kept."""
    found = row.verification
    predicted, measured = _stated(row.predicted_ms), _stated(row.measured_ms)
    if told is not None:
        predicted, measured = predicted or told.predicted_ms, measured or told.measured_ms
    return ExportedFile(
        format=row.format,
        path=path,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        verified=row.verified,
        top1=found.top1,
        top1_drop=found.top1_drop,
        agreement=found.agreement,
        drop_interval=(found.drop_low, found.drop_high),
        n_images=found.n,
        split=found.split,
        problems=tuple(f"{g.name}: {g.reason}" for g in row.gates if g.verdict != "passed"),
        predicted_ms=predicted,
        measured_ms=measured,
        device=row.device or (told.device if told else ""),
        units=tuple(
            MixedUnit(u.name, u.precision, u.note, tuple(Alone(**a.model_dump()) for a in u.alone))
            for u in row.units
        ),
        mixtures=tuple(
            Mixture(
                tuple(m.precisions),
                m.size_bytes,
                m.top1,
                m.top1_drop,
                m.n,
                _stated(m.latency),
                m.chosen,
                None if m.drop_low is None or m.drop_high is None else (m.drop_low, m.drop_high),
            )
            for m in row.curve
        ),
        max_difference=found.max_abs_difference,
        classes=tuple(
            OfClass(name, **of.model_dump())
            for name, of in zip(row.input.classes, found.classes, strict=False)
        ),
        operators=row.operators,
        peak_memory_bytes=row.peak_memory_bytes,
    )


def _stated(latency: parts.Stated | None) -> Metric | None:
    if latency is None:
        return None
    low, high = _around(latency.value_ms, latency.low_ms, latency.high_ms)
    return Metric(latency.value_ms, latency.origin, low, high, latency.n)


def _around(
    value: float, low: float | None, high: float | None
) -> tuple[float, float] | tuple[None, None]:
    """The interval, or none where it does not hold the value.

    A measured latency is the best round's median, which p10 of all rounds may lie above.
    """
    if low is None or high is None or not low <= value <= high:
        return None, None
    return low, high


def _inside(run: Path, path: str) -> str:
    """`path` relative to the run folder: it may be so already, or absolute, or from elsewhere."""
    names = PurePosixPath(Path(path).as_posix()).parts
    if not (run / path).is_file() and "models" in names:
        last = len(names) - 1 - names[::-1].index("models")
        return PurePosixPath(*names[last:]).as_posix()
    if Path(path).is_absolute() and Path(path).is_relative_to(run.resolve()):
        return Path(path).relative_to(run.resolve()).as_posix()
    return PurePosixPath(*names).as_posix()


def _latencies(path: Path) -> tuple[tuple[Unit, ...], tuple[DeviceLatency, ...]]:
    """The network's units, and its latency on each device of the file."""
    if not path.is_file():
        return (), ()
    table = read_json(path, schema=parts.LATENCY_SCHEMA)
    found = parts.valid(path, table, parts.Latencies).latencies
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


def _units(path: Path, units: Sequence[parts.UnitTime]) -> tuple[Unit, ...]:
    try:
        return tuple(
            Unit(u.name, OpSpec.parse(u.key), (i - 1,) if u.inputs is None else tuple(u.inputs))
            for i, u in enumerate(units)
        )
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _file(
    path: str,
    export: parts.Export,
    latencies: Sequence[DeviceLatency],
    tables: Sequence[parts.Table],
) -> ExportedFile:
    """A file as result.json has it; the word for its latency is that of its device's prediction."""
    known = {latency.device: latency for latency in latencies}
    names = [*known, *(table.device for table in tables)]
    device = export.device or next((name for name in names if _suits(export.format, name)), "")
    predicted = None
    if export.predicted_ms is not None:
        latency = known.get(device)
        origin = export.predicted_origin or (latency.origin if latency else "predicted")
        low, high = export.low_ms, export.high_ms
        if latency and (low is None or high is None):
            low, high = latency.low_ms, latency.high_ms
        predicted = Metric(export.predicted_ms, origin, *_around(export.predicted_ms, low, high))
    return ExportedFile(
        format=export.format,
        path=path,
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
    """What the facts of machine and evaluation warn of."""
    flags = {name.rpartition(".")[2]: value for name, value in _rows(provenance)}
    notes = []
    if flags.get("virtualised") == "yes":
        notes.append("The machine is virtualised: neighbours may have disturbed its timings.")
    if scored := flags.get("contested images"):
        notes.append(
            f"Accuracy of candidates is estimated: only the {scored} images were scored that pilot "
            "networks do not all name alike. Files are verified on the whole test split."
        )
    return tuple(notes)
