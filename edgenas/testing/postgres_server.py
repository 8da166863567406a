"""A real PostgreSQL server on loopback with a data folder and a port of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PLACES = [os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
POSTGRES = shutil.which("postgres", path=os.pathsep.join(PLACES))
"""The server's program; None where it is not installed."""
USER = "postgres"
"""Root runs the server as this user, since it refuses to run as root."""


@contextlib.contextmanager
def database() -> Iterator[str]:
    """The URL of an empty database in a server that ends with the block."""
    assert POSTGRES is not None
    bin_ = Path(POSTGRES).resolve().parent
    with tempfile.TemporaryDirectory(
        prefix="edgenas-postgres-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        user = USER if os.getuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user)
        subprocess.run(
            [bin_ / "initdb", "-D", folder / "data", "-U", "edgenas", "-A", "trust", "-N"],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    *(bin_ / "postgres", "-D", folder / "data", "-p", str(port)),
                    *("-h", "127.0.0.1", "-k", folder, "-F"),
                ],
                user=user,
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            _wait(bin_ / "pg_isready", port, server, folder / "log")
            yield f"postgresql://edgenas@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # its clients are cut off
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(5)
            server.kill()
            server.wait()


def _wait(is_ready: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    command = [str(is_ready), "-h", "127.0.0.1", "-p", str(port), "-U", "edgenas", "-q"]
    for _ in range(300):
        if server.poll() is not None:
            break
        if subprocess.run(command, check=False).returncode == 0:
            return
        time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"the server did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
