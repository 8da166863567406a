"""From run folders, whole, partial and damaged, to views."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import write_json
from edgenas.errors import ArtifactError, SpecError
from edgenas.pareto import hypervolume
from edgenas.report import RunView, load_run


@pytest.fixture
def own(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return Path(shutil.copytree(run_folder, tmp_path / "own"))


def change(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text("utf-8"))
    how(table)
    write_json(path, table)


def test_a_whole_run(view: RunView, run_folder: Path) -> None:
    front = json.loads((run_folder / "front.json").read_text("utf-8"))["candidates"]
    assert view.name == "invented figures"
    assert [c.digest for c in view.front] == [row["digest"] for row in front]
    assert {c.number is not None for c in view.front} == {True}
    assert view.n_trials == 150
    assert len(view.trials) == 147, "trials that failed are no points"
    assert len(view.models) == 3
    assert all(len(model.files) == 5 for model in view.models)
    assert {t.device: t.rough for t in view.tables} == {
        "testchip-litert-int8-t1": False,
        "testchip-onnxruntime-fp32-t1": True,
    }
    assert any("virtualised" in note for note in view.notes)
    assert any("only the 472 images were scored" in note for note in view.notes)
    titles = dict(view.provenance)
    assert ("seed", "0") in titles["Run"]
    assert ("search.strategy", "nsga2") in titles["Run file"]
    assert ("data", "0a1b2c3d4e5f") in titles["Parents, by digest"]
    assert ("onnx", "1.23.2") in titles["Export tools"]


def test_all_versions_of_a_tool_are_told_where_networks_differ(own: Path) -> None:
    first, *_ = sorted(own.glob("models/*/export.json"))
    change(first, lambda table: table["tools"].update(onnx="1.22.0"))
    titles = dict(load_run(own).provenance)
    assert ("onnx", "1.22.0, 1.23.2") in titles["Export tools"]


def test_a_files_latency_bears_the_word_of_its_own_device(view: RunView) -> None:
    files = {file.format: file for file in view.models[0].files}
    onnx, int8 = files["onnx"].predicted_ms, files["tflite-int8"].predicted_ms
    assert onnx is not None
    assert int8 is not None
    assert files["onnx"].device == "testchip-onnxruntime-fp32-t1"
    assert (onnx.origin, int8.origin) == ("calibrated", "predicted")
    assert onnx.low is not None
    assert onnx.low < onnx.value < (onnx.high or 0)
    measured = files["tflite-int8"].measured_ms
    assert measured is not None
    assert (measured.origin, measured.n) == ("measured", 350)
    assert files["tflite-fp16"].predicted_ms is None


def test_the_certificate_goes_before_the_result(own: Path) -> None:
    path = next(iter(sorted(own.glob("models/*/export.json"))))

    def reject(table: dict[str, Any]) -> None:
        row = table["models"][0]
        row["verified"] = False
        row["gates"] = [{"name": "agreement", "verdict": "failed", "reason": "0.5 < 0.999"}]
        table["failures"] = [{"format": "tflite", "error": "no", "hint": "", "exit_code": 8}]

    change(path, reject)
    model = next(m for m in load_run(own).models if m.digest == path.parent.name)
    assert model.files[0].verified is False
    assert model.files[0].problems == ("agreement: 0.5 < 0.999",)
    assert model.failures == (("tflite", "no"),)


def test_the_front_alone_is_enough(own: Path) -> None:
    for path in own.iterdir():
        if path.name != "front.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    view = load_run(own)
    assert view.front
    assert (view.trials, view.models, view.hypervolume, view.n_trials) == ((), (), (), None)


def test_models_are_found_without_a_certificate_or_latencies(own: Path) -> None:
    for path in [*own.glob("models/*/export.json"), *own.glob("models/*/latency.json")]:
        path.unlink()
    (own / "provenance.json").unlink()
    model = load_run(own).models[0]
    assert (model.units, model.latencies) == ((), ())
    files = {file.format: file for file in model.files}
    assert files["tflite-int8"].verified is True
    predicted = files["tflite-int8"].predicted_ms
    assert predicted is not None
    assert (predicted.origin, predicted.low) == ("predicted", None)


@pytest.mark.parametrize("prefix", ["", "{run}/", "runs/elsewhere/", "/gone/runs/x/"])
def test_paths_become_relative_to_the_run(own: Path, prefix: str) -> None:
    def move(table: dict[str, Any]) -> None:
        for row in table["exports"]:
            row["path"] = prefix.format(run=own) + row["path"]

    change(own / "result.json", move)
    paths = [file.path for model in load_run(own).models for file in model.files]
    assert all((own / path).is_file() for path in paths)
    assert all(path.startswith("models/") for path in paths)


def test_the_course_is_the_hypervolume_of_all_trials_so_far(own: Path) -> None:
    reference = {"top1": 0.8, "latency_ms": 2.0, "size_bytes": 1e6}
    change(own / "trials.json", lambda table: table.update(reference=reference))
    view = load_run(own)
    points = [
        (t.number, [t.metrics[name].value for name in reference]) for t in view.trials if t.feasible
    ]
    for number, value in view.hypervolume[:: max(1, len(view.hypervolume) // 12)]:
        so_far = [point for at, point in points if at is not None and at <= number]
        expected = hypervolume(so_far, ["max", "min", "min"], list(reference.values()))
        assert value == pytest.approx(expected)
    values = [value for _, value in view.hypervolume]
    assert values == sorted(values)
    assert view.hypervolume[-1][0] == max(t.number or 0 for t in view.trials)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no front\.json") as caught:
        load_run(tmp_path)
    assert "edgenas search" in caught.value.hint


def _set(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]

    def apply(table: Any) -> None:
        for key in keys:
            table = table[key]
        table[last] = value

    return apply


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [
        ("result.json", "exports.0.size_bytes", "large"),
        ("result.json", "exports.0.top1", True),
        ("result.json", "schema", "edgenas.search-result/2"),
        ("trials.json", "trials.3.metrics.top1.value", None),
        ("trials.json", "trials.3.metrics.latency_ms.low", 1e9),
        ("trials.json", "trials.3.number", 1.5),
        ("provenance.json", "tables.0.error_median", "small"),
        ("latency.json", "latencies.0.units.0.key", "conv cin=0"),
        ("latency.json", "latencies.0.units.0.ms", "1"),
        ("latency.json", "latencies.1.units", []),
        ("export.json", "models.0.verification.n", "many"),
    ],
)
def test_damage_is_named(own: Path, name: str, where: str, value: object) -> None:
    path = own / name if (own / name).exists() else sorted(own.glob(f"models/*/{name}"))[0]
    change(path, _set(where, value))
    with pytest.raises(ArtifactError, match=name):
        load_run(own)


def test_an_interval_beside_its_value_is_left_out(own: Path) -> None:
    path = sorted(own.glob("models/*/export.json"))[0]
    told = {"value_ms": 1.0, "origin": "measured", "low_ms": 1.01, "high_ms": 1.2, "n": 5}
    change(path, _set("models.1.measured_ms", told))
    model = next(m for m in load_run(own).models if m.digest == path.parent.name)
    measured = model.files[1].measured_ms
    assert measured is not None
    assert (measured.value, measured.low, measured.high, measured.n) == (1.0, None, None, 5)
