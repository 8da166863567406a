"""The interactive charts as plotly figures: plain dicts, `{"data": [...], "layout": {...}}`.

Colours are names of the page's CSS variables (`var(--accent)`); the page's script puts in what they
stand for, again when the colour scheme changes. Texts are escaped, since plotly reads tags in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.report.comparison import Comparison
from edgenas.report.model import (
    Change,
    DeviceLatency,
    Evaluated,
    ExportedModel,
    FleetView,
    Importance,
    RunView,
    undominated,
)
from edgenas.report.numbers import ms, reading, significant
from edgenas.report.picture import axis_title, is_logarithmic

Figure = dict[str, Any]

_FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"


def pareto_figure(view: RunView, x: Objective, y: Objective) -> Figure:
    """All candidates over a pair of objectives: trials faint, front, exported models, bounds.

    The line joins those of the front that nothing beats in this pair; the others are on the front
    for the sake of a further objective.
    """
    digests = {c.digest for c in view.front}
    both = [x.name, y.name]

    def with_both(candidates: Sequence[Evaluated]) -> list[Evaluated]:
        return [c for c in candidates if all(metric in c.metrics for metric in both)]

    others = with_both([c for c in view.trials if c.digest not in digests])
    front = with_both(view.front)
    models = [c for c in front if c.digest in view.exported]
    data = []
    for name, chosen, symbol in (
        ("dominated", [c for c in others if c.feasible], "circle"),
        ("outside a bound", [c for c in others if not c.feasible], "circle-open"),
    ):
        if chosen:
            marker = {"color": "var(--faint)", "size": 7, "symbol": symbol, "opacity": 0.65}
            data.append(_points(view, name, chosen, x, y, marker, full=False))
    line = undominated(view.front, x, y)
    if len(line) > 1:
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best of this pair",
                "x": [_scaled(c, x) for c in line],
                "y": [_scaled(c, y) for c in line],
                "line": {"color": "var(--accent)", "width": 1.5},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    marker = {"color": "var(--accent)", "size": 10, "line": {"color": "var(--panel)", "width": 1}}
    data.append(_points(view, "front", front, x, y, marker, full=True))
    if models:
        marker = {
            "color": "var(--mark)",
            "size": 15,
            "symbol": "diamond",
            "line": {"color": "var(--panel)", "width": 1.5},
        }
        data.append(_points(view, "exported", models, x, y, marker, full=True))
    layout = _front_layout(view, x, y, [*others, *front])
    return {"data": data, "layout": layout}


def comparison_figure(found: Comparison, x: Objective, y: Objective) -> Figure:
    """Two fronts over a pair of objectives; the earlier one is dashed, with hollow marks."""
    data: list[Figure] = []
    for view, name, colour, dash in (
        (found.before, "before", "var(--faint)", "dash"),
        (found.after, "now", "var(--accent)", "solid"),
    ):
        line = undominated(view.front, x, y)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} ({len(view.front)})",
                "x": [_scaled(c, x) for c in line],
                "y": [_scaled(c, y) for c in line],
                "line": {"color": colour, "width": 2, "dash": dash},
                "hoverinfo": "skip",
            }
        )
    old, new = ({c.digest: c for c in view.front} for view in (found.before, found.after))
    for passing, side, marker in (
        ("went", old, {"color": "var(--faint)", "size": 10, "symbol": "x"}),
        ("moved", old, {"color": "var(--faint)", "size": 10, "symbol": "circle-open"}),
        ("moved", new, {"color": "var(--accent3)", "size": 10}),
        ("stayed", new, {"color": "var(--accent)", "size": 10}),
        ("came", new, {"color": "var(--mark)", "size": 12, "symbol": "diamond"}),
    ):
        chosen = [side[p.digest] for p in found.passages if p.passing == passing]
        chosen = [c for c in chosen if x.name in c.metrics and y.name in c.metrics]
        name = "moved, before" if passing == "moved" and side is old else passing
        view = found.before if side is old else found.after
        if chosen:
            data.append(_points(view, name, chosen, x, y, marker, full=True))
    layout = _front_layout(found.after, x, y, [*found.before.front, *found.after.front])
    return {"data": data, "layout": layout}


def hypervolume_figure(view: RunView) -> Figure:
    """The dominated hypervolume after each trial, as a share of that at the end; it never falls."""
    last = view.hypervolume[-1][1] or 1.0
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "hypervolume",
            "x": [number + 1 for number, _ in view.hypervolume],
            "y": [100 * value / last for _, value in view.hypervolume],
            "line": {"color": "var(--accent)", "width": 2, "shape": "hv"},
            "hovertemplate": "%{x}: %{y:.2f} %<extra></extra>",
        }
    ]
    layout = _layout("architectures evaluated", "share of the final hypervolume (%)")
    layout |= {"showlegend": False, "height": 300}
    return {"data": data, "layout": layout}


def fleet_price_figure(found: FleetView) -> Figure:
    """Mean and worst loss of a fleet's devices against the number of networks."""
    chosen = found.fleet
    data: list[Figure] = []
    for name, colour, losses in (
        ("worst device", "var(--accent2)", [f.worst.loss for f in found.fleets]),
        ("mean of the devices", "var(--accent)", [f.mean_loss for f in found.fleets]),
    ):
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [fleet.k for fleet in found.fleets],
                "y": [100 * loss for loss in losses],
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "size": 9},
                "hovertemplate": f"at most %{{x}}, {name}: %{{y:.2f}} points<extra></extra>",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "exported",
            "x": [chosen.k],
            "y": [100 * chosen.mean_loss],
            "marker": {
                "color": "var(--mark)",
                "size": 15,
                "symbol": "diamond",
                "line": {"color": "var(--panel)", "width": 1.5},
            },
            "hoverinfo": "skip",
        }
    )
    layout = _layout("networks, at most", f"loss of {reading(found.accuracy).label} (points)")
    layout["xaxis"] |= {"dtick": 1, "range": [0.6, len(found.bounds) + 0.4]}
    layout["yaxis"]["rangemode"] = "tozero"
    layout["height"] = 340
    return {"data": data, "layout": layout}


