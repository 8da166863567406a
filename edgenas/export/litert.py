"""Conversion to TFLite: float32 from torch, float16 and int8 from float32.

The only module that knows litert-torch and ai-edge-quantizer, which change often. Both print,
partly from C++, and take seconds to import; so `write_float`, `cast_float16` and `quantize` run in
the process of `edgenas.export.worker`, whose output is caught whole.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgenas.artifacts import write_atomic
from edgenas.errors import ExportError
from edgenas.export.tflite import operator_outputs, split
from edgenas.networks import Copy, Network

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

    module, examples = _channels_last(network)
    litert_torch.convert(module, examples).export(str(path))


def write_together(networks: Sequence[Network], paths: Sequence[Path]) -> None:
    """Writes each network as `write_float` does, by one call of the converter.

    A call takes seconds before it looks at what it converts; and fails, where one of them does.
    """
    import litert_torch

    modules, examples = zip(*map(_channels_last, networks), strict=True)
    side_by_side = _SideBySide(modules, [len(example) for example in examples])
    with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
        whole = Path(name) / "whole.tflite"
        flat = tuple(x for example in examples for x in example)
        litert_torch.convert(side_by_side.eval(), flat).export(str(whole))
        split(whole, paths)


class _SideBySide(nn.Module):
    def __init__(self, modules: Sequence[nn.Module], n_inputs: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.n_inputs = n_inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        rest = iter(inputs)
        parts = zip(self.parts, self.n_inputs, strict=True)
        return tuple(part(*itertools.islice(rest, n)) for part, n in parts)


def _channels_last(network: Network) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A module that computes `network` in NHWC, and inputs for it."""
    import litert_torch

    inputs = network.example_inputs()
    with torch.no_grad():
        output = network(*inputs)
    module = _native(network)
    if module is None:
        outputs = [0] if output.dim() == 4 else []
        module = litert_torch.to_channel_last_io(network, args=[0], outputs=outputs)
    return module.eval(), tuple(x.permute(0, 2, 3, 1).contiguous() for x in inputs)


def _native(network: Network) -> nn.Module | None:
    """A module that computes a one-primitive network in NHWC where the converter needs that.

    Without a convolution to start from it leaves a TRANSPOSE, which whole networks do not have.
    """
    if len(network.lowering) > 1:
        return None
    op = network.lowering.nodes[0].op
    match op.kind:
        case (
            "add" | "linear" | "binary" | "activate" | "function"
        ):  # element-wise, or a single pixel: the same in either layout
            return network
        case "pool":
            return _NativePool()
        case "squeeze_excite":
            return _NativeExcite(network)
        case "copy":
            return Copy(op, channels_last=True)
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
    from ai_edge_quantizer import recipe

    _write_quantised(source, path, recipe.static_wi8_ai8(), _ranges(source, samples))


def quantize_units(
    source: Path,
    files: Mapping[Path, Sequence[str]],
    samples: Sequence[Sequence[FloatArray]],
    *,
    ranges: Path,
) -> None:
    """Writes the float32 file `source` with the precision of each operator stated; float I/O.

    `files` has for each file the precisions of all operators (`export.units.UnitPrecision`), in
    execution order. `source` is canonical: names of tensors are distinct. The ranges of the
    activations are kept in the file `ranges`, and read from there.
    """
    import re

    from ai_edge_quantizer import qtyping, recipe, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    if ranges.is_file():
        with np.load(ranges, allow_pickle=False) as kept:
            found: dict[str, dict[str, Any]] = {}
            for key, value in kept.items():
                tensor, _, what = key.rpartition(" ")
                found.setdefault(tensor, {})[what] = value
    else:
        found = _ranges(source, samples)
        np.savez(ranges, **{f"{t} {k}": v for t, row in found.items() for k, v in row.items()})
    operators = operator_outputs(source)
    op = qtyping.TFLOperationName
    four_bits = {"CONV_2D": op.CONV_2D, "FULLY_CONNECTED": op.FULLY_CONNECTED}
    for path, precisions in files.items():
        manager = recipe_manager.RecipeManager()
        manager.load_quantization_recipe(recipe.static_wi8_ai8())
        for port in (op.INPUT, op.OUTPUT):
            manager.add_quantization_config(".*", port, algorithm_key=AlgorithmName.NO_QUANTIZE)
        for (output, kind), precision in zip(operators, precisions, strict=True):
            scope = f"^{re.escape(output)};?$"
            if precision == "fp32":
                manager.add_quantization_config(
                    scope, op.ALL_SUPPORTED, algorithm_key=AlgorithmName.NO_QUANTIZE
                )
            elif precision == "int4" and kind in four_bits:
                manager.add_static_config(
                    scope, four_bits[kind], activation_num_bits=8, weight_num_bits=4
                )
        _write_quantised(source, path, manager.get_quantization_recipe(), found)


def _ranges(source: Path, samples: Sequence[Sequence[FloatArray]]) -> dict[str, dict[str, Any]]:
    """By tensor the least and the greatest value that the calibration runs showed."""
    from ai_edge_quantizer import calibrator, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe.static_wi8_ai8())
    calibration = calibrator.Calibrator(
        str(source), num_threads=1, qsv_update_func=qsv_utils.min_max_update
    )
    signature, names = _signature(source)
    runs = [dict(zip(names, sample, strict=True)) for sample in samples]
    calibration.calibrate({signature: runs}, manager)
    found: dict[str, dict[str, Any]] = calibration.get_model_qsvs()
    return found


def _write_quantised(source: Path, path: Path, recipe: Any, ranges: Any) -> None:
    from ai_edge_quantizer import quantizer

    q = quantizer.Quantizer(str(source))
    q.load_quantization_recipe(recipe)
    result = q.quantize(ranges, enable_progress_report=False)
    write_atomic(path, bytes(_quantized(result, source)))


def _quantized(result: Any, source: Path) -> bytes:
    if result.quantized_model is None:
        raise ExportError(f"{source}: the quantiser gave no model")
    return bytes(result.quantized_model)


def _signature(path: Path) -> tuple[str, list[str]]:
    from ai_edge_litert.interpreter import Interpreter

    ((name, ports),) = Interpreter(str(path), num_threads=1).get_signature_list().items()
    return name, sorted(ports["inputs"])
