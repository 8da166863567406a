"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.TOML", help="A run file (TOML), such as `edgenas init` writes."),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run: its name below the folder of runs, or its path."),
]
Runs = Annotated[Path, typer.Option(help="Folder that holds the runs.")]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="EDGENAS_STORAGE",
        help="postgresql://USER@HOST/DATABASE: the study is kept there, and all hosts that "
        "search the same run file with it work on it together.",
    ),
]
Name = Annotated[
    str | None, typer.Option(help="Name of the run's folder; default: the run file's.")
]