def fleet_devices_figure(found: FleetView) -> Figure:
    """The accuracy that each device gets: with the fewest networks, those exported, its own."""
    read = reading(found.accuracy)
    shown: dict[int, tuple[str, Figure]] = {}
    last, first, chosen = found.fleets[-1], found.fleets[0], found.fleet
    shown[last.k] = ("its own best", {"color": "var(--faint)", "size": 17, "symbol": "circle-open"})
    shown[first.k] = (f"at most {first.k}", {"color": "var(--accent2)", "size": 10})
    diamond = {"color": "var(--mark)", "size": 12, "symbol": "diamond"}
    shown[chosen.k] = (f"exported (at most {chosen.k})", diamond)
    devices = [escape(a.device, quote=False) for a in last.assignments]
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": shown[fleet.k][0],
            "y": devices,
            "x": [a.accuracy * read.scale for a in fleet.assignments],
            "text": [
                f"{escape(a.device, quote=False)}<br>{shown[fleet.k][0]}: {a.digest}, "
                f"{read.text(a.accuracy)}"
                for a in fleet.assignments
            ],
            "customdata": [a.digest for a in fleet.assignments],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": shown[fleet.k][1],
        }
        for fleet in reversed(found.fleets)
        if fleet.k in shown
    ]
    layout = _layout(read.axis, "")
    layout |= {"height": max(340, 130 + 30 * len(devices))}
    layout["yaxis"] |= {"autorange": "reversed", "type": "category"}
    return {"data": data, "layout": layout}


@dataclass(frozen=True, slots=True)
class Bar:
    """A unit in `unit_figure`: its name, its share of the latency, its interval if it has one."""

    name: str
    ms: float
    origin: str
    key: str
    note: str = ""
    low_ms: float | None = None
    high_ms: float | None = None


