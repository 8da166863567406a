"""Which version of a runtime is installed here, without importing it."""

from __future__ import annotations

from importlib import metadata

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "litert": ("ai-edge-litert", "tflite-runtime", "tensorflow"),
    "vela": ("ethos-u-vela",),
    "tflm": ("tflite-micro",),
    "openvino": ("openvino",),
}
"""Distributions that hold each runtime, in the order in which the agent tries them."""


def installed_version(runtime: str) -> str | None:
    """The version of `runtime` on this machine, or None where it is not installed."""
    for package in PACKAGES.get(runtime, ()):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None
