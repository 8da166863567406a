"""Export end to end: five formats, verified in their runtimes."""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import replace

import numpy as np
import onnx as onnx_package
import onnxruntime
import pytest

from edgenas.errors import ArtifactError, SpecError
from edgenas.export import litert, onnx, tflite, verify
from edgenas.export.certificate import read_certificate, recheck
from edgenas.export.certified import ExportRequest, export_networks, verify_again
from edgenas.export.contract import METADATA_KEY, read_document
from edgenas.export.formats import FILE_NAMES, FORMATS
from edgenas.export.models import torch_logits
from edgenas.export.runners import LiteRunner, MicroRunner, open_model, probe
from edgenas.spaces.size import size_bytes
from edgenas.targets import ram_bytes_of_file

pytestmark = pytest.mark.long

FLOATS = ("onnx", "tflite", "tflite-fp16")


def evidence(exported, path, images=None):
    request = exported.request
    return verify.verify_model(
        path,
        images=request.images if images is None else images,
        labels=request.labels,
        reference_logits=exported.reference,
    )


def test_every_format_is_written_and_verified(exported):
    certificate = exported.certificate
    assert [m.format for m in certificate.models] == list(FORMATS)
    assert [m.path for m in certificate.models] == list(FILE_NAMES.values())
    assert [m.verdict for m in certificate.models] == ["passed"] * 5, certificate.problems()
    assert certificate.problems() == ()
    assert certificate.exit_code == 0
    assert all(m.verification.n == 1797 and m.verification.top1 > 0.8 for m in certificate.models)
    assert read_certificate(exported.folder) == certificate
    left_over = {p.name for p in exported.folder.iterdir()} - set(FILE_NAMES.values())
    assert left_over == {"export.json"}


def test_float_files_give_the_answers_of_torch(exported):
    found = {m.format: m.verification for m in exported.certificate.models}
    assert found["onnx"].max_abs_difference < 1e-4
    assert found["tflite"].max_abs_difference < 1e-4
    assert found["tflite-fp16"].max_abs_difference < 0.05
    assert all(found[name].agreement == 1 for name in ("onnx", "tflite"))


