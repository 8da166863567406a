"""The page's explanations: which choices matter, what bounds keep out, what a change would cost."""

from __future__ import annotations

from html import escape

from edgenas.pareto import Metric
from edgenas.report import why
from edgenas.report.charts import Figure, changes_figure, importance_figure
from edgenas.report.frame import chart, folded
from edgenas.report.model import Change, ExportedModel, Importance, RunView
from edgenas.report.numbers import capital, reading


def importances_html(view: RunView, figures: dict[str, Figure]) -> str:
    """Which choices matter, a chart for each objective; all of them in a table that folds."""
    if not view.importances:
        return ""
    told = "".join(f"<p>{escape(why.importance(found))}</p>" for found in view.importances)
    drawn = [found for found in view.importances if found.genes]
    plots = [
        chart(f"importance-{i}", importance_figure(found), figures, _importance_caption(found))
        for i, found in enumerate(drawn)
    ]
    table = ""
    if drawn:
        genes = sorted({gene for found in drawn for gene, _ in found.genes})
        shares = [dict(found.genes) for found in drawn]
        heads = "".join(
            f'<th scope="col" class="n">{escape(reading(found.metric).label)} (%)</th>'
            for found in drawn
        )
        rows = "".join(
            f'<tr><th scope="row"><code>{escape(gene)}</code></th>'
            + "".join(f'<td class="n">{100 * share.get(gene, 0.0):.1f}</td>' for share in shares)
            + "</tr>"
            for gene in genes
        )
        table = folded(f"All choices ({len(genes)})", _tabled("choice", heads, rows))
    return (
        '<section id="choices"><h2>Which choices matter</h2>'
        f'<div class="panel">{told}<p class="note">{_GENES} PED-ANOVA compares how the best '
        "networks choose with how all that were tried do; a choice that is made alike in both "
        "does not matter. It says that a choice matters, not which value is the better one.</p>"
        f'</div><div class="grid">{"".join(plots)}</div><br>{table}</section>'
    )


_GENES = (
    "A choice is named by its place: <code>s2.width</code> is the second stage's, "
    "<code>s2.1.kernel</code> that of the stage's first block, <code>r</code> the resolution."
)


def _importance_caption(found: Importance) -> str:
    return (
        f"{escape(capital(reading(found.metric).label))}. Grey bars left of the line may be "
        "chance: as much is reached in one of 20 searches in which no choice matters."
    )


def _tabled(first: str, heads: str, rows: str) -> str:
    """A table that scrolls by itself; `heads` and `rows` are HTML."""
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">{escape(first)}</th>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def bounds_html(view: RunView) -> str:
    """What each bound keeps out."""
    if not view.cuts:
        return ""
    parts = []
    for cut in view.cuts:
        items = "".join(f"<li>{escape(text)}</li>" for text in why.excluded(view, cut))
        parts.append(f"<h3><code>{escape(str(cut.goal))}</code></h3><ul>{items}</ul>")
    return (
        '<section id="bounds"><h2>What the bounds keep out</h2>'
        f'<div class="panel">{"".join(parts)}</div></section>'
    )


def sentences_html(view: RunView, model: ExportedModel) -> str:
    """The network explained in sentences."""
    items = "".join(f"<li>{escape(text)}</li>" for text in why.sentences(view, model))
    return f"<ul>{items}</ul>" if items else ""


def changes_html(view: RunView, model: ExportedModel, figures: dict[str, Figure]) -> str:
    """What each single change would cost or save: a chart, and a table that folds."""
    if not model.changes:
        return ""
    parts = []
    for x, y in view.pairs()[:1]:
        if any({x.name, y.name} <= change.differences.keys() for change in model.changes):
            caption = (
                "What this network would have more or less with one choice brought to the next "
                "value below or above: those that change the most. Hollow bars lie outside a "
                f"bound. {escape(' '.join(why.rests_on(view)))}"
            )
            figure = changes_figure(model, x, y)
            parts.append(chart(f"changes-{model.digest}", figure, figures, caption))
    names = [goal.name for goal in view.goals]  # first, whatever the file's order
    names = list(dict.fromkeys([*names, *(n for c in model.changes for n in c.differences)]))
    heads = "".join(f'<th scope="col" class="n">{escape(reading(n).label)}</th>' for n in names)
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(c.gene)}</code> {escape(c.value)} to '
        f"{escape(c.new)}{_outside(c)}</th>"
        + "".join(_added_cell(name, c.differences.get(name)) for name in names)
        + "</tr>"
        for c in model.changes
    )
    table = folded(f"Every single change ({len(model.changes)})", _tabled("change", heads, rows))
    return f"{''.join(parts)}{table}"


def _outside(change: Change) -> str:
    if not change.outside:
        return ""
    names = ", ".join(reading(name).label for name in change.outside)
    return f'<span class="word">outside the bound on {escape(names)}</span>'


def _added_cell(name: str, metric: Metric | None) -> str:
    if metric is None:
        return '<td class="n">-</td>'
    read = reading(name)
    words = metric.origin
    if metric.low is not None and metric.high is not None:
        words += f", {why.interval(name, metric)}"
    return (
        f'<td class="n">{escape(read.difference(metric.value))}'
        f'<span class="word">{escape(words)}</span></td>'
    )
