"""ONNX files as graphs. Shapes come from onnx's own inference; nothing is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgenas.errors import SpecError
from edgenas.models.graph import (
    ModelGraph,
    Step,
    Tensor,
    chw,
    convolution,
    like,
    other_share,
    precision_of,
    reading,
    told_shape,
    untimed,
)
from edgenas.spaces import OpSpec, Shape

_VIEWS = {
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Shape",
    "QuantizeLinear", "DequantizeLinear",  # part of the operators between them
}  # fmt: skip
_INTEGERS = ("int8", "uint8")
_MOVES = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout", "Transpose"}
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
    "Relu": "relu", "LeakyRelu": "relu", "Clip": "relu6", "HardSwish": "hswish",
    "HardSigmoid": "hsigmoid",
}  # fmt: skip
_WINDOWS = {
    "Conv": "convolution", "ConvTranspose": "transposed convolution",
    "AveragePool": "pooling", "MaxPool": "pooling",
}  # fmt: skip
_BINARY = {
    "Add", "Mul", "Sub", "Div", "Max", "Min", "Pow", "Greater", "Less", "Equal", "Where", "And",
    "Or", "Mod", "GreaterOrEqual", "LessOrEqual",
    "PRelu",  # the runtime fuses no slopes of the channels' own
}  # fmt: skip


def read_onnx(data: bytes, path: Path) -> ModelGraph:
    """The main graph of the file; `path` is for messages. A batch that is left open is 1.

    Raises:
        SpecError: no ONNX file, a damaged one, or shapes that cannot be told without running it.
    """
    with reading(path, "not an ONNX file that can be read"):
        return _Reader(_inferred(data), len(data)).graph()


def parse_onnx(data: bytes) -> Any:
    """The file's model, checked.

    Raises:
        SpecError: its weights are kept in other files.
        ValueError: no ONNX file, or a damaged one.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:  # from its bytes: by the name of a file, onnx chooses among several syntaxes
        model = onnx.load_model_from_string(data)
        for weight in model.graph.initializer:
            if weight.data_location == onnx.TensorProto.EXTERNAL:
                place = {entry.key: entry.value for entry in weight.external_data}.get("location")
                raise SpecError(
                    f"its weights are kept in another file, {place}",
                    hint="write it in one: onnx.save(onnx.load('FILE'), 'ONE.onnx')",
                )
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(_told(error)) from error
    return model


