"""The contract of a transport, for each built-in one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenas.hardware import AdbTransport, LocalTransport, Transport
from edgenas.testing import fake_adb
from edgenas.testing.contracts import TransportContract
from edgenas.testing.ssh_server import SSHD, SshServer, serving


def python_script(folder: Path) -> str:
    """This Python under a path without blanks."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    return str(script)


class TestLocal(TransportContract):
    @pytest.fixture
    def link(self) -> Transport:
        return LocalTransport()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.mark.skipif(SSHD is None, reason="sshd is not installed (apt-get install openssh-server)")
class TestSsh(TransportContract):
    @pytest.fixture
    def link(self, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Transport:
        monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
        return server.transport(python=python_script(tmp_path))


class TestAdb(TransportContract):
    @pytest.fixture
    def link(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Transport:
        folder = fake_adb.install(tmp_path / "adb", phones={"R5CT1": "device"})
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return AdbTransport("R5CT1", python=python_script(tmp_path), folder=str(tmp_path / "phone"))
