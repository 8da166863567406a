"""TFLite files with one thing changed, or of one operator: what is read, and what is refused."""

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgenas.models import read_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.tflite"


def one_operator(
    path: Path, kind: str, inputs: list[list[int]], outputs: list[list[int]], options: Any = None
) -> Path:
    """A file of one operator on float tensors of these shapes."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    graph.tensors = []
    for i, shape in enumerate([*inputs, *outputs]):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = f"t{i}", np.array(shape, np.int32), 0
        graph.tensors.append(tensor)
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
