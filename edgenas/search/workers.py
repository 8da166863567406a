"""Which process works on which trial, and which of them are gone.

A trial bears the mark of its worker. On the worker's own host the mark tells whether the process
still runs; elsewhere its heartbeat does: a number in the study that grows. Whoever watches it
counts by his own clock how long it has stood still, so that clocks which differ or jump do no harm.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import optuna

BEAT_S = 10.0
"""Between two beats of a worker."""
SILENT_S = 90.0
"""A worker on another host that has not beaten for so long is taken for gone."""

Mark = Mapping[str, str]


def my_mark() -> dict[str, str]:
    """What tells this process from all others, on any host, before or after a restart."""
    return {"host": _host(), "pid": str(os.getpid()), "started": _started(os.getpid())}


def works_here(mark: Mark) -> bool:
    """Whether the worker of `mark` runs now on this host."""
    return mark.get("host") == _host() and not Watch().gone(mark, {})


def _host() -> str:
    """Of one kernel and one numbering of processes, as two containers on a host have two."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):  # Linux alone has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return " ".join(parts)


def _started(pid: int) -> str:
    """When the process began, or nothing where there is none."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


@dataclass
class Watch:
    """Tells which workers are gone; keeps when it last heard of those on other hosts."""

    heard: dict[str, tuple[int, float]] = field(default_factory=dict)

    def gone(self, mark: Mark, beats: Mapping[str, object]) -> bool:
        """Whether the worker of `mark` works no more.

        Args:
            mark: a trial's.
            beats: the study's attributes, where workers beat.
        """
        if mark.get("host") == _host():
            return not mark["started"] or _started(int(mark["pid"])) != mark["started"]
        name = beat_name(mark)
        told = beats.get(name)
        beat, now = told if isinstance(told, int) else -1, time.monotonic()
        if self.heard.get(name, (None, 0.0))[0] != beat:
            self.heard[name] = beat, now
        return now - self.heard[name][1] > SILENT_S


def beat_name(mark: Mark) -> str:
    """The study's attribute where the worker of `mark` beats."""
    return f"beat {mark.get('host')} {mark.get('pid')} {mark.get('started')}"


@contextlib.contextmanager
def beating(study: optuna.Study, mark: Mark) -> Iterator[None]:
    """Beats in the study while the block runs."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        while True:
            # A database that cannot be reached for a moment: the next beat will do.
            with contextlib.suppress(Exception):
                study.set_user_attr(beat_name(mark), count)
            count += 1
            if over.wait(BEAT_S):
                return

    thread = threading.Thread(target=beat, name="edgenas-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)
