"""Exported files in their runtimes: float NHWC images in, float logits out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import io_errors
from edgenas.errors import ArtifactError, ExportError, SpecError
from edgenas.processes import environment

_MOST_TOLD = 600
"""Characters of what a runtime says."""

FloatArray = npt.NDArray[np.float32]

MAX_MODEL_BYTES = 512 * 2**20
_LITERT_PACKAGES = "pip install ai-edge-litert (or, with numpy below 2, tflite-runtime)"


class Runner(Protocol):
    """An opened model file."""

    shape: tuple[int, ...]
    """(1, h, w, c) of its input."""

    def run(self, images: FloatArray) -> FloatArray:
        """The (n, classes) logits of normalised (n, h, w, c) images, one inference an image.

        Integer inputs and outputs are quantised and dequantised here, as the file says.

        Raises:
            SpecError: the images do not have the shape that the file takes; the runtime opened
                the file, but cannot run it.
        """


def open_model(path: Path, *, threads: int = 1) -> Runner:
    """The model file at `path` in onnxruntime (`.onnx`) or LiteRT (`.tflite`), on the CPU.

    A file from elsewhere should go through `probe` first: a runtime may crash on it.

    Raises:
        SpecError: missing, damaged or too large a file, or another suffix.
        ExportError: no runtime for it is installed.
    """
    with io_errors(path, "read"):
        size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise SpecError(f"{path}: larger than {MAX_MODEL_BYTES} bytes, refused unread")
    match path.suffix:
        case ".onnx":
            return OnnxRunner(path, threads=threads)
        case ".tflite":
            return LiteRunner(path, threads=threads)
        case suffix:
            raise SpecError(f"{path}: no runtime for {suffix or 'files without a suffix'}")


def probe(path: Path, *, timeout_s: float = 60.0) -> None:
    """Opens the file at `path` in a process of its own and runs it once on zeros.

    A runtime that crashes or hangs on a damaged or hostile file does so there.

    Raises:
        ArtifactError: the process did not end well; its last line is in the message.
    """
    code = (
        "import sys, pathlib, numpy\n"
        "from edgenas.export.runners import open_model\n"
        "runner = open_model(pathlib.Path(sys.argv[1]))\n"
        "runner.run(numpy.zeros(runner.shape, numpy.float32))\n"
    )
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter, the code above
            [sys.executable, "-c", code, str(path.resolve())],
            capture_output=True,
            timeout=timeout_s,
            env=environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ArtifactError(f"{path}: its runtime hangs on it for {timeout_s:g} s") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        told = lines[-1].removeprefix(f"{SpecError.__module__}.{SpecError.__name__}: ")
        if len(told) > _MOST_TOLD:
            told = f"{told[: _MOST_TOLD // 2]} ... {told[-_MOST_TOLD // 2 :]}"
        raise ArtifactError(f"{path} cannot be run (exit status {done.returncode}): {told}")


class OnnxRunner:
    """An ONNX file in onnxruntime."""

    def __init__(self, path: Path, *, threads: int) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        from edgenas.export.onnx import session_options

        self._path = path
        self._errors = tuple(
            kind
            for kind in vars(state).values()
            if isinstance(kind, type) and issubclass(kind, Exception)
        )
        options = session_options()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # errors are raised as well
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise SpecError(f"{path}: onnxruntime cannot read it: {error}") from error
        port = _single(self._session.get_inputs(), path, "input")
        _single(self._session.get_outputs(), path, "output")
        if not port.shape or not all(isinstance(n, int) and n > 0 for n in port.shape):
            raise SpecError(
                f"{path} takes inputs of shape {port.shape}: not all sizes are fixed",
                hint="edgenas's files take (1, height, width, channels), in numbers",
            )
        self._name = port.name
        self.shape = tuple(port.shape)

    def run(self, images: FloatArray) -> FloatArray:
        """See `Runner.run`."""
        _check(images, self.shape)
        try:
            rows = [
                self._session.run(None, {self._name: images[i : i + 1]})[0] for i in _each(images)
            ]
        except self._errors as error:
            raise SpecError(f"{self._path}: onnxruntime cannot run it: {error}") from error
        return np.concatenate(rows).astype(np.float32)


class LiteRunner:
    """A TFLite file in LiteRT, or in one of the runtimes that were its earlier names.

    `reference` takes LiteRT's plain kernels, which round as TFLite-Micro does, for its fast ones.
    """

    def __init__(self, path: Path, *, threads: int = 1, reference: bool = False) -> None:
        from edgenas.export import tflite

        self._path = path
        tflite.operators(path)  # reads the whole structure: what is cut off is caught in Python
        settings: dict[str, Any] = {}
        if reference:
            from ai_edge_litert.interpreter import OpResolverType

            settings["experimental_op_resolver_type"] = OpResolverType.BUILTIN_REF
        try:
            with _hushed():
                self._interpreter = interpreter_class()(
                    model_path=str(path), num_threads=threads, **settings
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise SpecError(f"{path}: LiteRT cannot read it: {error}") from error
        self._input = _single(self._interpreter.get_input_details(), path, "input")
        self._output = _single(self._interpreter.get_output_details(), path, "output")
        self.shape = tuple(int(n) for n in self._input["shape"])

    def run(self, images: FloatArray) -> FloatArray:
        """See `Runner.run`."""
        _check(images, self.shape)
        values = quantise(images, self._input)
        rows = []
        for i in _each(images):
            self._interpreter.set_tensor(self._input["index"], values[i : i + 1])
            try:
                self._interpreter.invoke()
            except RuntimeError as error:
                raise SpecError(f"{self._path}: LiteRT cannot run it: {error}") from error
            rows.append(self._interpreter.get_tensor(self._output["index"]))
        return dequantise(np.concatenate(rows), self._output)


class MicroRunner:
    """An int8 TFLite file in TFLite-Micro, the interpreter of microcontrollers.

    `arena_bytes` is the memory it may use for tensors and bookkeeping.

    Raises:
        ExportError: TFLite-Micro is not installed.
        SpecError: it refuses the file, or the file needs more memory.
    """

    def __init__(self, path: Path, *, arena_bytes: int = 4 * 2**20) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            hint = 'pip install "edgenas[micro]"'
            raise ExportError(f"TFLite-Micro is not installed; {hint}", hint=hint) from error
        try:
            self._interpreter = runtime.Interpreter.from_file(str(path), arena_size=arena_bytes)
        except RuntimeError as error:
            raise SpecError(
                f"{path}: TFLite-Micro refuses it in {arena_bytes} bytes: {error}"
            ) from error
        self._path = path
        self._input = self._interpreter.get_input_details(0)
        self._output = self._interpreter.get_output_details(0)
        self.shape = tuple(int(n) for n in self._input["shape"])

    def run(self, images: FloatArray) -> FloatArray:
        """See `Runner.run`."""
        _check(images, self.shape)
        values = quantise(images, self._input)
        rows = []
        for i in _each(images):
            self._interpreter.set_input(values[i : i + 1], 0)
            try:
                self._interpreter.invoke()
            except RuntimeError as error:
                raise SpecError(f"{self._path}: TFLite-Micro cannot run it: {error}") from error
            rows.append(np.array(self._interpreter.get_output(0)))
        return dequantise(np.concatenate(rows), self._output)


def interpreter_class() -> Any:
    """The class `Interpreter` of LiteRT, or of the package that held it before.

    Raises:
        ExportError: none is installed (tflite-runtime does not work with numpy 2).
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        pass
    else:
        return Interpreter
    if int(np.__version__.split(".")[0]) < 2:
        try:
            from tflite_runtime.interpreter import Interpreter as Older
        except ImportError:
            pass
        else:
            return Older
    try:
        from tensorflow.lite import Interpreter as Oldest
    except ImportError as error:
        raise ExportError(
            f"no TFLite runtime is installed: {_LITERT_PACKAGES}",
            hint="pip install ai-edge-litert",
        ) from error
    return Oldest


