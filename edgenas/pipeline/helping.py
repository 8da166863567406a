"""Processes that help with a search on this machine: `python -m edgenas.pipeline.helping`.

One kind makes trials, the other measures their architectures on a device. A helper is told on its
standard input, in one line of JSON, which run it is to work on; it reads all else from the run's
folder, as the process that leads the search wrote it. That input stays open as long as the leader
lives: when it closes, the helper gives up what it is at and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from edgenas.errors import EdgenasError, Interrupted
from edgenas.events import Event, Report
from edgenas.pipeline.runs import SESSIONS

MAX_ERRORS = 3
"""A helper that ended so often with an error is not started again."""
MAX_KILLS = 100
"""Nor one that something has killed so often, such as the system for want of memory."""
_GRACE_S = 20.0
"""From asking a helper to end until it is killed: a step of torch cannot be interrupted."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a helper is told."""

    folder: str
    threads: int
    storage: str | None
    study: str
    device: str = ""
    """What to measure on; empty: it makes trials."""


def threads_each(workers: int) -> int:
    """Threads for each of `workers` processes that share this machine's cores."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # where a process cannot be pinned
        cores = os.cpu_count() or 1
    return max(1, cores // workers)


@contextlib.contextmanager
def helpers(tasks: Mapping[str, Task], *, report: Report) -> Iterator[Crew]:
    """A helper for each task while the block runs, by what to call it."""
    crew = Crew({name: _Helper(name, task, report) for name, task in tasks.items()})
    try:
        for helper in crew.helpers.values():
            helper.start()
        yield crew
    finally:
        for helper in crew.helpers.values():
            helper.ask_to_end()
        for helper in crew.helpers.values():
            helper.end()


@dataclass(frozen=True, slots=True)
class Crew:
    """The helpers of a search, by name."""

    helpers: Mapping[str, _Helper]

    def tend(self) -> None:
        """Starts those again that were killed or failed, unless it was too often."""
        for helper in self.helpers.values():
            helper.tend()

    def works(self, name: str) -> bool:
        """Whether that helper works, or will again."""
        return name in self.helpers and self.helpers[name].works


class _Helper:
    def __init__(self, name: str, task: Task, report: Report) -> None:
        self._name = name
        self._task = task
        self._report = report
        self._log = Path(task.folder) / SESSIONS / f"{name.replace(' ', '-')}.log"
        self._errors = self._kills = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def works(self) -> bool:
        """Whether it works, or will again once it is tended."""
        return self._process is not None and self._process.poll() != 0

    def start(self) -> None:
        from edgenas.export.worker import environment

        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgenas.pipeline.helping"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the leader, who ends the helpers
                env={**environment(), "OMP_NUM_THREADS": str(self._task.threads)},
            )
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # dead already: `tend` sees to it
                process.stdin.write(json.dumps(asdict(self._task)).encode() + b"\n")
                process.stdin.flush()
        self._process = process

    def tend(self) -> None:
        if self._process is None or not (code := self._process.poll()):
            return
        self._process = None
        if code < 0:
            self._kills += 1
            what = f"was killed by signal {-code}"
        else:
            self._errors += 1
            what = f"failed: {self._last_words()}"
        again = self._errors < MAX_ERRORS and self._kills < MAX_KILLS
        told = "it is started again" if again else f"the search goes on without it; {self._log}"
        self._report(Event("workers", message=f"{self._name} {what}; {told}"))
        if again:
            self.start()

    def ask_to_end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def end(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            if lines := self._log.read_text("utf-8", "replace").split("\n")[-20:]:
                return next((line for line in reversed(lines) if line.strip()), "")
        return ""


def main() -> int:
    """Works on the run that standard input names, until its search or its leader is at an end."""
    signal.signal(signal.SIGTERM, stop)
    task = Task(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=end_with, args=(sys.stdin.buffer,), daemon=True).start()
    try:
        from edgenas.data import threads
        from edgenas.pipeline.config import read_config
        from edgenas.pipeline.searching import help_search

        folder = Path(task.folder)
        config = read_config(folder / "run.toml")
        with threads(task.threads):
            help_search(config, folder, storage=task.storage, study=task.study, device=task.device)
    except EdgenasError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, Interrupted):
        return 128 + signal.SIGTERM
    return 0


def stop(number: int, frame: FrameType | None) -> None:
    """Of a signal: ends work as Ctrl-C does."""
    raise KeyboardInterrupt


def end_with(leader: BinaryIO) -> None:
    """Ends this process when its leader is gone."""
    while os.read(leader.fileno(), 4096):  # a buffer's lock would be held when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
