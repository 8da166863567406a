"""`edgenas bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgenas.cli.console import Json, Quiet, output
from edgenas.cli.results import columns, percent

app = typer.Typer(help="The project's own benchmarks: predictor error, search efficiency.")


@app.command()
def latency(
    device: Annotated[
        list[str] | None,
        typer.Option(help="Device; may be given several times; default: all four of this machine."),
    ] = None,
    networks: Annotated[int, typer.Option(min=8, help="Networks to time.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Which networks.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter rounds, noisier.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predicted against measured latency of whole networks that the fit has not seen.

    Anchor units are timed interleaved with the networks, since a machine drifts.

    Example: edgenas bench latency --networks 24
    """
    from edgenas import pipeline

    with output(json=json, quiet=quiet) as out:
        facts = pipeline.bench_latency(
            tuple(device or ()), networks=networks, seed=seed, quick=quick, report=out.report
        )
        rows = [
            (
                t["device"],
                percent(t["error_median"]),
                percent(t["error_within_10"]),
                percent(t["error_max"]),
                str(t["n"]),
                t["source"],
            )
            for t in facts["devices"]
        ]
        heads = ("device", "median error", "within 10 %", "largest", "n", "table")
        out.result({"schema": "edgenas.bench-latency/1", **facts}, columns(heads, rows))


@app.command()
def search(
    table: Annotated[
        Path | None,
        typer.Option(help="CSV of evaluated architectures; default: a run's supernet, --run."),
    ] = None,
    architecture: Annotated[
        str, typer.Option(help="Columns that make up an architecture, with commas.")
    ] = "",
    accuracy: Annotated[str, typer.Option(help="Column to be maximised.")] = "",
    latency: Annotated[str, typer.Option(help="Column to be minimised.")] = "",
    run: Annotated[
        Path | None, typer.Option(help="A run file whose supernet and table are searched.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Trials of each search.")] = 200,
    seeds: Annotated[int, typer.Option(min=1, help="Searches for each strategy.")] = 5,
    strategies: Annotated[
        str, typer.Option(help="Strategies to compare, with commas.")
    ] = "nsga2,random",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hypervolume that strategies dominate after the same number of trials, seed by seed.

    Example: edgenas bench search --run run.toml --budget 200 --seeds 5
    """
    from edgenas import pipeline

    with output(json=json, quiet=quiet) as out:
        facts = pipeline.bench_search(
            table=table,
            architecture=tuple(filter(None, architecture.split(","))),
            accuracy=accuracy,
            latency=latency,
            run_file=run,
            budget=budget,
            seeds=seeds,
            strategies=tuple(filter(None, strategies.split(","))),
            report=out.report,
        )
        rows = [
            (
                row["strategy"],
                str(row["budget"]),
                f"{row['mean']:.4f}",
                f"{row['sd']:.4f}",
                f"{row['low']:.4f}",
                f"{row['high']:.4f}",
                str(row["n"]),
                "" if row["beats_random"] is None else f"{row['beats_random']} of {row['n']}",
            )
            for row in facts["summary"]
        ]
        heads = ("strategy", "trials", "mean", "sd", "least", "most", "seeds", "beats random")
        title = f"{facts['problem']}: hypervolume, 1 = {facts['relative_to']}"
        out.result(facts, f"{title}\n{columns(heads, rows)}")
