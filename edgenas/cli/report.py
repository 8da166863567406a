"""`edgenas report`."""

from __future__ import annotations

from pathlib import Path

from edgenas.cli.console import Json, output
from edgenas.cli.options import Run, Runs


def report(run: Run, runs: Runs = Path("runs"), json: Json = False) -> None:
    """Writes report.html, report.md and report.json of a run again, from its files alone.

    Example: edgenas report quickstart
    """
    from edgenas import pipeline

    with output(json=json) as out:
        files = pipeline.report(pipeline.find_run(run, runs=runs).folder)
        out.result(
            {"schema": "edgenas.report-files/1", "files": [str(f) for f in files]},
            "\n".join(str(f) for f in files),
        )
