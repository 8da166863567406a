"""The report as Markdown (short, for the summary of a CI job) and as one JSON document."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from edgenas.pareto import Metric
from edgenas.report import fleets, why
from edgenas.report.markup import code as _code
from edgenas.report.markup import plain as _plain
from edgenas.report.markup import table as _table
from edgenas.report.model import (
    DeviceLatency,
    Evaluated,
    ExportedFile,
    ExportedModel,
    FleetView,
    RunView,
)
from edgenas.report.numbers import counted, duration, ms, percent, points, reading
from edgenas.report.page import is_inside, roles, warnings
from edgenas.report.text_tables import text_tables

REPORT_SCHEMA = "edgenas.report/1"
_LONGEST_TABLE = 20


def markdown(view: RunView, *, picture: str = "front.svg") -> str:
    """The summary: front, exported models, tables; `picture` is the path of `front_svg`'s file."""
    parts = [f"# {_plain(view.name)}", _lead(view)]
    if found := warnings(view):
        parts.append("\n".join(f"> - {_plain(text)}" for text in found))
    if picture and view.pairs():
        parts.append(f"![Pareto front]({picture})")
    parts += ["## Front", _front(view)]
    if view.fleet:
        parts += ["## Fleet", _fleet(view, view.fleet)]
    if view.importances:
        parts += ["## Which choices matter", _importances(view)]
    if view.cuts:
        parts += ["## What the bounds keep out", _bounds(view)]
    parts += ["## Exported models", _files(view)]
    for table in text_tables(view):
        rows = [list(map(_plain, row)) for row in table.rows]
        parts += [f"### {_plain(table.title)}", _bullets(table.notes), _table(table.heads, rows)]
    parts += [
        f"### Model {_code(m.digest)}\n\n{_bullets(why.sentences(view, m))}" for m in view.models
    ]
    if view.estimates:
        parts.append(" ".join(map(_plain, why.rests_on(view))))
    if view.tables:
        parts += ["## Latency tables", _tables(view)]
    return "\n\n".join(parts) + "\n"


def document(view: RunView) -> dict[str, Any]:
    """The same content as JSON (schema `edgenas.report/1`): plain units, nothing formatted."""
    return {
        "schema": REPORT_SCHEMA,
        "run": view.name,
        "edgenas": view.version,
        "objectives": [str(goal) for goal in view.goals],
        "trials": view.n_trials,
        "elapsed_s": view.elapsed_s,
        "hypervolume": [list(pair) for pair in view.hypervolume],
        "stopped_because": view.stopped_because,
        "gains": asdict(view.gains) if view.gains else None,
        "warnings": warnings(view),
        "importances": [asdict(found) | {"genes": dict(found.genes)} for found in view.importances],
        "estimates": [asdict(estimate) for estimate in view.estimates],
        "bounds": [
            asdict(cut) | {"goal": str(cut.goal), "told": why.excluded(view, cut)}
            for cut in view.cuts
        ],
        "front": [_candidate(c) for c in view.front],
        "fleet": fleets.fleet_document(view.fleet) if view.fleet else None,
        "models": [_model(view, model) for model in view.models],
        "measured": [
            {
                "device": device.device,
                "told": device.told,
                "networks": [
                    asdict(n)
                    | {"predicted": n.predicted.to_table(), "measured": n.measured.to_table()}
                    for n in device.networks
                ],
            }
            for device in view.measured
        ],
        "tables": [
            {
                "device": t.device,
                "source": t.source,
                "digest": t.digest,
                "date": t.date,
                "error_median": t.error_median,
                "error_within_10": t.error_within_10,
                "n_validation": t.n_validation,
                "rough": t.rough,
            }
            for t in view.tables
        ],
        "provenance": {title: dict(rows) for title, rows in view.provenance},
    }


def _lead(view: RunView) -> str:
    text = f"{counted(len(view.front), 'architecture')} on the front"
    if view.n_trials is not None:
        text += f" of {view.n_trials} trials"
    if view.elapsed_s is not None:
        text += f" in {duration(view.elapsed_s)}"
    goals = ", ".join(f"`{goal}`" for goal in view.goals)
    return f"{text}. Objectives: {goals}."


