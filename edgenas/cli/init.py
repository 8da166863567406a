"""`edgenas init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, output


def init(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder with one sub-folder a class, an .npz, or a known set."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("run.toml"),
    device: Annotated[
        list[str] | None,
        typer.Option(help="Device to search for; may be given several times (`edgenas devices`)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Writes a commented run file for a data set.

    Looks at the data (classes, images, size) and chooses settings that suit; nothing is trained.

    Example: edgenas init photos && edgenas train run.toml && edgenas search run.toml
    """
    from edgenas import pipeline

    with output(json=json) as console:
        facts = pipeline.write_run_file(
            out, source=source, devices=tuple(device or ()), replace=force, report=console.report
        )
        file = shlex.quote(str(out))
        console.result(
            {"schema": "edgenas.init/1", **facts},
            f"wrote {out}: {facts['data']}\nnext: edgenas train {file}, then edgenas search {file}",
        )
