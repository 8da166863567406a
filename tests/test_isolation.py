"""What conftest promises to the other tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("call", ["connect", "connect_ex"])
def test_other_machines_are_out_of_reach(call: str) -> None:
    with (
        socket.socket() as connection,
        pytest.raises(pytest.fail.Exception, match="no network"),
    ):
        getattr(connection, call)(("192.0.2.1", 80))  # an address for documentation


def test_this_machine_is_in_reach(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        name = os.path.relpath(tmp_path / "s")
        server.bind(name)
        server.listen()
        client.connect(name)


def test_torch_has_one_thread() -> None:
    import torch

    assert torch.get_num_threads() == 1


@pytest.mark.long
def test_torch_has_one_thread_in_subprocesses() -> None:
    code = "import torch; print(torch.get_num_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_user_folders_are_the_tests_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    assert Path(os.environ["XDG_DATA_HOME"]).is_relative_to(base)
