"""Ethos-U NPUs without hardware: Arm's compiler Vela says how many cycles a model takes.

What it says is an *estimate* of the vendor's, and must be called one. Needs the package
`ethos-u-vela` (extra `micro`).
"""

from __future__ import annotations

import csv
import errno
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgenas.errors import DeviceError, MeasurementError, ResourceError, UsageError, nearest
from edgenas.processes import environment

EXTRA_HINT = 'pip install "edgenas[micro]"'
_OPERATORS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Everything that Vela must be told; a setting that is left out, it guesses with a warning."""

    config: str
    system: str
    memory: str


ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {
        "ethos-u55-128": Accelerator("ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
        "ethos-u55-256": Accelerator("ethos-u55-256", "Ethos_U55_High_End_Embedded", "Shared_Sram"),
        "ethos-u65-256": Accelerator("ethos-u65-256", "Ethos_U65_Embedded", "Shared_Sram"),
        "ethos-u85-256": Accelerator("ethos-u85-256", "Ethos_U85_SYS_Flash_High", "Shared_Sram"),
    }
)
"""By the chip's name: the configurations of Vela's own `Arm/vela.ini` that go together.

All are systems without DRAM, in which activations stay in SRAM: there the estimates of a network's
units add up to its own. With DRAM a unit alone pays for moving its input and output, which it does
not pay inside a network.
"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What Vela says of one model. `latency_ms` is its cycles at the system's clock."""

    latency_ms: float
    cycles: int
    clock_hz: float
    sram_bytes: int
    flash_bytes: int
    npu_operators: int
    cpu_operators: int


def accelerator(chip: str) -> Accelerator:
    """The settings for `chip`.

    Raises:
        UsageError: an unknown one, with the nearest known.
    """
    if chip not in ACCELERATORS:
        raise UsageError(f"Vela: no chip {chip!r}; {nearest(chip, ACCELERATORS)}")
    return ACCELERATORS[chip]


def estimate(path: Path, settings: Accelerator, *, timeout_s: float = 300.0) -> Estimate:
    """Compiles the int8 TFLite file at `path` and reads Vela's report.

    Raises:
        DeviceError: Vela is not installed, or does not end in time.
        ResourceError: there is no room for what it writes.
        MeasurementError: it refuses the model or writes no report.
    """
    if importlib.util.find_spec("ethosu") is None:
        raise DeviceError("Vela is not installed", hint=EXTRA_HINT)
    with tempfile.TemporaryDirectory(prefix="edgenas-vela-") as folder:
        argv = [sys.executable, "-m", "ethosu.vela", str(path.resolve())]
        argv += ["--config", "Arm/vela.ini", "--accelerator-config", settings.config]
        argv += ["--system-config", settings.system, "--memory-mode", settings.memory]
        argv += ["--verbose-performance", "--output-dir", folder]
        try:
            done = subprocess.run(
                argv,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                env=environment(),
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"Vela did not end within {timeout_s:g} s on {path}") from error
        reports = sorted(Path(folder).glob(f"*_summary_{settings.system}.csv"))
        if done.returncode or len(reports) != 1:
            told = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
            if (full := os.strerror(errno.ENOSPC)) in told[-1]:
                raise ResourceError(f"{folder}: {full}", hint="free some disk space, then repeat")
            raise MeasurementError(
                f"Vela refuses {path} for {settings.config}: {told[-1][-300:]}",
                hint="only int8 TFLite files can be compiled",
            )
        return _read(reports[0], done.stdout, path)


def _read(report: Path, stdout: str, path: Path) -> Estimate:
    with report.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {name: int(n) for name, n in _OPERATORS.findall(stdout)}
    try:
        (row,) = rows
        found = Estimate(
            latency_ms=1000 * float(row["cycles_total"]) / float(row["core_clock"]),
            cycles=round(float(row["cycles_total"])),
            clock_hz=float(row["core_clock"]),
            sram_bytes=_kib(row["sram_memory_used"]),
            flash_bytes=_kib(row["on_chip_flash_memory_used"])
            + _kib(row["off_chip_flash_memory_used"]),
            npu_operators=counts["NPU"],
            cpu_operators=counts["CPU"],
        )
    except (KeyError, ValueError, TypeError, ZeroDivisionError) as error:
        raise MeasurementError(f"Vela's report on {path} cannot be read: {error}") from error
    if found.cycles <= 0:
        raise MeasurementError(f"Vela estimates no cycles for {path}")
    return found


def _kib(text: str) -> int:
    return round(1024 * float(text))
