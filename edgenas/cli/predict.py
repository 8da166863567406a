"""`edgenas predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, output
from edgenas.cli.results import prediction_text


def predict(
    device: Annotated[str, typer.Argument(help="A device's name (`edgenas devices`).")],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model file (.onnx, .tflite), an architecture's line (quote it), `largest` or "
            "`smallest`.",
        ),
    ],
    run: Annotated[
        str | None, typer.Option(help="The run or run file whose space is meant; default: shipped.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder that holds the runs.")] = Path("runs"),
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with a bar for each operator.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time the model file as well, on the device itself.")
    ] = False,
    json: Json = False,
) -> None:
    """The latency of a network on a device, unit by unit, with its interval and what it rests on.

    A model file may come from anywhere; operators that nothing is known of are named.

    Example: edgenas predict local-litert-int8-t1 model.int8.tflite
    """
    from edgenas import pipeline

    if html is not None and html.resolve() == Path(model).resolve():
        raise typer.BadParameter(f"{html} is the model itself", param_hint="--html")
    with output(json=json) as out:
        facts = pipeline.predict(
            device, model, run=run, runs=runs, page=html, measure=measure, report=out.report
        )
        out.result({"schema": "edgenas.predict/1", **facts}, prediction_text(facts))
