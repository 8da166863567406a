"""`edgenas doctor`: what is installed and reachable, and how to mend the rest."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "problem"]

_PACKAGES = {
    "torch": ("torch", "pip install edgenas"),
    "optuna": ("optuna", "pip install edgenas"),
    "onnx": ("onnx", "pip install edgenas"),
    "onnxruntime": ("onnxruntime", "pip install edgenas"),
    "ai_edge_litert": ("ai-edge-litert", "pip install edgenas"),
    "litert_torch": ("litert-torch", "pip install 'edgenas[tflite]' (TFLite export)"),
    "ai_edge_quantizer": ("ai-edge-quantizer", "pip install 'edgenas[tflite]' (TFLite int8)"),
    "torchao": ("torchao", "pip install 'edgenas[tflite]' (TFLite export)"),
    "tflite_micro": ("tflite-micro", "pip install 'edgenas[micro]' (microcontroller check)"),
    "ethosu": ("ethos-u-vela", "pip install 'edgenas[micro]' (Ethos-U estimates and check)"),
    "openvino": ("openvino", "pip install 'edgenas[openvino]' (its target)"),
    "optuna_dashboard": (
        "optuna-dashboard",
        "pip install 'edgenas[dashboard]' (edgenas dashboard)",
    ),
    "matplotlib": ("matplotlib", "pip install 'edgenas[plots]' (plots of bench commands)"),
    "psycopg": ("psycopg", "pip install 'edgenas[postgres]' (searches on several machines)"),
    "sklearn": ("scikit-learn", "pip install 'edgenas[digits]' (the digits data set)"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `remedy` is a command or an edit; empty where all is well."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(folder: Path = Path()) -> list[Check]:
    """Looks at packages, data, devices, cores, memory and disk; loads no heavy library."""
    return [*_packages(), _data(), *_devices(), *_machine(folder)]


def _packages() -> list[Check]:
    checks = []
    for module, (package, remedy) in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            checks.append(Check(package, "missing", "not installed", remedy))
            continue
        try:
            checks.append(Check(package, "ok", metadata.version(package)))
        except metadata.PackageNotFoundError:
            checks.append(Check(package, "ok", "installed, version unknown"))
    return checks


def _data() -> Check:
    from edgenas.pipeline.shipped import fashion_mnist_folder

    folder = fashion_mnist_folder()
    if folder is not None:
        return Check("fashion-mnist", "ok", str(folder))
    return Check(
        "fashion-mnist",
        "missing",
        "no files here; edgenas quickstart would download them, or else use digits",
        "apt-get install dataset-fashion-mnist, or set EDGENAS_DATA to a folder with the files",
    )


def _devices() -> list[Check]:
    from edgenas.errors import EdgenasError
    from edgenas.hardware import device_names, load_device

    checks = []
    for name, found in device_names().items():
        try:
            device = load_device(name)
        except EdgenasError as error:
            place = str(found.path) if found else "built in"
            checks.append(Check(f"device {name}", "problem", str(error), f"mend {place}"))
            continue
        if device.is_local:
            checks.append(Check(f"device {name}", "ok", device.title))
    return checks


def _machine(folder: Path) -> list[Check]:
    import psutil  # type: ignore[import-untyped]

    memory = psutil.virtual_memory()
    free = shutil.disk_usage(folder).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    writable = os.access(folder, os.W_OK)
    return [
        Check("cores", "ok", f"{cores}, load {os.getloadavg()[0]:.1f}"),
        Check(
            "memory",
            "ok" if memory.available > 2 * 2**30 else "problem",
            f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
            "" if memory.available > 2 * 2**30 else "close programs: export needs about 2 GiB",
        ),
        Check(
            "disk",
            "ok" if free > 2**30 else "problem",
            f"{free / 2**30:.1f} GiB free in {folder.resolve()}",
            "" if free > 2**30 else "free some space",
        ),
        Check(
            "folder",
            "ok" if writable else "problem",
            "can be written" if writable else f"{folder.resolve()} cannot be written",
            "" if writable else "choose another folder for runs: --runs FOLDER",
        ),
    ]
