"""A device whose other end is a POSIX shell: the one place where commands for it are quoted.

Every command runs between two marks that nobody can guess. Before the first one a login script may
say what it likes; without the last one the command did not end, whatever the client's own exit
status. The first mark names the process group on the device, so that it can be stopped.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO

from edgenas.artifacts import sha256_file
from edgenas.errors import DeviceError
from edgenas.hardware.transports import Finished, limited, stream

CONNECT_S = 15
"""Seconds until a device that does not answer counts as unreachable."""
COMMAND_S = 120.0
"""Seconds for a command that only looks or tidies up."""
SLOWEST_BYTES_PER_S = 50_000
"""A transfer slower than this counts as hung."""

FOLDER = re.compile(r"/?[A-Za-z0-9_.][A-Za-z0-9_.-]*(/[A-Za-z0-9_.][A-Za-z0-9_.-]*)*")
PROGRAM = FOLDER
"""The name or path of a program on the device."""

# $0 is the mark. The fifth field of /proc/PID/stat is the process group.
_SCRIPT = (
    'read -r a b c d g x </proc/$$/stat; echo "$0 group $g"; "$@"; a=$?; echo; echo "$0 status $a"'
)
_SUMS = 'mkdir -p "$1" && exec find "$1" -maxdepth 1 -type f -exec sha256sum {} +'
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RemoteShell:
    """Runs commands through a client such as `ssh HOST` or `adb -s SERIAL shell`.

    `client` is the client's argument list; the line for the device's shell becomes its last one.
    `explain` makes the error for a command that never started or never ended, from what the client
    wrote to stderr; its second argument tells whether the command had started.
    """

    client: tuple[str, ...]
    explain: Callable[[str, bool], DeviceError]

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str] = _NOTHING,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> Finished:
        """See `Transport.run`."""
        group: list[int] = []
        try:
            return self._marked(argv, idle_s, on_line, environment, stdin, group)
        except BaseException:
            if group:
                self._stop(group[0])
            raise

    def _marked(
        self,
        argv: Sequence[str],
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
        stdin: IO[bytes] | int,
        group: list[int],
    ) -> Finished:
        """Runs a command between marks; `group` receives its process group on the device."""
        mark = secrets.token_hex(8)
        status: list[int] = []
        blank: list[str] = []  # an empty line that may be the one before the last mark

        def sort(line: str) -> None:
            line = line.removesuffix("\r")
            if line.startswith(f"{mark} group "):
                group.append(_number(line))
            elif line.startswith(f"{mark} status "):
                status.append(_number(line))
            elif group and not status:
                for held in blank:
                    on_line(held)
                blank[:] = [line] if not line else []
                if line:
                    on_line(line)

        ended = stream(
            [*self.client, remote_line(argv, mark=mark, environment=environment)],
            idle_s=idle_s,
            on_line=sort,
            stdin=stdin,
        )
        if not status:
            raise self.explain(ended.stderr, bool(group))
        code = status[0]
        return Finished(128 - code if 128 < code <= 192 else code, ended.stderr)

    def lines(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_S,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> list[str]:
        """The stdout of a short command.

        Raises:
            DeviceError: it failed, with what it said; it did not end in `timeout_s`.
        """
        found: list[str] = []
        take = limited(found.append, timeout_s, what=f"{argv[0]} on the device")
        ended = self.run(argv, idle_s=timeout_s, on_line=take, stdin=stdin)
        if ended.returncode:
            said = (ended.stderr.strip() or "\n".join(found).strip() or "nothing").splitlines()
            raise DeviceError(
                f"{argv[0]} on the device ended with status {ended.returncode}: {said[-1]}"
            )
        return found

    def sums(self, folder: PurePosixPath) -> dict[str, str]:
        """SHA-256 of each file in `folder`, which is made where it is missing."""
        found = {}
        for line in self.lines(["sh", "-c", _SUMS, "sh", str(folder)]):
            sha256, _, path = line.partition(" ")
            found[PurePosixPath(path.strip().lstrip("*")).name] = sha256
        return found

    def push(
        self,
        files: Mapping[str, Path],
        folder: PurePosixPath,
        send: Callable[[Mapping[str, Path]], None],
    ) -> dict[str, str]:
        """See `Transport.push`; `send` transfers those files that are not there yet."""
        for name in files:
            if not _FILE.fullmatch(name) or ".." in name:
                raise DeviceError(f"{name!r} is no plain file name")
        wanted = {name: sha256_file(path) for name, path in files.items()}
        there = self.sums(folder)
        left = {name: path for name, path in files.items() if there.get(name) != wanted[name]}
        if left:
            send(left)
            there = self.sums(folder)
            for name in left:
                if there.get(name) != wanted[name]:
                    raise DeviceError(
                        f"{folder / name} on the device is not the file that was sent",
                        hint=f"look for free space there, and whether {folder} can be written",
                    )
        return {name: str(folder / name) for name in files}

    def _stop(self, group: int) -> None:
        """Kills a process group on the device, as far as it can be reached."""
        if group > 1:
            argv = ["kill", "-KILL", f"-{group}"]
            with contextlib.suppress(DeviceError):
                self._marked(argv, CONNECT_S, lambda line: None, {}, subprocess.DEVNULL, [])


def remote_line(
    argv: Sequence[str], *, mark: str, environment: Mapping[str, str] = _NOTHING
) -> str:
    """The one line that a device's shell reads in order to run `argv`."""
    given = [f"{name}={value}" for name, value in environment.items()]
    return shlex.join(["sh", "-c", _SCRIPT, mark, *(["env", *given] if given else []), *argv])


def transfer_s(files: Mapping[str, Path]) -> float:
    """Seconds after which a transfer of `files` counts as hung."""
    return COMMAND_S + sum(p.stat().st_size for p in files.values()) / SLOWEST_BYTES_PER_S


def _number(line: str) -> int:
    text = line.rpartition(" ")[2]
    return int(text) if text.isdecimal() else 0
