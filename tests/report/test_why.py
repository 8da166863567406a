"""Why a network is as it is: sentences, charts and tables from the run's files."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.artifacts import write_json
from edgenas.errors import ArtifactError
from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.report import RunView, document, html, load_run, markdown, why
from edgenas.report.charts import changes_figure, importance_figure
from edgenas.report.model import Evaluated, ExportedModel


def _model(top1: float, latency: float, digest: str = "own") -> ExportedModel:
    return ExportedModel("", digest, _metrics(top1, latency), ())


def _metrics(top1: float, latency: float) -> dict[str, Metric]:
    return {"top1": Metric(top1, "supernet", n=900), "latency_ms": Metric(latency, "predicted")}


def _view(*front: tuple[str, float, float]) -> RunView:
    goals = (Objective.parse("max top1"), Objective.parse("min latency_ms <= 3"))
    return RunView("r", goals, tuple(Evaluated("", d, _metrics(t, ms)) for d, t, ms in front))


def test_neighbours_are_the_nearest_on_the_front() -> None:
    view = _view(("best", 0.95, 3.0), ("better", 0.92, 2.5), ("own", 0.9, 2.0),
                 ("cheaper", 0.87, 1.25), ("cheapest", 0.8, 1.0))  # fmt: skip
    assert why.neighbours(view, _model(0.9, 2.0)) == [
        "The next cheaper in latency is cheaper, which saves 0.750 ms and loses 3.00 points of "
        "top-1 accuracy.",
        "The next better in top-1 accuracy is better, which gains 2.00 points and costs 0.500 ms "
        "of latency.",
    ]
    assert why.neighbours(view, _model(0.95, 3.0, "best"))[1] == (
        "Nothing on the front is better in top-1 accuracy."
    )
    assert why.neighbours(view, _model(0.8, 1.0, "cheapest"))[0] == (
        "Nothing on the front is cheaper in latency."
    )


def test_a_network_beside_a_metric_less_one() -> None:
    view = _view(("own", 0.9, 2.0))
    bare = replace(view, front=(*view.front, Evaluated("", "bare", {})))
    assert len(why.neighbours(bare, _model(0.9, 2.0))) == 2
    assert why.neighbours(bare, replace(_model(0.9, 2.0), metrics={})) == []


def test_the_time_is_told_by_stage(explained: RunView) -> None:
    model = explained.models[0]
    latency = model.latencies[0]
    told = why.time_spent(latency, model)
    stages: dict[str, float] = {}
    for unit, time in zip(model.units, latency.units, strict=True):
        stage = unit.name.split(".")[0]
        stages[stage] = stages.get(stage, 0.0) + time.ms
    first = max(stages, key=lambda stage: stages[stage])
    assert f"{first} takes {100 * stages[first] / sum(stages.values()):.0f} %" in told
    slowest = max(range(len(model.units)), key=lambda i: latency.units[i].ms)
    assert f"The slowest unit is {model.units[slowest].name}:" in told


def test_how_sure_the_figures_are(explained: RunView) -> None:
    assert why.sampled(Metric(0.9, "supernet", n=900)) == (
        "standard error 1.00 points, from 900 images"
    )
    told = " ".join(why.certainty(explained, explained.models[0]))
    assert "from 5,000 images" in told
    assert "by a cost model of those that were; 90 % interval" in told
    assert "misses whole networks by 2.1 % (median of 24)" in told
    assert "picked among 150 trials" in told


def test_single_changes_are_told_with_what_they_rest_on(explained: RunView) -> None:
    saves, gains = why.best_steps(explained, explained.models[0])
    assert saves.startswith(
        "The single change that saves the most, s2.width from 2 to 1, saves 0.250 ms of latency, "
        "loses 0.10 points of top-1 accuracy (estimated, -0.30 to +0.10)"
    )
    assert gains.startswith("The one that gains the most, s2.depth from 2 to 3, gains 0.40 points")
    (rest,) = why.rests_on(explained)
    assert "estimated from 147 trials" in rest
    assert "misses by 0.13 points" in rest
    model = explained.models[0]
    unsure = replace(model, changes=model.changes[:1])
    assert why.best_steps(explained, unsure)[1].startswith("No single change is known to gain")
    untold = replace(explained, estimates=(replace(explained.estimates[0], problem="too few"),))
    assert why.rests_on(untold) == [
        "What a change does to top-1 accuracy is not estimated: too few."
    ]


def test_what_a_bound_keeps_out(explained: RunView) -> None:
    told = why.excluded(explained, explained.cuts[0])
    assert told[0].startswith("Of 400 random networks of the space it keeps out 25 %, 10 %")
    assert told[1] == "Of 150 networks that the search tried it kept out 12, 12 by itself alone."
    outside = [t for t in explained.trials if not t.feasible]
    best = max(t.metrics["top1"].value for t in outside)
    assert told[2].startswith(
        f"The best top-1 accuracy evaluated beyond it alone is {100 * best:.2f} %"
    )
    assert "A single step across it is expected to gain top-1 accuracy" in told[3]
    assert "s3.depth from 2 to 3, gains 0.50 points" in told[3]
    none = replace(explained.cuts[0], trials_outside=0, drawn=0)
    told = why.excluded(replace(explained, trials=(), models=()), none)
    assert told == ["None of 150 networks that the search tried lies outside."]


def test_networks_beyond_a_bound_that_would_be_on_the_front() -> None:
    view = _view(("own", 0.9, 2.0))
    better = Evaluated("", "b", _metrics(0.95, 4.0), 1, feasible=False)
    worse = Evaluated("", "w", _metrics(0.85, 5.0), 2, feasible=False)
    told = why.excluded(replace(view, trials=(better, worse)), _cut(view))
    assert "is 95.00 %; 1 of 2 such networks would be on the front without it." in told[-1]


def _cut(view: RunView) -> why.Cut:
    return why.Cut(view.goals[1], 3, 2, 2, 0, 0, 0)


def test_importances_in_words(explained: RunView) -> None:
    top1, latency = map(why.importance, explained.importances)
    assert top1 == (
        "For top-1 accuracy these matter more than chance explains: s2.width, s4.4.kernel "
        "(147 networks, of which the best 10 % are compared with all)."
    )
    assert latency == "What matters for latency cannot be told: 9 trials are too few."
    found = replace(explained.importances[0], chance=0.7)
    assert "no choice stands out from chance" in why.importance(found)


def test_the_end_of_a_search_in_words(explained: RunView) -> None:
    assert why.ended(explained) == (
        "It stopped after 150 trials. Of the last 75 trials 2 raised it: as long as later ones are "
        "no better than these, a further one does with a chance of at most 8 % (with a confidence "
        "of 95 %)."
    )


def test_charts_of_importance_and_changes(explained: RunView) -> None:
    import plotly.graph_objects as go

    bars = importance_figure(explained.importances[0])
    (trace,) = bars["data"]
    assert trace["y"] == ["s2.width", "s4.4.kernel", "r"]
    assert trace["marker"]["color"] == ["var(--accent)", "var(--accent)", "var(--faint)"]
    assert bars["layout"]["shapes"][0]["x0"] == pytest.approx(20.0)
    x, y = explained.pairs()[0]
    figure = changes_figure(explained.models[0], x, y)
    ms, points = figure["data"]
    assert ms["y"] == ["s2.width 2 to 1", "s2.depth 2 to 3", "s3.depth 2 to 3"]
    assert ms["x"] == [-0.25, 0.125, 0.5]
    assert "error_x" not in ms
    assert points["x"] == pytest.approx([-0.1, 0.4, 0.5])
    assert points["error_x"]["array"] == pytest.approx([0.2] * 3)
    assert points["marker"]["color"][2] == "rgba(0,0,0,0)", "outside the bound"
    for drawn in (bars, figure):
        go.Figure(json.loads(re.sub(r"var\(--[a-z0-9]+\)", "#123456", json.dumps(drawn))))
    few = changes_figure(explained.models[0], x, y, most=1)
    assert len(few["data"][0]["y"]) == 1


def test_the_page_and_the_summary_say_it_all(explained: RunView) -> None:
    text, summary = html(explained), markdown(explained)
    for part in ("Which choices matter", "What the bounds keep out", "s4.4.kernel"):
        assert part in text
        assert part in summary
    assert 'href="#choices"' in text
    assert 'id="changes-' in text
    assert "Every single change (3)" in text
    assert "outside the bound on latency" in text
    assert "`s2.width` **60 %**" in summary
    assert "next cheaper in latency" in summary
    told = document(explained)
    assert told["importances"][0]["genes"]["s2.width"] == 0.6
    assert len(told["models"][0]["changes"]) == 3
    assert told["bounds"][0]["goal"] == "min latency_ms <= 2"
    json.dumps(told, allow_nan=False)


def test_an_older_run_has_no_such_parts(view: RunView) -> None:
    assert (view.importances, view.cuts, view.estimates, view.gains) == ((), (), (), None)
    text = html(view)
    assert "Which choices matter" not in text
    assert 'href="#choices"' not in text
    assert 'href="#bounds"' not in text
    assert "Every single change" not in text
    assert "The next cheaper in latency" in text, "what the front tells is told all the same"
    assert "Which choices matter" not in markdown(view)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"importances": [{"metric": "top1"}]}, "importances.0.n: Field required"),
        ({"bounds": [{"objective": "max", "trials": 1, "trials_outside": 0, "trials_only": 0,
                      "drawn": 0, "drawn_outside": 0, "drawn_only": 0}]}, "objective 'max'"),
        ({"changes": "none"}, "changes: Input should be a valid dictionary"),
        ({"schema": "edgenas.explanation/9"}, "edgenas.explanation/9"),
    ],
)  # fmt: skip
def test_a_damaged_explanation_is_named(
    explained_folder: Path, tmp_path: Path, edit: dict[str, object], message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(explained_folder, run)
    path = run / "explanation.json"
    write_json(path, json.loads(path.read_text("utf-8")) | edit)
    with pytest.raises(ArtifactError, match=r"explanation\.json") as caught:
        load_run(run)
    assert message in str(caught.value)
