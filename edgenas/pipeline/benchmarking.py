"""How many trials strategies need, and how well few measurements tell a new device."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.errors import UsageError
from edgenas.events import Report, silent
from edgenas.objectives import directed, parse_objectives
from edgenas.pipeline.config import RunConfig, read_config
from edgenas.pipeline.metrics import costly_metrics, metric_names

DEFAULT_STRATEGIES = ("surrogate", "nsga2", "random")

if TYPE_CHECKING:
    from edgenas.search.bench import BenchProblem


def bench_search(
    *,
    table: Path | None = None,
    architecture: Sequence[str] = (),
    accuracy: str = "",
    latency: str = "",
    run_file: Path | None = None,
    budgets: Sequence[int] = (200,),
    seeds: int = 5,
    strategies: Sequence[str] = DEFAULT_STRATEGIES,
    plots: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """The hypervolume of each strategy's front after each of the `budgets` (trials), for `seeds`.

    Either on the rows of a CSV `table` (with the columns that make up an architecture, and those
    of accuracy and latency), whose front is known exactly, or on the supernet, search split and
    latency table of a run file, relative to the union of all fronts found. With `plots`, pictures
    are written to that folder.

    Raises:
        UsageError: neither or both of `table` and `run_file`, or columns that are not named.
        SpecError: the table or the run file is wrong.
    """
    from edgenas.report import require_plots
    from edgenas.search.bench import table_problem

    if plots:
        require_plots()
    if (table is None) == (run_file is None):
        raise UsageError(
            "give either a table of evaluated architectures or a run file",
            hint="edgenas bench search --run run.toml, or --table CSV --architecture A,B "
            "--accuracy COLUMN --latency COLUMN",
        )
    told = ",".join(map(str, budgets))
    words = f"--budget {told} --seeds {seeds} --strategies {','.join(strategies)}"
    if table is not None:
        if not (architecture and accuracy and latency):
            raise UsageError(
                "a table needs its columns: --architecture, --accuracy, --latency",
                hint="edgenas bench search --table CSV --architecture A,B --accuracy C --latency D",
            )
        problem = table_problem(
            table, architecture=architecture, accuracy=accuracy, latency=latency
        )
        columns = f"--architecture {','.join(architecture)} --accuracy {accuracy}"
        command = f"edgenas bench search --table {table.name} {columns} --latency {latency} {words}"
        return _run(problem, strategies, budgets, seeds, command, plots, report)
    assert run_file is not None  # noqa: S101  # one of the two is set: checked above
    command = f"edgenas bench search --run {run_file.name} {words}"
    with tempfile.TemporaryDirectory(prefix="edgenas-bench-") as name:
        problem = _supernet_problem(read_config(run_file), run_file, Path(name), report)
        return _run(problem, strategies, budgets, seeds, command, plots, report)


def bench_few_shot(
    table: Path,
    *,
    architecture: Sequence[str] = (),
    devices: Sequence[str] = (),
    targets: Sequence[str] = (),
    group: str = r"_\d+$",
    samples: Sequence[int] = (10,),
    draws: int = 20,
    seed: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Each device of a table of networks x devices predicted from `samples` networks.

    Options as `edgenas bench few-shot` has them; the result is its JSON document.

    Raises:
        UsageError: unknown columns, fewer than two chips, fewer than 3 samples.
        SpecError: the table is wrong, or too small.
    """
    from edgenas.latency.fewshot_bench import read_few_shot, run_few_shot

    words = ["edgenas bench few-shot --table", table.name]
    for option, names in (
        ("--architecture", architecture),
        ("--devices", devices),
        ("--target", targets),
        ("--samples", list(map(str, samples))),
    ):
        words += [option, ",".join(names)] if names else []
    words += [] if group == r"_\d+$" else ["--group", shlex.quote(group)]
    words += ["--draws", str(draws), "--seed", str(seed)]
    read = read_few_shot(table, architecture=architecture, devices=devices, group=group)
    return run_few_shot(
        read,
        samples,
        draws=draws,
        seed=seed,
        targets=targets,
        command=" ".join(words),
        report=report,
    )


def _run(
    problem: BenchProblem,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int,
    command: str,
    plots: Path | None,
    report: Report,
) -> dict[str, Any]:
    from edgenas.report import write_bench_plots
    from edgenas.search.bench import run_bench

    result = run_bench(problem, strategies, budgets, range(seeds), command=command, report=report)
    document = result.to_table()
    if plots:
        write_bench_plots(document, plots)
    return document


def _supernet_problem(
    config: RunConfig, run_file: Path, folder: Path, report: Report
) -> BenchProblem:
    """The search of a run file; its reference point is the worse of the two extreme networks."""
    from edgenas.pipeline.evaluating import evaluator
    from edgenas.pipeline.searching import open_stages
    from edgenas.search.bench import BenchProblem

    run = open_stages(replace(config, name=None), folder, resume=False, report=report)
    objectives = parse_objectives(
        config.search.objectives, known=metric_names(config.search.devices)
    )
    metrics = costly_metrics(objectives)
    evaluate = evaluator(run.supernet, run.data, config, metrics, report=report)
    space = run.supernet.space
    ends = [{**run.cheap(a), **evaluate(a)} for a in (space.smallest(), space.largest())]
    reference = {axis.name: axis.value(max(ends, key=axis.loss)) for axis in directed(objectives)}
    name = f"{run_file.name}: {run.data.name}, {', '.join(run.tables)}"
    return BenchProblem(name, space, objectives, run.cheap, evaluate, reference)
