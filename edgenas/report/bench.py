"""`edgenas bench search` as pictures: each strategy's curve with its band, HTML and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgenas.artifacts import io_errors, replacing, write_atomic
from edgenas.errors import ResourceError

COLOURS = (
    "#1f6feb",
    "#e8590c",
    "#2f9e44",
    "#9c36b5",
    "#c92a2a",
    "#0c8599",
    "#f08c00",
    "#495057",
    "#868e96",
)
_AXES = ("trials", "share of the best hypervolume")


def write_bench_plots(document: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes `search.html` and `search.png` into `folder`; returns their paths.

    Args:
        document: what `edgenas bench search --json` prints.
        folder: made where it is missing.

    Raises:
        ResourceError: matplotlib is not installed; the folder cannot be written.
    """
    prepare_plots(folder)
    page, picture = folder / "search.html", folder / "search.png"
    write_atomic(page, _page(document))
    _draw(document, picture)
    return page, picture


def prepare_plots(folder: Path) -> None:
    """Makes `folder`; to be asked for before a long benchmark.

    Raises:
        ResourceError: matplotlib is not installed; the folder cannot be made.
    """
    with io_errors(folder, "make the folder"):
        folder.mkdir(parents=True, exist_ok=True)
    if find_spec("matplotlib") is None:
        raise ResourceError(
            "PNG plots need matplotlib, which is not installed",
            hint="pip install 'edgenas[plots]', or leave out --plots",
        )


def _title(document: Mapping[str, Any]) -> str:
    return (
        f"{document['problem']}: mean of {document['n']} seeds with 95 % confidence, "
        f"1 = {document['relative_to']}"
    )


def _bounds(document: Mapping[str, Any]) -> tuple[float, float]:
    """From what a tenth of the way reaches to a little above 1."""
    curves = document["curves"].values()
    return min(curve[len(curve) // 10]["mean"] for curve in curves) - 0.02, 1.005


def _series(curve: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {key: [point[key] for point in curve] for key in ("trials", "mean", "low", "high")}


def _opacity(document: Mapping[str, Any]) -> float:
    """Of a band: the more there are, the fainter, as they lie on top of each other."""
    return min(0.15, 0.5 / len(document["curves"]))


def _page(document: Mapping[str, Any]) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    curves = {name: _series(curve) for name, curve in document["curves"].items()}
    for colour, (name, s) in zip(COLOURS, curves.items(), strict=False):
        figure.add_scatter(
            x=[*s["trials"], *reversed(s["trials"])],
            y=[*s["high"], *reversed(s["low"])],
            fill="toself",
            fillcolor=colour,
            opacity=_opacity(document),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=name,
        )
    for colour, (name, s) in zip(COLOURS, curves.items(), strict=False):  # above all bands
        figure.add_scatter(
            x=s["trials"], y=s["mean"], name=name, line={"color": colour}, legendgroup=name
        )
    figure.update_layout(
        title={"text": _title(document), "font": {"size": 15}},
        xaxis_title=_AXES[0],
        yaxis={"title": _AXES[1], "range": list(_bounds(document))},
        template="plotly_white",
    )
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _draw(document: Mapping[str, Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, (name, curve) in zip(COLOURS, document["curves"].items(), strict=False):
        s = _series(curve)
        axes.fill_between(
            s["trials"], s["low"], s["high"], color=colour, alpha=_opacity(document), linewidth=0
        )
        axes.plot(s["trials"], s["mean"], color=colour, label=name)
    axes.set(xlabel=_AXES[0], ylabel=_AXES[1], ylim=_bounds(document))
    axes.set_title(_title(document), fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
