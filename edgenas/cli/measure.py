"""`edgenas measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, Quiet, again, output
from edgenas.cli.options import Run, Runs, Storage


def measure(
    run: Run,
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="The N networks that would be exported first; default: the whole front.",
        ),
    ] = None,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Times the networks of a finished run's front on its devices, and ranks the front anew.

    What was measured counts in place of what was predicted; the run's table is corrected by it, for
    this run alone. Makes no trial; front.json, exports and report are written again. A device that
    cannot be reached ends with 4; the same command goes on with what is left.

    Example: edgenas measure phone --top 5
    """
    from edgenas import pipeline
    from edgenas.cli.results import measured_text

    with output(json=json, quiet=quiet, resume=again()) as out:
        opened = pipeline.find_run(run, runs=runs)
        result = pipeline.measure(
            opened.config,
            opened.folder,
            top=top,
            storage=storage,
            study=opened.config.name or opened.folder.name,
            report=out.report,
        )
        out.result(result.document, measured_text(result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)