def test_int8_tflite_holds_only_integers(exported, large):
    for folder in (exported.folder, large.folder):
        path = folder / FILE_NAMES["tflite-int8"]
        verify.check_int8(path)
        assert not any("FLOAT" in kind for kind in tflite.tensor_types(path).values())
        assert tflite.port_types(path) == ["INT8", "INT8"]
        names = {name for name, _ in verify.operators(path)}
        assert {"CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "FULLY_CONNECTED"} <= names
        assert not names & {"TRANSPOSE", "QUANTIZE", "DEQUANTIZE"}


def test_operators_match_the_lowering(exported, large):
    for item in (exported, large):
        ops = list(item.request.network.lowering.primitive())
        convolutions = sum(op.kind == "conv" for op in ops)
        found = [name for name, _ in verify.operators(item.folder / "model.onnx")]
        assert found.count("Conv") == convolutions
        assert found.count("Add") == sum(op.kind == "add" for op in ops)
        found = [name for name, _ in verify.operators(item.folder / "model.tflite")]
        assert found.count("CONV_2D") + found.count("DEPTHWISE_CONV_2D") == convolutions


def test_operators_are_counted_as_the_runtime_runs_them(exported):
    models = {m.format: m for m in exported.certificate.models}
    nodes = [name for name, _ in verify.operators(exported.folder / "model.int8.onnx")]
    run = models["onnx-int8"].operators
    assert run["QLinearConv"] == {"INT8": nodes.count("Conv")}
    assert "Conv" not in run
    assert run["ReduceMean"] == {"FLOAT32": nodes.count("ReduceMean")}, "it has no integer kernel"
    assert run["DequantizeLinear"]["FLOAT32"] >= 1
    kinds = {kind for counts in models["onnx"].operators.values() for kind in counts}
    assert kinds == {"FLOAT32"}
    for model in models.values():
        path = exported.folder / model.path
        assert model.peak_memory_bytes == ram_bytes_of_file(path) > 0


def test_metadata_is_read_from_the_file_alone(exported):
    request = exported.request
    for model in exported.certificate.models:
        path = exported.folder / model.path
        contract, about = read_document(path)
        assert about == request.about
        assert about["architecture"] == request.architecture
        assert contract == model.input
        plain = replace(contract, dtype="float32", scale=None, zero_point=None)
        assert plain == request.contract
        if model.format == "tflite-int8":
            assert contract.dtype == "int8"
            reach = np.abs(request.calibration).max()
            assert contract.scale * 127 == pytest.approx(reach, rel=1.1)
        if path.suffix == ".tflite":
            with zipfile.ZipFile(path) as appended:
                lines = appended.read("labels.txt").decode().splitlines()
            assert tuple(lines) == request.contract.classes
            held = tflite.unpack(path.read_bytes(), path)
            (entry,) = (e for e in held.metadata if tflite.text(e.name) == "TFLITE_METADATA")
            assert bytes(held.buffers[entry.buffer].data[4:8]) == b"M001"
        else:
            properties = onnx.read_metadata(path)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            assert session.get_modelmeta().custom_metadata_map == properties
            assert properties["labels"].splitlines() == list(request.contract.classes)
            assert float(properties["mean"]) == request.contract.mean[0]
            graph = onnx_package.load(path).graph
            assert [graph.input[0].name, graph.output[0].name] == ["image", "logits"]


def test_files_carry_no_path_of_the_exporting_program(exported):
    for model in exported.certificate.models:
        data = (exported.folder / model.path).read_bytes()
        assert b"site-packages" not in data
        assert b"units.0" not in data or model.path.endswith(".onnx")


def test_tflite_micro_gives_the_same_answers(exported, large):
    pytest.importorskip("tflite_micro", reason="needs the extra edgenas[micro]")
    for item, n in ((exported, 200), (large, 8)):
        path = item.folder / FILE_NAMES["tflite-int8"]
        images = item.request.images[:n]
        answers = MicroRunner(path).run(images)
        expected = LiteRunner(path, reference=True).run(images)  # the same rounding
        step = float(np.diff(np.unique(expected)).min())
        assert np.abs(answers - expected).max() <= 1.01 * step
        assert (answers != expected).mean() < 0.002
        np.testing.assert_array_equal(answers.argmax(1), expected.argmax(1))
        fast = LiteRunner(path).run(images)  # other kernels: more results are rounded otherwise
        assert (answers.argmax(1) == fast.argmax(1)).mean() >= 0.98
        assert len(np.unique(answers)) > 10  # unread weights answer with a constant


def test_large_constants_lie_inside_the_flatbuffer(large):
    path = large.folder / FILE_NAMES["tflite-int8"]
    model = tflite.unpack(path.read_bytes(), path)
    assert all((b.offset or 0) <= 1 for b in model.buffers)
    assert sum(len(b.data) for b in model.buffers if b.data is not None) > 256 * 1024


def test_too_few_images_are_inconclusive(large):
    assert {m.verdict for m in large.certificate.models} == {"inconclusive"}
    assert {m.verified for m in large.certificate.models} == {None}
    assert large.certificate.exit_code == 0


def test_sizes_are_predicted(large):
    for model in large.certificate.models:
        predicted = size_bytes(large.request.network.lowering, model.format)
        assert predicted == pytest.approx(model.size_bytes, rel=0.03), model.format


@pytest.mark.parametrize("name", ["onnx", "tflite-int8"])
def test_wrong_normalisation_is_caught(exported, name):
    path = exported.folder / FILE_NAMES[name]
    wrong = exported.request.images * 0.37 + 0.3 - 1.0
    found = verify.gates(
        path,
        evidence(exported, path, wrong),
        precision="fp32" if name == "onnx" else "int8",
    )
    assert verify.worst(found) == "failed"


@pytest.mark.filterwarnings("ignore:.*experimental_preserve_all_tensors:UserWarning")
def test_ranges_by_moving_average_are_caught(exported, tmp_path, monkeypatch):
    from ai_edge_quantizer.utils import qsv_utils

    source, path = exported.folder / FILE_NAMES["tflite"], tmp_path / "model.int8.tflite"
    monkeypatch.setattr(qsv_utils, "min_max_update", qsv_utils.moving_average_update)
    litert.quantize(source, path, [[image[None]] for image in exported.request.calibration])
    gate = verify.scale_gate(evidence(exported, path))
    assert gate.verdict == "failed", gate
    good = verify.scale_gate(evidence(exported, exported.folder / FILE_NAMES["tflite-int8"]))
    assert good.verdict == "passed", good


def test_transposed_weights_are_caught(exported, tmp_path):
    model = onnx_package.load(exported.folder / "model.onnx")
    for tensor in model.graph.initializer:
        values = onnx_package.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            swapped = np.ascontiguousarray(values.swapaxes(2, 3))
            tensor.CopyFrom(onnx_package.numpy_helper.from_array(swapped, tensor.name))
    onnx_package.save(model, tmp_path / "model.onnx")
    found = evidence(exported, tmp_path / "model.onnx")
    assert verify.agreement_gate(found).verdict == "failed"
    assert verify.drop_gate(found, max_top1_drop=0.01).verdict == "failed"


@pytest.mark.parametrize("name", FLOATS)
def test_float_files_are_not_taken_for_int8(exported, name):
    assert verify.integer_gate(exported.folder / FILE_NAMES[name]).verdict == "failed"


def test_one_float_tensor_in_int8_is_caught(exported, tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    source = exported.folder / FILE_NAMES["tflite-int8"]
    model = tflite.unpack(source.read_bytes(), source)
    model.subgraphs[0].tensors[5].type = schema.TensorType.FLOAT32
    path = tmp_path / "model.int8.tflite"
    path.write_bytes(tflite._pack(model))
    assert "1 float tensors" in verify.integer_gate(path).reason


def test_partly_quantised_onnx_is_caught(exported, tmp_path):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"image": exported.request.images[:1]}]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = tmp_path / "model.int8.onnx"
    with onnx._quiet():
        quantize_static(
            str(exported.folder / "model.onnx"),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Gemm"],
        )
    assert verify.integer_gate(path).verdict == "failed"
    verify.check_int8(exported.folder / FILE_NAMES["onnx-int8"])


