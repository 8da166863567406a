"""Small ONNX files as others write them: what their operators cost, and what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgenas.errors import SpecError
from edgenas.models import planned_bytes, read_model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Dims = Sequence[int | str]


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
) -> Path:
    """A file of these nodes; ports are float32 unless `types` says otherwise."""
    ports = (
        [helper.make_tensor_value_info(n, (types or {}).get(n, FLOAT), s) for n, s in some.items()]
        for some in (inputs, outputs)
    )
    constants = [numpy_helper.from_array(np.asarray(v), n) for n, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "small", *ports, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def keys(path: Path) -> list[str]:
    return [op.key for _, op in read_model(path).units]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def test_slopes_of_the_channels_own_are_an_operator_and_cut_offs_are_not(path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Transpose", ["d"], ["y"], perm=[0, 2, 3, 1]),
    ]
    weights = {"w": ones(16, 8, 1, 1), "slope": ones(16, 1, 1), "v": ones(4, 16, 1, 1)}
    write(path, nodes, {"x": [1, 8, 5, 6]}, {"y": [1, 5, 6, 4]}, weights)
    assert keys(path) == [
        "conv cin=8 cout=16 h=5 w=6 k=1 s=1 g=1 act=none",
        "scale c=16 h=5 w=6",
        "conv cin=16 cout=4 h=5 w=6 k=1 s=1 g=1 act=relu",
        "copy c=120 h=1 w=1",
    ]


def test_one_dimensional_operators_are_those_of_maps_one_wide(path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2], strides=[2]),
        helper.make_node("GlobalAveragePool", ["b"], ["y"]),
    ]
    write(path, nodes, {"x": [1, 8, 40]}, {"y": [1, 16, 1]}, {"w": ones(16, 8, 3)})
    assert keys(path) == [
        "conv2d cin=8 cout=16 h=40 w=1 kh=3 kw=1 oh=40 ow=1 g=1 act=none",
        "pool2d c=16 h=40 w=1 kh=2 kw=1 oh=20 ow=1",
        "pool c=16 h=20 w=1",
    ]
    assert read_model(path).macs == 40 * 16 * 8 * 3


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), "3-d convolution"),
        (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2, 2]), "3-d pooling"),
    ],
)
def test_operators_of_three_dimensions_are_named(path: Path, node: Any, why: str) -> None:
    write(path, [node], {"x": [1, 8, 8, 8, 8]}, {"y": [1, 8, 7, 7, 7]}, {"w": ones(8, 8, 2, 2, 2)})
    assert [step.unsupported for step in read_model(path).unsupported] == [why]


def test_images_in_batches_are_refused_but_an_open_batch_is_one(path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    write(path, [node], {"x": [8, 3, 4, 4]}, {"y": [8, 3, 4, 4]})
    with pytest.raises(SpecError, match=r"model\.onnx: input 'x' has a batch of 8") as caught:
        read_model(path)
    assert caught.value.hint == "export it with a batch of 1"
    write(path, [node], {"x": ["n", 3, 4, 4]}, {"y": ["n", 3, 4, 4]})
    assert keys(path) == ["activate c=3 h=4 w=4 act=relu"]


def test_signals_in_batches_are_refused_but_a_sequence_has_none(path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    write(path, [node], {"x": [8, 4, 9]}, {"y": [8, 4, 9]}, {"w": ones(4, 4, 1)})
    with pytest.raises(SpecError, match="input 'x' has a batch of 8"):
        read_model(path)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    write(path, [node], {"x": [8, 4]}, {"y": [8, 5]}, {"w": ones(4, 5)})
    assert keys(path) == ["matmul cin=4 cout=5 n=8 times=1"]


def test_a_leading_dimension_within_the_network_counts(path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"]),
    ]
    write(path, nodes, {"a": [10, 64], "b": [8, 64, 12]}, {"y": [8, 10, 12]})
    assert keys(path) == ["matmul cin=64 cout=12 n=10 times=8", "function c=12 h=80 w=1"]


@pytest.mark.parametrize(
    ("a", "b", "y", "key"),
    [
        ([1, 10], [10], [1], "linear cin=10 cout=1"),
        ([6, 10], [10], [6], "matmul cin=10 cout=1 n=6 times=1"),
        ([10], [3, 10, 4], [3, 4], "matmul cin=10 cout=4 n=1 times=3"),
        ([2, 5, 10], [10, 4], [2, 5, 4], "matmul cin=10 cout=4 n=10 times=1"),
    ],
)
def test_products_by_a_constant(path: Path, a: Dims, b: list[int], y: Dims, key: str) -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    write(path, [node], {"a": a}, {"y": y}, {"b": ones(*b)})
    assert keys(path) == [key]


def test_a_shape_that_is_told_at_run_time_is_refused_where_it_costs(path: Path) -> None:
    reshape = helper.make_node("Reshape", ["x", "s"], ["r"])
    inputs, types = {"x": [1, 3, 4, 4], "s": [4]}, {"s": INT64}
    relus = [helper.make_node("Relu", ["x"], ["z"]), reshape]
    write(path, relus, inputs, {"r": ["a", "b", "c", "d"], "z": [1, 3, 4, 4]}, types=types)
    assert keys(path) == ["activate c=3 h=4 w=4 act=relu"], "a view costs nothing"
    nodes = [reshape, helper.make_node("Conv", ["r", "w"], ["y"])]
    write(path, nodes, inputs, {"y": ["a", "b", "c", "d"]}, {"w": ones(8, 3, 1, 1)}, types=types)
    with pytest.raises(SpecError, match=r"model\.onnx: the shape of 'r' cannot be told") as caught:
        read_model(path)
    assert caught.value.hint == "export it with fixed shapes"


def test_a_sparse_weight_is_a_weight(path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    write(path, [node], {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]})
    model = onnx.load(path)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            helper.make_tensor("w", FLOAT, [1], [1.0]),
            helper.make_tensor("places", INT64, [1], [0]),
            [8, 4, 1, 1],
        )
    )
    onnx.save(model, path)
    assert keys(path) == ["conv cin=4 cout=8 h=5 w=5 k=1 s=1 g=1 act=none"]


def test_weights_outside_of_the_file_are_named(path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    write(path, [node], {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]}, {"w": ones(8, 4, 1, 1)})
    whole = onnx.load(path)
    onnx.save(whole, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    with pytest.raises(
        SpecError, match=r"model\.onnx: .* another file, model\.onnx\.data"
    ) as caught:
        read_model(path)
    assert "onnx.save(onnx.load('FILE'), 'ONE.onnx')" in caught.value.hint
    one = path.with_name("one.onnx")
    onnx.save(onnx.load(path), one)
    assert keys(one) == ["conv cin=4 cout=8 h=5 w=5 k=1 s=1 g=1 act=none"]


def test_what_the_reader_trips_over_is_an_error_that_names_the_file(path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=0)
    write(path, [node], {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]}, {"w": ones(8, 4, 1, 1)})
    with pytest.raises(SpecError, match=r"model\.onnx: "):
        read_model(path)


def quantised(path: Path, *, scale_shape: tuple[int, ...] = ()) -> Path:
    """Two convolutions, a ReLU behind each, between QuantizeLinear and DequantizeLinear."""
    q, d = "QuantizeLinear", "DequantizeLinear"
    nodes = [helper.make_node(d, ["w", "s"], ["wd"]), helper.make_node(q, ["x", "s", "z"], ["xq"])]
    for i, (before, after) in enumerate([("xq", "aq"), ("aq", "yq")]):
        nodes += [
            helper.make_node(d, [before, "s", "z"], [f"d{i}"]),
            helper.make_node("Conv", [f"d{i}", "wd"], [f"c{i}"], pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
            helper.make_node(q, [f"r{i}", "s", "z"], [after]),
        ]
    nodes.append(helper.make_node(d, ["yq", "s", "z"], ["y"]))
    weights = {
        "w": np.ones((16, 16, 3, 3), np.int8),
        "s": np.full(scale_shape, 0.1, np.float32),
        "z": np.full(scale_shape, 3, np.uint8),
    }
    return write(path, nodes, {"x": [1, 16, 8, 8]}, {"y": [1, 16, 8, 8]}, weights)


def test_quantised_values_take_a_byte_and_float_ports_four(path: Path) -> None:
    graph = read_model(quantised(path))
    n = 16 * 8 * 8
    assert graph.precision == "int8"
    assert sorted(size for size, _, _ in graph.lifetimes()) == [n, n, n, 4 * n, 4 * n]
    assert planned_bytes(graph.lifetimes()) == 5 * n


def test_scales_of_one_element_are_scales(path: Path) -> None:
    plain = keys(quantised(path))
    assert keys(quantised(path, scale_shape=(1,))) == plain


def test_one_quantised_output_makes_no_integer_model(path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["y"]),
    ]
    weights = {"w": ones(8, 4, 1, 1), "s": np.float32(0.1), "z": np.uint8(3)}
    types = {"y": TensorProto.UINT8}
    write(path, nodes, {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]}, weights, types=types)
    graph = read_model(path)
    assert graph.precision == "fp32"
    assert sorted(size for size, _, _ in graph.lifetimes()) == [200, 400, 800], "stored as float"


def test_float_weights_make_float_arithmetic(path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    weights = {"w": ones(8, 4, 1, 1), "s": np.float32(0.1), "z": np.uint8(3)}
    write(path, nodes, {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]}, weights)
    assert read_model(path).precision == "fp32"


def test_arithmetic_in_float16_is_named(path: Path) -> None:
    half = TensorProto.FLOAT16
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    types = {"x": half, "y": half}
    weights = {"w": ones(8, 4, 1, 1).astype(np.float16)}
    write(path, [node], {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]}, weights, types=types)
    graph = read_model(path)
    assert graph.precision == "fp16"
    assert [step.unsupported.split(";")[0] for step in graph.unsupported] == ["computes in float16"]


def test_weights_in_float16_are_cast_once(path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["wf"], to=FLOAT),
        helper.make_node("Conv", ["x", "wf"], ["y"]),
    ]
    weights = {"w": ones(8, 4, 1, 1).astype(np.float16)}
    write(path, nodes, {"x": [1, 4, 5, 5]}, {"y": [1, 8, 5, 5]}, weights)
    graph = read_model(path)
    assert (graph.precision, graph.unsupported) == ("fp32", [])


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_a_transposed_convolution_sums_within_its_groups(path: Path, groups: int) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=groups)
    weights = {"w": ones(16, 32 // groups, 2, 2)}
    write(path, [node], {"x": [1, 16, 8, 8]}, {"y": [1, 32, 16, 16]}, weights)
    assert read_model(path).macs == 8 * 8 * 2 * 2 * 16 * 32 // groups


def test_a_split_writes_all_its_outputs(path: Path) -> None:
    node = helper.make_node("Split", ["x"], ["a", "b"], axis=1)
    ports = {"a": [1, 8, 5, 5], "b": [1, 8, 5, 5]}
    write(path, [node], {"x": [1, 16, 5, 5]}, ports, opset=11)
    assert keys(path) == ["copy c=16 h=5 w=5"]


def test_an_unused_mask_of_a_dropout_needs_no_shape(path: Path) -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["a", "mask"], ratio=0.5),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    write(path, nodes, {"x": [1, 16]}, {"y": [1, 16]}, opset=9)
    assert keys(path) == ["activate c=16 h=1 w=1 act=relu"]
