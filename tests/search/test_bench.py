"""The benchmark on tables: reading them, exact fronts, shares of the best, seeds."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import ArtifactError, Interrupted, SpecError, UsageError
from edgenas.objectives import parse_objectives
from edgenas.search.bench import run_bench
from edgenas.search.bench_problems import BenchProblem, table_problem
from edgenas.search.tabulated import read_table
from edgenas.spaces import Architecture

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """All cells of three edges with four operations, written as NAS-Bench-201 writes them."""
    path = tmp_path / "cells.csv.gz"
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch_str", "top1", "ms", "blank"])
        for a, b, c in itertools.product(range(4), repeat=3):
            line = f"|{OPS[a]}~0|+|{OPS[b]}~0|{OPS[c]}~1|"
            blank = "" if (a, b, c) == (0, 0, 0) else 1
            writer.writerow([line, 10 + a * b + 2 * c + a * c, 1 + a + 2 * b + c * c, blank])
    return path


def test_one_column_is_split_into_genes(cells: Path) -> None:
    space = read_table(cells, architecture=["arch_str"], metrics={"t": "top1", "l": "ms"}, cost="l")
    assert list(space.genes) == ["arch_str.1", "arch_str.2", "arch_str.3"]
    assert space.genes["arch_str.2"] == tuple(f"{op}~0" for op in OPS), "cheapest first"
    assert space.size == 64
    assert space.metrics(space.smallest()) == {"t": 10, "l": 1}
    assert space.metrics(space.largest()) == {"t": 10 + 9 + 6 + 9, "l": 1 + 3 + 6 + 9}
    arch = space.sample(random.Random(0))
    assert space.parse(str(arch)) == arch
    with pytest.raises(SpecError, match="not in the table"):
        space.parse("table/1 arch_str.1=none")
    with pytest.raises(SpecError, match="belongs to"):
        space.parse("mobile/1 r=28")
    with pytest.raises(SpecError, match="no such column"):
        space.architecture({"arch_str.1": "none~0"})


def test_columns_are_genes_and_missing_settings_stand_for_the_nearest_row(tmp_path: Path) -> None:
    path = tmp_path / "part.csv"
    path.write_text("d,k,w,acc,ms\n2,3,x,50,1.5\n3,5,x,60,2.5\n2,3,x,99,9\n4,5,x,70,3\n4,7,x,,4\n")
    space = read_table(
        path, architecture=["d", "k", "w"], metrics={"a": "acc", "l": "ms"}, cost="l"
    )
    assert dict(space.genes) == {"d": (2, 3, 4), "k": (3, 5)}, "numbers; one value is no gene"
    assert space.size == 3
    assert str(space.architecture({"d": 2, "k": 5})) == "table/1 d=2 k=3"
    assert space.metrics(space.architecture({"d": 3, "k": 3})) == {"a": 50, "l": 1.5}
    assert space.parse("table/1 d=4 k=5")["d"] == 4


def test_a_pattern_stands_for_the_columns_that_match(tmp_path: Path) -> None:
    path = tmp_path / "blocks.csv"
    path.write_text("b0_k,b0_e,note,b1_k,b_acc,ms\n3,1,x,5,50,1\n5,1,y,3,60,2\n3,6,z,3,70,3\n")
    metrics = {"a": "b_acc", "l": "ms"}
    space = read_table(path, architecture=["b*"], metrics=metrics, cost="l")
    assert list(space.genes) == ["b0_k", "b0_e", "b1_k"], "a metric is no gene"
    assert list(read_table(path, architecture=["b?_k"], metrics=metrics, cost="l").genes) == [
        "b0_k",
        "b1_k",
    ]
    with pytest.raises(SpecError, match=r"no column 'block\*'"):
        read_table(path, architecture=["block*"], metrics=metrics, cost="l")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch,acc,msec\n1,2,3\n", "no column 'ms'"),
        ("arch,acc,ms\n", "no row has all"),
        ("arch,acc,ms\n1,,3\n", "no row has all"),
        ("arch,acc,ms\n1,2,fast\n2,3,4\n", "row 2, ms: 'fast'"),
        ("arch,acc,ms\n1,2,3\n2,nan,4\n", "row 3, acc: 'nan'"),
        ("arch,acc,ms\n1,2,3\n1,,3\n2,nan,4\n", "row 4, acc: 'nan'"),
        ("", "is empty"),
        ("arch,acc,ms\n1,2,3\n1,2,4\n", "one architecture only"),
    ],
)
def test_tables_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        table_problem(path, architecture=["arch"], accuracy="acc", latency="ms")
    assert str(path) in str(caught.value)


def test_a_damaged_archive_and_a_negative_latency(tmp_path: Path, cells: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(cells.read_bytes()[:200])
    with pytest.raises(SpecError, match="not a CSV file"):
        table_problem(path, architecture=["arch_str"], accuracy="top1", latency="ms")
    path.write_text("a,t,l\n1,2,3\n2,3,-1\n")
    with pytest.raises(SpecError, match=r"l is -1.0, not positive"):
        table_problem(path, architecture=["a"], accuracy="t", latency="l")


def test_shares_of_the_exact_front(cells: Path) -> None:
    problem = table_problem(cells, architecture=["arch_str"], accuracy="top1", latency="ms")
    result = run_bench(problem, ["random", "nsga2"], [30, 6, 64], [0, 1], command="edgenas bench")
    assert result.relative_to == "the exact front"
    share = {(r.strategy, r.budget, r.seed): r.hypervolume for r in result.rows}
    assert len(share) == 12
    for seed in (0, 1):
        assert share["nsga2", 64, seed] == pytest.approx(1), "the whole space"
        assert share["nsga2", 6, seed] <= share["nsga2", 30, seed] <= 1
    assert all(row.regret == pytest.approx(1 - row.hypervolume) for row in result.rows)
    summary = {(s.strategy, s.budget): s for s in result.summary}
    assert summary["nsga2", 64].beats_random == 2
    assert summary["random", 30].beats_random == 0
    assert summary["nsga2", 30].n == 2
    assert summary["nsga2", 30].mean == pytest.approx(
        (share["nsga2", 30, 0] + share["nsga2", 30, 1]) / 2
    )
    table = json.loads(json.dumps(result.to_table(), allow_nan=False))
    assert table["schema"] == "edgenas.bench-search/1"
    assert (table["n"], table["command"]) == (2, "edgenas bench")
    assert table["rests_on"] == {"space": problem.space.digest}
    assert "optuna" in table["versions"]
    best = summary["nsga2", 64]
    assert best.igd.mean == pytest.approx(0)
    assert best.confidence.low <= best.mean <= best.confidence.high
    assert best.over_random
    assert best.over_random.mean == pytest.approx(1 - summary["random", 64].mean)
    needed = {(r.strategy, r.level): r for r in result.reached}
    assert needed["nsga2", 0.99].reached == 2
    assert needed["nsga2", 0.1].mean <= needed["nsga2", 0.99].mean <= 64
    for strategy, budget in summary:
        means = dict(result.curves[strategy])
        if budget in means:
            assert means[budget].mean == pytest.approx(summary[strategy, budget].mean)


def test_time_and_distance_are_those_of_the_search(cells: Path) -> None:
    """Costly metrics are counted in every search that asks for them, though evaluated once."""
    known = table_problem(cells, architecture=["arch_str"], accuracy="top1", latency="ms")

    def slow(arch):  # type: ignore[no-untyped-def]
        time.sleep(0.02)  # of another program: no part of what a strategy takes
        until = time.process_time() + 0.004
        while time.process_time() < until:
            pass
        return known.costly(arch)

    result = run_bench(dataclasses.replace(known, costly=slow), ["random", "nsga2"], [40], [0, 1])
    for row in result.summary:
        assert 0 < row.trial_share < 0.75
        assert 0.001 < row.trial_s / row.trial_share < 0.02
        assert row.igd.mean > 0
        assert row.at_equal_time
        assert 0 < row.at_equal_time.mean <= row.mean + 1e-12


def test_ones_own_problem_is_relative_to_the_union_of_fronts(cells: Path) -> None:
    known = table_problem(cells, architecture=["arch_str"], accuracy="top1", latency="ms")
    calls = []

    def costly(arch):  # type: ignore[no-untyped-def]
        calls.append(arch)
        return known.costly(arch)

    own = BenchProblem("own", known.space, known.objectives, known.cheap, costly, known.reference)
    result = run_bench(own, ["nsga2", "random"], [64], [0])
    assert result.relative_to == "the union of all fronts found"
    assert max(row.hypervolume for row in result.rows) == pytest.approx(1)
    assert len(calls) == len(set(calls)), "evaluations are shared between strategies"
    with pytest.raises(UsageError, match="seeds"):
        run_bench(own, ["nsga2"], [5], [])
    with pytest.raises(UsageError, match="strategies"):
        run_bench(own, ["nsga2", "nsga2"], [5], [0])
    hopeless = BenchProblem(
        "own",
        known.space,
        known.objectives,
        known.cheap,
        costly,
        dict.fromkeys(known.reference, -9),
    )
    with pytest.raises(SpecError, match="no architecture is better"):
        run_bench(hopeless, ["random"], [5], [0])


def test_a_killed_comparison_goes_on_with_what_is_finished(cells: Path, tmp_path: Path) -> None:
    known = table_problem(cells, architecture=["arch_str"], accuracy="top1", latency="ms")
    whole = run_bench(known, ["nsga2", "random"], [20], [0, 1], work=tmp_path)

    def dead(arch: Architecture) -> Mapping[str, float]:
        raise KeyboardInterrupt

    spent = dataclasses.replace(known, costly=dead)
    (last,) = tmp_path.glob("random-1-*.json")
    last.unlink()
    with pytest.raises(Interrupted):
        run_bench(spent, ["nsga2", "random"], [20], [0, 1], work=tmp_path)
    assert run_bench(spent, ["nsga2", "random"], [20], [0], work=tmp_path).rows == tuple(
        row for row in whole.rows if row.seed == 0
    )
    others: list[dict[str, Any]] = [
        {"rests_on": {"table": "abc"}},
        {"reference": {**known.reference, "accuracy": 1}},
    ]
    for other in others:
        with pytest.raises(Interrupted):
            run_bench(dataclasses.replace(spent, **other), ["nsga2"], [20], [0], work=tmp_path)
    again = run_bench(known, ["nsga2", "random"], [20], [0, 1], work=tmp_path)
    assert [(r.seed, r.hypervolume) for r in again.rows] == [
        (r.seed, r.hypervolume) for r in whole.rows
    ]
    table = json.loads(last.read_text("utf-8"))
    short = {**table, "points": table["points"][:-1]}
    words = {**table, "hypervolume": ["much"]}
    del table["strategy"]
    for text in ("{", json.dumps(table), json.dumps(short), json.dumps(words)):
        last.write_text(text)
        with pytest.raises(ArtifactError, match=rf"{last.name} is damaged: .") as caught:
            run_bench(known, ["nsga2", "random"], [20], [0, 1], work=tmp_path)
        assert caught.value.hint == "delete it: that search is made anew"


@pytest.mark.slow
def test_the_default_beats_random_and_nsga2_on_a_public_table(measurements: Path) -> None:
    problem = table_problem(
        measurements / "nasbench201.csv.gz",
        architecture=["arch_str"],
        accuracy="cifar100_test_200ep",
        latency="help_silver_4114_ms",
    )
    assert problem.space.size == 15625
    assert len(problem.space.genes) == 6
    assert parse_objectives(map(str, problem.objectives)) == problem.objectives
    result = run_bench(problem, ["surrogate", "nsga2", "random"], [100], range(4))
    ours, nsga2, _ = result.summary
    assert ours.beats_random == 4
    assert ours.confidence.low > nsga2.mean
    assert ours.mean > 0.98
    assert ours.over_random
    assert ours.over_random.low > 0