def model_bars(model: ExportedModel, latency: DeviceLatency) -> list[Bar]:
    """The units of an exported model on one device."""
    return [
        Bar(
            unit.name or str(i),
            time.ms,
            time.origin,
            unit.op.key,
            f"{unit.op.macs / 1e6:.3g} M MACs",
        )
        for i, (unit, time) in enumerate(zip(model.units, latency.units, strict=True))
    ]


def unit_figure(bars: Sequence[Bar]) -> Figure:
    """A bar per unit, in execution order from the top; the colour says where the time came from."""
    names = _distinct([bar.name for bar in bars])
    data = []
    for origin in dict.fromkeys(bar.origin for bar in bars):
        chosen = [
            (name, bar) for name, bar in zip(names, bars, strict=True) if bar.origin == origin
        ]
        trace: Figure = {
            "type": "bar",
            "orientation": "h",
            "name": escape(origin, quote=False),
            "y": [escape(name, quote=False) for name, _ in chosen],
            "x": [bar.ms for _, bar in chosen],
            "text": [ms(bar.ms) for _, bar in chosen],
            "textposition": "auto",
            "hovertext": [
                "<br>".join(
                    [
                        f"<b>{escape(name, quote=False)}</b>",
                        _wrapped(bar.key),
                        f"{ms(bar.ms)}{_interval(bar)}, {escape(origin, quote=False)}",
                        *([escape(bar.note, quote=False)] if bar.note else []),
                    ]
                )
                for name, bar in chosen
            ],
            "hoverinfo": "text",
            "marker": {"color": _ORIGIN_COLOURS.get(origin, "var(--faint)")},
        }
        if all(bar.low_ms is not None and bar.high_ms is not None for _, bar in chosen):
            trace["textposition"] = "none"  # the interval would cross it out
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [(bar.high_ms or bar.ms) - bar.ms for _, bar in chosen],
                "arrayminus": [bar.ms - (bar.low_ms or 0.0) for _, bar in chosen],
                "color": "var(--text)",
                "thickness": 1,
                "width": 3,
            }
        data.append(trace)
    layout = _layout("share of the latency (ms)", "")
    layout |= {"height": 110 + 24 * len(names), "bargap": 0.25, "barmode": "overlay"}
    layout["yaxis"] |= {
        "autorange": "reversed",
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [escape(name, quote=False) for name in names],
        "showgrid": False,
    }
    layout["margin"]["l"] = 60
    layout["yaxis"]["automargin"] = True
    layout["showlegend"] = True
    return {"data": data, "layout": layout}


def importance_figure(found: Importance, *, most: int = 12) -> Figure:
    """A bar for each of the `most` important choices, with what chance alone would show."""
    shown = found.genes[:most]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": "importance",
            "y": [escape(gene, quote=False) for gene, _ in shown],
            "x": [100 * share for _, share in shown],
            "marker": {
                "color": [
                    "var(--accent)" if share > found.chance else "var(--faint)"
                    for _, share in shown
                ]
            },
            "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
        }
    ]
    layout = _layout(f"share of what matters for {reading(found.metric).label} (%)", "")
    layout |= {"height": 120 + 24 * len(shown), "bargap": 0.25, "showlegend": False}
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "showgrid": False}
    layout["shapes"] = [_limit("x", 100 * found.chance)]
    layout["annotations"] = [
        {
            "text": "chance",
            "x": 100 * found.chance,
            "y": 1,
            "yref": "y domain",
            "showarrow": False,
            "font": {"color": "var(--limit)", "size": 12},
            "yanchor": "bottom",
        }
    ]
    return {"data": data, "layout": layout}


