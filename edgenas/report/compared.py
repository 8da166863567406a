"""The comparison of two runs as a page, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from edgenas import __version__
from edgenas.artifacts import write_atomic
from edgenas.pareto import Metric
from edgenas.report.charts import Figure, comparison_figure
from edgenas.report.comparison import RESAMPLES, Comparison, Passage, Spread
from edgenas.report.frame import chart, page
from edgenas.report.markup import code, plain, table
from edgenas.report.numbers import capital, counted, reading, significant

COMPARE_SCHEMA = "edgenas.compare/1"
_LONGEST_TABLE = 30

HOW = (
    f"Intervals hold 95 % of {RESAMPLES:,} hypervolumes with every figure of both fronts drawn "
    "anew: an accuracy as a binomial share of the images that it was read from, a latency from its "
    "interval. What both runs state alike is drawn once for both. That a table or a supernet errs "
    "alike for all its networks is left out."
)
"""What the confidence of a hypervolume is."""


def write_comparison(found: Comparison, path: Path) -> tuple[Path, ...]:
    """Writes the page to `path`, and the Markdown beside it.

    Raises:
        ResourceError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {path: comparison_html(found), path.with_suffix(".md"): comparison_markdown(found)}
    for place, text in texts.items():
        write_atomic(place, text)
    return tuple(texts)


def lead(found: Comparison) -> str:
    """The outcome in one sentence of plain text."""
    gain = found.gain
    base = found.hypervolume_before.value
    share = f", {100 * gain.value / base:+.2f} %" if base > 0 else ""
    told = {
        "better": "The front is better",
        "worse": "The front is worse",
    }.get(found.verdict, "The front differs by no more than noise explains")
    return (
        f"{told}: hypervolume {_signed(gain.value)} ({_signed(gain.low)} to {_signed(gain.high)}"
        f"{share}). {counted(len(found.having('came')), 'network')} came, "
        f"{len(found.having('went'))} went, {len(found.having('moved'))} moved, "
        f"{len(found.having('stayed'))} stayed."
    )


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{significant(value)}"


def _spelt(spread: Spread) -> str:
    return f"{significant(spread.value, 4)} ({_range(spread)})"


def _reference(found: Comparison) -> str:
    places = [f"{reading(n).label} {reading(n).text(v)}" for n, v in found.reference.items()]
    return (
        f"Both hypervolumes are measured from {', '.join(places)}, in the product of the "
        "objectives' own units (accuracy as a fraction)."
    )


def comparison_html(found: Comparison) -> str:
    """The page: outcome, fronts over each other, what changed, who came and went."""
    figures: dict[str, Figure] = {}
    before, after = found.before, found.after
    facts = [
        ("hypervolume before", significant(found.hypervolume_before.value, 4),
         _range(found.hypervolume_before)),
        ("hypervolume now", significant(found.hypervolume_after.value, 4),
         _range(found.hypervolume_after)),
        ("difference", _signed(found.gain.value), _range(found.gain)),
        ("on both fronts", str(len(found.having("stayed")) + len(found.having("moved"))),
         f"{len(before.front)} before, {len(after.front)} now"),
    ]  # fmt: skip
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(small)}</small></dd></div>"
        for name, value, small in facts
    )
    plots = []
    for i, (x, y) in enumerate(after.pairs()):
        caption = f"{capital(reading(y.name).label)} against {reading(x.name).label}."
        figure = comparison_figure(found, x, y)
        figure["layout"]["showlegend"] = i == 0  # all have the same one
        plots.append(chart(f"fronts-{i}", figure, figures, escape(caption)))
    more = f'<div class="grid">{"".join(plots[1:])}</div>' if plots[1:] else ""
    causes = "".join(f"<li>{escape(str(cause))}</li>" for cause in found.causes)
    changed = f"<ul>{causes}</ul>" if causes else "<p>Nothing that the runs' files tell.</p>"
    body = (
        f'<header><p class="over">edgenas report --compare</p><h1>{escape(after.name)} against '
        f'{escape(before.name)}</h1><p class="note">{escape(lead(found))}</p>'
        f'<dl class="facts">{items}</dl></header><main>'
        f'<section id="fronts"><h2>Fronts</h2>{"".join(plots[:1])}{more}'
        f'<div class="panel"><p class="note">{escape(_reference(found))} {escape(HOW)}</p></div>'
        "</section>"
        f'<section id="causes"><h2>What changed between the runs</h2>'
        f'<div class="panel">{changed}</div></section>'
        f'<section id="networks"><h2>Networks</h2><div class="panel">{_networks(found)}</div>'
        "</section></main>"
    )
    title = f"{after.name} against {before.name}"
    return page(title, body, figures, version=__version__)


