"""Operators as tool-chains see them: of an architecture before its export, of a file after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenas.errors import SpecError
from edgenas.models import ModelGraph, Step, tflite_graph
from edgenas.models.onnx import read_onnx
from edgenas.models.tflite import operator_names, type_names, unpack
from edgenas.spaces import Lowering, Node, OpSpec
from edgenas.targets.toolchains import SQUEEZE_EXCITE


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator. What is not known before the export, or does not apply, is None.

    `kernel` is the dilated one (height, width); `rescales` says that input and output have another
    scale or zero point; `place` is where it stands, for messages.
    """

    name: str
    place: str
    version: int | None = None
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    activation: bool = False
    rescales: bool | None = None


def operators_of_lowering(
    lowering: Lowering, file_format: str = "tflite-int8"
) -> tuple[Operator, ...]:
    """The operators of the file of this format that `lowering` would be exported to."""
    if file_format.startswith("onnx"):
        found = (op for node in lowering.primitive().nodes for op in _onnx(node.op, file_format))
        return (*first_operators(file_format), *found)
    graph = tflite_graph(lowering)
    return tuple(_planned(graph, step) for step in graph.steps)


def operators_of_primitive(op: OpSpec, file_format: str) -> tuple[Operator, ...]:
    """The operators that one primitive becomes in a file of this format."""
    if file_format.startswith("onnx"):
        return tuple(_onnx(op, file_format))
    return operators_of_lowering(Lowering(op.in_chw, (Node(op, (-1,) * op.n_inputs),)))


def first_operators(file_format: str) -> tuple[Operator, ...]:
    """What a file begins with before the network: in ONNX, channels are brought to the front."""
    return (Operator("Transpose", "input"),) if file_format.startswith("onnx") else ()


def operators_of_file(path: Path) -> tuple[Operator, ...]:
    """The operators of a model file in execution order.

    Raises:
        SpecError: no such model, or a damaged one.
    """
    if path.suffix != ".tflite":
        steps = read_onnx(path.read_bytes(), path).steps
        return tuple(Operator(step.kind, step.name) for step in steps if not step.is_view)
    model = unpack(path.read_bytes(), path)
    try:
        return tuple(_stored(model))
    except (IndexError, TypeError, AttributeError, KeyError) as error:
        raise SpecError(f"{path}: damaged TFLite file: {error}") from error


_ONNX_KINDS = {
    "conv": ("Conv",),
    "add": ("Add",),
    "pool": ("ReduceMean",),
    "linear": ("Gemm",),
    "squeeze_excite": ("ReduceMean", "Conv", "Relu", "Conv", "HardSigmoid", "Mul"),
}
_ONNX_ACTIVATIONS = {
    "relu": "Relu", "relu6": "Clip", "hswish": "HardSwish", "hsigmoid": "HardSigmoid",
}  # fmt: skip
_IN_RANGE = ("Relu", "Clip")
"""Activations that quantisation leaves out, as the range of what it writes implies them."""


def _onnx(op: OpSpec, file_format: str) -> Iterator[Operator]:
    names = [*_ONNX_KINDS.get(op.kind, ())]
    if op.kind == "conv" and op.act in _ONNX_ACTIVATIONS:
        names.append(_ONNX_ACTIVATIONS[op.act])
    for name in names:
        if not (file_format == "onnx-int8" and name in _IN_RANGE):
            yield Operator(name, op.kind)


def _planned(graph: ModelGraph, step: Step) -> Operator:
    kernel = stride = None
    if step.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and step.op is not None:
        kernel, stride = (step.op["k"],) * 2, (step.op["s"],) * 2
    shapes = [graph.tensors[t].shape for t in step.inputs]
    return Operator(_named(step.kind, shapes), step.name, kernel=kernel, stride=stride)


def _stored(model: Any) -> Iterator[Operator]:
    names, types = operator_names(), type_names()
    graph = model.subgraphs[0]
    for i, operator in enumerate(graph.operators):
        code = model.operatorCodes[operator.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = [graph.tensors[int(t)] for t in operator.inputs if t >= 0]
        options = operator.builtinOptions
        kernel = stride = None
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            _, height, width, _ = (int(n) for n in inputs[1].shape)
            kernel = (
                (height - 1) * options.dilationHFactor + 1,
                (width - 1) * options.dilationWFactor + 1,
            )
            stride = options.strideH, options.strideW
        variable = [t for t in inputs if not _is_constant(model, t)]
        output = graph.tensors[int(operator.outputs[0])]
        whole = types[output.type] in ("INT8", "UINT8") and bool(variable)
        yield Operator(
            _named(name, [tuple(map(int, t.shape)) for t in variable if t.shape is not None]),
            f"operator {i}",
            version=int(code.version),
            kernel=kernel,
            stride=stride,
            activation=bool(getattr(options, "fusedActivationFunction", 0)),
            rescales=_quantised(variable[0]) != _quantised(output) if whole else None,
        )


def _named(name: str, shapes: list[tuple[int, ...]]) -> str:
    """`name`, or that of channel attention where a map is multiplied by one value a channel."""
    if name == "MUL" and len(shapes) == 2 and shapes[0] != shapes[1]:
        return SQUEEZE_EXCITE
    return name


def _is_constant(model: Any, tensor: Any) -> bool:
    buffer = model.buffers[tensor.buffer]
    return (buffer.data is not None and len(buffer.data) > 0) or (buffer.offset or 0) > 1


def _quantised(tensor: Any) -> tuple[float, int] | None:
    found = tensor.quantization
    if found is None or found.scale is None or found.zeroPoint is None:
        return None
    return float(found.scale[0]), int(found.zeroPoint[0])