def changes_figure(model: ExportedModel, x: Objective, y: Objective, *, most: int = 16) -> Figure:
    """What single changes add in `x` and `y`, side by side: the `most` that change the most."""
    both = [c for c in model.changes if {x.name, y.name} <= c.differences.keys()]

    def sizes(goal: Objective) -> list[float]:
        found = [abs(c.differences[goal.name].value) for c in both]
        return [size / (max(found) or 1.0) for size in found]

    ranked = sorted(zip(map(max, sizes(x), sizes(y)), both, strict=True), key=lambda p: -p[0])
    shown = [change for _, change in ranked[:most]]
    shown.sort(key=lambda c: c.differences[x.name].value)
    names = [escape(f"{c.gene} {c.value} to {c.new}", quote=False) for c in shown]
    data = []
    for axis, goal, colour in (("x", x, "var(--accent)"), ("x2", y, "var(--accent3)")):
        scale = reading(goal.name).scale
        metrics = [c.differences[goal.name] for c in shown]
        trace: Figure = {
            "type": "bar",
            "orientation": "h",
            "name": escape(reading(goal.name).label, quote=False),
            "y": names,
            "x": [m.value * scale for m in metrics],
            "xaxis": axis,
            "marker": {
                "color": ["rgba(0,0,0,0)" if c.outside else colour for c in shown],
                "line": {"color": colour, "width": 1},
            },
            "hoverinfo": "text",
            "hovertext": [_change_hover(c) for c in shown],
        }
        if any(m.low is not None and m.high is not None for m in metrics):
            ends = [m.bounds for m in metrics]
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [
                    (high - m.value) * scale for m, (_, high) in zip(metrics, ends, strict=True)
                ],
                "arrayminus": [
                    (m.value - low) * scale for m, (low, _) in zip(metrics, ends, strict=True)
                ],
                "color": "var(--faint)",
                "thickness": 1,
                "width": 3,
            }
        data.append(trace)
    layout = _layout(_added_title(x), "")
    layout["xaxis2"] = _layout(_added_title(y), "")["xaxis"] | {"domain": [0.54, 1]}
    for axis in ("xaxis", "xaxis2"):
        layout[axis] |= {"zeroline": True, "zerolinecolor": "var(--faint)", "nticks": 6}
    layout["xaxis"] |= {"domain": [0, 0.46]}
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "showgrid": False}
    layout |= {"height": 110 + 24 * len(shown), "bargap": 0.3, "showlegend": False}
    return {"data": data, "layout": layout}


def _added_title(goal: Objective) -> str:
    read = reading(goal.name)
    unit = "points" if read.unit == "%" else read.unit
    return f"{read.label}, added ({unit})" if unit else f"{read.label}, added"


def _change_hover(change: Change) -> str:
    lines = [f"{change.gene} {change.value} to {change.new}"]
    lines += [
        f"{reading(name).label}: {reading(name).difference(metric.value)}, {metric.origin}"
        for name, metric in change.differences.items()
    ]
    head, *rest = (escape(line, quote=False) for line in lines)
    return "<br>".join([f"<b>{head}</b>", *rest])


def _limit(axis: str, at: float) -> Figure:
    """A dashed line across the chart where `axis` is `at`."""
    other = "y" if axis == "x" else "x"
    return {
        "type": "line",
        f"{axis}0": at,
        f"{axis}1": at,
        f"{axis}ref": axis,
        f"{other}0": 0,
        f"{other}1": 1,
        f"{other}ref": f"{other} domain",
        "line": {"color": "var(--limit)", "width": 1.5, "dash": "dash"},
        "layer": "above",
    }


def _interval(bar: Bar) -> str:
    if bar.low_ms is None or bar.high_ms is None:
        return ""
    return f" ({significant(bar.low_ms)} to {significant(bar.high_ms)})"


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes up again: a category holds one bar."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def hover(view: RunView, candidate: Evaluated, *, full: bool) -> str:
    """What stands beside a point: digest, metrics with their origin, and the architecture."""
    lines = [f"<b>{escape(candidate.digest, quote=False)}</b>"]
    if candidate.number is not None:
        lines[0] += f"  evaluation {candidate.number + 1}"
    for name, metric in candidate.metrics.items():
        lines.append(f"{escape(reading(name).label, quote=False)}: {told(view, name, metric)}")
    if not candidate.feasible:
        lines.append("outside a bound")
    if full:
        lines.append(_wrapped(candidate.architecture))
    return "<br>".join(lines)


