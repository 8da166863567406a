"""ONNX files as graphs. Shapes come from onnx's own inference; nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgenas.errors import SpecError
from edgenas.models.graph import ModelGraph, Step, Tensor, chw, convolution, like
from edgenas.spaces import OpSpec

_VIEWS = {
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Shape",
    "QuantizeLinear", "DequantizeLinear",  # part of the operators between them
}  # fmt: skip
_COPIES = {
    "Concat", "Pad", "Slice", "Transpose", "Gather", "GatherND", "GatherElements",
    "SpaceToDepth", "DepthToSpace", "Tile", "Expand", "Cast", "ScatterND",
}  # fmt: skip
_FUNCTIONS = {
    "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs", "Gelu", "Softmax", "LogSoftmax", "Elu",
    "Erf", "Reciprocal", "Floor", "Round", "Ceil", "ArgMax", "ArgMin", "TopK", "Softplus", "Sin",
    "Cos", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "LayerNormalization", "LRN",
    "InstanceNormalization", "Not", "Sign",
}  # fmt: skip
_ACTIVATIONS = {
    "Relu": "relu", "LeakyRelu": "relu", "PRelu": "relu", "Clip": "relu6", "HardSwish": "hswish",
    "HardSigmoid": "hsigmoid",
}  # fmt: skip
_BINARY = {
    "Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "Greater", "Less", "Equal", "Where", "And",
    "Or", "Mod", "GreaterOrEqual", "LessOrEqual",
}  # fmt: skip


def read_onnx(data: bytes, path: Path) -> ModelGraph:
    """The main graph of the file; `path` is for messages. A batch that is left open is 1.

    Raises:
        SpecError: no ONNX file, a damaged one, or shapes that cannot be told without running it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
        for port in model.graph.input:
            for i, dim in enumerate(port.type.tensor_type.shape.dim):
                if not dim.HasField("dim_value") or dim.dim_value < 1:
                    if i:
                        raise SpecError(
                            f"{path}: input {port.name!r} has no fixed size",
                            hint="export it with a fixed input shape",
                        )
                    dim.dim_value = 1
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (DecodeError, onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        if isinstance(error, SpecError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else "damaged"
        raise SpecError(f"{path}: not an ONNX file that can be read: {first}") from error
    return _Reader(model, path, len(data)).graph()


class _Reader:
    def __init__(self, model: Any, path: Path, size_bytes: int) -> None:
        self.model, self.path, self.size_bytes = model, path, size_bytes
        self.tensors: list[Tensor] = []
        self.index: dict[str, int] = {}
        graph = model.graph
        self.clipped = dict(_clipped(graph))
        for weight in graph.initializer:
            self._add(weight.name, tuple(weight.dims), weight.data_type, constant=True)
        for info in (*graph.input, *graph.value_info, *graph.output):
            if info.name not in self.index:
                kind = info.type.tensor_type
                shape = tuple(max(1, dim.dim_value) for dim in kind.shape.dim)
                self._add(info.name, shape, kind.elem_type)

    def _add(
        self, name: str, shape: tuple[int, ...], elem_type: int, *, constant: bool = False
    ) -> None:
        import onnx

        known = elem_type in onnx.TensorProto.DataType.values()
        dtype = onnx.TensorProto.DataType.Name(elem_type).lower() if known else "float32"
        names = {"float": "float32", "double": "float64"}
        self.index[name] = len(self.tensors)
        self.tensors.append(Tensor(name, shape, names.get(dtype, dtype), constant))

    def graph(self) -> ModelGraph:
        steps = []
        integer = any(node.op_type == "QuantizeLinear" for node in self.model.graph.node)
        for i, node in enumerate(self.model.graph.node):
            for name in node.output:
                if name and name not in self.index:
                    raise SpecError(
                        f"{self.path}: the shape of {name!r} ({node.op_type}) cannot be told",
                        hint="export it with fixed shapes",
                    )
            inputs = tuple(self.index[name] for name in node.input if name in self.index)
            outputs = tuple(self.index[name] for name in node.output if name)
            if all(self.tensors[t].constant for t in inputs):  # Constant, folded at the start
                for t in outputs:
                    old = self.tensors[t]
                    self.tensors[t] = Tensor(old.name, old.shape, old.dtype, constant=True)
                continue
            op, why = self._op(node, inputs, outputs)
            variable = tuple(t for t in inputs if not self.tensors[t].constant)
            steps.append(Step(node.name or f"{i}", node.op_type, variable, outputs, op, why))
        inputs, outputs = (
            tuple(t for port in ports if not self.tensors[t := self.index[port.name]].constant)
            for ports in (self.model.graph.input, self.model.graph.output)
        )
        return ModelGraph(
            format="onnx",
            precision="int8" if integer else "fp32",
            tensors=tuple(self.tensors),
            steps=tuple(self._hard_swish(steps)),
            inputs=inputs,
            outputs=outputs,
            size_bytes=self.size_bytes,
        )

    def _hard_swish(self, steps: Sequence[Step]) -> list[Step]:
        """The product of x and HardSigmoid(x), as exporters write it, is one activation."""
        made = {t: i for i, step in enumerate(steps) for t in step.outputs}
        result: list[Step | None] = list(steps)
        for i, step in enumerate(steps):
            for a, b in (step.inputs, step.inputs[::-1]) if len(step.inputs) == 2 else ():
                gate = steps[made[b]] if b in made else None
                if step.kind != "Mul" or gate is None or step.op is None:
                    continue
                if gate.kind == "HardSigmoid" and gate.inputs == (a,):
                    result[made[b]] = None
                    op = like("activate", step.op.out_chw, act="hswish")
                    result[i] = Step(step.name, "HardSwish", (a,), step.outputs, op)
        return [step for step in result if step is not None]

    def _chw(self, tensor: int) -> tuple[int, int, int]:
        return chw(self.tensors[tensor].shape, channels_last=False)

    def _op(
        self, node: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> tuple[OpSpec | None, str]:
        """What it costs, and why nothing is known where that is so."""
        kind = node.op_type
        if node.domain not in ("", "ai.onnx"):
            return None, f"operator {kind} of the domain {node.domain!r}"
        if kind in _VIEWS:
            return None, ""
        target = self._chw(outputs[0])
        variable = [t for t in inputs if not self.tensors[t].constant]
        source = self._chw(variable[0])
        if kind in _SHAPED:
            attributes = {a.name: a for a in node.attribute}
            return _SHAPED[kind](self, node, attributes, inputs, target), ""
        if kind in _COPIES:
            return like("copy", target), ""
        if kind == "Split":
            return like("copy", source), ""
        if kind in _ACTIVATIONS:
            return like("activate", target, act=_ACTIVATIONS[kind]), ""
        if kind in _FUNCTIONS:
            return like("function", source), ""
        if kind == "BatchNormalization":
            return like("scale", target), ""
        if kind in _BINARY:
            same = len(variable) == 2 and self._chw(variable[1]) == source == target
            return like(("add" if kind == "Add" else "binary") if same else "scale", target), ""
        return None, f"no cost is known for {kind}"

    def conv(self, node: Any, attributes: Any, inputs: tuple[int, ...], target: Any) -> OpSpec:
        output = node.output[0]
        weights = self.tensors[inputs[1]].shape
        return convolution(
            self._chw(inputs[0]),
            target,
            _pair(weights[2:]),
            groups=_group(attributes),
            strides=_ints(attributes, "strides"),
            dilation=_ints(attributes, "dilations"),
            act=self.clipped.get(output, "none"),
        )

    def transposed(
        self, node: Any, attributes: Any, inputs: tuple[int, ...], target: Any
    ) -> OpSpec:
        """Each output channel sums over the input channels of its own group alone."""
        (cin, h, w), (cout, oh, ow) = self._chw(inputs[0]), target
        cin //= _group(attributes)
        kh, kw = _pair(self.tensors[inputs[1]].shape[2:])
        return OpSpec.of("deconv", cin=cin, cout=cout, h=h, w=w, kh=kh, kw=kw, oh=oh, ow=ow)

    def dense(self, node: Any, attributes: Any, inputs: tuple[int, ...], target: Any) -> OpSpec:
        a, b = self.tensors[inputs[0]].shape, self.tensors[inputs[1]].shape
        turned = "transB" in attributes and attributes["transB"].i
        cin, cout = (b[-1], b[-2]) if turned else (b[-2], b[-1])
        if self.tensors[inputs[1]].constant and math.prod(a) == cin:
            return OpSpec.of("linear", cin=cin, cout=cout)
        times = math.prod(a[:-2]) or 1
        n = math.prod(a) // (cin * times)
        if self.tensors[inputs[1]].constant:
            n, times = n * times, 1
        return OpSpec.of("matmul", cin=cin, cout=cout, n=max(1, n), times=times)

    def pool(self, node: Any, attributes: Any, inputs: tuple[int, ...], target: Any) -> OpSpec:
        c, h, w = self._chw(inputs[0])
        kh, kw = _ints(attributes, "kernel_shape")
        if target[1:] == (1, 1) and (kh, kw) == (h, w):
            return like("pool", (c, h, w))
        return OpSpec.of("pool2d", c=c, h=h, w=w, kh=kh, kw=kw, oh=target[1], ow=target[2])

    def mean(self, node: Any, attributes: Any, inputs: tuple[int, ...], target: Any) -> OpSpec:
        source = self._chw(inputs[0])
        whole = target[0] == source[0] and target[1:] == (1, 1)
        return like("pool" if whole else "function", source)

    def resize(self, node: Any, attributes: Any, inputs: tuple[int, ...], target: Any) -> OpSpec:
        (c, h, w), (_, oh, ow) = self._chw(inputs[0]), target
        return OpSpec.of("resize", c=c, h=h, w=w, oh=oh, ow=ow)


_SHAPED: Mapping[str, Callable[[_Reader, Any, Any, tuple[int, ...], Any], OpSpec]] = {
    "Conv": _Reader.conv,
    "ConvTranspose": _Reader.transposed,
    "Gemm": _Reader.dense,
    "MatMul": _Reader.dense,
    "GlobalAveragePool": _Reader.mean,
    "GlobalMaxPool": _Reader.mean,
    "ReduceMean": _Reader.mean,
    "AveragePool": _Reader.pool,
    "MaxPool": _Reader.pool,
    "Resize": _Reader.resize,
    "Upsample": _Reader.resize,
}


def _clipped(graph: Any) -> Iterator[tuple[str, str]]:
    """Tensors that are quantised to a range that starts at 0, with the activation that did it.

    Quantisation tools drop a ReLU or a clip that the range implies.
    """
    from onnx import numpy_helper

    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or not {*node.input[1:3]} <= set(constants):
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        zero = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else None
        if scale.size == 1 and zero is not None and zero.size == 1:
            least = 0 if zero.dtype.kind == "u" else -128
            if int(zero) == least:
                yield node.input[0], "relu6" if float(scale) * 255 < 6.05 else "relu"


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers; one-dimensional operators have 1 in the other direction."""
    return (values[0], values[1]) if len(values) > 1 else (values[0], 1)


def _group(attributes: Any) -> int:
    return attributes["group"].i if "group" in attributes else 1


def _ints(attributes: Any, name: str) -> tuple[int, int]:
    return _pair(list(attributes[name].ints)) if name in attributes else (1, 1)
