"""A board reached over the system's own `ssh`: its keys, agent, jump hosts and `~/.ssh/config`."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgenas.errors import DeviceError, SpecError
from edgenas.hardware.remote import CONNECT_S, FOLDER, PROGRAM, RemoteShell, transfer_s
from edgenas.hardware.transports import RESUMES, Finished, check_option, stream

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}")
_IDENTITY = re.compile(r"~?/[A-Za-z0-9_./@+-]+")
_SENT_KEY = re.compile(r"Server host key: (\S+) (SHA256:\S+)")
_CHANGED_KEY = re.compile(
    r"fingerprint for the (\S+) key sent by the remote host is\s+(SHA256:\S+)"
)


@dataclass(frozen=True, slots=True)
class SshTransport:
    """A board by its host name; keys only, no passwords, and no host key is ever accepted for you.

    `identity` is a private key on this machine. `python` and `folder` are paths on the board, from
    the user's home unless they begin with `/`.
    """

    host: str
    user: str = ""
    port: int = 0
    identity: str = ""
    python: str = "python3"
    folder: str = ".cache/edgenas"

    def __post_init__(self) -> None:
        check_option("host", self.host, _HOST, "host name or address")
        check_option("python", self.python, PROGRAM, "name or path of a program on the device")
        check_option("folder", self.folder, FOLDER, "path of a folder on the device")
        if self.user != "":
            check_option("user", self.user, _USER, "user name")
        if self.identity != "":
            check_option("identity", self.identity, _IDENTITY, "path of a key from / or ~/")
        if not isinstance(self.port, int) or not 0 <= self.port <= 65535:
            raise SpecError(f"connection.port: {self.port!r} is no port")

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """See `Transport.push`; all files go in one archive through one connection."""
        folder, shell = PurePosixPath(self.folder), self._shell()

        def send(left: Mapping[str, Path]) -> None:
            with tempfile.TemporaryFile() as archive:
                with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
                    for name, path in left.items():
                        tar.add(path, arcname=name, recursive=False, filter=_plain)
                archive.seek(0)
                argv = ["tar", "-x", "-f", "-", "-C", str(folder)]
                shell.lines(argv, timeout_s=transfer_s(left), stdin=archive.fileno())

        return shell.push(files, folder, send)

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> Finished:
        """See `Transport.run`."""
        return self._shell().run(argv, idle_s=idle_s, on_line=on_line, environment=environment)

    def _shell(self) -> RemoteShell:
        return RemoteShell((*self._options(), "--", self.host), self._error)

    def _options(self) -> list[str]:
        options = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
        options += ["-o", f"ConnectTimeout={CONNECT_S}", "-o", "ClearAllForwardings=yes"]
        options += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        if self.port:
            options += ["-p", str(self.port)]
        if self.user:
            options += ["-l", self.user]
        if self.identity:
            options += ["-o", "IdentitiesOnly=yes", "-i", str(Path(self.identity).expanduser())]
        return options

    def _error(self, stderr: str, started: bool) -> DeviceError:  # noqa: FBT001
        """What went wrong between here and the board, and what mends it."""
        place = f"[{self.host}]:{self.port}" if self.port not in (0, 22) else self.host
        name = f"{self.user}@{self.host}" if self.user else self.host
        again = f"ssh {f'-p {self.port} ' if self.port else ''}{name}"
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
            found = _CHANGED_KEY.search(stderr)
            key = f": it is now {found[1]} {found[2].rstrip('.')}" if found else ""
            return DeviceError(
                f"the host key of {place} is not the one that is known{key}",
                hint=f"if the board was set up anew, ssh-keygen -R '{place}', then {again} once, "
                "and compare the fingerprint; otherwise somebody may be in between",
            )
        if "Host key verification failed" in stderr:
            return DeviceError(
                f"the host key of {place} is not known here{self._fingerprint()}",
                hint=f"{again} once, compare the fingerprint with the board's, and accept it",
            )
        if "Permission denied" in stderr and not started:
            copy = f"ssh-copy-id {f'-p {self.port} ' if self.port else ''}{name}"
            return DeviceError(
                f"{place} refuses the login: {_last(stderr)}",
                hint=f"{copy}, or name user and identity in the device file; a key with a "
                "passphrase needs ssh-agent",
            )
        if started:
            return DeviceError(f"{place} was lost: {_last(stderr)}", hint=RESUMES)
        return DeviceError(f"{place} cannot be reached: {_last(stderr)}", hint=again)

    def _fingerprint(self) -> str:
        """The key that the host shows, as far as it can be asked."""
        try:
            asked = stream(
                [*self._options(), "-v", "--", self.host, "exit"],
                idle_s=CONNECT_S,
                on_line=lambda line: None,
            )
        except DeviceError:
            return ""
        found = _SENT_KEY.search(asked.stderr)
        return f"; it shows {found[1]} {found[2]}" if found else ""


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the host's owner and permissions."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry


def _last(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else "ssh said nothing"