def _front(view: RunView) -> str:
    names = list(dict.fromkeys(goal.name for goal in view.goals))
    rows = [
        [
            _code(c.digest),
            *(_told(view, n, c.metrics.get(n)) for n in names),
            "yes" if c.digest in view.exported else "",
        ]
        for c in view.front[:_LONGEST_TABLE]
    ]
    table = _table(["architecture", *(reading(n).axis for n in names), "exported"], rows)
    more = len(view.front) - _LONGEST_TABLE
    return f"{table}\n\n{more} more in report.json." if more > 0 else table


def _fleet(view: RunView, found: FleetView) -> str:
    """Who runs what, then the price of each number of networks; bold: what was exported."""
    label = reading(found.accuracy).label
    who = [
        [
            _code(a.device),
            _plain(fleets.bounds_text(found, a.device)),
            _code(a.digest),
            reading(found.accuracy).text(a.accuracy),
            f"{100 * a.loss:.2f} points",
            _plain(fleets.latency_text(view, a)),
        ]
        for a in found.fleet.assignments
    ]
    heads, rows = fleets.price_rows(found)
    price = [
        [_bold(_plain(text), yes=bool(text) and fleet is found.fleet) for text in row]
        for fleet, row in zip(found.fleets, rows, strict=True)
    ]
    told = [fleets.lead(found), fleets.impossible(found)]
    return "\n\n".join(
        [
            " ".join(_plain(text) for text in told if text),
            _table(["device", "bounds", "network", label, "loss", "latency"], who),
            _table(heads, price),
        ]
    )


def _importances(view: RunView) -> str:
    """In words, then the first few choices for each objective; bold where chance is passed."""
    rows = [
        [
            _plain(reading(found.metric).label),
            *(
                f"{_code(gene)} {_bold(percent(share, 0), yes=share > found.chance)}"
                for gene, share in found.genes[:5]
            ),
        ]
        for found in view.importances
        if found.genes
    ]
    told = _bullets(why.importance(found) for found in view.importances)
    if not rows:
        return told
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    heads = ["objective", "matters most", *[""] * (width - 2)]
    return f"{told}\n\n{_table(heads, rows)}\n\nBold: more than chance explains (PED-ANOVA)."


def _bold(text: str, *, yes: bool) -> str:
    return f"**{text}**" if yes else text


def _bounds(view: RunView) -> str:
    return "\n\n".join(
        f"{_code(str(cut.goal))}\n\n{_bullets(why.excluded(view, cut))}" for cut in view.cuts
    )


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(text)}" for text in texts)


def _files(view: RunView) -> str:
    if not view.models:
        return "No model was exported."
    heads = ["model", "file", "size", "verdict", "top-1", "drop", "agreement"]
    rows = []
    for model in view.models:
        for i, file in enumerate(model.files):
            name = _code(model.digest) if i == 0 else ""
            found = "; ".join(roles(view, model))
            name += f" {_plain(found)}" if i == 0 and found else ""
            rows.append([name, *_file_cells(view, file)])
    table = _table([*heads, "predicted", "measured"], rows)
    told = "Top-1, drop (percentage points) and agreement: test split, in the runtime."
    return "\n\n".join([table, told, *_targets(view)])


def _targets(view: RunView) -> list[str]:
    """A table of what the targets said; none where there are none."""
    rows = [
        [
            _code(model.digest),
            _code(t.device),
            "**failed**" if t.verdict == "failed" else _plain(t.verdict),
            "-" if t.on_npu_share is None else percent(t.on_npu_share, 0),
            _plain(t.checked_by),
            _plain("; ".join(t.reasons)) or "-",
        ]
        for model in view.models
        for t in model.targets
    ]
    heads = ["model", "target", "verdict", "on the NPU", "checked by", "told"]
    return [_table(heads, rows)] if rows else []


