"""Names of the formats, and where plug-ins add theirs."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from edgenas.errors import ExportError, nearest


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of exported file."""

    name: str
    file_name: str
    precision: str
    family: str
    """`onnx` or `tflite`: which runtime opens it; also the suffix."""


BUILT_IN = MappingProxyType(
    {
        f.name: f
        for f in (
            Format("onnx", "model.onnx", "fp32", "onnx"),
            Format("onnx-int8", "model.int8.onnx", "int8", "onnx"),
            Format("tflite", "model.tflite", "fp32", "tflite"),
            Format("tflite-fp16", "model.fp16.tflite", "fp16", "tflite"),
            Format("tflite-int8", "model.int8.tflite", "int8", "tflite"),
        )
    }
)

FORMATS = tuple(BUILT_IN)


def exporter(name: str) -> Format:
    """The format of this name.

    Raises:
        ExportError: there is none; the nearest known one is named.
    """
    try:
        return BUILT_IN[name]
    except KeyError:
        raise ExportError(f"unknown format {name!r}; {nearest(name, BUILT_IN)}") from None
