"""`edgenas table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, Quiet, output

app = typer.Typer(help="Latency tables: read, check, compare.")

Table = Annotated[str, typer.Argument(help="A device's name or the path of a table.")]


@app.command()
def show(table: Table, json: Json = False) -> None:
    """A table's device, conditions, error and entries, slowest first."""
    from edgenas import pipeline

    with output(json=json) as out:
        facts, text = pipeline.show_table(table)
        out.result({"schema": "edgenas.table-show/1", **facts}, text)


@app.command()
def validate(
    table: Table,
    networks: Annotated[int, typer.Option(min=8, help="Networks to time.")] = 24,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Times whole networks that the fit has not seen, and compares with the prediction.

    Only for devices that can be reached now. Ends with 5 where the median error is above 10 %.
    """
    from edgenas import pipeline

    with output(json=json, quiet=quiet) as out:
        facts, text = pipeline.validate_table(table, networks=networks, report=out.report)
        out.result({"schema": "edgenas.table-validate/1", **facts}, text)
    if not facts["passed"]:
        raise typer.Exit(5)


@app.command()
def diff(first: Table, second: Table, json: Json = False) -> None:
    """Units that two tables share, with the ratios of their latencies; how many they do not."""
    from edgenas import pipeline

    with output(json=json) as out:
        facts, text = pipeline.diff_tables(first, second)
        out.result({"schema": "edgenas.table-diff/1", **facts}, text)


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of tables.")],
    json: Json = False,
) -> None:
    """Whether tables that others wrote can be true; nothing is timed, it takes seconds.

    Format, the device's file beside it, the unit of time, units against the cost model, copies of
    other tables, where the figures come from. Ends with 3 where one is refused.

    Example: edgenas table check latency_tables/*.json
    """
    from edgenas import pipeline

    with output(json=json) as out:
        facts, text = pipeline.check_tables(files)
        out.result(facts, text)
    if not facts["passed"]:
        raise typer.Exit(3)
