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
    data: Annotated[
        str | None,
        typer.Option(
            help="Images to verify over, where there is no run: a known set, a folder, .npz.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeats the certificates below PATH: digests first, then each file over the test split.

    In a run, files are compared with its network in torch. With --data they may lie anywhere: they
    are run over the test split of these images, and where those are the ones they were verified on,
    held to what their certificate (export.json beside them) states.

    A changed or truncated file, or one of other images, ends with 3, one that misses its gate with
    5. Too few images to judge by, or no certificate to compare with, is told and ends with 0.
    Writes nothing.

    Example: edgenas verify runs/quickstart; edgenas verify model.int8.tflite --data photos
    """
    from edgenas import pipeline
    from edgenas.cli.results import exports_text

    if data is not None and not data.strip():
        raise typer.BadParameter("it is empty: name images, or leave it out", param_hint="--data")
    with output(json=json, quiet=quiet) as out:
        result = pipeline.verify(path, data=data or "", report=out.report)
        out.result(result.document, "\n\n".join([*result.notes, exports_text(result)]))
    if result.exit_code:
        raise typer.Exit(result.exit_code)
