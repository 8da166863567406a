"""TFLite files as graphs; needs only the flatbuffer schema that comes with ai-edge-litert."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
from edgenas.spaces import OpSpec

_TYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "INT8": "int8", "UINT8": "uint8",
          "INT16": "int16", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}  # fmt: skip

_VIEWS = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE"}
_COPIES = {
    "CONCATENATION", "PAD", "PADV2", "MIRROR_PAD", "SLICE", "STRIDED_SLICE", "TRANSPOSE", "GATHER",
    "GATHER_ND", "PACK", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND",
    "BATCH_TO_SPACE_ND", "TILE", "BROADCAST_TO", "CAST", "QUANTIZE", "DEQUANTIZE", "FILL",
    "REVERSE_V2",
}  # fmt: skip
_SPLITS = {"SPLIT", "SPLIT_V", "UNPACK"}
_FUNCTIONS = {
    "LOGISTIC", "TANH", "EXP", "LOG", "SQRT", "RSQRT", "NEG", "ABS", "GELU", "SOFTMAX",
    "LOG_SOFTMAX", "ELU", "SIN", "COS", "SQUARE", "FLOOR", "ROUND", "CEIL", "ARG_MAX", "ARG_MIN",
    "TOPK_V2", "L2_NORMALIZATION", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD",
    "LOCAL_RESPONSE_NORMALIZATION",
}  # fmt: skip
_ACTIVATIONS = {
    "RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "relu", "HARD_SWISH": "hswish",
}  # fmt: skip
_BINARY = {
    "ADD", "MUL", "SUB", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW", "GREATER",
    "LESS", "EQUAL", "GREATER_EQUAL", "LESS_EQUAL", "NOT_EQUAL", "SELECT", "SELECT_V2",
    "PRELU", "LEAKY_RELU",  # with a slope: XNNPACK fuses only what cuts off
}  # fmt: skip
_TRANSPOSED_WITH_BIAS = "Convolution2DTransposeBias"
"""MediaPipe's operator, which LiteRT's interpreter knows as well."""
_FUSED_ACTIVATION = {0: "none", 1: "relu", 2: "relu", 3: "relu6"}


def unpack(data: bytes, path: Path) -> Any:
    """The file's content as the schema's objects.

    Flatbuffers are not verified, but in Python a broken one ends in an exception, not in a crash.

    Raises:
        SpecError: no TFLite file, or a damaged one.
    """
    import struct

    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise SpecError(f"{path} is not a TFLite file")
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: damaged TFLite file: {error}") from error


def operator_names() -> dict[int, str]:
    """Names of the built-in operators by their number."""
    from ai_edge_litert import schema_py_generated as schema

    return enum_names(schema.BuiltinOperator)


def type_names() -> dict[int, str]:
    """Names of the tensor types by their number."""
    from ai_edge_litert import schema_py_generated as schema

    return enum_names(schema.TensorType)


def enum_names(kind: type) -> dict[int, str]:
    """Names by number of one of the schema's enumerations."""
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


