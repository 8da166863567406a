"""The report as one HTML file that needs nothing else: no network, no other file but the models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.report import why
from edgenas.report.charts import Figure, hypervolume_figure, model_bars, pareto_figure, unit_figure
from edgenas.report.drawing import architecture_svg
from edgenas.report.explained import bounds_html, changes_html, importances_html, sentences_html
from edgenas.report.fleets import fleet_html
from edgenas.report.frame import chart, page
from edgenas.report.model import (
    DeviceLatency,
    Evaluated,
    ExportedFile,
    ExportedModel,
    RunView,
    TargetCheck,
)
from edgenas.report.numbers import (
    capital,
    counted,
    duration,
    ms,
    percent,
    points,
    reading,
    significant,
)
from edgenas.report.picture import front_svg
from edgenas.report.text_tables import TextTable, text_tables


def html(view: RunView) -> str:
    """The page: front, course of the search, exported models, where each spends its time, origins.

    Everything that comes from files is escaped. About 5 MB, nearly all of it plotly.js.
    """
    figures: dict[str, Figure] = {}
    body = "".join(
        [
            _header(view),
            "<main>",
            _warnings(view),
            _front(view, figures),
            fleet_html(view, figures),
            _search(view, figures),
            importances_html(view, figures),
            bounds_html(view),
            _files(view),
            *(_model(view, model, figures) for model in view.models),
            _provenance(view),
            "</main>",
        ]
    )
    return page(view.name, body, figures, version=view.version)


def warnings(view: RunView) -> list[str]:
    """What a reader should know before trusting the figures, as plain sentences."""
    found = list(view.notes)
    found += [
        f"The table of {t.device} is rough: its median error on whole networks is "
        f"{percent(t.error_median or 0.0, 0)}. Latencies marked rough rank networks; they are no "
        "promise."
        for t in view.tables
        if t.rough
    ]
    for model in view.models:
        found += [
            f"{file.path} failed verification: {'; '.join(file.problems) or 'no reason'}."
            for file in model.files
            if file.verified is False
        ]
        found += [f"{model.digest}: {kind} was not written: {why}" for kind, why in model.failures]
        found += [
            f"{target.path} is not for {target.device}: {'; '.join(target.reasons)}."
            for target in model.targets
            if target.verdict == "failed"
        ]
    files = [file for model in view.models for file in model.files]
    if unsure := [file for file in files if file.verified is None]:
        reasons = "; ".join(unsure[0].problems) or "no reason"
        found.append(
            f"{len(unsure)} of {len(files)} files are inconclusive, neither verified nor failed. "
            f"The first: {reasons}."
        )
    return found


def roles(view: RunView, model: ExportedModel) -> list[str]:
    """What `model` was chosen for, and what it is the best of all exported ones in."""
    found = [model.why] if model.why and not model.why.startswith("best ") else []
    if view.fleet and (devices := view.fleet.fleet.networks.get(model.digest)):
        found.append(f"for {', '.join(devices)}")
    for goal in view.objectives:
        values = [m.metrics[goal.name].value for m in view.models if goal.name in m.metrics]
        if goal.name not in model.metrics or len(values) < 2:
            continue
        best = max(values) if goal.direction == "max" else min(values)
        if model.metrics[goal.name].value == best:
            superlative = "highest" if goal.direction == "max" else "lowest"
            found.append(f"{superlative} {reading(goal.name).label} of these {len(view.models)}")
    return found


def _header(view: RunView) -> str:
    goals = ", ".join(f"<code>{escape(str(goal))}</code>" for goal in view.goals)
    facts = [("on the front", str(len(view.front)), _of_trials(view))]
    for goal in view.objectives:
        values = [(c.metrics[goal.name].value, c) for c in view.front if goal.name in c.metrics]
        if values:
            pick = max if goal.direction == "max" else min
            _, best = pick(values, key=lambda pair: pair[0])
            metric = best.metrics[goal.name]
            read = reading(goal.name)
            word = "highest" if goal.direction == "max" else "lowest"
            facts.append(
                (f"{word} {read.label}", read.text(metric.value), _origin(view, goal.name, metric))
            )
    files = [f for model in view.models for f in model.files]
    if files:
        verified = sum(f.verified is True for f in files)
        facts.append(
            ("files verified", f"{verified} of {len(files)}", counted(len(view.models), "model"))
        )
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(small)}</small></dd></div>"
        for name, value, small in facts
    )
    links = [("front", "Front"), ("fleet", "Fleet"), ("search", "Search"), ("choices", "Choices")]
    links += [("bounds", "Bounds"), ("files", "Exported models")]
    links += [(f"model-{m.digest}", m.digest) for m in view.models]
    links.append(("provenance", "Provenance"))
    for to, wanted in (
        ("fleet", view.fleet),
        ("search", view.hypervolume),
        ("choices", view.importances),
        ("bounds", view.cuts),
    ):
        links = links if wanted else [link for link in links if link[0] != to]
    nav = "".join(f'<a href="#{escape(to)}">{escape(text)}</a>' for to, text in links)
    return (
        f'<header><p class="over">edgenas search</p><h1>{escape(view.name)}</h1>'
        f'<p class="note">{goals}</p><dl class="facts">{items}</dl><nav>{nav}</nav></header>'
    )


def _of_trials(view: RunView) -> str:
    text = f"of {view.n_trials} trials" if view.n_trials else ""
    if view.elapsed_s is not None:
        text += f" in {duration(view.elapsed_s)}"
    return text.strip()


def _warnings(view: RunView) -> str:
    found = warnings(view)
    if not found:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in found)
    return f'<section class="panel warning" aria-label="Warnings"><ul>{items}</ul></section>'


def _front(view: RunView, figures: dict[str, Figure]) -> str:
    plots = []
    for i, (x, y) in enumerate(view.pairs()):
        caption = (
            f"{escape(capital(reading(y.name).label))} against {escape(reading(x.name).label)}. "
            "The line joins what nothing beats in this pair."
        )
        figure = pareto_figure(view, x, y)
        figure["layout"]["showlegend"] = i == 0  # all have the same one
        plots.append(chart(f"pareto-{i}", figure, figures, caption))
    first, rest = plots[:1], plots[1:]
    more = f'<div class="grid">{"".join(rest)}</div><br>' if rest else ""
    spare = f'<noscript><div class="panel scroll">{front_svg(view)}</div></noscript>'
    return (
        f'<section id="front"><h2>Front</h2>{spare}{"".join(first)}{more}'
        f"{_front_table(view)}</section>"
    )


def _front_table(view: RunView) -> str:
    names = _metric_names(view.front, view.goals)
    heads = "".join(f'<th scope="col" class="n">{escape(reading(n).axis)}</th>' for n in names)
    rows = []
    for c in view.front:
        name = f"<code>{escape(c.digest)}</code>"
        if c.digest in view.exported:
            name = f'<a href="#model-{escape(c.digest)}">{name}</a>'
        cells = "".join(_metric_cell(view, n, c.metrics.get(n)) for n in names)
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    opened = " open" if len(rows) <= 12 else ""
    return (
        f'<details class="panel"{opened}><summary>The front as a table ({len(rows)})</summary>'
        '<p class="note">On the search split, which chose them; linked: exported.</p>'
        '<div class="scroll"><table><thead><tr><th scope="col">architecture</th>'
        f"{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _metric_names(candidates: Iterable[Evaluated], goals: Sequence[Objective]) -> list[str]:
    """The goals' metrics first, then whatever else was computed."""
    names = dict.fromkeys(goal.name for goal in goals)
    for c in candidates:
        names |= dict.fromkeys(c.metrics)
    return list(names)


