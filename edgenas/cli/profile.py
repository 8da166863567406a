"""`edgenas profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, Quiet, again, duration, output, positive


def profile(
    device: Annotated[
        str,
        typer.Argument(help="A device's name, `local` for all four of this machine, or a .toml."),
    ],
    run: Annotated[
        Path | None,
        typer.Option(help="A run file: profile the space that it searches; default: the shipped."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Shorter rounds: about a third of the time, noisier.")
    ] = False,
    models: Annotated[
        int | None,
        typer.Option(min=8, help="Calibrate a known table from so many whole networks instead."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            parser=positive, metavar="M", help="Stop after so long; a later call goes on."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measures a device into latency_tables/DEVICE.json; goes on where an earlier call stopped.

    Converts each unit of the space into a tiny model, times them interleaved, then fits whole
    networks. For this machine: edgenas profile local
    """
    from edgenas import pipeline

    with output(json=json, quiet=quiet, resume=again()) as out:
        tables = pipeline.profile(
            device, run_file=run, quick=quick, models=models, minutes=minutes, report=out.report
        )
        lines = [
            f"{t['device']}: {t['entries']} units, {t['source']}, written to {t['table']} "
            f"in {duration(t['elapsed_s'])}"
            for t in tables
        ]
        out.result({"schema": "edgenas.profile/1", "tables": tables}, "\n".join(lines))
