"""Results as text: what commands print without `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgenas.cli.console import duration

if TYPE_CHECKING:
    from edgenas.pipeline import Outcome


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns; numbers to the right, two spaces between."""
    table = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    right = [bool(rows) and all(_numeric(row[i]) for row in rows) for i in range(len(heads))]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if end else cell.ljust(width)
            for cell, width, end in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


_MEMORY_ON_A_DEVICE = ("size_bytes@", "peak_memory_bytes@")


def run_text(result: Outcome) -> str:
    """The front, the exported files, and where the report lies.

    Memory on each of several devices is left out unless it was optimised: front.json has it.
    """
    document = result.document
    known = document["front"][0]["metrics"] if document["front"] else {}
    names = [
        name
        for name in known
        if not name.startswith(_MEMORY_ON_A_DEVICE) or name in document["reference"]
    ]
    rows = [
        (c["digest"], *(metric(name, c["metrics"][name]["value"]) for name in names))
        for c in document["front"]
    ]
    parts = [*result.notes]
    parts.append(
        f"{document['trials']} trials in {duration(document['elapsed_s'])}, "
        f"{len(document['front'])} networks on the front:"
    )
    parts.append(columns(("network", *names), rows))
    if "fleet" in document:
        parts.append(fleet_text(document["fleet"]))
    parts.append(exports_text(result))
    parts.append(f"report: {result.folder / 'report.html'}")
    return "\n\n".join(part for part in parts if part)


def measured_text(result: Outcome) -> str:
    """What was measured on each device beside what was predicted, and the run as it is now."""
    parts = []
    for device in result.document.get("measured", ()):
        rows = [
            (
                n["digest"],
                milliseconds(n["predicted"]["value"]) + f" {n['predicted']['origin']}",
                milliseconds(n["measured"]["value"]),
                f"{n['place_predicted']} -> {n['place']}",
            )
            for n in device["networks"]
        ]
        parts.append(f"{device['device']}: {device['correction']['told']}")
        parts.append(columns(("network", "predicted", "measured", "place"), rows))
    return "\n\n".join([*parts, run_text(result)])


def fleet_text(fleet: Mapping[str, Any]) -> str:
    """What each number of networks costs, and who runs what."""
    price = [
        (
            str(c["k"]),
            percent(c["mean_accuracy"]),
            f"{100 * c['mean_loss']:.2f}",
            f"{100 * c['worst_loss']:.2f}",
        )
        for c in fleet["choices"]
    ]
    chosen = [c for c in fleet["choices"] if c["k"] <= fleet["wanted"]][-1]
    who = [
        (
            a["device"],
            a["digest"],
            percent(a["accuracy"]),
            f"{milliseconds(a['latency_ms']['value'])} {a['latency_ms']['origin']}",
        )
        for a in chosen["assignments"]
    ]
    heads = ("networks, at most", f"mean {fleet['accuracy']}", "mean loss", "worst loss, points")
    return (
        f"{columns(heads, price)}\n\nwith at most {fleet['wanted']}:\n"
        f"{columns(('device', 'network', fleet['accuracy'], 'latency'), who)}"
    )


def comparison_text(document: Mapping[str, Any]) -> str:
    """The outcome of a comparison, what changed, which networks came, moved or went, and why."""
    causes = [f"  {cause['told']}" for cause in document["changes"]]
    rows = [
        (n["digest"], n["passing"], " ".join(n["why"]))
        for n in document["networks"]
        if n["passing"] != "stayed"
    ]
    parts = [document["told"]]
    parts += ["\n".join(["changed between the runs:", *causes])] if causes else []
    parts += [columns(("network", "", "why"), rows)] if rows else []
    return "\n\n".join([*parts, "\n".join(document["files"])])


_VERDICTS = {True: "verified", None: "inconclusive", False: "FAILED"}


def _verdict(export: Mapping[str, Any]) -> str:
    """What was found of a file; nothing, where there was nothing to hold it to."""
    return "not compared" if export["top1_drop"] is None else _VERDICTS[export["verified"]]


