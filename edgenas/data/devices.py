"""What torch computes on: a device chosen by name, a number of threads, memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator

import torch

from edgenas.errors import ResourceError, UsageError


def device(name: str = "auto") -> torch.device:
    """The torch device `name`: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda`, `cuda:1`.

    Raises:
        UsageError: not one of these.
        ResourceError: CUDA, or the one with this number, is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"device {name!r} is unknown; known: auto, cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise ResourceError(
                f"device {name!r} is not there: torch sees {count} CUDA devices",
                hint="use the device auto or cpu",
            )
    return torch.device(name)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """On the CPU, torch computes with `n` threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@functools.cache
def keep_memory() -> bool:
    """From now on the process keeps memory that tensors free, for the next ones; False: cannot.

    glibc gives each tensor above 32 MiB, at first also smaller ones, back to the system
    (mallopt(3), M_MMAP_THRESHOLD) and gets its pages anew, zeroed, one fault at a time. The process
    then stays as large as it once was, and grows by what fits into no gap.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
