"""How commands and files reach a device: what a transport is, and the machine at hand.

Others stand in modules of their own (`ssh`, `adb`); packages add more through the entry-point group
`edgenas.transports`. A transport is made from the keys of a device file's `[connection]`.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Protocol, cast

from edgenas import plugins
from edgenas.errors import DeviceError, SpecError, UsageError, nearest

TRANSPORTS: Mapping[str, str] = MappingProxyType(
    {
        "local": "edgenas.hardware.transports:local_transport",
        "ssh": "edgenas.hardware.ssh:SshTransport",
        "adb": "edgenas.hardware.adb:AdbTransport",
    }
)
"""Built-in kinds: each is called with the other keys of `[connection]` and touches nothing yet."""

RESUMES = "what was measured is kept: repeat the command to resume"

_INSTALL = {"ssh": "apt-get install openssh-client", "adb": "apt-get install adb"}
_VALUE = re.compile(r"[A-Za-z0-9_./~:][A-Za-z0-9_./~:@,+-]{0,254}")


@dataclass(frozen=True, slots=True)
class Connection:
    """What a device file says about reaching the device: a kind, and that kind's own keys."""

    kind: str = "local"
    options: tuple[tuple[str, str | int], ...] = ()


LOCAL = Connection()
"""The machine at hand."""


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
        """The Python to start there; empty where there is none."""

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Puts files of the host on the device; returns the path there for each name.

        The names are plain file names below the connection's folder on the device. What is there
        already, byte for byte, is not sent again.

        Raises:
            DeviceError: the device cannot be reached, or did not store a file whole.
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
            DeviceError: no line for `idle_s`; the command and its children were killed. The device
                cannot be reached, or was lost before the command ended.
        """


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """The machine at hand. Files stay where they are."""

    python: str = field(default=sys.executable)

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The files' own paths; nothing is copied."""
        return {name: str(path.resolve()) for name, path in files.items()}

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> Finished:
        """See `Transport.run`."""
        return stream(argv, idle_s=idle_s, on_line=on_line, environment=environment)


def local_transport() -> LocalTransport:
    """The machine at hand with the Python that runs now; a device file has no say in it."""
    return LocalTransport()


def stream(
    argv: Sequence[str],
    *,
    idle_s: float,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] = MappingProxyType({}),
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> Finished:
    """Runs a command on the host, as `Transport.run` promises it for a device."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,  # so that its children can be killed with it
        )
    except OSError as error:
        raise DeviceError(
            f"cannot start {argv[0]}: {error.strerror}",
            hint=_INSTALL.get(argv[0], "edgenas doctor"),
        ) from error
    lines: queue.Queue[str | None] = queue.Queue()
    tail = bytearray()
    assert process.stdout is not None  # noqa: S101 - both are pipes
    assert process.stderr is not None  # noqa: S101
    stdout, stderr = process.stdout, process.stderr

    def read_lines() -> None:
        with stdout:
            for line in stdout:
                lines.put(line.decode("utf-8", errors="replace").rstrip("\n"))
        lines.put(None)

    def read_tail() -> None:
        with stderr:
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
                    hint=RESUMES,
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
        for thread in threads:  # each closes its pipe: who left the group may hold it open
            thread.join(timeout=1)


def limited(
    on_line: Callable[[str], object], limit_s: float, *, what: str
) -> Callable[[str], None]:
    """`on_line` for a command that may take `limit_s`, however much it says meanwhile.

    What it returns raises `DeviceError` at the first line after that.
    """
    until = time.monotonic() + limit_s

    def take(line: str) -> None:
        if time.monotonic() > until:
            raise DeviceError(
                f"{what} did not end in {limit_s:g} s, and still says {line[:100]!r}", hint=RESUMES
            )
        on_line(line)

    return take


def transport_for(connection: Connection) -> Transport:
    """The transport that `connection` names, its keys checked; nothing is reached yet.

    Raises:
        SpecError: an unknown kind or key (the nearest is named), a missing key, a wrong type.
        UsageError: a value that a shell or an option parser could take for something else.
    """
    make = plugins.lookup("transports", connection.kind, TRANSPORTS)
    parameters = inspect.signature(cast(Callable[..., Any], make)).parameters
    options = dict(connection.options)
    for key, value in options.items():
        if key not in parameters:
            raise SpecError(f"connection.{key}: unknown key; {nearest(key, parameters)}")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise SpecError(f"connection.{key}: {value!r} is neither text nor an integer")
        if isinstance(value, str) and (not _VALUE.fullmatch(value) or ".." in value):
            raise UsageError(
                f"connection.{key}: {value!r}: letters, digits and _ . / ~ : @ , + - are allowed, "
                "no '..', at most 255, starting with none of - @ , +"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise SpecError(f"connection.{key} is missing; kind {connection.kind!r} needs it")
    return cast(Transport, cast(Callable[..., Any], make)(**options))


def check_option(key: str, value: object, pattern: re.Pattern[str], wanted: str) -> None:
    """Refuses a value of `[connection]` that `pattern` does not match as a whole.

    Raises:
        SpecError: it is no text.
        UsageError: it is another text than `wanted`.
    """
    if not isinstance(value, str):
        raise SpecError(f"connection.{key}: {value!r} is not text")
    if not pattern.fullmatch(value) or ".." in value:
        raise UsageError(f"connection.{key}: {value!r} is no {wanted}")
