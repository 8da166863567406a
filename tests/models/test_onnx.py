"""Small ONNX files as others write them: what their operators cost, and what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgenas.models import read_model

FLOAT = TensorProto.FLOAT
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
