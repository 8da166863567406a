"""Small real things for tests: a space, an invented device with its table, a run file."""

from __future__ import annotations

from pathlib import Path

from edgenas.hardware import DeviceProfile, installed_version
from edgenas.latency import Entry, Fit, LatencyTable, TableDevice, write_table
from edgenas.spaces.mobile import MobileSpace, Stage

INVENTED_DEVICE = "invented-board-litert-int8-t1"
"""A device that does not exist; its latencies are a formula."""


def tiny_space(*, in_channels: int = 1, n_classes: int = 10) -> MobileSpace:
    """72 small networks for images of 8 pixels."""
    return MobileSpace(
        resolutions=(8,),
        stem_width=8,
        stem_stride=1,
        head_width=32,
        in_channels=in_channels,
        n_classes=n_classes,
        stages=(
            Stage(2, widths=(8, 16), depths=(1, 2), kernels=(3,), expands=(2, 3)),
            Stage(1, widths=(16,), depths=(1, 2), kernels=(3,), expands=(2, 3)),
        ),
    )


def invented_table(device: DeviceProfile, space: MobileSpace) -> LatencyTable:
    """A table for `device` over all units of `space`: 1 us a unit and 1 us for 5,000 MACs."""
    entries = {}
    for op in space.units():
        ms = 0.001 + op.macs / 5e6
        entries[op] = Entry(ms, 0.99 * ms, ms, 1.05 * ms, n=50)
    return LatencyTable(
        device=TableDevice.of(
            device, runtime_version=installed_version(device.runtime) or "unknown"
        ),
        source="measured",
        created="2026-01-01",
        entries=entries,
        fits=(Fit("unit", 1.0, 0.0005, 8, 0.02, 0.04, 0.04, plain_sum_error_mean=0.1),),
        conditions={"invented": True},
    )


def write_invented_device(folder: Path, space: MobileSpace) -> str:
    """Writes `INVENTED_DEVICE` and its table below `folder`, as a working folder holds them."""
    from edgenas.hardware import load_device_file

    path = folder / "devices" / f"{INVENTED_DEVICE}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""schema = "edgenas.device/1"
name = "{INVENTED_DEVICE}"
title = "A board that does not exist"
class = "cpu"
chip = "invented-board"
runtime = "litert"
precision = "int8"
threads = 1
""",
        "utf-8",
    )
    table = invented_table(load_device_file(path), space)
    write_table(table, folder / "latency_tables" / f"{INVENTED_DEVICE}.json")
    return INVENTED_DEVICE


def write_second_device(folder: Path, space: MobileSpace) -> tuple[str, str]:
    """Beside `INVENTED_DEVICE` another such board, which takes twice as long; both names."""
    from dataclasses import replace

    from edgenas.hardware import load_device_file

    name = "other-board-litert-int8-t1"
    first = folder / "devices" / f"{write_invented_device(folder, space)}.toml"
    path = first.with_name(f"{name}.toml")
    path.write_text(first.read_text("utf-8").replace("invented-board", "other-board"), "utf-8")
    table = invented_table(load_device_file(path), space)
    slower = tuple(replace(fit, scale=2 * fit.scale) for fit in table.fits)
    write_table(replace(table, fits=slower), folder / "latency_tables" / f"{name}.json")
    return INVENTED_DEVICE, name


def write_tiny_run(
    folder: Path, *, device: str = INVENTED_DEVICE, trials: int = 12, formats: str = '"onnx"'
) -> Path:
    """Writes a run file on the digits with the tiny space and one short epoch."""
    from edgenas.artifacts import toml_value

    path = folder / "run.toml"
    path.write_text(
        f"""schema = "edgenas.run/1"
name = "tiny"
space = {toml_value(tiny_space().to_table())}

[data]
source = "digits"

[search]
devices = ["{device}"]
objectives = ["max top1", "min latency_ms"]
trials = {trials}
images = 100
recalibration_images = 128

[train]
epochs = 1
batch = 64
n_random = 1
checkpoint_every = 5

[export]
formats = [{formats}]
top = 1
""",
        "utf-8",
    )
    return path
