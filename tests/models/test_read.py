"""Files that edgenas exported, read back as the operators that they were made from."""

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from edgenas.errors import ResourceError, SpecError, UsageError
from edgenas.models import read_model, sums_in_convolutions
from edgenas.spaces import Lowering

Exported = tuple[Path, Lowering]


def test_an_exported_network_is_its_lowering(exported: Exported) -> None:
    path, net = exported
    graph = read_model(path)
    assert graph.unsupported == []
    assert graph.precision == "int8"
    assert graph.macs == net.macs
    found = Counter(op.key for _, op in graph.units if op.kind != "copy")
    assert found == Counter(node.op.key for node in net.primitive().nodes)
    assert graph.size_bytes == path.stat().st_size


@pytest.mark.parametrize("name", ["model.pb", "model", "model.onnx.txt"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="ends in"):
        read_model(tmp_path / name)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_what_is_no_model_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises((SpecError, ResourceError), match="model"):
        read_model(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SpecError, match=f"model{suffix}"):
        read_model(path)


def test_a_cut_or_changed_file_is_read_or_refused(exported: Exported, tmp_path: Path) -> None:
    source, _ = exported
    data = source.read_bytes()
    path = tmp_path / f"model{source.suffix}"
    for i in range(12):
        cut = data[: len(data) * i // 12]
        changed = bytearray(data)
        changed[(7919 * (i + 1)) % len(data)] ^= 0xFF
        for damaged in (cut, bytes(changed)):
            path.write_bytes(damaged)
            with contextlib.suppress(SpecError):
                read_model(path)


def test_a_relu_behind_a_linear_layer_is_no_operator_of_its_own(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((16, 8), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w"], ["h"], transB=0),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [weights],
    )
    path = tmp_path / "dense.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    assert [op.key for _, op in read_model(path).units] == ["linear cin=16 cout=8"]


def test_onnxruntime_adds_within_the_convolution(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "w")
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], **same),
            helper.make_node("Conv", ["a", "w"], ["b"], **same),
            helper.make_node("Add", ["b", "a"], ["c"]),
            helper.make_node("Relu", ["c"], ["y"]),
        ],
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
        [weights],
    )
    path, optimised = tmp_path / "residual.onnx", tmp_path / "optimised.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    assert [op.key for _, op in sums_in_convolutions(read_model(path)).units] == [
        "conv cin=8 cout=8 h=6 w=6 k=3 s=1 g=1 act=none",
        "conv cin=8 cout=8 h=6 w=6 k=3 s=1 g=1 act=relu",
    ]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(optimised).graph.node]
    assert not {"Add", "Relu"} & set(nodes), nodes
