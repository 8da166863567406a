"""One network's predicted latency as a page: what it comes to, and a bar for each operator."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from edgenas import __version__
from edgenas.report.charts import Bar, Figure, unit_figure
from edgenas.report.frame import chart, page
from edgenas.report.numbers import ms, percent, reading, significant


def prediction_html(facts: Mapping[str, Any]) -> str:
    """The page for what `edgenas.pipeline.predict` returned; needs nothing else to be shown."""
    figures: dict[str, Figure] = {}
    told = Path(facts["file"]).name if "file" in facts else str(facts["architecture"])
    bars = [
        Bar(
            name=f"{unit['name']} {unit.get('kind', '')}".strip() + f"  {ms(unit['ms'])}",
            ms=unit["ms"],
            origin=unit["origin"],
            key=unit["key"],
            low_ms=unit["low_ms"],
            high_ms=unit["high_ms"],
        )
        for unit in facts["units"]
    ]
    caption = (
        "Each bar is an operator's share of the latency, with its interval, in execution order; "
        "its colour says where the operator's own time came from."
    )
    note = f'<div class="panel warning">{escape(facts["note"])}</div>' if facts.get("note") else ""
    body = (
        f'<header><p class="over">edgenas predict</p><h1>{escape(told)}</h1>'
        f'<p class="note">on {escape(facts["device"])}</p>'
        f'<dl class="facts">{_facts(facts)}</dl></header>'
        f"<main>{note}<section>{chart('units', unit_figure(bars), figures, caption)}</section>"
        "</main>"
    )
    return page(told, body, figures, version=__version__)


def _facts(facts: Mapping[str, Any]) -> str:
    interval = f"{significant(facts['low_ms'])} to {significant(facts['high_ms'])} ms"
    rough = ", rough" if facts["rough"] else ""
    error = facts["error_median"]
    beside = "" if error is None else f"median error {percent(error, 1)} on networks left out"
    rows = [
        ("predicted latency", ms(facts["latency_ms"]), f"{interval}, {facts['origin']}{rough}"),
        (f"rests on {facts['source']} units", percent(facts["measured_share"], 0), beside),
    ]
    if "measured_ms" in facts:
        off = f"the prediction is {100 * facts['error']:+.1f} % off"
        rows.append(("measured latency", ms(facts["measured_ms"]), off))
    if facts.get("energy_mj") is not None:
        rows.append(("energy", reading("energy_mj").text(facts["energy_mj"]), "at mean power"))
    for name, said in (
        ("peak_memory_bytes", "activations, planned"),
        ("micro_arena_bytes", "all of TFLite-Micro's arena"),
        ("sram_bytes", "as the compiler plans it, estimated"),
        ("flash_bytes", "weights and commands, estimated"),
        ("size_bytes", "of file"),
        ("macs", ""),
    ):
        if name in facts:
            read = reading(name)
            rows.append((read.label, read.text(facts[name]), said))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(small)}</small></dd></div>"
        for name, value, small in rows
    )
