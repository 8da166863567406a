"""One entry for both formats."""

from __future__ import annotations

from pathlib import Path

from edgenas.artifacts import io_errors
from edgenas.errors import SpecError, UsageError
from edgenas.models.graph import Format, ModelGraph, fused
from edgenas.models.memory import Arena, micro_arena

MAX_MODEL_BYTES = 512 * 2**20
SUFFIXES = (".onnx", ".tflite")


def known_operators(format: Format) -> frozenset[str]:  # noqa: A002  # the domain's word
    """The names that operators have in files of a format."""
    if format == "onnx":
        from onnx.defs import get_all_schemas

        return frozenset(schema.name for schema in get_all_schemas())
    from edgenas.models.tflite import operator_names

    return frozenset(operator_names().values())


def read_model(path: Path, *, pads: bool = False) -> ModelGraph:
    """The model file at `path` as its runtime runs it: activations joined, views free.

    `pads` keeps the padding of a TFLite file as operators, which matters for its memory.

    Raises:
        UsageError: neither `.onnx` nor `.tflite`.
        SpecError: a file that is no such model, damaged or larger than 512 MiB; images or signals
            in batches.
        ResourceError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: a model file ends in {' or '.join(SUFFIXES)}")
    with io_errors(path, "read"):
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise SpecError(f"{path}: larger than {MAX_MODEL_BYTES} bytes, refused unread")
        data = path.read_bytes()
    if suffix == ".onnx":
        from edgenas.models.onnx import read_onnx

        graph = read_onnx(data, path)
    else:
        from edgenas.models.tflite import read_tflite

        graph = read_tflite(data, path, pads=pads)
    for t in graph.inputs:  # weights, which may be inputs as well, are never a step's first
        port, readers = graph.tensors[t], [s.op for s in graph.steps if s.inputs[:1] == (t,)]
        convolved = any(op is not None and op.convolves for op in readers)
        if readers and len(port.shape) > (2 if convolved else 3) and port.shape[0] != 1:
            raise SpecError(
                f"{path}: input {port.name!r} has a batch of {port.shape[0]}",
                hint="export it with a batch of 1",
            )
    return fused(graph)


def micro_arena_of_file(path: Path) -> Arena:
    """TFLite-Micro's arena for the int8 TFLite file at `path`, step by step as it is written.

    Raises:
        SpecError: it is no such file, or damaged.
        ResourceError: it cannot be read.
    """
    from edgenas.models.tflite import read_tflite

    with io_errors(path, "read"):
        data = path.read_bytes()
    return micro_arena(read_tflite(data, path, pads=True))
