"""How many trials strategies need, and how well few measurements tell a new device."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import sha256_file
from edgenas.errors import UsageError, nearest
from edgenas.events import Report, silent
from edgenas.objectives import Objective, directed, parse_objectives
from edgenas.pipeline.config import SupernetConfig
from edgenas.pipeline.metrics import CheapMetrics, costly_metrics, metric_names
from edgenas.pipeline.runs import open_run
from edgenas.spaces import SearchSpace

DEFAULT_STRATEGIES = ("surrogate", "nsga2", "random")
FRONT_EVALUATIONS = 50_000
"""Of the evolution whose front results on a model of accuracy are relative to."""

if TYPE_CHECKING:
    from edgenas.search import MetricFunction
    from edgenas.search.bench_problems import BenchProblem


def bench_search(
    *,
    table: Path | None = None,
    architecture: Sequence[str] = (),
    accuracy: str = "",
    latency: str = "",
    run_file: Path | None = None,
    runs: Path = Path("runs"),
    model: Path | None = None,
    device: str = "",
    front: int = FRONT_EVALUATIONS,
    budgets: Sequence[int] = (200,),
    seeds: int = 5,
    strategies: Sequence[str] = DEFAULT_STRATEGIES,
    plots: Path | None = None,
    work: Path | None = None,
    report: Report = silent,
) -> dict[str, Any]:
    """The hypervolume of each strategy's front after each of the `budgets` (trials), for `seeds`.

    On one of three problems. The rows of a CSV `table` (with the columns that make up an
    architecture, and those of accuracy and latency), whose front is known exactly. The supernet of
    a run file (the one trained below `runs`, else it is trained first), its search split and
    latency table, relative to the union of all fronts found. Or a
    `model` of accuracy (a file, see `edgenas.evaluation.model`) and the table of `device`, relative
    to the front of an evolution with `front` evaluations. With `plots`, pictures are written to
    that folder. With `work`, finished searches are kept there, and a comparison that was killed
    goes on.

    Raises:
        UsageError: none or several of `table`, `run_file` and `model`; columns or a device that
            are not named.
        SpecError: the table, the run file or the model is wrong.
    """
    from edgenas.report import prepare_plots
    from edgenas.search.bench_problems import table_problem
    from edgenas.search.strategies import strategy_names

    if plots:
        prepare_plots(plots)
    for name in strategies:
        if name not in (known := strategy_names()):
            raise UsageError(f"--strategies: no {name!r}; {nearest(name, known)}")
    if sum(given is not None for given in (table, run_file, model)) != 1:
        raise UsageError(
            "give either a table of evaluated architectures, a run file or a model of accuracy",
            hint="edgenas bench search --run run.toml; --table CSV --architecture A,B "
            "--accuracy COLUMN --latency COLUMN; or --accuracy-model FILE --device NAME",
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
        named = ["--architecture", ",".join(architecture)]
        columns = shlex.join([*named, "--accuracy", accuracy, "--latency", latency])
        command = f"edgenas bench search --table {_named(table)} {columns} {words}"
        return _run(problem, strategies, budgets, seeds, command, plots, work, report)
    if model is not None:
        problem = _model_problem(model, device, front, report)
        of = f"--accuracy-model {_named(model)} --device {device}"
        of += "" if front == FRONT_EVALUATIONS else f" --front {front}"
        command = f"edgenas bench search {of} {words}"
        return _run(problem, strategies, budgets, seeds, command, plots, work, report)
    assert run_file is not None  # noqa: S101  # one of the three is set: checked above
    command = f"edgenas bench search --run {_named(run_file)} {words}"
    with tempfile.TemporaryDirectory(prefix="edgenas-bench-") as name:
        problem = _supernet_problem(run_file, runs, work or Path(name), report)
        return _run(problem, strategies, budgets, seeds, command, plots, work, report)


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

    words = ["edgenas", "bench", "few-shot", "--table", table.name]
    for option, names in (
        ("--architecture", architecture),
        ("--devices", devices),
        ("--target", targets),
        ("--samples", list(map(str, samples))),
    ):
        words += [option, ",".join(names)] if names else []
    words += [] if group == r"_\d+$" else ["--group", group]
    words += ["--draws", str(draws), "--seed", str(seed)]
    read = read_few_shot(table, architecture=architecture, devices=devices, group=group)
    return run_few_shot(
        read,
        samples,
        draws=draws,
        seed=seed,
        targets=targets,
        command=shlex.join(words),
        report=report,
    )


def _run(
    problem: BenchProblem,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: int,
    command: str,
    plots: Path | None,
    work: Path | None,
    report: Report,
) -> dict[str, Any]:
    from edgenas.report import write_bench_plots
    from edgenas.search.bench import run_bench

    result = run_bench(
        problem, strategies, budgets, range(seeds), command=command, work=work, report=report
    )
    document = result.to_table()
    if plots:
        write_bench_plots(document, plots)
    return document


def _named(path: Path) -> str:
    """A file as a command names it that is run where it was; elsewhere its place means nothing."""
    return shlex.quote(path.name if path.is_absolute() else str(path))


def _supernet_problem(run_file: Path, runs: Path, folder: Path, report: Report) -> BenchProblem:
    """The search of a run file; its reference point is the worse of the two extreme networks.

    The supernet is the one that the run has; where it has none, it is trained into `folder`.
    """
    from edgenas.pipeline.evaluating import evaluator
    from edgenas.pipeline.opening import open_stages
    from edgenas.pipeline.searching import gradient_marks, gradients_of
    from edgenas.pipeline.training import supernet_file
    from edgenas.search.bench_problems import BenchProblem

    described = open_run(run_file, runs=runs)
    config, own = described.config, supernet_file(described.folder)
    if config.supernet.checkpoint is None and own.is_file():
        config = replace(config, supernet=SupernetConfig(str(own)))
    run = open_stages(replace(config, name=None), folder, resume=True, report=report)
    objectives = parse_objectives(
        config.search.objectives, known=metric_names(config.search.devices)
    )
    metrics = costly_metrics(objectives)
    evaluate = evaluator(run.supernet, run.data, config, metrics, report=report)
    space = run.supernet.space
    return BenchProblem(
        f"{run_file.name}: {run.data.name}, {', '.join(run.tables)}",
        space,
        objectives,
        run.cheap,
        evaluate,
        _worse_end(space, objectives, run.cheap, evaluate),
        gradients=gradients_of(run),
        rests_on={**run.parents, **evaluate.rests_on, **gradient_marks(config.search)},
    )


def _model_problem(path: Path, device_name: str, n_front: int, report: Report) -> BenchProblem:
    """Accuracy by a model against latency by a device's table, both from files."""
    from edgenas.evaluation.model import read_model
    from edgenas.hardware import load_device
    from edgenas.latency import Predictor, table_for
    from edgenas.search.bench_problems import BenchProblem, evolved_front

    if not device_name:
        raise UsageError(
            "a model of accuracy needs a device to be fast on",
            hint="--device NAME; `edgenas devices` lists them",
        )
    model = read_model(path)
    device = load_device(device_name)
    objectives = parse_objectives(("max top1", "min latency_ms"))
    named = frozenset(o.name for o in objectives)
    predictors = {device.name: Predictor(table_for(device))}
    cheap = CheapMetrics(model.space, (device,), predictors, named)
    reference = _worse_end(model.space, objectives, cheap, model)
    name = f"{path.name}, {device.name}"
    problem = BenchProblem(
        name,
        model.space,
        objectives,
        cheap,
        model,
        reference,
        rests_on={"model": sha256_file(path), "table": predictors[device.name].table.digest},
    )
    return evolved_front(problem, n_front, report=report)


def _worse_end(
    space: SearchSpace,
    objectives: Sequence[Objective],
    cheap: MetricFunction,
    costly: MetricFunction,
) -> dict[str, float]:
    """Of each objective the worse of the values of the smallest and the largest network."""
    ends = [{**cheap(a), **costly(a)} for a in (space.smallest(), space.largest())]
    return {axis.name: axis.value(max(ends, key=axis.loss)) for axis in directed(objectives)}