def _metric_cell(view: RunView, name: str, metric: Metric | None) -> str:
    if metric is None:
        return '<td class="n">-</td>'
    read = reading(name)
    return (
        f'<td class="n">{escape(read.bare(metric.value))}'
        f'<span class="word">{escape(_origin(view, name, metric))}</span></td>'
    )


def _origin(view: RunView, name: str, metric: Metric) -> str:
    words = [metric.origin]
    if metric.low is not None and metric.high is not None:
        read = reading(name)
        words.append(f"{read.bare(metric.low)} to {read.bare(metric.high)}")
    if view.rough_metric(name):
        words.append("rough")
    return ", ".join(words)


def _search(view: RunView, figures: dict[str, Figure]) -> str:
    if not view.hypervolume:
        return ""
    last = view.hypervolume[-1][1]
    caption = (
        "The hypervolume that the trials so far dominate, as a share of that at the end "
        f"({significant(last, 4)} in the product of the objectives' units). A long flat end says "
        f"that more trials would have found little. {escape(why.ended(view))}"
    )
    plot = chart("hypervolume", hypervolume_figure(view), figures, caption)
    return f'<section id="search"><h2>Search</h2>{plot}</section>'


def _files(view: RunView) -> str:
    if not view.models:
        return (
            '<section id="files"><h2>Exported models</h2>'
            '<p class="panel">No model was exported.</p></section>'
        )
    heads = (
        ("model", ""),
        ("file", ""),
        ("size", "n"),
        ("verdict", ""),
        ("top-1 (%)", "n"),
        ("drop (points)", "n"),
        ("agreement (%)", "n"),
        ("predicted", "n"),
        ("measured", "n"),
    )
    head = "".join(f'<th scope="col" class="{style}">{text}</th>' for text, style in heads)
    groups = []
    for model in view.models:
        found = roles(view, model)
        words = f'<span class="word">{escape("; ".join(found))}</span>' if found else ""
        rows = [_file_cells(view, file) for file in model.files] or ['<td colspan="8">none</td>']
        first = (
            f'<th scope="rowgroup" rowspan="{len(rows)}"><a href="#model-{escape(model.digest)}">'
            f"<code>{escape(model.digest)}</code></a>{words}</th>"
        )
        rows = [f"<tr>{first if i == 0 else ''}{row}</tr>" for i, row in enumerate(rows)]
        groups.append(f"<tbody>{''.join(rows)}</tbody>")
    return (
        '<section id="files"><h2>Exported models</h2><div class="panel">'
        '<p class="note" id="files-note">Each file was run over the test split in its runtime and '
        "compared with the network in torch: agreement is the share of images with the same "
        "answer, drop is torch's top-1 less the file's, with its 95 % interval. "
        "Beside a predicted latency stands its 90 % interval, beside a measured one p10 to p90.</p>"
        '<div class="scroll"><table aria-describedby="files-note">'
        f"<thead><tr>{head}</tr></thead>{''.join(groups)}</table></div></div>"
        f"{_targets(view)}{''.join(map(_text_table, text_tables(view)))}</section>"
    )


