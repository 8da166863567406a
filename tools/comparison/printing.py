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

    found = [_networks(document)]
    found += [compared(document, device, names=True) for device in document["comparison"]]
    return "\n\n".join(columns(heads, rows) for heads, rows in found)


def compared(document: Mapping[str, Any], device: str, *, names: bool) -> Table:
    """In one runtime each baseline, what ours of its accuracy gains, and ours of its latency.

    With `names`, of ours too.
    """
    networks = {net["name"]: net for net in document["networks"]}
    heads = [short(device), "MACs", "top-1", "as accurate: times as fast", "points more"]
    heads += ["as fast: points more"]
    rows = []
    for row in document["comparison"][device]["rows"]:
        net = networks[row["baseline"]]
        same, quick = row["at_accuracy"], row["at_latency"]
        cells = [
            net["name"],
            f"{net['macs'] / 1e6:.1f} M",
            f"{net['runtimes'][device]['top1_test']:.4f}",
            _speed(same) if same else "none as accurate",
            _gain(same) if same else "",
            _gain(quick) if quick else "none as fast",
        ]
        rows.append(cells + [one["network"] if one else "" for one in (same, quick) if names])
    return heads + ["as accurate", "as fast"] * names, rows


def _speed(same: Mapping[str, Any]) -> str:
    """With the sessions' extremes; how much could be told at most, where that is too little."""
    if same["speed"] is None:
        return "too short to tell"
    speed = "{median} ({low} to {high})".format(
        **{name: times(value) for name, value in same["speed"].items()}
    )
    if same["tellable"] < WANTED_SPEED:
        speed += f"; {same['tellable']:.2f} at most"
    return speed


def times(speed: float) -> str:
    """With two decimals; with three where what is short of the wanted speed would not look so."""
    falls_short = speed < WANTED_SPEED <= round(speed, 2)
    return f"{speed:.{3 if falls_short else 2}f}"


def _gain(one: Mapping[str, Any]) -> str:
    """Of top-1 on the test split, with its 95 % interval."""
    points = {key: 100 * value for key, value in one["gain"].items()}
    return "{top1:+.2f} ({low:+.2f} to {high:+.2f})".format(**points)


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
            f"{net['size_bytes']['tflite-int8'] / 1024:.0f} KiB",
            "not known" if arena is None else f"{arena / 1024:.0f} KiB",
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


def short(device: str) -> str:
    """The device's name without what all devices of the comparison share."""
    return device.removeprefix("local-").removesuffix("-t1")
