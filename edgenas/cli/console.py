"""What commands share: one result on stdout, progress on stderr, options, the guard of stdout.

Libraries that convert models print to stdout, some of them from C++, where Python's redirection
catches nothing. So a command runs with descriptor 1 pointing at stderr, and only `Output.result`
writes to the real stdout: with `--json` exactly one document.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from edgenas.artifacts import to_json
from edgenas.errors import Interrupted
from edgenas.events import Event, Report, silent

PLAIN_EVERY_S = 5.0
"""Seconds between two progress lines of one stage where stderr is no terminal."""


def positive(text: str) -> float:
    """A finite number above 0, from what was typed.

    Raises:
        typer.BadParameter: for anything else, `nan` and `inf` included.
    """
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not math.isfinite(value) or value <= 0:
        raise typer.BadParameter(f"{text!r} is not a finite number above 0")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier call stopped.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete what is there and begin anew.")]


INVOKED: ContextVar[tuple[str, ...]] = ContextVar("INVOKED", default=())
"""The arguments that this process was started with, set by `main`."""


def again(*options: str) -> str:
    """The command line under way once more, with `options` added, to be pasted into a shell."""
    given = [argument for argument in INVOKED.get() if argument not in (*options, "--fresh")]
    return shlex.join(["edgenas", *given, *options])


@dataclass
class Output:
    """Where a command's progress and its one result go."""

    json: bool
    report: Report
    _stdout: int

    def result(self, document: Mapping[str, Any], text: str) -> None:
        """Prints `document` as JSON where `--json` was given, `text` otherwise.

        Who reads only its beginning, as `head` does, is no error.
        """
        data = (to_json(document) if self.json else text.rstrip("\n") + "\n").encode()
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._stdout, data) :]


@contextlib.contextmanager
def output(*, json: bool = False, quiet: bool = False, resume: str = "") -> Iterator[Output]:
    """An `Output` while stdout is guarded; `resume` is the command that goes on after Ctrl-C."""
    sys.stdout.flush()
    real = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr), _progress(quiet=quiet) as report:
            yield Output(json, report, real)
    except (KeyboardInterrupt, Interrupted) as stop:
        told = str(stop) or "stopped; nothing finished is lost"
        with contextlib.suppress(OSError):
            print(f"{told}\nto go on: {resume}" if resume else told, file=sys.stderr)
        raise typer.Exit(130) from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Report]:
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield PlainProgress()


class PlainProgress:
    """Progress as plain lines: a stage's start and end, messages, a step every few seconds."""

    def __init__(self, *, every_s: float = PLAIN_EVERY_S) -> None:
        self._every_s = every_s
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Prints `event` where it is due."""
        now = time.monotonic()
        ends = event.total > 0 and event.done >= event.total
        steps = event.total > 0 or event.done > 0
        since = now - self._last.get(event.stage, -math.inf)
        if steps and not ends and since < self._every_s:
            return
        self._last[event.stage] = now
        parts = [event.stage]
        if event.total > 0:
            parts.append(f"{event.done:g}/{event.total:g}")
        if event.message:
            parts.append(event.message)
        if event.remaining_s is not None and not ends:
            parts.append(f"about {duration(event.remaining_s)} left")
        with contextlib.suppress(OSError):
            print(": ".join(parts), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _bars() -> Iterator[Report]:
    """Progress as bars on a terminal, one a stage."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    # a descriptor of its own: descriptor 2 may carry what converters print
    progress = Progress(
        TextColumn("{task.fields[stage]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=Console(stderr=True),
        redirect_stdout=False,
    )
    tasks: dict[str, TaskID] = {}
    started: dict[str, float] = {}

    def report(event: Event) -> None:
        now = time.monotonic()
        began = started.setdefault(event.stage, now)
        remaining = event.remaining_s
        if remaining is None and 0 < event.done < event.total and now - began > 2:
            remaining = (now - began) * (event.total - event.done) / event.done
        left = "" if remaining is None else f"about {duration(remaining)} left"
        note = " ".join(part for part in (left, event.message) if part)
        count = f"{event.done:g}/{event.total:g}" if event.total > 0 else ""
        total = event.total or None
        if event.stage not in tasks:
            tasks[event.stage] = progress.add_task(
                "", total=total, stage=event.stage, count=count, note=note
            )
        progress.update(
            tasks[event.stage], total=total, completed=event.done, count=count, note=note
        )

    with progress:
        yield report


def duration(seconds: float) -> str:
    """`seconds` in words: `40 s`, `3 min 20 s`, `2 h 5 min`.

    >>> duration(200)
    '3 min 20 s'
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
