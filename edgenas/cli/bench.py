"""`edgenas bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgenas.cli.console import Json, Quiet, output
from edgenas.cli.options import Runs
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
        str,
        typer.Option(
            help="Columns that make up an architecture, with commas; `block*` is a pattern."
        ),
    ] = "",
    accuracy: Annotated[str, typer.Option(help="Column to be maximised.")] = "",
    latency: Annotated[str, typer.Option(help="Column to be minimised.")] = "",
    run: Annotated[
        Path | None,
        typer.Option(help="A run file whose supernet (trained first if needed) is searched."),
    ] = None,
    runs: Runs = Path("runs"),
    accuracy_model: Annotated[
        Path | None,
        typer.Option(help="A model of accuracy (JSON) that is searched with --device's table."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="With --accuracy-model: whose latency; `edgenas devices` lists.")
    ] = "",
    front: Annotated[
        int,
        typer.Option(
            min=100,
            help="With --accuracy-model: evaluations of the front that results are relative to.",
        ),
    ] = 50_000,
    budget: Annotated[
        str, typer.Option(help="Trials of each search; several, with commas, to read it off at.")
    ] = "200",
    seeds: Annotated[int, typer.Option(min=1, help="Searches for each strategy.")] = 5,
    strategies: Annotated[
        str, typer.Option(help="Strategies to compare, with commas.")
    ] = "surrogate,nsga2,random",
    plots: Annotated[
        Path | None, typer.Option(help="Folder for search.html and search.png.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps finished searches, so that a killed command goes on."),
    ] = None,
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
            runs=runs,
            model=accuracy_model,
            device=device,
            front=front,
            budgets=_counts([budget], "--budget"),
            seeds=seeds,
            strategies=tuple(filter(None, strategies.split(","))),
            plots=plots,
            work=work,
            report=out.report,
        )
        out.result(facts, _search_text(facts))


def _search_text(facts: Mapping[str, Any]) -> str:
    rows = [
        (
            row["strategy"],
            str(row["budget"]),
            f"{row['mean']:.4f}",
            f"{row['confidence']['low']:.4f} to {row['confidence']['high']:.4f}",
            f"{row['low']:.4f}",
            f"{1 - row['mean']:.4f}",
            f"{row['igd']['mean']:.4f}",
            "" if row["beats_random"] is None else f"{row['beats_random']} of {row['n']}",
            f"{1000 * row['trial_s']:.0f} ms",
            f"{100 * row['trial_share']:.0f} %",
            f"{row['at_equal_time']['mean']:.4f}" if row["at_equal_time"] else "",
        )
        for row in facts["summary"]
    ]
    heads = (
        *("strategy", "trials", "mean", "95 %", "least", "regret", "IGD", "beats random"),
        *("own CPU time a trial", "share", "at equal time"),
    )
    needed: dict[str, list[str]] = {}
    for row in facts["reached"]:
        text = f"{row['mean']:.0f}" if row["reached"] == row["n"] else f">{row['mean']:.0f}"
        needed.setdefault(row["strategy"], []).append(text if row["reached"] else "-")
    levels = sorted({row["level"] for row in facts["reached"]})
    return "\n".join(
        [
            f"{facts['problem']}: hypervolume, 1 = {facts['relative_to']}",
            columns(heads, rows),
            "",
            "evaluations to reach a share of it, mean (>: not on every seed; -: on none)",
            columns(
                ("strategy", *(f"{level:g}" for level in levels)),
                [(name, *texts) for name, texts in needed.items()],
            ),
        ]
    )


@app.command("few-shot")
def few_shot(
    table: Annotated[Path, typer.Option(help="CSV (.gz) of networks x devices, in ms.")],
    architecture: Annotated[
        str, typer.Option(help="Columns that describe a network, with commas.")
    ] = "",
    devices: Annotated[
        str,
        typer.Option(help="Latency columns, with commas; default: named ..._ms or latency_..."),
    ] = "",
    target: Annotated[
        str, typer.Option(help="Columns to leave out in turn, with commas; default: all devices.")
    ] = "",
    group: Annotated[
        str,
        typer.Option(help="Expression cut out of a device's name; what is left names the chip."),
    ] = r"_\d+$",
    samples: Annotated[
        list[str] | None,
        typer.Option(help="Networks measured, with commas or given several times; default: 10."),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Repetitions, each with its own seed.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all draws.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How well few measurements tell a new device's latencies, given those of other devices.

    Each device in turn is the new one; columns of the same chip are left out with it.

    Example: edgenas bench few-shot --table nets.csv --architecture arch_str --samples 10
    """
    from edgenas import pipeline

    with output(json=json, quiet=quiet) as out:
        facts = pipeline.bench_few_shot(
            table,
            architecture=tuple(filter(None, architecture.split(","))),
            devices=tuple(filter(None, devices.split(","))),
            targets=tuple(filter(None, target.split(","))),
            group=group,
            samples=_counts(samples or ["10"], "--samples"),
            draws=draws,
            seed=seed,
            report=out.report,
        )
        rows = [
            (
                row["method"],
                str(row["samples"]),
                f"{row['spearman']:.4f}",
                f"{row['spearman_sd']:.4f}",
                f"{row['spearman_worst']:.3f} {row['worst_device']}",
                percent(row["error_median"]),
                percent(row["within_10"]),
                "" if row["coverage"] is None else percent(row["coverage"]),
            )
            for row in facts["summary"]
        ]
        heads = ("method", "samples", "Spearman", "sd", "worst", "median error", "within 10 %",
                 "in 90 % interval")  # fmt: skip
        title = f"{len(facts['devices'])} devices, each left out; {facts['n']} draws; means"
        out.result(facts, f"{title}\n{columns(heads, rows)}")


def _counts(texts: list[str], option: str) -> list[int]:
    """Whole numbers above 0, from several options with commas.

    Raises:
        typer.BadParameter: for anything else.
    """
    found = [part.strip() for text in texts for part in text.split(",")]
    for part in found:
        if not (part.isascii() and part.isdigit() and int(part)):
            raise typer.BadParameter(f"{option} {part!r} is not a whole number above 0")
    return list(dict.fromkeys(map(int, found)))
