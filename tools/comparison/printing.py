"""The comparison as text. Reads the document alone, with the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def tables(document: Mapping[str, Any]) -> str:
    """All networks, fastest first, then ours against each baseline, a table a runtime."""
    return "\n\n".join(
        [_networks(document), *(_compared(*one) for one in document["comparison"].items())]
    )


def against(row: Mapping[str, Any]) -> tuple[str, str]:
    """How many times as fast ours is at a baseline's accuracy; what it gains at its latency."""
    same, quick = row["at_accuracy"], row["at_latency"]
    if same is None:
        speed = "none as accurate"
    elif same["speed"] is None:
        speed = "too short to tell"
    else:
        speed = "{median:.2f} ({low:.2f} to {high:.2f})".format(**same["speed"])
    if quick is None:
        return speed, "none as fast"
    points = {key: 100 * value for key, value in quick["gain"].items()}
    return speed, "{top1:+.2f} ({low:+.2f} to {high:+.2f})".format(**points)


def _networks(document: Mapping[str, Any]) -> str:
    devices = list(document["comparison"])
    heads = ["network", "MACs", "int8 file", "arena"]
    for device in devices:
        heads += [f"{_short(device)}: top-1", "ms"]
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
    return _aligned(heads, rows)


def _compared(device: str, found: Mapping[str, Any]) -> str:
    heads = [_short(device), "as accurate: ours", "times as fast", "as fast: ours", "points more"]
    rows = []
    for row in found["rows"]:
        speed, points = against(row)
        names = [(row[key] or {"network": ""})["network"] for key in ("at_accuracy", "at_latency")]
        rows.append([row["baseline"], names[0], speed, names[1], points])
    return _aligned(heads, rows)


def _short(device: str) -> str:
    return device.removeprefix("local-").removesuffix("-t1")


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, the first one to the left."""
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
