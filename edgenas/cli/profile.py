"""`edgenas profile`."""

from __future__ import annotations

import shlex
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
        typer.Option(min=4, help="Time so many whole networks; known devices say the rest."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            parser=positive,
            metavar="M",
            help="Time the units that matter most in so long; a later call goes on.",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Time all anew: no earlier timing or table counts."),
    ] = False,
    kit: Annotated[
        Path | None,
        typer.Option(metavar="ZIP", help="Write what measures a device that is not connected."),
    ] = None,
    from_kit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Make the table from what a kit wrote on the device."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measures a device into latency_tables/DEVICE.json; goes on where an earlier call stopped.

    Converts each unit of the space into a tiny model, times them interleaved, then fits whole
    networks. For this machine: edgenas profile local
    """
    from edgenas import pipeline
    from edgenas.errors import UsageError

    if kit is not None and from_kit is not None:
        raise UsageError("--kit writes a kit, --from-kit reads its results: give one of them")
    with output(json=json, quiet=quiet, resume=again()) as out:
        if kit is not None:
            written = pipeline.profile_kit(
                device,
                kit,
                back=_back(device, run, quick=quick, minutes=minutes, fresh=fresh),
                run_file=run,
                quick=quick,
                models=models,
                minutes=minutes,
                fresh=fresh,
                report=out.report,
            )
            text = (
                f"{written['device']}: {written['models']} models, written to {written['kit']} "
                f"({written['size_bytes'] / 1e6:.1f} MB); its README.txt says the rest"
            )
            out.result({"schema": "edgenas.kit/1", **written}, "\n".join([text, *written["notes"]]))
            return
        tables = pipeline.profile(
            device,
            run_file=run,
            quick=quick,
            models=models,
            minutes=minutes,
            fresh=fresh,
            results=from_kit,
            report=out.report,
        )
        lines = []
        for t in tables:
            lines.append(
                f"{t['device']}: {t['entries']} units, {t['source']}, written to {t['table']} "
                f"in {duration(t['elapsed_s'])}"
            )
            lines += [f"{t['device']}: {note}" for note in t["notes"]]
            if t["excluded"]:
                left_out = f"{t['excluded']} units left out; its 'excluded' says why"
                lines.append(f"{t['device']}: {left_out}")
        out.result({"schema": "edgenas.profile/1", "tables": tables}, "\n".join(lines))


def _back(device: str, run: Path | None, *, quick: bool, minutes: float | None, fresh: bool) -> str:
    """The command that reads a kit's results: with all that decides what is measured."""
    options = ["--quick"] if quick else []
    options += [] if run is None else ["--run", str(run)]
    options += [] if minutes is None else ["--minutes", f"{minutes:g}"]
    options += ["--fresh"] if fresh else []
    return shlex.join(["edgenas", "profile", device, *options, "--from-kit", "results.json"])