def told(view: RunView, name: str, metric: Metric) -> str:
    """A value with its unit, interval and origin; escaped."""
    read = reading(name)
    text = read.text(metric.value)
    if metric.low is not None and metric.high is not None:
        text += f" [{read.bare(metric.low)}, {read.bare(metric.high)}]"
    if metric.origin:
        text += f", {metric.origin}"
    if view.rough_metric(name):
        text += ", rough"
    return escape(text, quote=False)


_ORIGIN_COLOURS = {
    "measured": "var(--accent)",
    "predicted": "var(--accent2)",
    "estimated": "var(--accent3)",
    "calibrated": "var(--accent3)",
    "extrapolated": "var(--warn)",
    "analytic": "var(--faint)",
}


def _points(
    view: RunView,
    name: str,
    chosen: Sequence[Evaluated],
    x: Objective,
    y: Objective,
    marker: dict[str, Any],
    *,
    full: bool,
) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} ({len(chosen)})",
        "x": [_scaled(c, x) for c in chosen],
        "y": [_scaled(c, y) for c in chosen],
        "text": [hover(view, c, full=full) for c in chosen],
        "customdata": [c.digest for c in chosen],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }


def _scaled(candidate: Evaluated, goal: Objective) -> float:
    return candidate.metrics[goal.name].value * reading(goal.name).scale


def _front_layout(view: RunView, x: Objective, y: Objective, shown: Sequence[Evaluated]) -> Figure:
    """Of a chart of these candidates, with the bounds of both objectives."""
    layout = _layout(axis_title(view, x), axis_title(view, y)) | {"hovermode": "closest"}
    layout["shapes"], layout["annotations"] = shapes, notes = [], []
    for goal, axis in ((x, "x"), (y, "y")):
        logarithmic = is_logarithmic(goal, shown)
        if logarithmic:
            layout[f"{axis}axis"] |= {"type": "log", "dtick": "D2", "tickformat": "~g"}
        if goal.bound is None:
            continue
        at = goal.bound * reading(goal.name).scale
        other = "y" if axis == "x" else "x"
        shapes.append(_limit(axis, at))
        sign = "≤" if goal.relation == "<=" else "≥"
        notes.append(
            {
                "text": f"{sign} {reading(goal.name).text(goal.bound)}",
                # Plotly takes the exponent for a text, the value for a line
                axis: math.log10(at) if logarithmic else at,
                f"{axis}ref": axis,
                other: 0.02 if axis == "x" else 0.98,
                f"{other}ref": f"{other} domain",
                "showarrow": False,
                "font": {"color": "var(--limit)", "size": 12},
                "xanchor": "right" if axis == "y" or goal.relation == "<=" else "left",
                "yanchor": "bottom",
                "xshift": 0 if axis == "y" else (-5 if goal.relation == "<=" else 5),
            }
        )
    return layout


def _layout(x_title: str, y_title: str) -> Figure:
    def axis(title: str) -> Figure:
        return {
            "title": {"text": escape(title, quote=False), "standoff": 12, "font": {"size": 13}},
            "gridcolor": "var(--grid)",
            "linecolor": "var(--rule)",
            "zeroline": False,
            "automargin": True,
            "tickfont": {"size": 12},
        }

    return {
        "height": 420,
        "margin": {"l": 56, "r": 16, "t": 44, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": _FONT, "size": 13, "color": "var(--text)"},
        "xaxis": axis(x_title),
        "yaxis": axis(y_title),
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": "var(--faint)",
            "activecolor": "var(--accent)",
        },
        "hoverlabel": {
            "bgcolor": "var(--panel)",
            "bordercolor": "var(--rule)",
            "align": "left",
            "font": {"color": "var(--text)", "size": 12, "family": _FONT},
        },
    }


def _wrapped(text: str, width: int = 58) -> str:
    """The text over several lines, broken at blanks; escaped."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(escape(line, quote=False) for line in lines)
