"""TFLite files: float32 from torch, float16 and int8 from float32, all in one canonical form.

The only module that knows litert-torch and ai-edge-quantizer, which change often. Both print,
partly from C++, and take seconds to import; so `write_float`, `cast_float16` and `quantize` run in
the process of `edgenas.export.worker`, whose output is caught whole.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgenas.artifacts import write_atomic
from edgenas.errors import ExportError, SpecError
from edgenas.export.units import Network

FloatArray = npt.NDArray[np.float32]

EXTRA_HINT = 'pip install "edgenas[tflite]"'
_MODULES = ("litert_torch", "ai_edge_quantizer", "torchao")

LABELS_FILE = "labels.txt"
"""The associated file, in a zip archive appended to the model, that TFLite tools read."""

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


def require_extra() -> None:
    """Checks that the packages of the extra are installed, without importing them.

    Raises:
        ExportError: naming the missing ones, with the pip command as its hint.
    """
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"TFLite export needs {', '.join(missing)}; install it with {EXTRA_HINT}",
            hint=EXTRA_HINT,
        )


def write_float(network: Network, path: Path) -> None:
    """Writes `network`, folded, as a float32 file that takes and gives NHWC."""
    import litert_torch

    inputs = network.example_inputs()
    with torch.no_grad():
        output = network(*inputs)
    module = _native(network)
    if module is None:
        outputs = [0] if output.dim() == 4 else []
        module = litert_torch.to_channel_last_io(network, args=[0], outputs=outputs)
    examples = tuple(x.permute(0, 2, 3, 1).contiguous() for x in inputs)
    litert_torch.convert(module.eval(), examples).export(str(path))


def _native(network: Network) -> nn.Module | None:
    """A module that computes a one-primitive network in NHWC where the converter needs that.

    Without a convolution to start from it leaves a TRANSPOSE, which whole networks do not have.
    """
    if len(network.lowering) > 1:
        return None
    match network.lowering.nodes[0].op.kind:
        case "add" | "linear":  # element-wise, or a single pixel: the same in either layout
            return network
        case "pool":
            return _NativePool()
        case "squeeze_excite":
            return _NativeExcite(network)
        case _:
            return None


class _NativePool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2), keepdim=True)


class _NativeExcite(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.inner = network.units[0][0]  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        squeezed = x.mean((1, 2), keepdim=True).permute(0, 3, 1, 2)
        gate: Tensor = self.inner.gate(squeezed)
        return x * gate.permute(0, 2, 3, 1)


def cast_float16(source: Path, path: Path) -> None:
    """Writes the float32 file `source` with float16 weights; inputs and outputs stay float32."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    q = quantizer.Quantizer(str(source))
    q.add_weight_only_config(
        ".*",
        qtyping.TFLOperationName.ALL_SUPPORTED,
        num_bits=16,
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    write_atomic(path, bytes(_quantized(q.quantize(enable_progress_report=False), source)))


def quantize(source: Path, path: Path, samples: Sequence[Sequence[FloatArray]]) -> None:
    """Writes the float32 file `source` in int8: weights, activations, inputs and outputs.

    `samples` holds the NHWC inputs of each calibration run. The ranges are plain minima and maxima:
    the quantiser's own moving average loses several per cent of agreement.
    """
    from ai_edge_quantizer import calibrator, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe.static_wi8_ai8())
    calibration = calibrator.Calibrator(
        str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update
    )
    signature, names = _signature(source)
    runs = [dict(zip(names, sample, strict=True)) for sample in samples]
    calibration.calibrate({signature: runs}, manager)
    q = quantizer.Quantizer(str(source))
    q.load_quantization_recipe(recipe.static_wi8_ai8())
    result = q.quantize(calibration.get_model_qsvs(), enable_progress_report=False)
    write_atomic(path, bytes(_quantized(result, source)))


def _quantized(result: Any, source: Path) -> bytes:
    if result.quantized_model is None:
        raise ExportError(f"{source}: the quantiser gave no model")
    return bytes(result.quantized_model)


def _signature(path: Path) -> tuple[str, list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    ((name, ports),) = Interpreter(str(path), num_threads=1).get_signature_list().items()
    return name, sorted(ports["inputs"])


def canonicalise(
    path: Path,
    *,
    int8: bool = False,
    metadata: Mapping[str, str] | None = None,
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
    data = path.read_bytes()
    model = _unpack(data, path)
    for buffer in model.buffers:
        if (buffer.offset or 0) > 1:
            buffer.data = np.frombuffer(
                data, dtype=np.uint8, count=buffer.size, offset=buffer.offset
            )
        buffer.offset = buffer.size = 0
    if int8:
        names = _operator_names()
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
    for name, text in (metadata or {}).items():
        _add_metadata(model, name, text.encode())
    write_atomic(path, _pack(model) + b"")
    if labels:
        _append_labels(path, labels)


def read_metadata(path: Path) -> dict[str, str]:
    """The named buffers of the file at `path` that hold UTF-8 text."""
    data = path.read_bytes()
    model = _unpack(data, path)
    found: dict[str, str] = {}
    for entry in model.metadata or ():
        raw = model.buffers[entry.buffer].data
        if raw is None:
            continue
        try:
            found[_text(entry.name)] = bytes(raw).decode()
        except UnicodeDecodeError:
            continue
    return found


def read_labels(path: Path) -> tuple[str, ...]:
    """The lines of the appended `labels.txt`; none where there is no such archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.read(LABELS_FILE).decode().splitlines())
    except (zipfile.BadZipFile, KeyError):
        return ()


def operators(path: Path) -> list[tuple[str, str]]:
    """Each operator of the file with the type of its (first) output: `("CONV_2D", "INT8")`."""
    model = _unpack(path.read_bytes(), path)
    names = _operator_names()
    types = _type_names()
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            output = graph.tensors[int(operator.outputs[0])]
            name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            found.append((name, types[output.type]))
    return found


def tensor_types(path: Path) -> dict[str, str]:
    """The type of each tensor of the file, by the tensor's name."""
    model = _unpack(path.read_bytes(), path)
    types = _type_names()
    return {
        f"{g}.{i}.{_text(tensor.name)}": types[tensor.type]
        for g, graph in enumerate(model.subgraphs)
        for i, tensor in enumerate(graph.tensors)
    }


def _unpack(data: bytes, path: Path) -> Any:
    """The model as objects.

    Only for files that edgenas wrote or checked by digest: flatbuffers are not verified here, but
    in Python a broken one ends in an exception, never in a crash.
    """
    import struct

    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise SpecError(f"{path} is not a TFLite file")
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: damaged TFLite file: {error}") from error


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
    kept = [e for e in model.metadata or () if _text(e.name) != name]
    model.metadata = [*kept, entry]


def _append_labels(path: Path, labels: Sequence[str]) -> None:
    body = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(body, "a") as archive:
        entry = zipfile.ZipInfo(LABELS_FILE)  # dated 1980: the same model is the same file
        archive.writestr(entry, "".join(f"{label}\n" for label in labels))
    write_atomic(path, body.getvalue())


def _operator_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return _enum(schema.BuiltinOperator)


def _type_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return _enum(schema.TensorType)


def _enum(kind: type) -> dict[int, str]:
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


def _text(name: bytes | str | None) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""
