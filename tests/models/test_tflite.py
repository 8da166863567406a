"""TFLite files with one thing changed, or of one operator: what is read, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgenas.errors import SpecError
from edgenas.models import read_model
from edgenas.models.tflite import unpack

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
SOURCE = min(CALIBRATION.glob("*.tflite"), key=lambda path: path.stat().st_size)


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """A copy of `SOURCE` of which `change` was given every tensor that is no constant."""
    model = unpack(SOURCE.read_bytes(), SOURCE)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if (data is None or not len(data)) and tensor.shape is not None and len(tensor.shape) > 1:
            change(tensor)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.tflite"


def test_images_in_batches_are_refused_but_an_open_batch_is_one(path: Path) -> None:
    def batch(tensor: Any) -> None:
        tensor.shape = np.array([8, *tensor.shape[1:]], np.int32)

    def open_batch(tensor: Any) -> None:
        tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)

    with pytest.raises(SpecError, match=r"model\.tflite: input .* has a batch of 8"):
        read_model(changed(path, batch))
    assert read_model(changed(path, open_batch)).units == read_model(SOURCE).units


def test_an_open_size_is_refused(path: Path) -> None:
    def open_rows(tensor: Any) -> None:
        if len(tensor.shape) == 4:
            tensor.shapeSignature = np.array([1, -1, *tensor.shape[2:]], np.int32)
            tensor.shape = np.array([1, 1, *tensor.shape[2:]], np.int32)

    with pytest.raises(SpecError, match=r"model\.tflite: the shape of .* cannot be told"):
        read_model(changed(path, open_rows))


def test_activations_of_16_bits_are_named(path: Path) -> None:
    def widen(tensor: Any) -> None:
        if tensor.type == schema.TensorType.INT8:
            tensor.type = schema.TensorType.INT16

    graph = read_model(changed(path, widen))
    assert graph.precision == "int16"
    assert graph.macs == 0
    assert {step.unsupported.split(";")[0] for step in graph.unsupported} == {"computes in int16"}


def one_operator(
    path: Path,
    kind: str,
    inputs: list[list[int]],
    outputs: list[list[int]],
    options: Any = None,
    *,
    weights: bytes = b"",
    custom: str = "",
) -> Path:
    """A file of one operator on float tensors of these shapes; int8 `weights` are the second."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.customCode = custom or None
    graph.tensors = []
    for i, shape in enumerate([*inputs, *outputs]):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = f"t{i}", np.array(shape, np.int32), 0
        graph.tensors.append(tensor)
    if weights:
        model.buffers.append(schema.BufferT())
        model.buffers[1].data = np.frombuffer(weights, np.uint8)
        graph.tensors[1].type, graph.tensors[1].buffer = schema.TensorType.INT8, 1
    operator.inputs = graph.inputs = np.arange(len(inputs), dtype=np.int32)
    operator.outputs = graph.outputs = np.arange(len(outputs), dtype=np.int32) + len(inputs)
    if options is not None:
        operator.builtinOptions = options
        name = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
    graph.operators, model.operatorCodes = [operator], [code]
    builder = flatbuffers.Builder(1 << 10)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_what_is_split_is_written_whole(path: Path) -> None:
    one_operator(path, "UNPACK", [[1, 4, 5, 6]], [[1, 4, 5], [1, 4, 5]])
    assert [op.key for _, op in read_model(path).units] == ["copy c=6 h=4 w=5"]


def test_slopes_and_transposes_are_operators_of_their_own(path: Path) -> None:
    for kind in ("PRELU", "LEAKY_RELU"):
        one_operator(path, kind, [[1, 4, 5, 6]], [[1, 4, 5, 6]])
        assert [op.key for _, op in read_model(path).units] == ["scale c=6 h=4 w=5"]
    one_operator(path, "TRANSPOSE", [[1, 4, 5, 6]], [[1, 6, 4, 5]])
    assert [op.key for _, op in read_model(path).units] == ["copy c=120 h=1 w=1"]


def test_a_leading_dimension_within_the_network_counts(path: Path) -> None:
    options = schema.BatchMatMulOptionsT()
    options.adjX = options.adjY = False
    one_operator(path, "BATCH_MATMUL", [[1, 10, 64], [8, 64, 12]], [[8, 10, 12]], options)
    assert [op.key for _, op in read_model(path).units] == ["matmul cin=64 cout=12 n=10 times=8"]
    one_operator(path, "SOFTMAX", [[64, 49, 49]], [[64, 49, 49]])
    assert [op.key for _, op in read_model(path).units] == ["function c=49 h=3136 w=1"]


def test_int8_weights_for_float_activations_are_named(path: Path) -> None:
    """Dynamic-range quantisation: the runtime computes in int8, but the file's ports are float."""
    options, shapes = schema.FullyConnectedOptionsT(), ([[1, 64], [10, 64]], [[1, 10]])
    one_operator(path, "FULLY_CONNECTED", *shapes, options)
    assert [op.key for _, op in read_model(path).units] == ["linear cin=64 cout=10"]
    one_operator(path, "FULLY_CONNECTED", *shapes, options, weights=bytes(640))
    graph = read_model(path)
    assert not graph.units
    assert [step.unsupported for step in graph.unsupported] == [
        "int8 weights for float32 activations; tables hold one type for both"
    ]


def test_custom_operators_are_named_but_the_one_that_is_known(path: Path) -> None:
    shapes = [[1, 16, 20, 8], [3, 2, 2, 8], [3]], [[1, 32, 40, 3]]
    one_operator(path, "CUSTOM", *shapes, custom="Convolution2DTransposeBias")
    assert [op.key for _, op in read_model(path).units] == [
        "deconv cin=8 cout=3 h=16 w=20 kh=2 kw=2 oh=32 ow=40 act=none"
    ]
    one_operator(path, "CUSTOM", *shapes, custom="MyOwn")
    (step,) = read_model(path).unsupported
    assert step.unsupported == "custom operator 'MyOwn'"