def quantise(values: FloatArray, detail: dict[str, Any]) -> npt.NDArray[Any]:
    """`values` as the tensor that `detail` describes takes them."""
    dtype, scale, zero_point = _quantisation(detail)
    if scale is None:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    steps = np.round(values / scale) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def dequantise(values: npt.NDArray[Any], detail: dict[str, Any]) -> FloatArray:
    """What the tensor that `detail` describes means."""
    _, scale, zero_point = _quantisation(detail)
    if scale is None:
        return values.astype(np.float32)
    return ((values.astype(np.float32) - zero_point) * scale).astype(np.float32)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drops what C++ writes to standard error: LiteRT announces its delegate there."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _quantisation(detail: dict[str, Any]) -> tuple[Any, np.float32 | None, np.float32]:
    dtype = np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return dtype, None, np.float32(0)
    parameters = detail["quantization_parameters"]
    return dtype, np.float32(parameters["scales"][0]), np.float32(parameters["zero_points"][0])


def _single(ports: Sequence[Any], path: Path, what: str) -> Any:
    if len(ports) != 1:
        raise SpecError(f"{path} has {len(ports)} {what}s; edgenas's networks have one")
    return ports[0]


def _each(images: FloatArray) -> range:
    return range(len(images))


def _check(images: FloatArray, shape: tuple[int, ...]) -> None:
    if images.ndim != 4 or images.shape[1:] != shape[1:] or not len(images):
        raise SpecError(f"the model takes images of shape {shape[1:]}, gets {images.shape}")