def _range(spread: Spread) -> str:
    return f"{significant(spread.low, 4)} to {significant(spread.high, 4)}"


def _networks(found: Comparison) -> str:
    names = [goal.name for goal in found.after.goals]
    heads = "".join(f'<th scope="col" class="n">{escape(reading(n).axis)}</th>' for n in names)
    rows = []
    for p in found.passages:
        style = {"came": "yes", "went": "no"}.get(p.passing, "")
        why = "".join(f"<div>{escape(text)}</div>" for text in p.why)
        cells = "".join(f'<td class="n">{_cell(p, name)}</td>' for name in names)
        rows.append(
            f'<tr><th scope="row"><code>{escape(p.digest)}</code></th>'
            f'<td><span class="tag {style}">{p.passing}</span></td>{cells}'
            f'<td class="why">{why}</td></tr>'
        )
    return (
        '<p class="note">Where two figures stand, the first is that before.</p>'
        '<div class="scroll"><table><thead><tr><th scope="col">architecture</th>'
        f'<th scope="col"></th>{heads}<th scope="col">why</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(p: Passage, name: str) -> str:
    """A metric before and now, once where it did not change; latencies with their word."""
    old, new = (side.get(name) if side else None for side in (p.before, p.after))
    if old is None or new is None or old == new:
        metric = new if old is None else old
        return "-" if metric is None else _html(name, metric)
    words = [_word(metric) for metric in (old, new)]
    told = " → ".join(reading(name).bare(metric.value) for metric in (old, new))
    return f'{told}<span class="word">{escape(" → ".join(dict.fromkeys(words)))}</span>'


def _html(name: str, metric: Metric) -> str:
    told = escape(reading(name).bare(metric.value))
    return f'{told}<span class="word">{escape(_word(metric))}</span>'


def _word(metric: Metric) -> str:
    return f"{metric.origin}, rough" if metric.rough else metric.origin


def comparison_markdown(found: Comparison) -> str:
    """The summary: outcome, what changed, who came and went."""
    before, after = found.before, found.after
    spreads = [
        ["before", code(before.name), str(len(before.front)), _spelt(found.hypervolume_before)],
        ["now", code(after.name), str(len(after.front)), _spelt(found.hypervolume_after)],
        ["difference", "", "", _spelt(found.gain)],
    ]
    causes = [f"- {plain(str(cause))}" for cause in found.causes]
    names = [goal.name for goal in after.goals]
    changed = [p for p in found.passages if p.passing != "stayed"]
    rows = [
        [
            code(p.digest),
            p.passing,
            *(_text(p, name) for name in names),
            " ".join(plain(text) for text in p.why),
        ]
        for p in changed[:_LONGEST_TABLE]
    ]
    heads = ["architecture", "", *(reading(n).axis for n in names), "why"]
    parts = [
        f"# {plain(after.name)} against {plain(before.name)}",
        plain(lead(found)),
        table(["", "run", "on the front", "hypervolume (95 %)"], spreads),
        f"{plain(_reference(found))} {plain(HOW)}",
        "## What changed between the runs",
        "\n".join(causes) or "Nothing that the runs' files tell.",
        "## Networks that came, moved or went",
        table(heads, rows) if rows else "None: the fronts hold the same networks.",
    ]
    if len(changed) > _LONGEST_TABLE:
        parts.append(f"{len(changed) - _LONGEST_TABLE} more in the page.")
    return "\n\n".join(parts) + "\n"


def _text(p: Passage, name: str) -> str:
    old, new = (side.get(name) if side else None for side in (p.before, p.after))
    told = [m for m in dict.fromkeys([old, new]) if m is not None]
    return " → ".join(f"{reading(name).bare(m.value)} {plain(_word(m))}" for m in told) or "-"


def comparison_document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON (schema `edgenas.compare/1`)."""
    return {
        "schema": COMPARE_SCHEMA,
        "run": found.after.name,
        "other": found.before.name,
        "verdict": found.verdict,
        "told": lead(found),
        "reference": dict(found.reference),
        "hypervolume": {
            "other": asdict(found.hypervolume_before),
            "run": asdict(found.hypervolume_after),
            "difference": asdict(found.gain),
            "confidence": HOW,
        },
        "changes": [asdict(cause) | {"told": str(cause)} for cause in found.causes],
        "networks": [
            {
                "digest": p.digest,
                "architecture": p.architecture,
                "passing": p.passing,
                "other": _metrics(p.before),
                "run": _metrics(p.after),
                "why": list(p.why),
            }
            for p in found.passages
        ],
    }


def _metrics(found: Mapping[str, Metric] | None) -> dict[str, Any] | None:
    return None if found is None else {name: metric.to_table() for name, metric in found.items()}