def _inferred(data: bytes) -> Any:
    """The model with the shapes of its tensors; open batches, wherever their name occurs, are 1."""
    import onnx

    model = parse_onnx(data)
    graph, batches = model.graph, set()
    for port in graph.input:
        for i, dim in enumerate(port.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 1:
                if i:
                    raise SpecError(
                        f"input {port.name!r} has no fixed size",
                        hint="export it with a fixed input shape",
                    )
                batches.add(dim.dim_param)
                dim.dim_value = 1
    for info in (*graph.value_info, *graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in batches:
                dim.dim_value = 1
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except RuntimeError as error:
        raise ValueError(_told(error)) from error


def _told(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "damaged")


class _Reader:
    def __init__(self, model: Any, size_bytes: int) -> None:
        self.model, self.size_bytes = model, size_bytes
        self.tensors: list[Tensor] = []
        self.index: dict[str, int] = {}
        self.quantised: set[int] = set()  # 8-bit integers made float again
        self.integers: set[int] = set()  # those, and what is computed from them
        graph = model.graph
        self.clipped = dict(_clipped(graph))
        for weight in graph.initializer:
            self._add(weight.name, tuple(weight.dims), weight.data_type, constant=True)
        for sparse in graph.sparse_initializer:
            weight = sparse.values
            self._add(weight.name, tuple(sparse.dims), weight.data_type, constant=True)
        for info in (*graph.input, *graph.value_info, *graph.output):
            if info.name not in self.index:
                kind = info.type.tensor_type
                dims = kind.shape.dim if kind.HasField("shape") else ()
                shape = tuple(max(0, dim.dim_value) for dim in dims)
                self._add(info.name, shape if kind.HasField("shape") else (0,), kind.elem_type)

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
        steps: list[Step] = []
        work: list[tuple[int, int]] = []  # what each step writes, and its MACs
        for i, node in enumerate(self.model.graph.node):
            for name in node.output:
                if name and name not in self.index:
                    self._add(name, (0,), 0)
            inputs = tuple(self.index[name] for name in node.input if name in self.index)
            outputs = tuple(self.index[name] for name in node.output if name)
            self._follow(node.op_type, inputs, outputs)
            if all(self.tensors[t].constant for t in inputs):  # Constant, folded at the start
                for t in outputs:
                    self.tensors[t] = replace(self.tensors[t], constant=True)
                continue
            op, why = self._op(node, inputs, outputs)
            if op is not None or why:
                macs = op.macs if op is not None else 0
                work.append((outputs[0], macs))
                if set(inputs[:2]) <= self.quantised if macs else inputs[0] in self.integers:
                    self.integers |= set(outputs)
                why = why or untimed(self.tensors[outputs[0]].dtype, op)
                op = None if why else op
            variable = tuple(t for t in inputs if not self.tensors[t].constant)
            steps.append(Step(node.name or f"{i}", node.op_type, variable, outputs, op, why))
        inputs, outputs = (
            tuple(t for port in ports if not self.tensors[t := self.index[port.name]].constant)
            for ports in (self.model.graph.input, self.model.graph.output)
        )
        self._store_as_integers(steps, {*inputs, *outputs})
        types = [
            ("int8" if macs and t in self.integers else self.tensors[t].dtype, macs)
            for t, macs in work
        ]
        precision = precision_of(types)
        return ModelGraph(
            format="onnx",
            precision=precision,
            tensors=tuple(self.tensors),
            steps=tuple(self._hard_swish(steps)),
            inputs=inputs,
            outputs=outputs,
            size_bytes=self.size_bytes,
            other_share=other_share(types, precision),
        )

    def _follow(self, kind: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        """Notes which tensors are quantised values, also behind what only moves them."""
        if kind == "DequantizeLinear" and self.tensors[inputs[0]].dtype in _INTEGERS:
            self.quantised |= set(outputs)
            self.integers |= set(outputs)
        for known in (self.quantised, self.integers):
            if kind in _MOVES and known & set(inputs[:1]):
                known |= set(outputs)

    def _store_as_integers(self, steps: Sequence[Step], ports: set[int]) -> None:
        """Gives float tensors the integer type that they have in memory.

        Those are values between quantised operators, which runtimes fuse with the steps around.
        """
        readers: dict[int, list[Step]] = {}
        for step in reversed(steps):
            for t in set(step.outputs) & self.integers - ports:
                if all(self._takes_integers(reader) for reader in readers.get(t, [])):
                    self.tensors[t] = replace(self.tensors[t], dtype="int8")
            for t in step.inputs:
                readers.setdefault(t, []).append(step)

    def _takes_integers(self, step: Step) -> bool:
        if step.kind == "QuantizeLinear":
            return True
        multiplies = step.op is not None and step.op.macs and step.outputs[0] in self.integers
        return bool(multiplies) or self.tensors[step.outputs[0]].dtype in _INTEGERS

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

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return told_shape(self.tensors[tensor])

    def _chw(self, tensor: int) -> Shape:
        return chw(self._shape(tensor), channels_last=False)

    def _map(self, tensor: int) -> Shape:
        """As operators with a window read it: of three dimensions the last is the height."""
        shape = self._shape(tensor)
        return chw((*shape, 1) if len(shape) == 3 else shape, channels_last=False)

    def _op(
        self, node: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]
    ) -> tuple[OpSpec | None, str]:
        """What it costs, and why nothing is known where that is so."""
        kind = node.op_type
        if node.domain not in ("", "ai.onnx"):
            return None, f"operator {kind} of the domain {node.domain!r}"
        if kind in _VIEWS:
            return None, ""
        if kind not in _COSTED:
            return None, f"no cost is known for {kind}"
        if kind in _WINDOWS and len(self._shape(inputs[0])) > 4:
            return None, f"{len(self._shape(inputs[0])) - 2}-d {_WINDOWS[kind]}"
        if kind in _SHAPED:
            attributes = {a.name: a for a in node.attribute}
            return _SHAPED[kind](self, node, attributes, inputs, outputs[0]), ""
        variable = [t for t in inputs if not self.tensors[t].constant]
        source, target = self._chw(variable[0]), self._chw(outputs[0])
        if kind == "Transpose":  # of no rows of channels that would be copied one by one
            return like("copy", (math.prod(target), 1, 1)), ""
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
        same = len(variable) == 2 and self._chw(variable[1]) == source == target
        return like(("add" if kind == "Add" else "binary") if same else "scale", target), ""

    def conv(self, node: Any, attributes: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        return convolution(
            self._map(inputs[0]),
            self._map(output),
            _pair(self._shape(inputs[1])[2:]),
            groups=_group(attributes),
            strides=_ints(attributes, "strides"),
            dilation=_ints(attributes, "dilations"),
            act=self.clipped.get(node.output[0], "none"),
        )

    def transposed(
        self, node: Any, attributes: Any, inputs: tuple[int, ...], output: int
    ) -> OpSpec:
        """Each output channel sums over the input channels of its own group alone."""
        (cin, h, w), (cout, oh, ow) = self._map(inputs[0]), self._map(output)
        kh, kw = _pair(self._shape(inputs[1])[2:])
        cin //= _group(attributes)
        return OpSpec.of("deconv", cin=cin, cout=cout, h=h, w=w, kh=kh, kw=kw, oh=oh, ow=ow)

    def dense(self, node: Any, attributes: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        a, b = (self._shape(t) for t in inputs[:2])
        turned_a, turned_b = (n in attributes and attributes[n].i for n in ("transA", "transB"))
        cin, cout = (b[0], 1) if len(b) == 1 else (b[-1], b[-2]) if turned_b else (b[-2], b[-1])
        rows = math.prod(self._shape(output)) // cout
        if self.tensors[inputs[1]].constant and math.prod(b[:-2]) == 1:  # one matrix for all rows
            if rows == 1:
                return OpSpec.of("linear", cin=cin, cout=cout)
            return OpSpec.of("matmul", cin=cin, cout=cout, n=rows, times=1)
        n = 1 if len(a) == 1 else a[-1] if turned_a else a[-2]
        return OpSpec.of("matmul", cin=cin, cout=cout, n=n, times=rows // n)

    def pool(self, node: Any, attributes: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        (c, h, w), (_, oh, ow) = self._map(inputs[0]), self._map(output)
        kh, kw = _ints(attributes, "kernel_shape")
        if (oh, ow) == (1, 1) and (kh, kw) == (h, w):
            return like("pool", (c, h, w))
        return OpSpec.of("pool2d", c=c, h=h, w=w, kh=kh, kw=kw, oh=oh, ow=ow)

    def mean(self, node: Any, attributes: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        read = self._chw if node.op_type == "ReduceMean" else self._map
        source, target = read(inputs[0]), read(output)
        whole = target[0] == source[0] and target[1:] == (1, 1)
        return like("pool" if whole else "function", source)

    def resize(self, node: Any, attributes: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        (c, h, w), (_, oh, ow) = self._map(inputs[0]), self._map(output)
        return OpSpec.of("resize", c=c, h=h, w=w, oh=oh, ow=ow)


_SHAPED: Mapping[str, Callable[[_Reader, Any, Any, tuple[int, ...], int], OpSpec]] = {
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
_COSTED = {*_SHAPED, *_COPIES, *_ACTIVATIONS, *_FUNCTIONS, *_BINARY, "Split", "BatchNormalization"}


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
            if zero.item() == least:
                yield node.input[0], "relu6" if scale.item() * 255 < 6.05 else "relu"


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers; one-dimensional operators have 1 in the other direction."""
    return (values[0], values[1]) if len(values) > 1 else (values[0], 1)


def _group(attributes: Any) -> int:
    return attributes["group"].i if "group" in attributes else 1


def _ints(attributes: Any, name: str) -> tuple[int, int]:
    return _pair(list(attributes[name].ints)) if name in attributes else (1, 1)
