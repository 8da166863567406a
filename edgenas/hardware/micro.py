"""TensorFlow Lite Micro, the interpreter of microcontrollers, run on this machine.

It says how much memory a model needs beside itself. Its records are those of a 64-bit build: on a
32-bit microcontroller they are smaller, so what fits here fits there with the same, reference,
kernels. Optimised ones, as CMSIS-NN's, ask for scratch memory in the arena on top. Needs the
package `tflite-micro` (extra `micro`).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgenas.errors import DeviceError, MeasurementError
from edgenas.processes import environment

EXTRA_HINT = 'pip install "edgenas[micro]"'
MICRO_BUILD = (
    "a 64-bit build with reference kernels: a 32-bit one takes less, optimised kernels such as "
    "CMSIS-NN's take scratch memory on top"
)
"""What the package is, for those who build for a microcontroller."""
_MOST = 64 * 2**20
_ALLOCATION = re.compile(r"Arena allocation (\w+) (\d+) bytes")

_SCRIPT = """\
import sys
import numpy
from tflite_micro.python.tflite_micro import runtime
interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))
details = interpreter.get_input_details(0)
interpreter.set_input(numpy.zeros(details["shape"], details["dtype"]), 0)
interpreter.invoke()
interpreter.print_allocations()
"""


@dataclass(frozen=True, slots=True)
class MicroArena:
    """What the interpreter took: tensors (`head`) and its own records (`tail`), `total` bytes."""

    total: int
    head: int
    tail: int


def measure_arena(path: Path, *, timeout_s: float = 120.0) -> MicroArena:
    """The smallest arena that the int8 TFLite file at `path` runs in, from one inference on zeros.

    A second run in an arena of just that size confirms it. Both are processes of their own: the
    interpreter aborts on some damaged files.

    Raises:
        DeviceError: TFLite-Micro is not installed, or does not end in time.
        MeasurementError: it refuses the model, or states no sizes.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        raise DeviceError("TFLite-Micro is not installed", hint=EXTRA_HINT)
    said = {name: int(n) for name, n in _ALLOCATION.findall(_run(path, _MOST, timeout_s))}
    try:
        found = MicroArena(said["total"], said["head"], said["tail"])
    except KeyError as error:
        raise MeasurementError(f"TFLite-Micro states no arena for {path}") from error
    _run(path, found.total, timeout_s)
    return found


def _run(path: Path, arena_bytes: int, timeout_s: float) -> str:
    """What the interpreter writes to standard error in an arena of so many bytes."""
    argv = [sys.executable, "-c", _SCRIPT, str(path.resolve()), str(arena_bytes)]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"TFLite-Micro did not end within {timeout_s:g} s on {path}") from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        told = next((x for x in lines if "Didn't find op" in x or "allocate" in x), "")
        raise MeasurementError(
            f"TFLite-Micro refuses {path} in {arena_bytes} bytes: "
            f"{(told or (lines or ['it said nothing'])[-1])[-300:]}"
        )
    return done.stderr
