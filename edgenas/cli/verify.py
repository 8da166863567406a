"""`edgenas verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, Quiet, output


def verify(
    path: Annotated[
        Path, typer.Argument(help="A run's folder, a model's folder, or one exported file.")
    ],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeats the certificates below PATH: digests first, then each file over the test split.

    A changed or truncated file ends with 3, a file that misses its gate with 5. Writes nothing.

    Example: edgenas verify runs/quickstart
    """
    from edgenas import pipeline
    from edgenas.cli.results import exports_text

    with output(json=json, quiet=quiet) as out:
        result = pipeline.verify(path, report=out.report)
        out.result(result.document, exports_text(result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)
