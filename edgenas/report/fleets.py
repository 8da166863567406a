"""The fleet in a report: what each number of networks costs, and which device runs which."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from edgenas.fleet import Assignment, Fleet
from edgenas.report.charts import Figure, fleet_devices_figure, fleet_price_figure
from edgenas.report.frame import chart
from edgenas.report.model import FleetView, RunView
from edgenas.report.numbers import counted, reading, significant


def lead(found: FleetView) -> str:
    """What the fleet is, in two sentences of plain text."""
    n, chosen = len(found.bounds), found.fleet
    few = f"{counted(len(chosen.networks), 'network')} for {n} devices"
    told = f"{few}, each device within its own bounds: of everything that was evaluated, the "
    told += f"choice of at most {found.wanted} with the greatest mean "
    told += f"{reading(found.accuracy).label}."
    if chosen.gap > 0:
        told += f" Another choice may have up to {_points(chosen.gap)} more: time ran out."
    if chosen.mean_loss == 0:
        return f"{told} Every device runs what is best for it alone."
    worst = chosen.worst
    return (
        f"{told} On average a device loses {_points(chosen.mean_loss)} against what is best for it "
        f"alone, at worst {_points(worst.loss)} ({worst.device})."
    )


def impossible(found: FleetView) -> str:
    """What numbers of networks do not do, or nothing."""
    least = found.fleets[0].k
    if least == 1:
        return ""
    return f"Fewer than {least} do not: none of the networks can run on the devices left over."


def price_rows(found: FleetView) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table of what each number of networks costs."""
    label = reading(found.accuracy).label
    heads = ["at most", "networks", f"mean {label}", "mean loss", "worst loss", "on"]
    rows = [
        [
            str(fleet.k),
            str(len(fleet.networks)),
            reading(found.accuracy).text(fleet.mean_accuracy),
            _points(fleet.mean_loss),
            _points(fleet.worst.loss),
            fleet.worst.device if fleet.worst.loss > 0 else "",
        ]
        for fleet in found.fleets
    ]
    return heads, rows


def _points(loss: float) -> str:
    return f"{100 * loss:.2f} points"


def latency_text(view: RunView, a: Assignment) -> str:
    """A device's latency with its interval and its word."""
    told = f"{significant(a.latency.value)} ms {a.latency.origin}"
    if a.latency.low is not None and a.latency.high is not None:
        told += f", {significant(a.latency.low)} to {significant(a.latency.high)}"
    return f"{told}, rough" if a.device in view.rough_devices else told


def bounds_text(found: FleetView, device: str) -> str:
    """The bounds of a device; its name is not repeated."""
    return ", ".join(
        f"{o.metric} {o.relation} {reading(o.name).text(o.bound)}"
        for o in found.bounds[device]
        if o.bound is not None
    )


def fleet_html(view: RunView, figures: dict[str, Figure]) -> str:
    """The section: price of each number as chart and table, and who runs what."""
    if (found := view.fleet) is None:
        return ""
    heads, rows = price_rows(found)
    price = _table(heads, rows, numbers=range(5), marked=_place(found, found.fleet))
    plots = [
        chart(
            "fleet-price",
            fleet_price_figure(found),
            figures,
            "What is lost against a network of its own for each device, by the number of networks. "
            "The diamond is what was exported.",
        ),
        chart(
            "fleet-devices",
            fleet_devices_figure(found),
            figures,
            "What each device gets, with the fewest networks that do, those exported, and one of "
            "its own.",
        ),
    ]
    label = reading(found.accuracy).label
    who = _table(
        ["device", "bounds", "network", label, "loss", "latency"],
        [
            [
                a.device,
                bounds_text(found, a.device),
                a.digest,
                reading(found.accuracy).text(a.accuracy),
                _points(a.loss),
                latency_text(view, a),
            ]
            for a in found.fleet.assignments
        ],
        numbers=range(3, 6),
        links=view.exported,
    )
    note = f'<p class="note">{escape(" ".join([lead(found), impossible(found)]).strip())}</p>'
    loads = (
        '<p class="note">In the front, <code>least_load</code> is the share of its bound that a '
        "network takes on the device that it loads least (up to 1 some device can run it), and "
        "<code>mean_load</code> the geometric mean over the devices without an objective of their "
        "own.</p>"
    )
    return (
        f'<section id="fleet"><h2>Fleet</h2><div class="panel">{note}{who}</div>'
        f'<div class="grid">{"".join(plots)}</div><div class="panel"><h3>The price of each number '
        f"of networks</h3>{price}{loads}</div></section>"
    )


def _place(found: FleetView, fleet: Fleet) -> int:
    return found.fleets.index(fleet)


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: range,
    marked: int = -1,
    links: frozenset[str] = frozenset(),
) -> str:
    """A table with numbers to the right; a marked row is bold, digests of models are links."""

    def cell(text: str, column: int) -> str:
        style = ' class="n"' if column in numbers else ""
        told = escape(text)
        if text in links:
            told = f'<a href="#model-{told}"><code>{told}</code></a>'
        return f"<td{style}>{told}</td>"

    head = "".join(
        f'<th scope="col"{" class=" + chr(34) + "n" + chr(34) if i in numbers else ""}>'
        f"{escape(text)}</th>"
        for i, text in enumerate(heads)
    )
    body = "".join(
        f"<tr{' class=' + chr(34) + 'chosen' + chr(34) if i == marked else ''}>"
        f"{''.join(cell(text, j) for j, text in enumerate(row))}</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def fleet_document(found: FleetView) -> dict[str, Any]:
    """The fleet in `report.json`."""
    return {
        "wanted": found.wanted,
        "accuracy": found.accuracy,
        "bounds": {device: list(map(str, bounds)) for device, bounds in found.bounds.items()},
        "choices": [
            {"networks": {key: list(on) for key, on in fleet.networks.items()}, **fleet.to_table()}
            for fleet in found.fleets
        ],
    }
