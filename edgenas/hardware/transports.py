"""How commands and files reach a device. Built in: the machine at hand."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgenas.errors import DeviceError
from edgenas.hardware.device import DeviceProfile


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended; negative `returncode`: by that signal. `stderr` is its last part."""

    returncode: int
    stderr: str


class Transport(Protocol):
    """A connection to one device.

    The device needs Python with numpy and the runtime. `run` takes an argument list and never a
    shell line: a transport whose other end is a shell does the quoting in one place.
    """

    @property
    def python(self) -> str:
        """The Python to start there."""

    def push(self, source: Path, target: str) -> str:
        """Puts a file of the host on the device; returns its path there.

        `target` is a plain file name below the job's folder on the device.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> Finished:
        """Runs a command and hands each line of its stdout to `on_line` as it comes.

        Raises:
            DeviceError: no line for `idle_s`; the command and its children were killed.
        """


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """The machine at hand. Files stay where they are."""

    python: str = field(default=sys.executable)

    def push(self, source: Path, target: str) -> str:
        """The file's own path; nothing is copied."""
        return str(source.resolve())

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> Finished:
        """See `Transport.run`."""
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment},
                start_new_session=True,  # so that its children can be killed with it
            )
        except OSError as error:
            raise DeviceError(
                f"cannot start {argv[0]}: {error.strerror}", hint="edgenas doctor"
            ) from error
        lines: queue.Queue[str | None] = queue.Queue()
        tail = bytearray()
        assert process.stdout is not None  # noqa: S101 - both are pipes
        assert process.stderr is not None  # noqa: S101
        stdout, stderr = process.stdout, process.stderr

        def read_lines() -> None:
            for line in stdout:
                lines.put(line.decode("utf-8", errors="replace").rstrip("\n"))
            lines.put(None)

        def read_tail() -> None:
            while block := stderr.read1(4096):  # type: ignore[attr-defined]
                tail.extend(block)
                del tail[:-4000]

        threads = [
            threading.Thread(target=read_lines, daemon=True),
            threading.Thread(target=read_tail, daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            heard = time.monotonic()
            while True:
                try:
                    line = lines.get(timeout=max(0.01, heard + idle_s - time.monotonic()))
                except queue.Empty:
                    raise DeviceError(
                        f"the device was silent for {idle_s:g} s; its command was stopped",
                        hint="what was measured is kept: repeat the command to resume",
                    ) from None
                heard = time.monotonic()
                if line is None:
                    break
                on_line(line)
            try:
                process.wait(timeout=idle_s)
            except subprocess.TimeoutExpired:
                raise DeviceError(
                    f"the device's command closed its output, but did not end in {idle_s:g} s"
                ) from None
            threads[1].join(timeout=1)
            return Finished(process.returncode, tail.decode("utf-8", errors="replace"))
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for thread in threads:
                thread.join(timeout=1)
            stdout.close()
            stderr.close()


def connect(device: DeviceProfile) -> Transport:
    """The connection that `device` names."""
    return LocalTransport()
