"""What commands print without `--json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenas.cli.results import run_text
from edgenas.pipeline import Outcome


def test_memory_on_a_target_takes_no_column_unless_it_was_optimised() -> None:
    metrics = (
        "latency_ms@board",
        "peak_memory_bytes@cortex-m-tflm-int8",
        "size_bytes@board",
        "top1",
    )
    document: dict[str, Any] = {
        "front": [{"digest": "7ad395e1c98e", "metrics": {n: {"value": 0.5} for n in metrics}}],
        "trials": 4,
        "elapsed_s": 1.0,
        "reference": {"top1": 0.1, "size_bytes@board": 1.0},
        "exports": [],
        "targets": [],
    }
    text = run_text(Outcome(Path("runs/one"), document))
    (heads,) = (line.split() for line in text.splitlines() if "top1" in line)
    assert heads == ["network", "latency_ms@board", "size_bytes@board", "top1"]
