"""`edgenas export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, Quiet, output
from edgenas.cli.options import Run, Runs


def export(
    run: Run,
    architecture: Annotated[
        str,
        typer.Argument(
            metavar="ARCH",
            help="An architecture's digest on the run's front, or its line (quoted).",
        ),
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="A format; may be given several times; default: the run's."),
    ] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Writes and verifies one network of a run again, into runs/NAME/models/DIGEST.

    Ends with 5 where a file of the network misses a gate, one of another format that stays too.

    Example: edgenas export quickstart 3f2a51c09b7e --format tflite-int8
    """
    from edgenas import pipeline
    from edgenas.cli.results import exports_text

    with output(json=json, quiet=quiet) as out:
        opened = pipeline.find_run(run, runs=runs)
        result = pipeline.export(
            opened.config,
            opened.folder,
            architecture,
            formats=tuple(formats) if formats else None,
            report=out.report,
        )
        out.result(result.document, exports_text(result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)