def _file_cells(view: RunView, file: ExportedFile) -> list[str]:
    verdict = {True: "verified", False: "**failed**", None: "inconclusive"}[file.verified]
    rough = file.device in view.rough_devices
    return [
        _code(file.path if is_inside(file.path) else file.path.rpartition("/")[2]),
        reading("size_bytes").text(file.size_bytes),
        verdict,
        "-" if file.top1 is None else percent(file.top1),
        "-" if file.top1_drop is None else points(file.top1_drop),
        "-" if file.agreement is None else percent(file.agreement),
        _latency(file.predicted_ms, rough=rough),
        _latency(file.measured_ms, rough=False),
    ]


def _latency(metric: Metric | None, *, rough: bool) -> str:
    if metric is None:
        return "-"
    return f"{ms(metric.value)} {_plain(metric.origin)}{', rough' if rough else ''}"


def _tables(view: RunView) -> str:
    rows = [
        [
            f"{_code(t.device)}{' **rough**' if t.rough else ''}",
            _plain(t.source),
            "-" if t.error_median is None else percent(t.error_median, 1),
            "-" if t.error_within_10 is None else percent(t.error_within_10, 0),
            "-" if t.n_validation is None else str(t.n_validation),
        ]
        for t in view.tables
    ]
    return _table(["device", "source", "median error", "within 10 %", "networks"], rows)


def _told(view: RunView, name: str, metric: Metric | None) -> str:
    if metric is None:
        return "-"
    text = reading(name).bare(metric.value)
    if reading(name).is_latency:
        text += f" {_plain(metric.origin)}"
    return f"{text}, rough" if view.rough_metric(name) else text


def _candidate(c: Evaluated) -> dict[str, Any]:
    return {
        "architecture": c.architecture,
        "digest": c.digest,
        "metrics": {name: metric.to_table() for name, metric in c.metrics.items()},
    }


def _model(view: RunView, model: ExportedModel) -> dict[str, Any]:
    return {
        "architecture": model.architecture,
        "digest": model.digest,
        "roles": roles(view, model),
        "metrics": {name: metric.to_table() for name, metric in model.metrics.items()},
        "files": [
            {
                "path": f.path,
                "format": f.format,
                "sha256": f.sha256,
                "size_bytes": f.size_bytes,
                "verified": f.verified,
                "top1": f.top1,
                "top1_drop": f.top1_drop,
                "top1_drop_interval": list(f.drop_interval) if f.drop_interval else None,
                "agreement": f.agreement,
                "split": f.split or None,
                "problems": list(f.problems),
                "max_logit_difference": f.max_difference,
                "peak_memory_bytes": f.peak_memory_bytes,
                "operators": {name: dict(kinds) for name, kinds in f.operators.items()},
                "classes": [asdict(c) for c in f.classes],
                "n_images": f.n_images,
                "device": f.device or None,
                "predicted_ms": f.predicted_ms.to_table() if f.predicted_ms else None,
                "measured_ms": f.measured_ms.to_table() if f.measured_ms else None,
                "units": [asdict(unit) for unit in f.units],
                "mixtures": [
                    asdict(m) | {"latency": m.latency.to_table() if m.latency else None}
                    for m in f.mixtures
                ],
            }
            for f in model.files
        ],
        "failures": [{"format": kind, "error": error} for kind, error in model.failures],
        "targets": [asdict(target) for target in model.targets],
        "weights": model.weights or None,
        "parents": dict(model.parents),
        "max_mixed_drop": model.max_mixed_drop,
        "latencies": [_device(model, latency) for latency in model.latencies],
        "why": why.sentences(view, model),
        "changes": [
            {
                "gene": c.gene,
                "value": c.value,
                "new": c.new,
                "digest": c.digest,
                "differences": {name: m.to_table() for name, m in c.differences.items()},
                "outside": list(c.outside),
            }
            for c in model.changes
        ],
    }


def _device(model: ExportedModel, latency: DeviceLatency) -> dict[str, Any]:
    return {
        "device": latency.device,
        "origin": latency.origin,
        "latency_ms": latency.latency_ms,
        "low_ms": latency.low_ms,
        "high_ms": latency.high_ms,
        "units": [
            {
                "name": unit.name,
                "key": unit.op.key,
                "macs": unit.op.macs,
                "ms": time.ms,
                "origin": time.origin,
            }
            for unit, time in zip(model.units, latency.units, strict=True)
        ],
    }