def text(name: bytes | str | None) -> str:
    """A name as the schema's objects hold it."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


def read_tflite(data: bytes, path: Path, *, pads: bool = False) -> ModelGraph:
    """The first subgraph of the file; `path` is for messages.

    Delegates take padding as a part of the convolution behind it, TFLite-Micro makes the copy;
    `pads` keeps it as an operator.

    Raises:
        SpecError: no TFLite file, a damaged one, or shapes that cannot be told without running it.
    """
    model = unpack(data, path)
    with reading(path, "damaged TFLite file"):
        return _Reader(model, len(data)).graph(pads=pads)


class _Reader:
    def __init__(self, model: Any, size_bytes: int) -> None:
        self.model, self.size_bytes = model, size_bytes
        self.sub = model.subgraphs[0]
        self.types = type_names()
        self.tensors = [self._tensor(t) for t in self.sub.tensors]

    def _tensor(self, tensor: Any) -> Tensor:
        shape = () if tensor.shape is None else tuple(max(0, int(n)) for n in tensor.shape)
        if tensor.shapeSignature is not None and len(tensor.shapeSignature) == len(shape):
            fixed = zip(shape, tensor.shapeSignature, strict=True)
            shape = (*shape[:1], *(0 if open_ < 0 else n for n, open_ in [*fixed][1:]))
        shape = (*(max(1, n) for n in shape[:1]), *shape[1:])  # an open batch is 1
        name = self.types[tensor.type]
        buffer = self.model.buffers[tensor.buffer]
        stored = len(buffer.data) if buffer.data is not None else 0
        constant = stored > 0 or (buffer.offset or 0) > 1
        return Tensor(text(tensor.name), shape, _TYPES.get(name, name.lower()), constant)

    def graph(self, *, pads: bool) -> ModelGraph:
        names = operator_names()
        steps: list[Step] = []
        work: list[tuple[str, int]] = []
        free = set()  # what is computed from constants alone, once, before the first inference
        for i, operator in enumerate(self.sub.operators):
            code = self.model.operatorCodes[operator.opcodeIndex]
            kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            inputs = tuple(int(t) for t in operator.inputs if t >= 0)
            outputs = tuple(int(t) for t in operator.outputs)
            if inputs and all(self.tensors[t].constant or t in free for t in inputs):
                free |= set(outputs)
                for t in outputs:
                    old = self.tensors[t]
                    self.tensors[t] = Tensor(old.name, old.shape, old.dtype, constant=True)
                continue
            op, why = self._op(kind, operator.builtinOptions, inputs, outputs, code)
            if op is not None or why:
                dtype = self.tensors[outputs[0]].dtype
                work.append((dtype, op.macs if op is not None else 0))
                why = why or untimed(dtype, op)
                op = None if why else op
            variable = tuple(t for t in inputs if not self.tensors[t].constant)
            steps.append(Step(f"{i}", kind, variable, outputs, op, why))
        precision = precision_of(work)
        return ModelGraph(
            format="tflite",
            precision=precision,
            tensors=tuple(self.tensors),
            steps=tuple(steps if pads else self._padded(steps)),
            inputs=tuple(int(t) for t in self.sub.inputs),
            outputs=tuple(int(t) for t in self.sub.outputs),
            size_bytes=self.size_bytes,
            other_share=other_share(work, precision),
        )

    def _padded(self, steps: list[Step]) -> list[Step]:
        """Padding that only a convolution reads is that convolution's own."""
        readers: dict[int, list[int]] = {}
        for i, step in enumerate(steps):
            for t in step.inputs:
                readers.setdefault(t, []).append(i)
        result: list[Step | None] = list(steps)
        for i, step in enumerate(steps):
            after = readers.get(step.outputs[0], [])
            if step.kind not in ("PAD", "PADV2") or len(after) != 1:
                continue
            conv = steps[after[0]]
            if conv.op is None or conv.op.kind not in ("conv", "conv2d"):
                continue
            options = self.sub.operators[int(conv.name)].builtinOptions
            weights = self.tensors[int(self.sub.operators[int(conv.name)].inputs[1])]
            op = convolution(
                self._chw(step.inputs[0]),
                conv.op.out_chw,
                (weights.shape[1], weights.shape[2]),
                groups=conv.op["g"],
                strides=(options.strideH, options.strideW),
                dilation=(options.dilationHFactor, options.dilationWFactor),
                act=conv.op.act,
            )
            result[i] = None
            result[after[0]] = Step(conv.name, f"PAD+{conv.kind}", step.inputs, conv.outputs, op)
        return [step for step in result if step is not None]

    def _chw(self, tensor: int) -> tuple[int, int, int]:
        return chw(told_shape(self.tensors[tensor]), channels_last=True)

    def _op(
        self, kind: str, options: Any, inputs: tuple[int, ...], outputs: tuple[int, ...], code: Any
    ) -> tuple[OpSpec | None, str]:
        """What it costs, and why nothing is known where that is so."""
        if kind in _VIEWS or not inputs:
            return None, ""
        if kind == "CUSTOM" and text(code.customCode) == _TRANSPOSED_WITH_BIAS:
            return self._transposed(inputs[0], inputs[1], outputs[0]), ""
        if kind == "CUSTOM":
            return None, f"custom operator {text(code.customCode)!r}"
        if kind not in _COSTED:
            return None, f"no cost is known for {kind}"
        if why := self._hybrid(kind, inputs, outputs):
            return None, why
        target = self._chw(outputs[0])
        variable = [t for t in inputs if not self.tensors[t].constant]
        source = self._chw(variable[0])
        if kind in _SHAPED:
            return _SHAPED[kind](self, options, inputs, outputs[0]), ""
        if kind == "TRANSPOSE":  # of no rows of channels that would be copied one by one
            return like("copy", (math.prod(target), 1, 1)), ""
        if kind in _COPIES:
            return like("copy", target), ""
        if kind in _SPLITS:
            return like("copy", source), ""
        if kind in _ACTIVATIONS:
            return like("activate", target, act=_ACTIVATIONS[kind]), ""
        if kind in _FUNCTIONS:
            return like("function", source), ""
        same = len(variable) == 2 and self._chw(variable[1]) == source == target
        return like(("add" if kind == "ADD" else "binary") if same else "scale", target), ""

    def _hybrid(self, kind: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> str:
        """Why a product of activations and weights of unlike types is not known; empty for others.

        With dynamic-range quantisation the runtime quantises the activations itself.
        """
        weights = self.tensors[inputs[1]] if kind in _WEIGHED else None
        target = self.tensors[outputs[0]].dtype
        if weights is None or "int" not in weights.dtype:
            return ""
        if "float" not in target and weights.dtype != "int4":
            return ""
        return f"{weights.dtype} weights for {target} activations; tables hold one type for both"

    def conv(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        source, weights = self._chw(inputs[0]), self.tensors[inputs[1]].shape
        depthwise = hasattr(options, "depthMultiplier")
        groups = source[0] if depthwise else source[0] // weights[3]
        return convolution(
            source,
            self._chw(output),
            (weights[1], weights[2]),
            groups=groups,
            strides=(options.strideH, options.strideW),
            dilation=(options.dilationHFactor, options.dilationWFactor),
            act=_FUSED_ACTIVATION.get(options.fusedActivationFunction, "none"),
        )

    def transposed(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        return self._transposed(inputs[2], inputs[1], output)

    def _transposed(self, source: int, weights: int, output: int) -> OpSpec:
        (cin, h, w), (cout, oh, ow) = self._chw(source), self._chw(output)
        _, kh, kw, _ = self.tensors[weights].shape
        return OpSpec.of("deconv", cin=cin, cout=cout, h=h, w=w, kh=kh, kw=kw, oh=oh, ow=ow)

    def dense(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        cout, cin = self.tensors[inputs[1]].shape[-2:]
        rows = max(1, math.prod(told_shape(self.tensors[inputs[0]])) // cin)
        if rows == 1:
            return OpSpec.of("linear", cin=cin, cout=cout)
        return OpSpec.of("matmul", cin=cin, cout=cout, n=rows, times=1)

    def matmul(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        a, product = (told_shape(self.tensors[t]) for t in (inputs[0], output))
        cin = a[-2] if options.adjX else a[-1]
        *times, n, cout = product
        return OpSpec.of("matmul", cin=cin, cout=cout, n=n, times=math.prod(times))

    def pool(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        c, h, w = self._chw(inputs[0])
        kh, kw, (_, oh, ow) = options.filterHeight, options.filterWidth, self._chw(output)
        if (oh, ow) == (1, 1) and (kh, kw) == (h, w):
            return like("pool", (c, h, w))
        return OpSpec.of("pool2d", c=c, h=h, w=w, kh=kh, kw=kw, oh=oh, ow=ow)

    def mean(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        source, target = self._chw(inputs[0]), self._chw(output)
        whole = target[0] == source[0] and target[1:] == (1, 1)
        return like("pool" if whole else "function", source)

    def resize(self, options: Any, inputs: tuple[int, ...], output: int) -> OpSpec:
        (c, h, w), (_, oh, ow) = self._chw(inputs[0]), self._chw(output)
        return OpSpec.of("resize", c=c, h=h, w=w, oh=oh, ow=ow)


_SHAPED: Mapping[str, Callable[[_Reader, Any, tuple[int, ...], int], OpSpec]] = {
    "CONV_2D": _Reader.conv,
    "DEPTHWISE_CONV_2D": _Reader.conv,
    "TRANSPOSE_CONV": _Reader.transposed,
    "FULLY_CONNECTED": _Reader.dense,
    "BATCH_MATMUL": _Reader.matmul,
    "AVERAGE_POOL_2D": _Reader.pool,
    "MAX_POOL_2D": _Reader.pool,
    "L2_POOL_2D": _Reader.pool,
    "MEAN": _Reader.mean,
    "RESIZE_BILINEAR": _Reader.resize,
    "RESIZE_NEAREST_NEIGHBOR": _Reader.resize,
}
_WEIGHED = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
_COSTED = {*_SHAPED, *_COPIES, *_SPLITS, *_ACTIVATIONS, *_FUNCTIONS, *_BINARY}
