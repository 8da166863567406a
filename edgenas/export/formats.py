"""Names of the formats, and where plug-ins add theirs. Loads neither torch nor a converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from edgenas import plugins
from edgenas.errors import ExportError, SpecError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgenas.export.contract import InputContract
    from edgenas.networks import Network

Precision = Literal["fp32", "fp16", "int8", "mixed"]

BUILT_IN = {
    "onnx": "edgenas.export.models:ONNX",
    "onnx-int8": "edgenas.export.models:ONNX_INT8",
    "tflite": "edgenas.export.models:TFLITE",
    "tflite-fp16": "edgenas.export.models:TFLITE_FP16",
    "tflite-int8": "edgenas.export.models:TFLITE_INT8",
}

FORMATS = tuple(BUILT_IN)

FILE_NAMES = {
    "onnx": "model.onnx",
    "onnx-int8": "model.int8.onnx",
    "tflite": "model.tflite",
    "tflite-fp16": "model.fp16.tflite",
    "tflite-int8": "model.int8.tflite",
}

MIXED = {"onnx-mixed": "model.mixed.onnx", "tflite-mixed": "model.mixed.tflite"}
"""Formats in which each unit has a precision of its own (`export.mixed`), and their files."""


class Writer(Protocol):
    """Writes one file of a format."""

    def __call__(
        self,
        network: Network,
        path: Path,
        *,
        calibration: npt.NDArray[np.float32],
        contract: InputContract,
        about: Mapping[str, str],
    ) -> None:
        """Writes the folded `network` to `path`; `calibration` holds normalised NHWC images."""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of exported file; what an entry point of `edgenas.exporters` stands for.

    `open_model` must be able to open what `write` writes: the suffix of `file_name` is `.onnx` or
    `.tflite`.
    """

    name: str
    file_name: str
    precision: Precision
    write: Writer


def exporter(name: str) -> Format:
    """The format of this name, built in or of a plug-in.

    Raises:
        ExportError: there is none; the nearest known one is named.
    """
    try:
        found = plugins.lookup("exporters", name, BUILT_IN)
    except SpecError as error:
        raise ExportError(str(error), hint=error.hint) from error
    if not isinstance(found, Format):
        raise ExportError(f"exporters: {name!r} is a {type(found).__name__}, not a Format")
    return found
