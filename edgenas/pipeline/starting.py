"""`edgenas init`: a commented run file for a data set."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from edgenas.artifacts import toml_value, write_atomic
from edgenas.errors import UsageError
from edgenas.events import Event, Report, silent
from edgenas.pipeline.config import SCHEMA, parse_config, run_name

DEFAULT_DEVICE = "local-litert-int8-t1"

_TEMPLATE = Template("""\
# A run of edgenas. Train the supernet once:   edgenas train $file
# then search, export and verify:              edgenas search $file
# Paths are relative to this file. Unknown keys are refused.
schema = "$schema"
name = $name                 # the folder below runs/
seed = 0                     # the one root seed: the same seed, the same front

# The family of networks, with its default choices for the images' size: $size architectures.
# A table in place of the name sets the choices one by one.
space = "mobile/1"

[data]
# $summary
source = $source
image_size = $image_size     # height and width in pixels that all images are brought to
# licence = "CC-BY-4.0"      # of the images, for the certificates

[search]
# `edgenas devices` lists the names. With several devices write latency_ms@DEVICE below.
devices = $devices
# metrics: top1, latency_ms, size_bytes, peak_memory_bytes, energy_mj (where a device's table states
# its power), macs, params; a bound may follow, as in
# "min latency_ms <= 2.0", or stand alone, as in "size_bytes <= 500000". Costly ones beside top1:
# top1_int8, robustness (on corrupted images), agreement (with the largest network, no labels read;
# unlabelled = "FOLDER" names images for it)
objectives = $objectives
strategy = "surrogate"       # or nsga2, nsga3, evolution, reinforce, gradient, tpe, gp, random
trials = 200                 # and / or minutes = 30; patience = 60 stops when so many add nothing

[train]
epochs = $epochs             # passes over the $n_train training images
batch = 128

# [final]                    # trains the chosen networks further before they are exported
# epochs = 4                 # and / or minutes = 30 for all of them together

[export]
formats = ["onnx", "onnx-int8", "tflite", "tflite-fp16", "tflite-int8"]
top = 3                      # the most accurate, the knee, the fastest, then spread over the front
targets = []                 # more devices to hold the files against, as "cortex-m-tflm-int8"
max_top1_drop = 0.01         # a file that loses more top-1 on the test split fails (exit code 5)
# licence = "Apache-2.0"     # of the files, for the certificates
""")


def write_run_file(
    path: Path,
    *,
    source: str,
    devices: Sequence[str] = (),
    replace: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Looks at the data `source`, writes a commented run file for it, and returns what it found.

    Raises:
        UsageError: the file exists and `replace` is not set; an unknown device.
        DataError: the data cannot be used; the message says which file or class.
    """
    from edgenas.data import load_data
    from edgenas.hardware import load_device
    from edgenas.spaces.mobile import default_space

    if path.exists() and not replace:
        raise UsageError(f"{path} exists", hint=f"--force replaces it, --out {path.stem}-2.toml")
    chosen = tuple(dict.fromkeys(devices)) or (DEFAULT_DEVICE,)
    for device in chosen:
        load_device(device)
    report(Event("look at the data", message=source))
    data = load_data(source, seed=0, report=report)
    space = default_space(
        image_size=data.image_size, in_channels=data.channels, n_classes=len(data.classes)
    )
    latencies = ["min latency_ms" + (f"@{device}" if len(chosen) > 1 else "") for device in chosen]
    n_train = len(data.train)
    summary = (
        f"{len(data.classes)} classes, {n_train} train / {len(data.search)} search / "
        f"{len(data.test)} test images, {data.channels} channel(s)"
    )
    # 800,000 images seen, as many as 14 epochs of Fashion-MNIST, within 12 to 120 epochs
    epochs = max(12, min(120, round(800_000 / n_train)))
    known_here = not Path(source).exists()
    text = _TEMPLATE.substitute(
        file=path.name,
        schema=SCHEMA,
        name=toml_value(_name(source)),
        size=f"{space.size:.1e}",
        summary=summary,
        source=toml_value(source if known_here else str(Path(source).resolve())),
        image_size=data.image_size,
        devices=toml_value(chosen),
        objectives=toml_value(["max top1", *latencies]),
        epochs=epochs,
        n_train=n_train,
    )
    parse_config(tomllib.loads(text), origin=str(path), folder=path.resolve().parent)
    write_atomic(path, text)
    return {"run_file": str(path), "data": summary, "classes": list(data.classes)}


def _name(source: str) -> str:
    """A run's name for `source`: its last part, with what a folder's name cannot hold as `-`."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).stem).strip("-_")[:40]
    try:
        return run_name(words)
    except UsageError:
        return "run-1"
