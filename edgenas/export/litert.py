"""Conversion to TFLite: float32 from torch, float16 and int8 from float32.

The only module that knows litert-torch and ai-edge-quantizer, which change often. Both print,
partly from C++, and take seconds to import; so `write_float`, `cast_float16` and `quantize` run in
the process of `edgenas.export.worker`, whose output is caught whole.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgenas.artifacts import write_atomic
from edgenas.errors import ExportError
from edgenas.networks import Network

FloatArray = npt.NDArray[np.float32]

EXTRA_HINT = 'pip install "edgenas[tflite]"'
_MODULES = ("litert_torch", "ai_edge_quantizer", "torchao")


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
        case (
            "add" | "linear" | "binary" | "activate" | "function"
        ):  # element-wise, or a single pixel: the same in either layout
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
