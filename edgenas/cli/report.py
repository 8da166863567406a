"""`edgenas report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, output
from edgenas.cli.options import Run, Runs
from edgenas.errors import UsageError


def report(
    run: Run,
    runs: Runs = Path("runs"),
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Compare with this earlier run instead: compare.html, compare.md."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder or .html file for the comparison."),
    ] = None,
    json: Json = False,
) -> None:
    """Writes report.html, report.md and report.json of a run again, from its files alone.

    With --compare: the fronts of two runs over each other, hypervolume with its confidence, which
    networks came, moved or went, and why.

    Example: edgenas report phone-2 --compare phone-1
    """
    from edgenas import pipeline
    from edgenas.cli.results import comparison_text

    if out is not None and compare is None:
        raise UsageError("--out is where a comparison goes", hint="add --compare RUN")
    with output(json=json) as told:
        folder = pipeline.find_run(run, runs=runs).folder
        if compare is not None:
            other = pipeline.find_run(compare, runs=runs).folder
            found = pipeline.compare_runs(folder, other, out=out)
            told.result(found.document, comparison_text(found.document))
            return
        files = pipeline.report(folder)
        told.result(
            {"schema": "edgenas.report-files/1", "files": [str(f) for f in files]},
            "\n".join(str(f) for f in files),
        )