def test_quantised_weights_alone_are_no_integers(exported, tmp_path):
    model = onnx_package.load(exported.folder / FILE_NAMES["onnx-int8"])
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):  # what came before it was quantised
            quantised = made_by[made_by[node.input[0]].input[0]]
            node.input[0] = quantised.input[0]
    path = tmp_path / "model.int8.onnx"
    onnx_package.save(model, path)
    kinds = {kind for name, kind in onnx.operators(path) if name in onnx.WEIGHTED}
    assert kinds == {"FLOAT32"}
    assert verify.integer_gate(path).verdict == "failed"


def test_a_failed_gate_rejects_the_file_and_the_others_go_on(request_for, tmp_path):
    request = request_for(tmp_path / "model")
    request = replace(request, images=request.images[:600], labels=request.labels[:600])
    shifted = replace(request, calibration=request.calibration * 0.02)
    (certificate,) = export_networks([shifted], formats=["onnx", "onnx-int8"])
    assert [m.path for m in certificate.models] == ["model.onnx", "model.int8.onnx.rejected"]
    assert certificate.exit_code == 5
    assert "top1_drop" in certificate.problems()[0]
    assert (tmp_path / "model" / "model.int8.onnx.rejected").is_file()
    assert not (tmp_path / "model" / "model.int8.onnx").exists()
    (certificate,) = export_networks([request], formats=["onnx-int8"])
    assert certificate.exit_code == 0
    assert not (tmp_path / "model" / "model.int8.onnx.rejected").exists()


def test_without_the_extra_the_other_formats_go_on(request_for, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        litert.importlib.util,
        "find_spec",
        lambda name: None if name == "litert_torch" else found(name),
    )
    (certificate,) = export_networks(
        [request_for(tmp_path)], formats=["tflite", "onnx", "tflite-int8"]
    )
    assert [m.format for m in certificate.models] == ["onnx"]
    assert [f.format for f in certificate.failures] == ["tflite", "tflite-int8"]
    assert certificate.failures[0].hint == 'pip install "edgenas[tflite]"'
    assert certificate.exit_code == 8


