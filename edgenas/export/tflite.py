"""TFLite files as such: one canonical form, metadata, operators and types. Loads no torch."""

from __future__ import annotations

import copy
import functools
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgenas.artifacts import write_atomic
from edgenas.errors import SpecError
from edgenas.models.tflite import operator_names, text, type_names, unpack

T = TypeVar("T")

LABELS_FILE = "labels.txt"
"""The associated file, in a zip archive appended to the model, that TFLite tools read."""

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
"""Kinds of operators that have weights."""

_INT8_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "LOGISTIC": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "RELU": 2,
    "RELU6": 2,
    "TRANSPOSE": 2,
}
"""First version of each operator that takes int8 (TensorFlow's op_version.cc); the quantiser
leaves them all at 1."""


def canonicalise(
    path: Path,
    *,
    int8: bool = False,
    metadata: Mapping[str, bytes] | None = None,
    labels: Sequence[str] = (),
    input_name: str = "",
    output_name: str = "",
) -> None:
    """Rewrites the file at `path` in the form that every TFLite runtime reads.

    Weights that the quantiser stored behind the flatbuffer come back inside (TFLite-Micro does not
    see them there and answers with constants), operator versions say what int8 needs, tensors get
    short names (they carry Python paths of the exporting program), `metadata` is added as named
    buffers, and `labels` as the file `labels.txt` in an appended zip archive, one a line.
    """
    model = _whole(path)
    if int8:
        names = operator_names()
        for code in model.operatorCodes:
            known = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            code.version = max(code.version, _INT8_VERSIONS.get(known, 1))
    for graph in model.subgraphs:
        for i, tensor in enumerate(graph.tensors):
            tensor.name = f"t{i}"
        for name, indices in ((input_name, graph.inputs), (output_name, graph.outputs)):
            if name and len(indices) == 1:
                graph.tensors[int(indices[0])].name = name
    if input_name and output_name:
        for signature in model.signatureDefs or ():
            for port, name in ((signature.inputs, input_name), (signature.outputs, output_name)):
                if len(port) == 1:
                    port[0].name = name
    for name, value in (metadata or {}).items():
        _add_metadata(model, name, value)
    write_atomic(path, _pack(model))
    if labels:
        _append_labels(path, labels)


def split(path: Path, parts: Sequence[Path]) -> None:
    """Writes each output of the file at `path`, with all that it takes, as a file of its own.

    The file is one that litert-torch wrote of a module which computes several things side by side:
    `parts[i]` becomes what it would have written of the i-th of them alone, but for the version of
    the runtime that the metadata ask for, which is that of the whole.

    Raises:
        SpecError: the file has not as many outputs, or more than one graph.
    """
    model = _whole(path)
    (signature,) = model.signatureDefs
    outputs, inputs = _ports(signature.outputs), _ports(signature.inputs)
    if len(model.subgraphs) != 1 or len(outputs) != len(parts):
        raise SpecError(f"{path}: {len(model.subgraphs)} graphs with {len(outputs)} outputs")
    for output, part in zip(outputs, parts, strict=True):
        write_atomic(part, _pack(_part(model, output, inputs)))


def _ports(ports: Sequence[Any]) -> list[int]:
    """The tensors of a signature's inputs or outputs: `args_0`, `args_1`, ..."""
    numbered = sorted((int(text(port.name).rpartition("_")[2]), port) for port in ports)
    return [int(port.tensorIndex) for _, port in numbered]


def _part(model: Any, output: int, inputs: Sequence[int]) -> Any:
    """A model of what `output` takes."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    needed, operators = {output}, []
    for operator in reversed(graph.operators):
        if needed.intersection(map(int, operator.outputs)):
            needed.update(int(i) for i in operator.inputs if i >= 0)
            operators.append(operator)
    tensors = sorted(needed | {int(i) for operator in operators for i in operator.outputs})
    place = {tensor: i for i, tensor in enumerate(tensors)} | {-1: -1}

    codes, buffers = [], [schema.BufferT()]

    def buffer(index: int) -> int:
        """The place of a buffer in the part; what has no content shares the first."""
        if model.buffers[index].data is None:
            return 0
        buffers.append(model.buffers[index])
        return len(buffers) - 1

    def own(operator: Any) -> Any:
        if operator.opcodeIndex not in codes:
            codes.append(operator.opcodeIndex)
        return _with(
            operator,
            opcodeIndex=codes.index(operator.opcodeIndex),
            inputs=[place[int(i)] for i in operator.inputs],
            outputs=[place[int(i)] for i in operator.outputs],
        )

    ports = [place[i] for i in inputs if i in needed]
    subgraph = _with(
        graph,
        inputs=ports,
        outputs=[place[output]],
        tensors=[_with(t, buffer=buffer(t.buffer)) for t in (graph.tensors[i] for i in tensors)],
        operators=[own(operator) for operator in reversed(operators)],
    )
    signature = _with(
        model.signatureDefs[0],
        inputs=[_port(f"args_{k}", i) for k, i in enumerate(ports)],
        outputs=[_port("output_0", place[output])],
    )
    return _with(
        model,
        subgraphs=[subgraph],
        signatureDefs=[signature],
        metadata=[_with(entry, buffer=buffer(entry.buffer)) for entry in model.metadata or ()],
        operatorCodes=[model.operatorCodes[code] for code in codes],
        buffers=buffers,
    )


def _with(thing: Any, **changed: Any) -> Any:
    """A copy of one of the schema's objects with these fields."""
    found = copy.copy(thing)
    for name, value in changed.items():
        setattr(found, name, value)
    return found


