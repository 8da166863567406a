"""Classes, operators, mixed precision, parents: tables of text for page and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgenas.report.model import ExportedFile, ExportedModel, MeasuredDevice, OfClass, RunView
from edgenas.report.numbers import ms, percent, points, reading

MOST_CLASSES = 20
"""Rows of a table of classes, at most."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of plain text with what is to be said before it."""

    title: str
    notes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text_tables(view: RunView) -> list[TextTable]:
    """Classes and operators of each model, mixed precision of each file, devices measured."""
    mixed = [(model, file) for model in view.models for file in model.files if file.mixtures]
    return [
        *(_classes(model) for model in view.models if any(f.classes for f in model.files)),
        *(_operators(model) for model in view.models if any(f.operators for f in model.files)),
        *(table for model, file in mixed for table in (_mixtures(model, file), _sensitivity(file))),
        *map(_measured, view.measured),
        *_parents(view),
    ]


def _classes(model: ExportedModel) -> TextTable:
    """What each file loses by class, the classes that lose most first."""
    files = [file for file in model.files if file.classes]
    worst = sorted(
        range(len(files[0].classes)),
        key=lambda i: -max(file.classes[i].top1_drop or 0 for file in files),
    )
    rows = [
        (
            files[0].classes[i].name,
            f"{files[0].classes[i].n:,}",
            *(_lost(file.classes[i]) for file in files),
        )
        for i in worst[:MOST_CLASSES]
    ]
    notes = [
        "Top-1 among the test images of a class, and in brackets what it is less than torch's."
    ]
    if len(worst) > MOST_CLASSES:
        notes.append(f"The {MOST_CLASSES} of {len(worst)} classes in which a file loses most.")
    heads = ("class", "images", *(_name(file) for file in files))
    return TextTable(f"By class: {model.digest}", tuple(notes), heads, tuple(rows))


def _lost(found: OfClass) -> str:
    if found.top1 is None or found.top1_drop is None:
        return "-"
    return f"{percent(found.top1)} ({points(found.top1_drop)})"


def _operators(model: ExportedModel) -> TextTable:
    files = [file for file in model.files if file.operators]
    rows = (
        (
            _name(file),
            "-" if file.max_difference is None else f"{file.max_difference:.2g}",
            "-"
            if file.peak_memory_bytes is None
            else reading("peak_memory_bytes").text(file.peak_memory_bytes),
            _by_type(file.operators),
        )
        for file in files
    )
    heads = (
        "file",
        "largest logit difference",
        "memory, planned",
        "operators that run, by the type that they compute in",
    )
    notes = ["Memory is what the activations take beside the file."]
    if any("INT4" in kinds for file in files for kinds in file.operators.values()):
        notes.append("INT4 is of the weights: such an operator computes in INT8.")
    return TextTable(f"Operators: {model.digest}", tuple(notes), heads, tuple(rows))


def _by_type(operators: Mapping[str, Mapping[str, int]]) -> str:
    kinds: dict[str, list[str]] = {}
    for name, counts in operators.items():
        for kind, n in counts.items():
            kinds.setdefault(kind, []).append(f"{n} {name}")
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in sorted(kinds.items()))


def _name(file: ExportedFile) -> str:
    return file.path.rpartition("/")[2]


def _mixtures(model: ExportedModel, file: ExportedFile) -> TextTable:
    chosen = next((m for m in file.mixtures if m.chosen), file.mixtures[-1])
    limit = model.max_mixed_drop
    notes = [
        f"Precision of each unit: {', '.join(f'{u.name} {u.precision}' for u in file.units)}.",
        *(
            f"{', '.join(u.name for u in file.units if u.note == note)}: {note}."
            for note in dict.fromkeys(unit.note for unit in file.units if unit.note)
        ),
        f"Chosen on {chosen.n:,} images of the search split"
        + ("" if limit is None else f", where it may lose {100 * limit:g} points of top-1")
        + "; the file itself is verified on the test split, as all are.",
    ]
    if len(set(chosen.precisions)) == 1:
        notes.append(f"Of the mixtures tried the one with all units in {chosen.precisions[0]} won.")
    rows = (
        (
            _counted(m.precisions),
            reading("size_bytes").text(m.size_bytes),
            percent(m.top1),
            points(m.top1_drop)
            + ("" if m.drop_interval is None else f" [{', '.join(map(points, m.drop_interval))}]"),
            "not known" if m.latency is None else f"{ms(m.latency.value)} {m.latency.origin}",
            "chosen" if m.chosen else "",
        )
        for m in file.mixtures
    )
    heads = ("units", "size", "top-1", "drop (points) [95 %]", "latency", "")
    return TextTable(f"Mixed precision: {file.path}", tuple(notes), heads, tuple(rows))


def _sensitivity(file: ExportedFile) -> TextTable:
    """What each unit costs and saves alone."""
    rows = [
        (
            unit.name,
            alone.precision,
            f"{alone.noise:.2g}",
            points(alone.top1_drop),
            f"{alone.saved_bytes:,}",
            "not known" if alone.saved_ms is None else f"{alone.saved_ms:.4f} ms {alone.origin}",
        )
        for unit in file.units
        for alone in unit.alone
    ]
    n = next((alone.n for unit in file.units for alone in unit.alone), 0)
    notes = (
        f"One unit alone in the precision, all others in float; on {n:,} images of the search "
        "split. Noise is the mean square of what the logits change by, over theirs.",
    )
    heads = ("unit", "in", "noise", "drop (points)", "bytes saved", "time saved")
    return TextTable(f"Sensitivity: {file.path}", notes, heads, tuple(rows))


def _parents(view: RunView) -> list[TextTable]:
    """The digests that each network's files rest on, where they differ from the front's."""
    own = {
        model.digest: {k: v for k, v in model.parents.items() if view.parents.get(k) != v}
        for model in view.models
    }
    rows = [(digest, name, value) for digest, more in own.items() for name, value in more.items()]
    if not rows:
        return []
    notes = ("Beside those of the front, which all files rest on.",)
    return [TextTable("Parents of files", notes, ("network", "what", "digest"), tuple(rows))]


def _counted(precisions: Sequence[str]) -> str:
    counts = Counter(precisions)
    return ", ".join(f"{counts[p]} {p}" for p in ("fp32", "int8", "int4") if counts[p])


def _measured(found: MeasuredDevice) -> TextTable:
    rows = (
        (
            n.digest,
            f"{ms(n.predicted.value)} {n.predicted.origin}",
            f"{ms(n.measured.value)} {n.measured.origin}, n = {n.measured.n}",
            str(n.place_predicted),
            str(n.place),
        )
        for n in found.networks
    )
    heads = ("network", "predicted", "measured", "place predicted", "place measured")
    note = f"{found.told[:1].upper()}{found.told[1:]}."
    return TextTable(f"Measured on {found.device}", (note,), heads, tuple(rows))
