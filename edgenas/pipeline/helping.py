"""The processes that help with a search on this machine, seen by the one that leads it.

One kind makes trials, the other measures their architectures on a device. A helper is told which
run it is to work on; it reads all else from the run's folder, as the leader wrote it. It ends with
the leader (`edgenas.processes`). What it does is in `helper`.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgenas import processes
from edgenas.events import Event, Report
from edgenas.pipeline.runs import SESSIONS

MAX_ERRORS = 3
"""A helper that ended so often with an error is not started again."""
MAX_KILLS = 100
"""Nor one that something has killed so often, such as the system for want of memory."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a helper is told."""

    folder: str
    threads: int
    storage: str | None
    study: str
    device: str = ""
    """What to measure on; empty: it makes trials."""


@contextlib.contextmanager
def helpers(tasks: Mapping[str, Task], *, report: Report) -> Iterator[Crew]:
    """A helper for each task while the block runs, by what to call it."""
    crew = Crew({name: _Helper(name, task, report) for name, task in tasks.items()})
    try:
        for helper in crew.helpers.values():
            helper.start()
        yield crew
    finally:
        processes.end(helper.process for helper in crew.helpers.values() if helper.process)


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
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def works(self) -> bool:
        """Whether it works, or will again once it is tended."""
        return self.process is not None and self.process.poll() != 0

    def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self.process = processes.start(
            "edgenas.pipeline.helper", asdict(self._task), log=self._log, threads=self._task.threads
        )

    def tend(self) -> None:
        if self.process is None or not (code := self.process.poll()):
            return
        self.process = None
        if code < 0:
            self._kills += 1
            what = f"was killed by signal {-code}"
        else:
            self._errors += 1
            what = f"failed: {self._last_words()}"
        again = self._errors < MAX_ERRORS and self._kills < MAX_KILLS
        told = "it is started again" if again else "the search goes on without it"
        self._report(Event("workers", message=f"{self._name} {what}; {told}"))
        if again:
            self.start()

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            if lines := self._log.read_text("utf-8", "replace").split("\n")[-20:]:
                return next((line for line in reversed(lines) if line.strip()), "")
        return ""
