"""`edgenas quickstart`."""

from __future__ import annotations

from pathlib import Path

import typer

from edgenas.cli.console import Fresh, Json, Quiet, again, output
from edgenas.cli.options import Runs


def quickstart(
    runs: Runs = Path("runs"), fresh: Fresh = False, json: Json = False, quiet: Quiet = False
) -> None:
    """The main job on the shipped supernet and this machine, in about five minutes.

    Calibrates a latency table for this machine, searches accuracy against latency and size, exports
    three networks in five formats, runs every file over the test split in its runtime, and writes
    runs/quickstart with report.html.

    Data is Fashion-MNIST; where it cannot be had, scikit-learn's digits, and says so. A second
    call finds the finished run and only says where it is.
    """
    from edgenas import pipeline
    from edgenas.cli.results import run_text

    with output(json=json, quiet=quiet, resume=again()) as out:
        result = pipeline.run_quickstart(runs, fresh=fresh, report=out.report)
        out.result(result.document, run_text(result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)
