"""Latency of model files: those that edgenas exported are their architectures again."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from ai_edge_litert.schema_py_generated import TensorType

from edgenas.cli.main import main
from edgenas.errors import DeviceError, MissingUnitsError, SpecError, UsageError
from edgenas.hardware import load_device
from edgenas.latency import Predictor, fit_cost, load_table, read_table, write_table
from edgenas.models.tflite import unpack
from edgenas.pipeline import predict
from edgenas.profiling import QUICK
from edgenas.spaces import OpSpec, chain
from edgenas.spaces.mobile import default_space
from edgenas.testing.fakes import INVENTED_DEVICE, invented_table, write_invented_device

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
NETWORKS = json.loads((CALIBRATION / "networks.json").read_text("utf-8"))["networks"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, default_space(image_size=28, in_channels=1, n_classes=10))
    return tmp_path


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_file_is_predicted_as_its_architecture(name: str) -> None:
    path = CALIBRATION / NETWORKS[name]["files"]["tflite-int8"]
    facts = predict(INVENTED_DEVICE, str(path))
    ops = [OpSpec.parse(node["key"]) for node in NETWORKS[name]["lowering"]["nodes"]]
    net = chain(ops[0].in_chw, [(str(i), op) for i, op in enumerate(ops)])
    expected = Predictor(load_table(INVENTED_DEVICE)).predict(net)
    assert [unit["key"] for unit in facts["units"]] == [op.key for op in ops]
    assert facts["latency_ms"] == pytest.approx(expected.latency_ms, rel=1e-9)
    assert facts["measured_share"] == 1.0
    assert facts["size_bytes"] == path.stat().st_size
    assert facts["macs"] == net.macs
    assert facts["micro_arena_bytes"] > facts["peak_memory_bytes"] > 0
    for unit in facts["units"]:
        assert 0 <= unit["low_ms"] <= unit["ms"] <= unit["high_ms"]


def test_a_prediction_becomes_a_page_with_a_bar_for_each_operator(folder: Path) -> None:
    path = CALIBRATION / next(iter(NETWORKS.values()))["files"]["tflite-int8"]
    facts = predict(INVENTED_DEVICE, str(path), page=folder / "out.html")
    text = (folder / "out.html").read_text("utf-8")
    figures = json.loads(text.split('id="figures">')[1].split("</script>")[0])
    traces = figures["units"]["data"]
    bars = [x for trace in traces for x in trace["x"]]
    assert sum(bars) == pytest.approx(facts["latency_ms"])
    assert len(bars) == len(facts["units"])
    assert all(
        len(trace["error_x"]["array"]) == len(trace["x"]) for trace in figures["units"]["data"]
    )


def test_operators_that_nothing_is_known_of_are_named(folder: Path) -> None:
    table = read_table(folder / "latency_tables" / f"{INVENTED_DEVICE}.json")
    name = next(iter(NETWORKS))
    keys = [node["key"] for node in NETWORKS[name]["lowering"]["nodes"]]
    left = {op: entry for op, entry in table.entries.items() if op.key != keys[-1]}
    write_table(
        type(table)(table.device, table.source, table.created, left, table.fits),
        folder / "latency_tables" / f"{INVENTED_DEVICE}.json",
    )
    path = CALIBRATION / NETWORKS[name]["files"]["tflite-int8"]
    with pytest.raises(MissingUnitsError, match="knows nothing of 3 of its") as caught:
        predict(INVENTED_DEVICE, str(path))
    assert "linear cin=192 cout=10" in str(caught.value)


def test_files_of_another_runtime_or_precision_are_refused() -> None:
    files = next(iter(NETWORKS.values()))["files"]
    with pytest.raises(UsageError, match=r"runs \.tflite files"):
        predict(INVENTED_DEVICE, str(CALIBRATION / files["onnx-int8"]))
    with pytest.raises(SpecError):
        predict(INVENTED_DEVICE, "nowhere.tflite")


def write_tflite(model: Any, path: Path) -> None:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def test_a_file_without_work_is_refused(folder: Path) -> None:
    source = CALIBRATION / next(iter(NETWORKS.values()))["files"]["tflite-int8"]
    model = unpack(source.read_bytes(), source)
    model.subgraphs[0].operators = []
    write_tflite(model, folder / "none.tflite")
    with pytest.raises(SpecError, match=r"none\.tflite: none of its 0 operators costs time"):
        predict(INVENTED_DEVICE, "none.tflite")


def test_a_precision_that_no_device_has_is_told(folder: Path) -> None:
    source = CALIBRATION / next(iter(NETWORKS.values()))["files"]["tflite-int8"]
    model = unpack(source.read_bytes(), source)
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == TensorType.INT8:
            tensor.type = TensorType.INT16
    write_tflite(model, folder / "wide.tflite")
    with pytest.raises(UsageError, match=r"wide\.tflite is int16") as caught:
        predict(INVENTED_DEVICE, "wide.tflite")
    assert caught.value.hint == "export it in fp32 or int8"


def test_files_that_no_one_table_tells_of_are_refused(folder: Path) -> None:
    source = CALIBRATION / next(iter(NETWORKS.values()))["files"]["tflite-int8"]
    model = unpack(source.read_bytes(), source)
    graph = model.subgraphs[0]
    for operator in graph.operators[: len(graph.operators) // 2]:
        for tensor in (int(operator.outputs[0]), *map(int, operator.inputs[1:2])):
            graph.tensors[tensor].type = TensorType.FLOAT32
    write_tflite(model, folder / "model.mixed.tflite")
    with pytest.raises(UsageError, match=r"is in mixed precision: \d+% of its .* in (fp32|int8)"):
        predict(INVENTED_DEVICE, "model.mixed.tflite")
    model = unpack(source.read_bytes(), source)
    graph = model.subgraphs[0]
    graph.tensors[int(graph.operators[0].inputs[1])].type = TensorType.INT4
    write_tflite(model, folder / "four.tflite")
    with pytest.raises(
        MissingUnitsError, match=r"1 of its \d+ operators: .* int4 weights for int8 activations"
    ):
        predict(INVENTED_DEVICE, "four.tflite")


@pytest.mark.parametrize("name", [b"MODEL.TFLITE", b"caf\xe9.tflite"])
def test_a_file_may_have_any_name(
    folder: Path, name: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    source = CALIBRATION / next(iter(NETWORKS.values()))["files"]["tflite-int8"]
    path = os.fsdecode(name)
    (folder / path).write_bytes(source.read_bytes())
    assert main(["predict", INVENTED_DEVICE, path, "--html", "out.html", "--json"]) == 0
    before = Path(path).read_bytes()
    assert main(["predict", INVENTED_DEVICE, path, "--html", f"./{path}"]) == 2
    assert Path(path).read_bytes() == before
    facts = json.loads(capfd.readouterr().out)
    assert facts["file"] == name.decode(errors="replace")
    assert facts["latency_ms"] > 0


@pytest.mark.long
def test_a_file_is_timed_beside_units_of_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgenas.pipeline.tables.cache_folder", lambda: folder / "cache")
    monkeypatch.setattr("edgenas.profiling.settings.STANDARD", QUICK)
    name = "local-onnxruntime-int8-t1"
    space = default_space(image_size=28, in_channels=1, n_classes=10)
    table = invented_table(load_device(name), space)
    model = fit_cost({op: entry.latency_ms for op, entry in table.entries.items()})
    write_table(replace(table, cost_model=model), folder / "latency_tables" / f"{name}.json")
    files = (CALIBRATION / entry["files"]["onnx-int8"] for entry in NETWORKS.values())
    path = min(files, key=lambda path: path.stat().st_size)
    argv = ["predict", name, str(path), "--measure", "--html", "out.html"]
    assert main([*argv, "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["measured_p10_ms"] <= facts["measured_ms"] * 1.5
    assert 0.001 < facts["measured_ms"] < 1000
    assert facts["drift"] > 0
    expected = facts["latency_ms"] * facts["drift"] / facts["measured_ms"] - 1
    assert facts["error"] == pytest.approx(expected)
    assert "measured latency" in (folder / "out.html").read_text("utf-8")


def test_only_a_file_on_a_device_at_hand_can_be_timed() -> None:
    path = CALIBRATION / next(iter(NETWORKS.values()))["files"]["tflite-int8"]
    with pytest.raises(DeviceError, match="is not this machine"):
        predict(INVENTED_DEVICE, str(path), measure=True)
    with pytest.raises(UsageError, match="not an architecture"):
        predict(INVENTED_DEVICE, "largest", measure=True)
