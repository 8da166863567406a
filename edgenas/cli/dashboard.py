"""`edgenas dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, output
from edgenas.cli.options import Run, Runs, Storage


def dashboard(
    run: Run,
    runs: Runs = Path("runs"),
    storage: Storage = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --storage: another name than the run's."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; default: a free one.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
    json: Json = False,
) -> None:
    """Shows a run's study in optuna-dashboard, live and read-only, until Ctrl-C.

    Listens on this machine alone (127.0.0.1). Needs: pip install 'edgenas[dashboard]'

    Example: edgenas dashboard fashion-mnist
    """
    from edgenas import pipeline

    with output(json=json) as out:
        found = pipeline.find_run(run, runs=runs)
        with pipeline.dashboard(found, storage=storage, study=study, port=port) as shown:
            out.result(
                {"schema": "edgenas.dashboard/1", "url": shown.url},
                f"{shown.url}\nCtrl-C ends it",
            )
            if browser:
                _open(shown.url)
            shown.serve()


def _open(url: str) -> None:
    """Opens the page, where there is a screen; a browser in the terminal would take it over."""
    import os
    import sys
    import webbrowser

    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)
