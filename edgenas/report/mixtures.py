"""Mixed precision and measured networks as tables of text, for the page and for Markdown alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgenas.report.model import ExportedFile, MeasuredDevice, RunView
from edgenas.report.numbers import ms, percent, points, reading


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of plain text with what is to be said before it."""

    title: str
    notes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def text_tables(view: RunView) -> list[TextTable]:
    """One for each file in mixed precision, then one for each device that was measured."""
    files = [file for model in view.models for file in model.files if file.mixtures]
    return [*map(_mixtures, files), *map(_measured, view.measured)]


def _mixtures(file: ExportedFile) -> TextTable:
    chosen = next((m for m in file.mixtures if m.chosen), file.mixtures[-1])
    notes = [
        f"Precision of each unit: {', '.join(f'{u.name} {u.precision}' for u in file.units)}.",
        *(f"{unit.name}: {unit.note}." for unit in file.units if unit.note),
        f"Chosen on {chosen.n:,} images of the search split; the file itself is verified on the "
        "test split, as all are.",
    ]
    if len(set(chosen.precisions)) == 1:
        notes.append(f"No mixture lies between: all units are in {chosen.precisions[0]}.")
    rows = (
        (
            _counted(m.precisions),
            reading("size_bytes").text(m.size_bytes),
            percent(m.top1),
            points(m.top1_drop),
            "not known" if m.latency is None else f"{ms(m.latency.value)} {m.latency.origin}",
            "chosen" if m.chosen else "",
        )
        for m in file.mixtures
    )
    heads = ("units", "size", "top-1", "drop (points)", "latency", "")
    return TextTable(f"Mixed precision: {file.path}", tuple(notes), heads, tuple(rows))


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
