"""Accuracy against what it costs, as pictures: one panel a cost, HTML and PNG.

Every network is a dot; a line joins those of ours that are Pareto-optimal in the panel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgenas.artifacts import replacing, write_atomic
from edgenas.objectives import Direction
from edgenas.pareto import nondominated
from edgenas.report.bench import COLOURS, prepare_plots
from tools.comparison.ours import EDGENAS


def write_plots(document: Mapping[str, Any], folder: Path, name: str) -> tuple[Path, Path]:
    """Writes `NAME.html` and `NAME.png` into `folder`; returns their paths.

    Raises:
        ResourceError: matplotlib is not installed; the folder cannot be written.
    """
    prepare_plots(folder)
    page, picture = folder / f"{name}.html", folder / f"{name}.png"
    panels = _panels(document)
    write_atomic(page, _page(panels, _title(document)))
    _draw(panels, _title(document), picture)
    return page, picture


DIRECTIONS: tuple[Direction, Direction] = ("min", "max")
"""Of a cost and of top-1."""

Points = list[tuple[float, float, str]]
"""Cost, top-1, the network's name."""


def _panels(document: Mapping[str, Any]) -> dict[str, dict[str, Points]]:
    """By the title of the horizontal axis, the points of each family, cheapest first."""
    panels: dict[str, dict[str, Points]] = {}

    def add(axis: str, network: Mapping[str, Any], cost: float, top1: float) -> None:
        points = panels.setdefault(axis, {}).setdefault(network["family"], [])
        points.append((cost, top1, network["name"]))
        points.sort()

    for network in document["networks"]:
        for device, found in network["runtimes"].items():
            add(f"measured latency, ms: {device}", network, found["latency_ms"], found["top1_test"])
            if device.split("-")[1:3] != ["litert", "int8"]:
                continue
            size = network["size_bytes"]["tflite-int8"] / 1024
            add("size of the int8 TFLite file, KiB", network, size, found["top1_test"])
            if network["arena_bytes"] is not None:
                kib = network["arena_bytes"] / 1024
                add("arena in TFLite-Micro, KiB", network, kib, found["top1_test"])
    return panels


def _title(document: Mapping[str, Any]) -> str:
    others = "".join(
        f", {name} {one['minutes']:g} CPU-minutes" for name, one in document["elsewhere"].items()
    )
    return (
        f"{document['data']['name']}, {document['n']['test']:,} test images; {document['epochs']} "
        f"epochs each{others}; {document['machine']['chip']}"
    )


def _colours(panels: Mapping[str, Mapping[str, Points]]) -> dict[str, str]:
    families = dict.fromkeys(family for panel in panels.values() for family in panel)
    ordered = [EDGENAS, *(name for name in families if name != EDGENAS)]
    return dict(zip(ordered, itertools.cycle(COLOURS), strict=False))


def front(families: Mapping[str, Points]) -> tuple[list[float], list[float]]:
    """Costs and top-1 of those of ours that no other of ours is better than, cheapest first."""
    points = [(cost, top1) for cost, top1, _ in families.get(EDGENAS, [])]
    kept = itertools.compress(points, nondominated(points, DIRECTIONS))
    costs, top1 = [list(values) for values in zip(*kept, strict=True)] or ([], [])
    return costs, top1


def _ticks(families: Mapping[str, Points]) -> list[float]:
    """1, 2 and 5 times powers of ten, from below the least cost to above the greatest."""
    costs = [cost for points in families.values() for cost, _, _ in points]
    low, high = math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs)))
    return [float(f"{digit}e{k}") for k in range(low, high + 1) for digit in (1, 2, 5)]


def _page(panels: Mapping[str, Mapping[str, Points]], title: str) -> str:
    from plotly.subplots import make_subplots

    n = len(panels)
    figure = make_subplots(rows=(n + 1) // 2, cols=2)
    colours = _colours(panels)
    for i, (axis, families) in enumerate(panels.items()):
        place = {"row": i // 2 + 1, "col": i % 2 + 1}
        for family, points in families.items():
            costs, top1, names = zip(*points, strict=True)
            figure.add_scatter(
                x=costs,
                y=top1,
                text=names,
                name=family,
                legendgroup=family,
                showlegend=i == 0,
                mode="markers",
                marker={"color": colours[family], "size": 8},
                **place,
            )
        costs, top1 = front(families)
        figure.add_scatter(
            x=costs,
            y=top1,
            mode="lines",
            line={"color": colours[EDGENAS], "shape": "hv"},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=EDGENAS,
            **place,
        )
        ticks = _ticks(families)
        figure.update_xaxes(
            title_text=axis, type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks], **place
        )
        figure.update_yaxes(title_text="top-1", **place)
    figure.update_layout(
        title={"text": title, "font": {"size": 15}}, template="plotly_white", height=900
    )
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _draw(panels: Mapping[str, Mapping[str, Points]], title: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(panels)
    figure = Figure(figsize=(11, 4 * ((n + 1) // 2)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Sequence[Any] = figure.subplots((n + 1) // 2, 2, squeeze=False).ravel()
    colours = _colours(panels)
    for axes, (axis, families) in zip(grid, panels.items(), strict=False):
        for family, points in families.items():
            costs, top1, _ = zip(*points, strict=True)
            axes.plot(costs, top1, "o", color=colours[family], label=family, markersize=4)
        costs, top1 = front(families)
        axes.plot(costs, top1, color=colours[EDGENAS], drawstyle="steps-post")
        axes.set(xlabel=axis, ylabel="top-1", xscale="log")
        shown = axes.get_xlim()
        ticks = _ticks(families)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(shown)
        axes.grid(alpha=0.3)
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8
    )
    figure.suptitle(title, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
