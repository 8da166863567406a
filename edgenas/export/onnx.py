"""ONNX files: float32 from torch, static int8 from float32."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import replacing
from edgenas.errors import ExportError, SpecError
from edgenas.models.graph import reading
from edgenas.models.onnx import parse_onnx

if TYPE_CHECKING:
    from edgenas.networks import Network

FloatArray = npt.NDArray[np.float32]

Activations = Literal["u8", "s8"]
"""Type of int8 activations: u8 is the fast one on x86, s8 on ARM; weights are s8 for both."""

OPSET = 18
UNIT_OPSET = 17

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
"""Kinds of operators that have weights."""


def write_network(network: Network, path: Path) -> None:
    """Writes a whole network in float32: input `image` (1, h, w, c), output `logits`."""
    import torch
    import torch._dynamo.exc  # torch.onnx names it in a handler: half imported, it hides interrupts

    class ChannelsLast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(image.permute(0, 3, 1, 2))
            return logits

    c, h, w = network.lowering.in_chw
    with _quiet():
        torch.onnx.export(
            ChannelsLast().eval(),
            (torch.zeros(1, h, w, c),),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    _finish(path, {})


def write_unit(network: Network, path: Path) -> None:
    """Writes a unit in float32 as the runtime computes it inside a network: NCHW inputs `x0`, ...

    torch's older exporter: the same graph for these units, in a tenth of the time.
    """
    import torch

    inputs = network.example_inputs()
    with _quiet():
        torch.onnx.export(
            network.eval(),
            tuple(inputs),
            str(path),
            dynamo=False,
            opset_version=UNIT_OPSET,
            input_names=[f"x{i}" for i in range(len(inputs))],
            output_names=["y"],
        )
    _finish(path, {})


def quantize(
    source: Path, path: Path, samples: Sequence[Sequence[FloatArray]], *, activations: Activations
) -> None:
    """Writes `source` in int8; see `quantiser`."""
    with quantiser(source, samples, activations=activations) as write:
        write(path)


class WriteInt8(Protocol):
    """Writes a file in int8, but for the operators of these names."""

    def __call__(self, path: Path, *, but: Sequence[str] = ()) -> None:
        """Writes it to `path`, whole or not at all."""


@contextlib.contextmanager
def quantiser(
    source: Path, samples: Sequence[Sequence[FloatArray]], *, activations: Activations
) -> Iterator[WriteInt8]:
    """Writes `source` in int8: static, weights per channel, quantise-dequantise pairs; float I/O.

    `samples` holds the inputs of each calibration run; the ranges are their minima and maxima,
    found once for all files that are written.
    Weights keep to 7 bits: on x86 without VNNI instructions, where files for ARM are verified, too,
    onnxruntime adds pairs of products in 16 bits, which saturate (10 % of the answers of a small
    network changed).
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [port.name for port in onnx.load(str(source), load_external_data=False).graph.input]

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(samples)

        def get_next(self) -> dict[str, FloatArray] | None:
            sample = next(self._rest, None)
            return None if sample is None else dict(zip(names, sample, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, "prepared.onnx"))
        with _quiet():
            quant_pre_process(
                str(source), prepared, skip_optimization=True, skip_symbolic_shape=True
            )

        def write(path: Path, *, but: Sequence[str] = ()) -> None:
            with replacing(path) as temporary, _quiet():
                quantize_static(
                    prepared,
                    str(temporary),
                    Samples(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    weight_type=QuantType.QInt8,
                    activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
                    reduce_range=True,
                    nodes_to_exclude=list(but),
                    calibration_cache_path=Path(folder, "ranges.json"),
                )
                _finish(temporary, {})

        yield write


def open_boundaries(path: Path) -> None:
    """Lets an int8 unit take and give integers, as it does inside a network.

    Removes the QuantizeLinear behind each input and the DequantizeLinear before each output; a
    tensor that is not quantised stays as it is.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    types = {value.name: value.data_type for value in graph.initializer}
    for port in graph.input:
        readers = [node for node in graph.node if port.name in node.input]
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            port.type.tensor_type.elem_type = types[readers[0].input[2]]
            _rename(graph, readers[0].output[0], port.name)
            graph.node.remove(readers[0])
    for port in graph.output:
        (maker,) = [node for node in graph.node if port.name in node.output]
        if maker.op_type == "DequantizeLinear":
            inner = maker.input[0]
            port.type.tensor_type.elem_type = types[maker.input[2]]
            graph.node.remove(maker)
            _rename(graph, inner, port.name)
    used = {name for node in graph.node for name in node.input}
    for initializer in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(initializer)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Adds `metadata` to the file's own properties."""
    _finish(path, metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """The file's properties."""
    found = {entry.key: entry.value for entry in _load(path).metadata_props}
    if not all(isinstance(word, str) for words in found.items() for word in words):
        raise SpecError(f"{path}: damaged ONNX file: metadata that is no text")
    return found


def operators(path: Path) -> list[tuple[str, str]]:
    """Each operator of the file with the type that it computes in: `("Conv", "INT8")`.

    An operator between DequantizeLinear and QuantizeLinear is computed in integers by the runtime;
    the pairs themselves are left out.
    """
    model = _load(path)
    graph = model.graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    found = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        inputs = [name for name in node.input if name]
        quantised = [made_by.get(name) == "DequantizeLinear" for name in inputs[:2]]
        # what has weights is in integers only where its input is quantised as well as they are
        integer = (all if node.op_type in WEIGHTED else any)(quantised)
        found.append((node.op_type, "INT8" if integer else "FLOAT32"))
    return found


def activations_of(path: Path) -> Activations | None:
    """What the file's activations are quantised to; None where none is."""
    graph = _load(path).graph
    types = {array.name: array.data_type for array in graph.initializer}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) == 3:
            return "u8" if types.get(node.input[2]) == _UINT8 else "s8"
    return None


def session_options() -> Any:
    """Onnxruntime's options, with signed activations in integers, as ARM's processors compute them.

    On x86 it would compute some convolutions of such files in float.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def operators_run(path: Path) -> list[tuple[str, str]]:
    """Each operator that onnxruntime runs on this machine's processor, and its output's type.

    As its own optimisation leaves them: an operator between DequantizeLinear and QuantizeLinear is
    computed in integers only where onnxruntime has such a kernel.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder, _quiet():
        optimised = Path(folder, "model.onnx")
        options = session_options()
        options.optimized_model_filepath = str(optimised)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(optimised)).graph
    integer = {i.name: i.data_type in (_INT8, _UINT8, _INT32) for i in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        kind = node.op_type
        whole = kind != "DequantizeLinear" and (
            kind.startswith("Q") or "Integer" in kind or integer.get(node.input[0], False)
        )
        integer |= dict.fromkeys(node.output, whole)
        found.append((kind, "INT8" if whole else "FLOAT32"))
    return found


_INT8, _UINT8, _INT32 = 3, 2, 6
"""`onnx.TensorProto.DataType`."""


def weighted_operators(path: Path) -> list[tuple[str, str]]:
    """Those of `operators` that have weights."""
    return [(kind, name) for kind, name in operators(path) if kind in WEIGHTED]


def node_names(path: Path) -> list[tuple[str, str]]:
    """Name and kind of each operator of the file, in execution order."""
    return [(node.name, node.op_type) for node in _load(path).graph.node]


def _load(path: Path) -> Any:
    with reading(path, "damaged ONNX file"):
        return parse_onnx(path.read_bytes())


def _finish(path: Path, metadata: Mapping[str, str]) -> None:
    """Rewrites the file without traces of the exporting program, with `metadata` added."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    model.doc_string = ""
    model.producer_name = "edgenas"
    model.producer_version = ""
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
        value.doc_string = ""
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
        initializer.doc_string = ""
    kept = {p.key: p.value for p in model.metadata_props if not p.key.startswith("onnx.")}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept | dict(metadata))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path}: torch wrote an invalid ONNX file: {error}") from error
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporters' warnings and log lines, which no user can act on, out of the way."""
    import onnxruntime

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        onnxruntime.set_default_logger_severity(3)
        root.addFilter(_not_ort)
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(2)  # its own default
            root.removeFilter(_not_ort)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _not_ort(record: logging.LogRecord) -> bool:
    return "onnxruntime" not in record.pathname