def _text_table(table: TextTable) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.heads)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return (
        f'<div class="panel"><h3>{escape(table.title)}</h3>'
        + "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
        + f'<div class="scroll"><table aria-label="{escape(table.title)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _targets(view: RunView) -> str:
    """What the tool-chain of each device said of each model."""
    if not any(model.targets for model in view.models):
        return ""
    heads = (
        ("model", ""),
        ("target", ""),
        ("verdict", ""),
        ("on the NPU", "n"),
        ("cycles", "n"),
        ("RAM", "n"),
        ("flash", "n"),
        ("checked by", ""),
    )
    head = "".join(f'<th scope="col" class="{style}">{text}</th>' for text, style in heads)
    groups = []
    for model in view.models:
        rows = [_target_cells(target) for target in model.targets]
        first = (
            f'<th scope="rowgroup" rowspan="{len(rows)}"><code>{escape(model.digest)}</code></th>'
        )
        rows = [f"<tr>{first if i == 0 else ''}{row}</tr>" for i, row in enumerate(rows)]
        groups.append(f"<tbody>{''.join(rows)}</tbody>")
    return (
        '<div class="panel"><p class="note" id="targets-note">Each target is asked about the file '
        "in its format. RAM is the SRAM that a compiler plans, or TFLite-Micro's arena; a vendor's "
        'cycles are estimates.</p><div class="scroll"><table aria-describedby="targets-note">'
        f"<thead><tr>{head}</tr></thead>{''.join(groups)}</table></div></div>"
    )


def _target_cells(target: TargetCheck) -> str:
    style = {"passed": "yes", "failed": "no"}.get(target.verdict, "open")
    ram = target.sram_bytes if target.arena_bytes is None else target.arena_bytes

    def number(text: str | None) -> str:
        return f'<td class="n">{"-" if text is None else text}</td>'

    def size(n_bytes: int | None) -> str:
        return number(None if n_bytes is None else escape(reading("size_bytes").text(n_bytes)))

    share = target.on_npu_share
    return (
        f'<td>{escape(target.device)}<span class="word">{escape(target.path.rpartition("/")[2])}'
        f'</span></td><td><span class="tag {style}">{escape(target.verdict)}</span></td>'
        + number(None if share is None else f"{share:.0%}")
        + number(None if target.cycles is None else f"{target.cycles:,}")
        + size(ram)
        + size(target.flash_bytes)
        + f'<td>{escape(target.checked_by)}<span class="word">{escape("; ".join(target.reasons))}'
        "</span></td>"
    )


def _file_cells(view: RunView, file: ExportedFile) -> str:
    name = file.path.rpartition("/")[2]
    link = escape(name)
    if is_inside(file.path):
        link = f'<a href="{escape(quote(file.path))}" download>{link}</a>'
    verdict = {True: ("yes", "verified"), False: ("no", "failed"), None: ("open", "inconclusive")}
    style, word = verdict[file.verified]
    n = f'<span class="word">n = {file.n_images:,}</span>' if file.n_images else ""

    def number(text: str | None, small: str = "") -> str:
        return f'<td class="n">{text if text is not None else "-"}{small}</td>'

    return (
        f'<td title="SHA-256 {escape(file.sha256)}">{link}'
        f'<span class="word">{escape(file.format)}</span></td>'
        f'<td class="n">{escape(reading("size_bytes").text(file.size_bytes))}</td>'
        f'<td><span class="tag {style}">{word}</span></td>'
        + number(None if file.top1 is None else f"{file.top1 * 100:.2f}", n)
        + number(None if file.top1_drop is None else points(file.top1_drop), _drop(file))
        + number(None if file.agreement is None else f"{file.agreement * 100:.2f}")
        + _latency_cell(view, file.predicted_ms, file.device)
        + _latency_cell(view, file.measured_ms, file.device)
    )


def _drop(file: ExportedFile) -> str:
    """The interval of the drop, as a second line."""
    if file.drop_interval is None:
        return ""
    low, high = map(points, file.drop_interval)
    return f'<span class="word">{low} to {high}</span>'


def _latency_cell(view: RunView, metric: Metric | None, device: str) -> str:
    if metric is None:
        return '<td class="n">-</td>'
    words = metric.origin
    if metric.low is not None and metric.high is not None:
        words += f", {significant(metric.low)} to {significant(metric.high)}"
    rough = ""
    if metric.origin != "measured" and device in view.rough_devices:
        rough = ' <span class="tag rough">rough</span>'
    facts = [device, f"n = {metric.n:,}" if metric.n is not None else ""]
    tip = f' title="{escape(", ".join(fact for fact in facts if fact))}"' if any(facts) else ""
    return (
        f'<td class="n"{tip}>{escape(ms(metric.value))}{rough}'
        f'<span class="word">{escape(words)}</span></td>'
    )


def is_inside(path: str) -> bool:
    """Whether `path` stays in the run folder, so that a link to it leads to a file of the run."""
    return bool(path) and not path.startswith("/") and ".." not in path.split("/")


def _model(view: RunView, model: ExportedModel, figures: dict[str, Figure]) -> str:
    found = roles(view, model)
    tags = "".join(f' <span class="tag">{escape(role)}</span>' for role in found)
    names = [n for n in _metric_names([], view.goals) if n in model.metrics]
    names += [n for n in model.metrics if n not in names]
    metrics = ", ".join(
        f"{escape(reading(n).label)} {escape(reading(n).text(model.metrics[n].value))} "
        f"({escape(_origin(view, n, model.metrics[n]))})"
        for n in names
    )
    parts = [
        f'<section id="model-{escape(model.digest)}"><h2>Model <code>{escape(model.digest)}</code>'
        f'{tags}</h2><div class="panel"><p>{capital(metrics)}</p>'
        f'<p><code class="line">{escape(model.architecture)}</code></p>'
        f"{sentences_html(view, model)}{_drawing(model)}</div>"
    ]
    plots = [
        chart(
            f"units-{model.digest}-{i}",
            unit_figure(model_bars(model, latency)),
            figures,
            _told(view, latency),
        )
        for i, latency in enumerate(model.latencies)
        if model.units
    ]
    parts += [f'<div class="grid">{"".join(plots)}</div>' if len(plots) > 1 else "".join(plots)]
    parts.append(changes_html(view, model, figures))
    parts.append("</section>")
    return "".join(parts)


def _told(view: RunView, latency: DeviceLatency) -> str:
    interval = ""
    if latency.low_ms is not None and latency.high_ms is not None:
        interval = f" ({significant(latency.low_ms)} to {significant(latency.high_ms)})"
    rough = ' <span class="tag rough">rough</span>' if latency.device in view.rough_devices else ""
    return (
        f"{escape(latency.device)}: {escape(ms(latency.latency_ms))}{interval}, "
        f"{escape(latency.origin)}{rough}. Each bar is a unit's share of that, in execution "
        "order; its colour says where the unit's own time came from."
    )


def _drawing(model: ExportedModel) -> str:
    if not model.units:
        return ""
    if model.latencies:
        latency = model.latencies[0]
        weights, unit = [time.ms for time in latency.units], "ms"
        by = f"its latency on {latency.device} ({latency.origin}), in ms"
    else:
        weights, unit = [node.op.macs / 1e6 for node in model.units], "M MACs"
        by = "its multiply-accumulates, in millions"
    svg = architecture_svg(
        model.units, weights=weights, unit=unit, title=f"Architecture {model.digest}"
    )
    return (
        f'<figure><div class="scroll" tabindex="0">{svg}</div><figcaption>A box is a unit: kernel '
        "(/2: stride 2), expansion, output channels. Its height and the number below are "
        f"{escape(by)}. Arcs are residual connections; frames are stages with their output's "
        "resolution.</figcaption></figure>"
    )


def _provenance(view: RunView) -> str:
    parts = []
    if view.tables:
        rows = []
        for t in view.tables:
            rough = ' <span class="tag rough">rough</span>' if t.rough else ""
            error = "-" if t.error_median is None else percent(t.error_median, 1)
            within = "-" if t.error_within_10 is None else percent(t.error_within_10, 0)
            rows.append(
                f'<tr><th scope="row">{escape(t.device)}{rough}</th><td>{escape(t.source)}</td>'
                f'<td class="n">{error}</td><td class="n">{within}</td>'
                f'<td class="n">{"-" if t.n_validation is None else t.n_validation}</td>'
                f"<td>{escape(t.date)}</td><td><code>{escape(t.digest)}</code></td></tr>"
            )
        parts.append(
            '<div class="panel"><h3>Latency tables</h3><div class="scroll"><table><thead><tr>'
            '<th scope="col">device</th><th scope="col">source</th>'
            '<th scope="col" class="n">median error</th><th scope="col" class="n">within 10 %</th>'
            '<th scope="col" class="n">networks</th><th scope="col">date</th>'
            f'<th scope="col">digest</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
            '<p class="note">The error is that on whole networks which the table\'s fit had not '
            "seen.</p></div>"
        )
    sections = []
    for title, pairs in view.provenance:
        rows = [
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
            for name, value in pairs
        ]
        sections.append(
            f'<div class="panel"><h3>{escape(title)}</h3><table class="provenance"><tbody>'
            f"{''.join(rows)}</tbody></table></div>"
        )
    if sections:
        parts.append(f'<div class="grid">{"".join(sections)}</div>')
    if not parts:
        parts = ['<p class="panel">None was recorded.</p>']
    return f'<section id="provenance"><h2>Provenance</h2>{"".join(parts)}</section>'
