"""Two runs compared: who came and went and why, hypervolume and its confidence, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.artifacts import to_json
from edgenas.errors import UsageError
from edgenas.fleet import Assignment, Fleet
from edgenas.objectives import Objective, parse_objectives
from edgenas.pareto import Metric, ParetoFront, hypervolume
from edgenas.pipeline import compare_runs, report
from edgenas.report import (
    RunView,
    compare,
    comparison_document,
    comparison_html,
    comparison_markdown,
    load_run,
)
from edgenas.report.charts import comparison_figure
from edgenas.report.comparison import Comparison, Passage
from edgenas.report.model import Evaluated, FleetView, Table

DEVICE = "chip-litert-int8-t1"
PARENTS = {"supernet": "s1", "space": "p1", "data": "d1", f"table {DEVICE}": "t1"}


def network(digest: str, top1: float, ms: float, origin: str = "predicted") -> Evaluated:
    metrics = {
        "top1": Metric(top1, "supernet", n=5000),
        "latency_ms": Metric(ms, origin, 0.9 * ms, 1.1 * ms),
    }
    return Evaluated(f"x {digest}", digest, metrics)


def run(
    name: str,
    front: list[Evaluated],
    others: tuple[Evaluated, ...] = (),
    bound: float | None = None,
    **parents: str,
) -> RunView:
    latency = "min latency_ms" + ("" if bound is None else f" <= {bound}")
    told = {**PARENTS, **{k.replace("table", f"table {DEVICE}"): v for k, v in parents.items()}}
    return RunView(
        name,
        parse_objectives(["max top1", latency]),
        tuple(front),
        (*front, *others),
        tables=(Table(DEVICE, "measured", told[f"table {DEVICE}"]),),
        parents=told,
        rests_on={**told, "images": "i1"},
        settings={"name": name, "seed": "0", "search.trials": "9"},
    )


A, B, C = network("a", 0.8, 1.0), network("b", 0.85, 2.0), network("c", 0.9, 3.0)


def passage(found: Comparison, digest: str) -> Passage:
    return next(p for p in found.passages if p.digest == digest)


def told(found: Comparison) -> list[str]:
    return [str(cause) for cause in found.causes]


def test_runs_of_different_versions_of_edgenas() -> None:
    newer = replace(run("two", [A, C]), made_by="0.9.0")
    older = replace(run("one", [A, C]), made_by="0.1.0")
    assert [(c.kind, c.before, c.after) for c in compare(newer, older).causes] == [
        ("version", "0.1.0", "0.9.0")
    ]


def test_a_run_against_one_that_is_the_same() -> None:
    found = compare(run("two", [A, B, C]), run("one", [A, B, C]))
    assert [p.passing for p in found.passages] == ["stayed"] * 3
    assert found.causes == ()
    assert (found.gain.value, found.gain.low, found.gain.high) == (0, 0, 0)
    assert found.verdict == "no difference beyond the noise"
    assert (
        found.hypervolume_after.low < found.hypervolume_after.value < found.hypervolume_after.high
    )


def test_a_tighter_bound() -> None:
    found = compare(run("two", [A, B], (C,), bound=2.5), run("one", [A, B, C], bound=3.5))
    assert told(found) == ["bound on latency_ms: <= 3.50 ms became <= 2.50 ms"]
    went = passage(found, "c")
    assert went.passing == "went"
    assert went.why == ("Outside a bound now: 'min latency_ms <= 2.5' with 3.00 ms.",)
    (came,) = compare(run("one", [A, B, C], bound=3.5), run("two", [A, B], bound=2.5)).having(
        "came"
    )
    assert came.why == (
        "Not evaluated before, and it would break 'min latency_ms <= 2.5' with 3.00 ms.",
    )


def test_another_table() -> None:
    slower = network("b", 0.85, 2.5)
    found = compare(run("two", [A, slower, C], table="t2"), run("one", [A, B, C]))
    assert told(found) == [f"table {DEVICE}: t1 became t2"]
    assert passage(found, "b").why == (f"Latency from 2.00 ms to 2.50 ms: another table {DEVICE}.",)
    assert [p.passing for p in found.passages] == ["moved", "stayed", "stayed"]


def test_another_supernet_and_a_network_that_is_beaten() -> None:
    lower, better = network("b", 0.79, 2.0), network("n", 0.86, 1.5)
    found = compare(run("two", [better, C], (A, lower), supernet="s2"), run("one", [A, B, C]))
    assert told(found) == ["supernet: s1 became s2"]
    assert passage(found, "b").why == (
        "Beaten now by n, which was not evaluated before.",
        "Top-1 accuracy from 85.00 % to 79.00 %: other supernet.",
    )
    assert passage(found, "n").why == ("Not evaluated before.",)
    (came,) = compare(run("three", [A, C]), run("two", [better, C], (A,))).having("came")
    assert came.why == ("Not on the front before.",)


def test_a_measured_latency_in_place_of_a_predicted_one_and_other_settings() -> None:
    measured = network("b", 0.85, 2.2, "measured")
    other = replace(run("two", [A, measured, C]), settings={"seed": "1", "search.trials": "9"})
    found = compare(other, run("one", [A, B, C]))
    assert told(found) == ["seed: 0 became 1"]
    assert passage(found, "b").why == (
        "Latency from 2.00 ms to 2.20 ms: predicted before, measured now.",
    )


def test_hypervolumes_share_a_reference_and_are_those_of_the_fronts() -> None:
    after = replace(run("two", [A, C]), reference={"top1": 0.7, "latency_ms": 4.0})
    before = replace(run("one", [A, B]), reference={"top1": 0.75, "latency_ms": 5.0})
    found = compare(after, before)
    assert found.reference == {"top1": 0.7, "latency_ms": 5.0}
    for view, spread in ((before, found.hypervolume_before), (after, found.hypervolume_after)):
        points = [[c.metrics["top1"].value, c.metrics["latency_ms"].value] for c in view.front]
        assert spread.value == hypervolume(points, ["max", "min"], [0.7, 5.0])
    assert found.gain.value == found.hypervolume_after.value - found.hypervolume_before.value
    assert compare(after, before) == found


def test_confidence_follows_the_number_of_images_and_a_large_gain_is_one() -> None:
    def images(view: RunView, n: int) -> RunView:
        front = tuple(
            replace(c, metrics={**c.metrics, "top1": replace(c.metrics["top1"], n=n)})
            for c in view.front
        )
        return replace(view, front=front)

    reference = {"top1": 0.5, "latency_ms": 4.0}
    old = run("one", [A])
    close = replace(run("two", [network("x", 0.81, 1.0)]), reference=reference)
    few, many = (compare(images(close, n), images(old, n)).gain for n in (200, 200_000))
    assert few.high - few.low > many.high - many.low
    far = replace(run("two", [network("x", 0.95, 0.5)]), reference=reference)
    assert compare(far, old).verdict == "better"
    assert compare(old, far).verdict == "worse"


def test_a_binomial_draw_has_the_spread_of_its_images() -> None:
    """One network, one axis drawn: the interval is that of the share of n images."""
    front = Evaluated("x", "x", {"top1": Metric(0.8, "supernet", n=400)})
    view = RunView("one", parse_objectives(["max top1"]), (front,), reference={"top1": 0.0})
    spread = compare(view, view).hypervolume_after
    expected = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert spread.high - 0.8 == pytest.approx(expected, rel=0.15)
    assert 0.8 - spread.low == pytest.approx(expected, rel=0.15)


def test_runs_that_are_after_something_else_are_refused() -> None:
    one = run("one", [A])
    goals = parse_objectives(["max top1", "min size_bytes"])
    sized = replace(A, metrics={**A.metrics, "size_bytes": Metric(1, "computed")})
    other = replace(one, name="two", goals=goals, front=(sized,))
    with pytest.raises(UsageError, match=r"objectives: .*latency_ms in one, .*size_bytes in two"):
        compare(other, one)
    with pytest.raises(UsageError, match="space: p1 in one, p2 in two"):
        compare(replace(one, name="two", parents={**PARENTS, "space": "p2"}), one)
    elsewhere = replace(one, name="two", tables=(Table("other-chip", "measured"),))
    with pytest.raises(UsageError, match=f"device: {DEVICE} in one, other-chip in two"):
        compare(elsewhere, one)


def test_fleets_with_other_bounds_do_not_share_a_mean_load() -> None:
    def fleet(bound: float) -> RunView:
        limits = {"d": (Objective.parse(f"latency_ms@d <= {bound}"),)}
        choice = Fleet(1, (Assignment("d", "x", 0.8, 0.0, Metric(1, "predicted")),))
        front = Evaluated("x", "x", {"top1": A.metrics["top1"], "mean_load": Metric(1, "computed")})
        return RunView(
            "r", parse_objectives(["max top1", "min mean_load"]), (front,),
            fleet=FleetView(1, "top1", limits, (choice,)),
        )  # fmt: skip

    with pytest.raises(UsageError, match="mean_load is a share of"):
        compare(fleet(1), fleet(2))
    assert compare(fleet(1), fleet(1)).causes == ()


def test_the_page_markdown_and_json(two_runs: tuple[Path, Path]) -> None:
    import plotly.graph_objects as go

    found = compare(*map(load_run, two_runs))
    page, text = comparison_html(found), comparison_markdown(found)
    assert "new &amp; &lt;b&gt; against old" in page
    assert "<b>" not in page.split("<style>")[0] + page.split("</style>")[1].split("<script")[0]
    assert page.count('class="plot"') == 3
    for x, y in found.after.pairs():
        figure = comparison_figure(found, x, y)
        go.Figure(json.loads(re.sub(r"var\(--[a-z0-9]+\)", "#123456", json.dumps(figure))))
        assert [t["name"] for t in figure["data"]][:2] == [
            f"before ({len(found.before.front)})",
            f"now ({len(found.after.front)})",
        ]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows
    assert all(re.search(r"[\d.]+ predicted", row) for row in rows)
    table = json.loads(to_json(comparison_document(found)))
    assert table["schema"] == "edgenas.compare/1"
    assert {n["passing"] for n in table["networks"]} <= {"came", "went", "moved", "stayed"}
    assert table["hypervolume"]["run"]["low"] <= table["hypervolume"]["run"]["value"]
    fronts = [ParetoFront.read(f / "front.json") for f in two_runs]
    union = {c.architecture.digest for front in fronts for c in front.candidates}
    assert {n["digest"] for n in table["networks"]} == union


def test_files_lie_in_the_run_or_where_they_are_wanted(
    two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    new, old = two_runs
    report(new)
    files = compare_runs(new, old).document["files"]
    assert files == [str(new / "compare.html"), str(new / "compare.md")]
    files = compare_runs(new, old, out=tmp_path / "there" / "x.html").document["files"]
    assert [Path(f).name for f in files] == ["x.html", "x.md"]
    files = compare_runs(new, old, out=tmp_path / "folder").document["files"]
    assert (tmp_path / "folder" / "compare.html").is_file()
    with pytest.raises(UsageError, match="with itself"):
        compare_runs(new, new)
