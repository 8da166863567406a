"""The comparison as text, from its document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.comparison.matching import WANTED_SPEED

Table = tuple[list[str], list[list[str]]]
"""Heads and rows."""


def tables(document: Mapping[str, Any]) -> str:
    """All networks, fastest first, then ours against each baseline, a table a runtime."""
    from edgenas.cli.results import columns  # tools/readme runs without packages

    found = [_networks(document), *(_compared(*one) for one in document["comparison"].items())]
    return "\n\n".join(columns(heads, rows) for heads, rows in found)


def against(row: Mapping[str, Any]) -> tuple[str, str]:
    """How many times as fast ours is at a baseline's accuracy; what it gains at its latency.

    "At most" says that a network which is faster than that is too short to tell by how much.
    """
    same, quick = row["at_accuracy"], row["at_latency"]
    if same is None:
        speed = "none as accurate"
    elif same["speed"] is None:
        speed = "too short to tell"
    else:
        speed = "{median:.2f} ({low:.2f} to {high:.2f})".format(**same["speed"])
        if same["tellable"] < WANTED_SPEED:
            speed += f"; {same['tellable']:.2f} at most"
    if quick is None:
        return speed, "none as fast"
    points = {key: 100 * value for key, value in quick["gain"].items()}
    return speed, "{top1:+.2f} ({low:+.2f} to {high:+.2f})".format(**points)


def _networks(document: Mapping[str, Any]) -> Table:
    devices = list(document["comparison"])
    heads = ["network", "MACs", "int8 file", "arena"]
    for device in devices:
        heads += [f"{short(device)}: top-1", "ms"]
    ordered = sorted(
        document["networks"], key=lambda net: net["runtimes"][devices[0]]["latency_ms"]
    )
    rows = []
    for net in ordered:
        arena = net["arena_bytes"]
        row = [
            net["name"],
            f"{net['macs'] / 1e6:.1f} M",
            f"{net['size_bytes']['tflite-int8'] / 1e3:.0f} kB",
            "not known" if arena is None else f"{arena / 1e3:.0f} kB",
        ]
        for device in devices:
            found = net["runtimes"].get(device)
            row += (
                [f"{found['top1_test']:.4f}", f"{found['latency_ms']:.4f}"]
                if found
                else ["no file", ""]
            )
        rows.append(row)
    return heads, rows


def _compared(device: str, found: Mapping[str, Any]) -> Table:
    heads = [short(device), "as accurate: ours", "times as fast", "as fast: ours", "points more"]
    rows = []
    for row in found["rows"]:
        speed, points = against(row)
        names = [(row[key] or {"network": ""})["network"] for key in ("at_accuracy", "at_latency")]
        rows.append([row["baseline"], names[0], speed, names[1], points])
    return heads, rows


def short(device: str) -> str:
    """The device's name without what all devices of the comparison share."""
    return device.removeprefix("local-").removesuffix("-t1")
