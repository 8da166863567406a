"""A real OpenSSH server on loopback with keys, port and configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from edgenas.hardware.ssh import SshTransport

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
"""The server's program; None where it is not installed."""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running server. `bin` holds an `ssh` that reads the test's own known hosts: put it on PATH.

    The user is the one who runs the test.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def bin(self) -> Path:
        """The folder for PATH."""
        return self.folder / "bin"

    @property
    def known_hosts(self) -> Path:
        """The client's list of host keys; the server's own stands in it at first."""
        return self.folder / "known_hosts"

    def transport(self, *, python: str = "python3", identity: str = "client") -> SshTransport:
        """A connection to it that keeps its files below the server's folder."""
        return SshTransport(
            "127.0.0.1",
            port=self.port,
            identity=str(self.folder / identity),
            python=python,
            folder=str(self.folder / "device"),
        )

    def fingerprint(self, key: str = "host") -> str:
        """That of a key in the server's folder."""
        shown = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(self.folder / key)],
            capture_output=True,
            text=True,
            check=True,
        )
        return shown.stdout.split()[1]

    def drop(self) -> int:
        """Cuts all connections, as a pulled cable would; how many processes served them."""
        cut = 0
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith("sshd"):
                    child.kill()
                    cut += 1
        return cut


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[SshServer]:
    """Starts a server whose files lie in `folder`, and ends it."""
    assert SSHD is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host", "other", "client", "stranger"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(folder / "client.pub", folder / "authorized_keys")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(
        f"UserKnownHostsFile {folder / 'known_hosts'}\nGlobalKnownHostsFile /dev/null\n"
        "IdentityAgent none\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{folder}/ssh_config" "$@"\n')
    wrapper.chmod(0o755)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
        f"PidFile {folder / 'pid'}\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        "KexAlgorithms curve25519-sha256\nMaxStartups 100\nPrintMotd no\nLogLevel ERROR\n"
    )
    if os.geteuid() == 0:  # made at boot where systemd runs; as root sshd wants to see it
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    server = SshServer(folder, port, process)
    try:
        _wait(server)
        yield server
    finally:
        server.drop()
        process.terminate()
        process.wait(timeout=30)


def _wait(server: SshServer) -> None:
    until = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
            return
        said = (server.folder / "sshd.log").read_text()
        assert server.process.poll() is None, f"sshd ended: {said}"
        assert time.monotonic() < until, f"sshd does not answer: {said}"
        time.sleep(0.05)
