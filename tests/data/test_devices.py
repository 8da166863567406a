from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from edgenas.data import device, threads
from edgenas.errors import ResourceError, UsageError


def test_auto_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device("auto").type == expected
        assert device().type == expected
    assert device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps", "auto:1"]
)
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="known: auto"):
        device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="sees 0 CUDA devices"):
        device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ResourceError, match="sees 2 CUDA devices"):
        device("cuda:2")


def test_threads_are_as_before_after_the_block() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back so soon"
)
def test_memory_is_kept_for_the_next_tensors() -> None:
    code = """
import resource, sys, torch
from edgenas.data import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        torch.empty(10_000_000).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(3)
print(faults(20))
"""
    kept, given_back = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, how], capture_output=True, check=True
            ).stdout
        )
        for how in ("keep", "not")
    )
    assert given_back > 300, "40 MB each time, in pages of at most 2 MiB"
    assert kept < given_back / 5, "some, where the system takes what lies idle"