@pytest.mark.parametrize(("activations", "kind"), [("u8", "UINT8"), ("s8", "INT8")])
def test_int8_onnx_has_the_activations_of_the_device(request_for, tmp_path, activations, kind):
    request = replace(request_for(tmp_path), activations=activations)
    (certificate,) = export_networks([request], formats=["onnx-int8"])
    assert certificate.exit_code == 0
    graph = onnx_package.load(request.folder / "model.int8.onnx").graph
    types = {array.name: array.data_type for array in graph.initializer}
    zero_points = {types[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"}
    assert zero_points == {onnx_package.TensorProto.DataType.Value(kind)}
    run = certificate.models[0].operators  # in integers on this processor too
    assert not {name for name in run if name in onnx.WEIGHTED}
    assert run["QLinearConv"]["INT8"] == sum(n.op_type == "Conv" for n in graph.node)


def test_verify_again_reads_digests_first(exported, tmp_path):
    request = exported.request
    again = verify_again(
        exported.folder,
        contract=request.contract,
        images=request.images,
        labels=request.labels,
        reference_logits=exported.reference,
    )
    assert [found for _, found, _ in again] == [m.verification for m in exported.certificate.models]
    for source in exported.folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    recheck(tmp_path)
    path = tmp_path / "model.int8.tflite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model\.int8\.tflite was changed"):
        recheck(tmp_path)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        recheck(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_refused(exported, tmp_path, name):
    source = exported.folder / FILE_NAMES[name]
    data = source.read_bytes()
    whole = len(data)
    if source.suffix == ".tflite":
        whole = data.rindex(b"PK\x03\x04")  # what follows is the archive with the labels
    path = tmp_path / source.name
    for length in (0, 3, 8, 100, *(whole * i // 10 for i in range(1, 10))):
        path.write_bytes(data[:length])
        with pytest.raises(SpecError):
            open_model(path)


def test_probe_runs_the_file_in_another_process(exported, tmp_path):
    source = exported.folder / "model.tflite"
    probe(source)
    path = tmp_path / "model.tflite"
    data = bytearray(source.read_bytes())
    data[40:4000] = b"\xff" * 3960
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="cannot be run"):
        probe(path)


def test_runners_refuse_other_shapes(exported):
    for name in ("onnx", "tflite"):
        runner = open_model(exported.folder / FILE_NAMES[name])
        with pytest.raises(SpecError, match="takes images of shape"):
            runner.run(np.zeros((1, 1, 16, 16), np.float32))
        with pytest.raises(SpecError, match="takes images of shape"):
            runner.run(np.zeros((0, 16, 16, 1), np.float32))


def test_the_reference_is_the_network_itself(exported, trained):
    import torch

    images = exported.request.images[:5]
    with torch.no_grad():
        expected = trained(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert torch_logits(trained, images) == pytest.approx(expected, abs=1e-4)


def test_requests_must_fit(request_for, tmp_path):
    request = request_for(tmp_path)
    assert isinstance(request, ExportRequest)
    with pytest.raises(SpecError, match="as many images as labels"):
        replace(request, labels=request.labels[:5])
    with pytest.raises(SpecError, match="calibration images"):
        replace(request, calibration=request.calibration.transpose(0, 3, 1, 2))
    with pytest.raises(SpecError, match="10 outputs"):
        replace(request, contract=replace(request.contract, classes=("a", "b")))
    with pytest.raises(SpecError, match="contract says"):
        replace(request, contract=replace(request.contract, shape=(1, 8, 8, 1)))


def test_document_key_is_the_same_in_both_families(exported):
    onnx_text = onnx.read_metadata(exported.folder / "model.onnx")[METADATA_KEY]
    lite_text = tflite.read_metadata(exported.folder / "model.tflite")[METADATA_KEY]
    assert onnx_text == lite_text


@pytest.mark.slow
def test_the_same_network_gives_the_same_files(exported, request_for, tmp_path):
    (again,) = export_networks([request_for(tmp_path)], formats=FORMATS)
    before = {m.format: m.sha256 for m in exported.certificate.models}
    assert {m.format: m.sha256 for m in again.models} == before