def _port(name: str, tensor: int) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    port = schema.TensorMapT()
    port.name, port.tensorIndex = name, tensor
    return port


def _whole(path: Path) -> Any:
    """The model with all buffers inside."""
    data = path.read_bytes()
    model = unpack(data, path)
    for buffer in model.buffers:
        if (buffer.offset or 0) > 1:
            buffer.data = np.frombuffer(
                data, dtype=np.uint8, count=buffer.size, offset=buffer.offset
            )
        buffer.offset = buffer.size = 0
    return model


def _reader(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Turns what a broken file makes `read` raise into a SpecError that names the file."""

    @functools.wraps(read)
    def read_whole(path: Path) -> T:
        try:
            return read(path)
        except SpecError:
            raise
        except (IndexError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise SpecError(f"{path}: damaged TFLite file: {error!r}") from error

    return read_whole


@_reader
def read_metadata(path: Path) -> dict[str, str]:
    """The named buffers of the file at `path` that hold UTF-8 text."""
    data = path.read_bytes()
    model = unpack(data, path)
    found: dict[str, str] = {}
    for entry in model.metadata or ():
        raw = model.buffers[entry.buffer].data
        if raw is None:
            continue
        try:
            found[text(entry.name)] = bytes(raw).decode()
        except UnicodeDecodeError:
            continue
    return found


def labels_text(labels: Sequence[str]) -> str:
    """The content of `labels.txt`: a class on each line, in the order of the logits."""
    return "".join(f"{label}\n" for label in labels)


@_reader
def input_quantisation(path: Path) -> dict[str, Any]:
    """`dtype`, `scale` and `zero_point` of the file's one input; a float has no scale."""
    model = unpack(path.read_bytes(), path)
    graph = model.subgraphs[0]
    tensor = graph.tensors[int(graph.inputs[0])]
    dtype = type_names()[tensor.type].lower()
    if dtype == "float32" or tensor.quantization is None or tensor.quantization.scale is None:
        return {"dtype": dtype, "scale": None, "zero_point": None}
    quantisation = tensor.quantization
    return {
        "dtype": dtype,
        "scale": float(quantisation.scale[0]),
        "zero_point": int(quantisation.zeroPoint[0]),
    }


@_reader
def operators(path: Path) -> list[tuple[str, str]]:
    """Each operator of the file with the type of its (first) output: `("CONV_2D", "INT8")`."""
    model = unpack(path.read_bytes(), path)
    types = type_names()
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            output = graph.tensors[int(operator.outputs[0])]
            found.append((_name(model, operator), types[output.type]))
    return found


@_reader
def operators_run(path: Path) -> list[tuple[str, str]]:
    """Each operator and the type that it computes in; INT4 where its weights are."""
    model = unpack(path.read_bytes(), path)
    types = type_names()
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            name, kind = _name(model, operator), types[graph.tensors[int(operator.outputs[0])].type]
            if name in WEIGHTED and kind == "INT8":
                weights = types[graph.tensors[int(operator.inputs[1])].type]
                kind = weights if weights == "INT4" else kind
            found.append((name, kind))
    return found


def weighted_operators(path: Path) -> list[tuple[str, str]]:
    """Those of `operators_run` that have weights."""
    return [(name, kind) for name, kind in operators_run(path) if name in WEIGHTED]


@_reader
def operator_outputs(path: Path) -> list[tuple[str, str]]:
    """The name of each operator's (first) output, and the operator's kind, in execution order."""
    model = unpack(path.read_bytes(), path)
    return [
        (text(graph.tensors[int(operator.outputs[0])].name), _name(model, operator))
        for graph in model.subgraphs
        for operator in graph.operators
    ]


@_reader
def port_types(path: Path) -> list[str]:
    """The type of each input, then of each output."""
    model = unpack(path.read_bytes(), path)
    graph = model.subgraphs[0]
    types = type_names()
    return [types[graph.tensors[int(i)].type] for i in (*graph.inputs, *graph.outputs)]


@_reader
def tensor_types(path: Path) -> dict[str, str]:
    """The type of each tensor of the file, by the tensor's name."""
    model = unpack(path.read_bytes(), path)
    types = type_names()
    return {
        f"{g}.{i}.{text(tensor.name)}": types[tensor.type]
        for g, graph in enumerate(model.subgraphs)
        for i, tensor in enumerate(graph.tensors)
    }


def _name(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return operator_names()[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _add_metadata(model: Any, name: str, payload: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(payload, dtype=np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = name
    entry.buffer = len(model.buffers) - 1
    kept = [e for e in model.metadata or () if text(e.name) != name]
    model.metadata = [*kept, entry]


def _append_labels(path: Path, labels: Sequence[str]) -> None:
    body = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(body, "a") as archive:
        entry = zipfile.ZipInfo(LABELS_FILE)  # dated 1980: the same model is the same file
        archive.writestr(entry, labels_text(labels))
    write_atomic(path, body.getvalue())
