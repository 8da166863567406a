"""`edgenas search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Fresh, Json, Quiet, Resume, again, output, positive
from edgenas.cli.options import Name, RunFile, Runs, Storage


def search(
    run_file: RunFile,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    fresh: Fresh = False,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Instead of the file's trials and minutes.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            parser=positive, metavar="M", help="Likewise; with --trials the first of the two."
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Instead of the file's: surrogate, nsga2, ...")
    ] = None,
    fleet: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="At most K networks for all devices, each within its own bounds; exports them.",
        ),
    ] = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="An earlier run whose trials may be used; repeatable."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes of this machine to evaluate with.")
    ] = 1,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Time the networks of the front on the devices, in processes of their own; "
            "measured latency counts in place of predicted.",
        ),
    ] = False,
    storage: Storage = None,
    worker: Annotated[
        bool,
        typer.Option(
            "--worker", help="With --storage: evaluate for a search that another host leads."
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Everything from a run file to verified models: search, export, verify, measure, report.

    Trains the supernet first where the run file names none and none is trained. Writes runs/NAME:
    front.json, models/, report.html, manifest.json. With [final] in the run file the chosen
    networks are trained further before they are exported. Ends with 5 where an exported file missed
    its gate, with 4 where --measure could measure nothing on a device, after all else was written.

    Example: edgenas search run.toml --trials 200

    On many hosts: edgenas search run.toml --workers 4 --storage postgresql://nas@db.lan/nas

    and on the others the same with --worker.
    """
    from edgenas import pipeline
    from edgenas.cli.results import run_text

    with output(json=json, quiet=quiet, resume=again("--resume")) as out:
        run = pipeline.open_run(
            run_file,
            runs=runs,
            name=name,
            trials=trials,
            minutes=minutes,
            strategy=strategy,
            fleet=fleet,
            warm_start=warm_start,
        )
        if worker:
            told = pipeline.join_search(
                run.config,
                run.folder,
                storage=storage,
                study=run.study,
                workers=workers,
                measure=measure,
                report=out.report,
            )
            out.result(told, f"{told['study']}: {told['trials']} trials, {told['stopped_because']}")
            return
        result = pipeline.search(
            run.config,
            run.folder,
            resume=resume,
            fresh=fresh,
            workers=workers,
            measure=measure,
            storage=storage,
            study=run.study,
            report=out.report,
        )
        out.result(result.document, run_text(result))
    if result.exit_code:
        raise typer.Exit(result.exit_code)
