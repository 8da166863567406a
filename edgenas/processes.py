"""Processes of edgenas that others of it start, tell what to do, and end.

Such a process is a module, run by `python -m`. It is told its task on its standard input, in one
line of JSON. That input stays open as long as the process that started it lives; when it closes,
the one that was started gives up what it is at and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

_GRACE_S = 20.0
"""From asking a process to end until it is killed: a step of torch cannot be interrupted."""


def threads_each(n: int) -> int:
    """Threads for each of `n` processes that share this machine's cores."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # where a process cannot be pinned
        cores = os.cpu_count() or 1
    return max(1, cores // n)


def environment(threads: int = 1) -> dict[str, str]:
    """For a process of ours: this edgenas, so many threads, quieter libraries.

    Python files in the folder that it is started in are not its modules.
    """
    root = str(Path(__file__).parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": str(threads),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TORCHAO_SKIP_LOADING_SO_FILES": "1",
    }


def start(module: str, task: object, *, log: Path, threads: int) -> subprocess.Popen[bytes]:
    """A process that runs `module` at `task`, which is JSON; its words are added to `log`."""
    with log.open("ab") as words:
        process = subprocess.Popen(  # noqa: S603  # this interpreter, a module of ours
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=words,
            stderr=words,
            start_new_session=True,  # a Ctrl-C is for the leader, who ends the others
            env=environment(threads),
        )
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # dead already: its exit code tells
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
    return process


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Has them end: all are asked first, then killed."""
    asked = list(processes)
    for process in asked:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    for process in asked:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        process.kill()
        process.wait()


def task() -> Any:  # whatever JSON the starter wrote
    """What this process was told by the one that started it, with which it ends from now on.

    Asked to end, it does so as after Ctrl-C.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    return told


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end_with(starter: BinaryIO) -> None:
    while os.read(starter.fileno(), 4096):  # a buffer's lock would be held when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
