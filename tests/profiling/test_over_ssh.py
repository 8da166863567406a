"""Profiling over a real OpenSSH server on this machine: to the end, cut, hung, not trusted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import DeviceError
from edgenas.events import Event
from edgenas.hardware import (
    DeviceProfile,
    LocalTransport,
    SshTransport,
    installed_version,
    load_device_file,
    transport_for,
)
from edgenas.profiling.session import LINES, measure
from edgenas.profiling.settings import Settings
from edgenas.testing.processes import outlives
from edgenas.testing.ssh_server import SSHD, SshServer, serving

pytestmark = pytest.mark.skipif(
    SSHD is None, reason="sshd is not installed (apt-get install openssh-server)"
)

FAST = Settings(
    rounds=3,
    extra_rounds=0,
    seconds=0.03,
    patience=0.5,
    runs=15,
    warmup_s=0.005,
    warmup_runs=5,
    retries=1,
    cool_s=0.0,
)


@pytest.fixture(scope="module")
def serving_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def server(serving_here: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """With its `ssh` on PATH; its known hosts are as they were afterwards."""
    monkeypatch.setenv("PATH", f"{serving_here.bin}:{os.environ['PATH']}")
    known = serving_here.known_hosts.read_text()
    yield serving_here
    serving_here.known_hosts.write_text(known)


def board(folder: Path, server: SshServer, *, body: str = f'exec "{sys.executable}" "$@"') -> Path:
    """The file of a device whose Python is a script."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    path = folder / "board-onnxruntime-fp32-t1.toml"
    path.write_text(
        f"""schema = "edgenas.device/1"
name = "board-onnxruntime-fp32-t1"
title = "A board"
class = "mobile"
chip = "arm-d0b-dotprod"
runtime = "onnxruntime"
runtime_version = "{installed_version("onnxruntime")}"
precision = "fp32"
threads = 1

[connection]
kind = "ssh"
host = "127.0.0.1"
port = {server.port}
identity = "{server.folder / "client"}"
python = "{script}"
folder = "{server.folder / "device"}"
""",
        "utf-8",
    )
    return path


@pytest.fixture
def device(tmp_path: Path, server: SshServer) -> DeviceProfile:
    return load_device_file(board(tmp_path, server))


@pytest.fixture
def models(make_onnx: Callable[[str, int], Path]) -> dict[str, Path]:
    return {f"chain of {n}": make_onnx(f"m{n}", n) for n in (1, 4, 12)}


@pytest.mark.long
def test_models_are_timed_there(
    tmp_path: Path, server: SshServer, device: DeviceProfile, models: dict[str, Path]
) -> None:
    found = measure(models, device, workdir=tmp_path / "w", settings=FAST)
    assert found.complete
    assert set(found.timings) == set(models)
    assert not found.failed
    there = {path.name for path in (server.folder / "device").iterdir()}
    assert {"agent.py", "job.json", LINES} <= there
    assert sum(name.endswith(".model") for name in there) == 3


@pytest.mark.long
def test_a_cut_connection_keeps_what_was_measured_and_resumes(
    tmp_path: Path, server: SshServer, models: dict[str, Path]
) -> None:
    pid = tmp_path / "pid"
    body = f'echo $$ >"{pid}"\nexec "{sys.executable}" "$@"'
    device = load_device_file(board(tmp_path, server, body=body))
    slow = replace(FAST, seconds=0.6)  # the agent has still to do when the cable is pulled
    cut: list[int] = []

    def pull(event: Event) -> None:
        if event.done == 2 and not cut:
            cut.append(server.drop())

    with pytest.raises(DeviceError, match="was lost") as caught:
        measure(models, device, workdir=tmp_path / "w", settings=slow, report=pull)
    assert cut
    assert caught.value.exit_code == 4
    assert "resume" in caught.value.hint
    assert not outlives(int(pid.read_text()), 60)  # sshd sees the cut at its next write
    store = tmp_path / "w" / LINES
    before = store.read_text()
    assert 2 <= before.count('"type": "visit"') < 9
    found = measure(models, device, workdir=tmp_path / "w", settings=slow)
    assert found.complete
    assert found.conditions["n_starts"] == 2
    assert store.read_text().startswith(before)


@pytest.mark.long
def test_a_hung_board_times_out_and_keeps_what_was_measured(
    tmp_path: Path, server: SshServer, device: DeviceProfile, models: dict[str, Path]
) -> None:
    # The real agent's lines as far as the fourth visit, then silence.
    here = LocalTransport()
    measure(models, device, workdir=tmp_path / "here", settings=FAST, transport=here)
    lines = (tmp_path / "here" / LINES).read_text().splitlines(keepends=True)
    visits = [i for i, line in enumerate(lines) if '"type": "visit"' in line]
    (tmp_path / "said").write_text("".join(lines[: visits[3] + 1]))
    hung = load_device_file(board(tmp_path, server, body=f'cat "{tmp_path}/said"\nsleep 300'))
    with pytest.raises(DeviceError, match="silent for 4 s") as caught:
        measure(models, hung, workdir=tmp_path / "w", settings=replace(FAST, idle_s=4.0))
    assert caught.value.exit_code == 4
    assert "resume" in caught.value.hint
    assert (tmp_path / "w" / LINES).read_text().count('"type": "visit"') >= 4


def failing(link: SshTransport) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        link.run(["true"], idle_s=60, on_line=lambda line: None, environment={})
    assert caught.value.exit_code == 4
    return caught.value


def test_an_unknown_host_key_is_shown_and_not_accepted(server: SshServer) -> None:
    server.known_hosts.write_text("")
    error = failing(server.transport())
    assert "is not known here" in str(error)
    assert server.fingerprint() in str(error)
    assert "compare the fingerprint" in error.hint
    assert server.known_hosts.read_text() == ""


def test_a_changed_host_key_is_shown_and_not_accepted(server: SshServer) -> None:
    other = f"[127.0.0.1]:{server.port} {(server.folder / 'other.pub').read_text()}"
    server.known_hosts.write_text(other)
    error = failing(server.transport())
    assert "is not the one that is known" in str(error)
    assert server.fingerprint() in str(error)
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in error.hint
    assert server.known_hosts.read_text() == other


def test_a_refused_login_names_the_remedy(server: SshServer) -> None:
    error = failing(server.transport(identity="stranger"))
    assert "refuses the login" in str(error)
    assert f"ssh-copy-id -p {server.port} 127.0.0.1" in error.hint


def test_nobody_there(server: SshServer) -> None:
    error = failing(replace(server.transport(), port=1))
    assert "cannot be reached" in str(error)
    assert "refused" in str(error)


def test_ssh_that_is_not_installed(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failing(server.transport()).hint == "apt-get install openssh-client"


def test_a_folder_that_cannot_be_made(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    link = replace(server.transport(), folder=str(tmp_path / "file" / "below"))
    with pytest.raises(DeviceError, match="status 1: mkdir"):
        link.push({"x": tmp_path / "file"})


def test_the_device_file_decides(device: DeviceProfile, server: SshServer) -> None:
    assert shutil.which("ssh") == str(server.bin / "ssh")
    link = transport_for(device.connection)
    assert isinstance(link, SshTransport)
    assert (link.host, link.port, link.user) == ("127.0.0.1", server.port, "")
