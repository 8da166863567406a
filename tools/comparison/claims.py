"""Several processes at one list of work: each takes what no other is at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from edgenas.events import Event, Report


@contextlib.contextmanager
def claimed(folder: Path, name: str, *, report: Report) -> Iterator[bool]:
    """Whether the work `name` is this process's while the context lasts, or another is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{name}.lock", blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        report(Event("train", message=f"another process is at {name}"))
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
