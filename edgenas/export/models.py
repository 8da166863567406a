"""The built-in formats: one writer each, and all TFLite formats of many networks at once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from edgenas import networks
from edgenas.artifacts import replacing
from edgenas.errors import ExportError, SpecError
from edgenas.export import onnx
from edgenas.export.contract import METADATA_KEY, InputContract, write_document
from edgenas.export.formats import FILE_NAMES, Format, exporter
from edgenas.export.jobs import TfliteJob, converter_errors, run_tflite
from edgenas.export.onnx import FloatArray
from edgenas.networks import Network


def export_model(
    network: Network,
    *,
    format: str,  # noqa: A002  # the domain's word
    path: Path,
    calibration: FloatArray,
    contract: InputContract,
    about: Mapping[str, str],
) -> None:
    """Writes `network` as one file, whole or not at all. `export_networks` also verifies.

    `calibration` holds normalised (n, h, w, c) images for the ranges of int8; `about` says in the
    file where it comes from (architecture, digests).

    Raises:
        ExportError: an unknown format, a missing extra, an operator that cannot be converted.
        SpecError: a contract or calibration images that do not fit the network.
    """
    check_fit(network, contract, calibration)
    writer = exporter(format).write
    writer(networks.fold(network), path, calibration=calibration, contract=contract, about=about)


def check_fit(network: Network, contract: InputContract, calibration: FloatArray) -> None:
    """Compares shapes and numbers of classes.

    Raises:
        SpecError: naming what differs.
    """
    c, h, w = network.lowering.in_chw
    if contract.shape != (1, h, w, c):
        raise SpecError(f"the network takes {(1, h, w, c)}, the contract says {contract.shape}")
    if network.lowering.out_chw != (len(contract.classes), 1, 1):
        raise SpecError(
            f"the network has {network.lowering.out_chw[0]} outputs, "
            f"the contract {len(contract.classes)} classes"
        )
    if calibration.ndim != 4 or calibration.shape[1:] != (h, w, c) or not len(calibration):
        raise SpecError(
            f"calibration images must have the shape (n, {h}, {w}, {c}); got {calibration.shape}"
        )


def torch_logits(network: Network, images: FloatArray) -> FloatArray:
    """The network's own answers to normalised (n, h, w, c) images: the reference."""
    network = networks.fold(network)
    nchw = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        rows = [network(nchw[i : i + 256]).numpy() for i in range(0, len(nchw), 256)]
    return np.concatenate(rows)


@contextlib.contextmanager
def tflite_jobs(
    networks: Mapping[str, tuple[Network, FloatArray, InputContract, Mapping[str, str]]],
    formats: Sequence[str],
    folders: Mapping[str, Path],
) -> Iterator[list[TfliteJob]]:
    """Jobs that write each folded network in all these TFLite formats, into its folder.

    The weights and calibration images that the jobs name live while the context does.
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
        jobs = []
        for i, (key, (network, calibration, contract, about)) in enumerate(networks.items()):
            weights, images = Path(name, f"{i}.safetensors"), Path(name, f"{i}.npy")
            state = {k: v.contiguous() for k, v in network.state_dict().items()}
            save_file(state, weights)
            np.save(images, calibration)
            files = {f: folders[key] / FILE_NAMES[f] for f in formats}
            files.setdefault("tflite", Path(name, f"{i}.tflite"))
            jobs.append(
                TfliteJob(
                    key,
                    network.lowering,
                    files,
                    weights=weights,
                    calibration=images,
                    metadata={METADATA_KEY: write_document(contract, dict(about))},
                    labels=contract.classes,
                    input_name="image",
                    output_name="logits",
                )
            )
        yield jobs


def _write_onnx(
    network: Network,
    path: Path,
    *,
    calibration: FloatArray,
    contract: InputContract,
    about: Mapping[str, str],
) -> None:
    with converter_errors("onnx"), replacing(path) as temporary:
        onnx.write_network(network, temporary)
        onnx.add_metadata(temporary, onnx_metadata(contract, about))


def write_onnx_int8(
    network: Network,
    path: Path,
    *,
    calibration: FloatArray,
    contract: InputContract,
    about: Mapping[str, str],
    source: Path | None = None,
    activations: onnx.Activations = "u8",
) -> None:
    """Writes int8 ONNX; `activations` u8 for x86, s8 for ARM, where it is the faster one.

    `source` is the network's float32 file, where there already is one.
    """
    with tempfile.TemporaryDirectory(prefix="edgenas-") as name, converter_errors("onnx-int8"):
        if source is None:
            source = Path(name, "model.onnx")
            onnx.write_network(network, source)
        samples = [(image[None],) for image in calibration]
        with replacing(path) as temporary:
            onnx.quantize(source, temporary, samples, activations=activations)
            onnx.add_metadata(temporary, onnx_metadata(contract, about))


def onnx_metadata(contract: InputContract, about: Mapping[str, str]) -> dict[str, str]:
    """The properties of an ONNX file: edgenas' document, and its main parts in plain words."""
    return {
        METADATA_KEY: write_document(contract, dict(about)),
        "labels": "\n".join(contract.classes),
        "layout": contract.layout,
        "mean": " ".join(map(repr, contract.mean)),
        "std": " ".join(map(repr, contract.std)),
        "value_range": " ".join(map(repr, contract.value_range)),
        "resize": contract.resize,
    }


class _TfliteWriter:
    """Writes one TFLite format of one network, in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(
        self,
        network: Network,
        path: Path,
        *,
        calibration: FloatArray,
        contract: InputContract,
        about: Mapping[str, str],
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
            item = (network, calibration, contract, about)
            with tflite_jobs({"network": item}, [self.name], {"network": Path(name)}) as jobs:
                if failures := run_tflite(jobs):
                    raise ExportError(f"{self.name}: {failures['network']}")
            with replacing(path) as temporary:
                temporary.write_bytes(Path(name, FILE_NAMES[self.name]).read_bytes())


ONNX = Format("onnx", FILE_NAMES["onnx"], "fp32", _write_onnx)
ONNX_INT8 = Format("onnx-int8", FILE_NAMES["onnx-int8"], "int8", write_onnx_int8)
TFLITE = Format("tflite", FILE_NAMES["tflite"], "fp32", _TfliteWriter("tflite"))
TFLITE_FP16 = Format("tflite-fp16", FILE_NAMES["tflite-fp16"], "fp16", _TfliteWriter("tflite-fp16"))
TFLITE_INT8 = Format("tflite-int8", FILE_NAMES["tflite-int8"], "int8", _TfliteWriter("tflite-int8"))