def exports_text(result: Outcome) -> str:
    """Exported files with their certificates, failures last."""
    from edgenas.export.verify import MIN_IMAGES

    exports: Sequence[Mapping[str, Any]] = result.document["exports"]
    rows = [
        (
            str(e["path"]),
            _verdict(e),
            f"{e['size_bytes'] / 1024:.0f} KiB",
            percent(e["top1"]),
            "" if e["top1_drop"] is None else f"{100 * e['top1_drop']:+.2f}",
            percent(e["agreement"]),
            milliseconds(e.get("predicted_ms")),
            milliseconds(e.get("measured_ms")),
        )
        for e in exports
    ]
    heads = ("file", "", "size", "top-1", "drop", "agree", "predicted", "measured")
    text = columns(heads, rows) if rows else ""
    targets: Sequence[Mapping[str, Any]] = result.document.get("targets", ())
    lines = [text, targets_text(targets)]
    lines += [f"FAILED: {failure}" for failure in result.failures]
    lines += dict.fromkeys(
        f"inconclusive: {t['device']}: {'; '.join(t['reasons'])}"
        for t in targets
        if t["verdict"] == "inconclusive"
    )
    unsure = [e for e in exports if _verdict(e) == _VERDICTS[None]]
    if unsure and unsure[0]["n_images"] < MIN_IMAGES:
        n = unsure[0]["n_images"]
        lines.append(f"inconclusive: {n} test images are too few for a verdict")
    else:
        lines += [f"inconclusive: {e['path']}: {'; '.join(e.get('unsure', ()))}" for e in unsure]
    return "\n".join(lines).strip("\n")


def targets_text(targets: Sequence[Mapping[str, Any]]) -> str:
    """What each target's tool-chain said of each file."""
    rows = [
        (
            str(t["path"]),
            str(t["device"]),
            "FAILED" if t["verdict"] == "failed" else str(t["verdict"]),
            "" if t["on_npu_share"] is None else f"{t['on_npu_share']:.0%} on the NPU",
            "" if t["arena_bytes"] is None else f"{t['arena_bytes'] / 1024:.0f} KiB arena",
            str(t["checked_by"]),
        )
        for t in targets
    ]
    return "\n" + columns(("file", "target", "", "", "", "checked by"), rows) if rows else ""


def prediction_text(facts: Mapping[str, Any]) -> str:
    """A predicted latency and its units, slowest first."""
    head = (
        f"{facts['latency_ms']:.3f} ms ({facts['low_ms']:.3f} to {facts['high_ms']:.3f}), "
        f"{facts['origin']}; {100 * facts['measured_share']:.0f} % rests on {facts['source']} units"
    )
    if "measured_ms" in facts:
        head += (
            f"\n{facts['measured_ms']:.3f} ms measured (p10 {facts['measured_p10_ms']:.3f}, p90 "
            f"{facts['measured_p90_ms']:.3f}, n = {facts['measured_n']}); the prediction is "
            f"{100 * facts['error']:+.1f} % off, the device's pace of x {facts['drift']:.2f} since "
            "its table was made taken into account"
        )
    if facts.get("energy_mj") is not None:
        head += f"; about {facts['energy_mj']:.3g} mJ at the device's mean power"
    if "size_bytes" in facts:
        head += f"\n{metric('size_bytes', facts['size_bytes'])} of file, "
        head += f"{metric('size_bytes', facts['peak_memory_bytes'])} of activations (planned)"
        if "micro_arena_bytes" in facts:
            head += f", {metric('size_bytes', facts['micro_arena_bytes'])} TFLite-Micro arena"
    if "sram_bytes" in facts:
        sizes = (metric("size_bytes", facts[name]) for name in ("sram_bytes", "flash_bytes"))
        head += "\n{} of SRAM, {} of flash (estimated)".format(*sizes)
    if facts.get("note"):
        head += f"\n{facts['note']}"
    units = sorted(facts["units"], key=lambda unit: -float(unit["ms"]))
    rows = [
        (
            u["name"],
            f"{u['ms']:.4f}",
            f"{u['low_ms']:.4f} to {u['high_ms']:.4f}",
            u["origin"],
            u["key"],
        )
        for u in units
    ]
    return head + "\n" + columns(("unit", "ms", "interval", "origin", "key"), rows)


def metric(name: str, value: float) -> str:
    """A metric's value with its unit: `93.4 %`, `0.412 ms`, `181 KiB`, `3.2 M`."""
    base = name.partition("@")[0]
    if base.startswith("top1") or base in ("robustness", "agreement"):
        return percent(value)
    if base.endswith("_ms"):
        return milliseconds(value)
    if base.endswith("_mj"):
        return f"{value:.3g} mJ"
    if base.endswith("_bytes"):
        return f"{value / 1024:.0f} KiB"
    if base in ("macs", "params"):
        return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:.0f}"
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """A fraction in percent; nothing where it is unknown."""
    return "" if value is None else f"{100 * value:.2f} %"


def milliseconds(value: float | None) -> str:
    """A latency; nothing where it is unknown."""
    return "" if value is None else f"{value:.3f} ms"


def _numeric(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "+-."
