import os
import sys
import time
from pathlib import Path

import pytest

from edgenas.errors import DeviceError
from edgenas.hardware import LocalTransport, load_device, transport_for
from edgenas.testing.processes import outlives


def run(code: str, idle_s: float = 20.0) -> tuple[list[str], int, str]:
    lines: list[str] = []
    ended = LocalTransport().run(
        [sys.executable, "-c", code], idle_s=idle_s, on_line=lines.append, environment={"A": "b"}
    )
    return lines, ended.returncode, ended.stderr


def test_lines_status_stderr_and_environment_come_back() -> None:
    lines, status, stderr = run(
        "import os, sys; print('x'); print(os.environ['A']); sys.stderr.write('oh'); sys.exit(3)"
    )
    assert (lines, status, stderr) == (["x", "b"], 3, "oh")


def test_a_signal_is_a_negative_status() -> None:
    assert run("import os; os.kill(os.getpid(), 9)")[1] == -9


def test_a_hung_command_is_stopped_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
        f"'import time; time.sleep(60)']); open({str(pid_file)!r}, 'w').write(str(p.pid)); "
        "print('started', flush=True); time.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(DeviceError, match=r"silent for 1\.5 s") as caught:
        run(code, idle_s=1.5)
    assert time.monotonic() - start < 20
    assert caught.value.exit_code == 4
    child = int(pid_file.read_text())
    assert not outlives(child, 30), f"child {child} of {os.getpid()} outlived the timeout"


def test_arguments_are_never_read_by_a_shell(tmp_path: Path) -> None:
    lines: list[str] = []
    nasty = f"$(touch {tmp_path / 'canary'}); `id` -oProxyCommand=x"
    LocalTransport().run(
        [sys.executable, "-c", "import sys; print(sys.argv[1])", nasty],
        idle_s=20,
        on_line=lines.append,
        environment={},
    )
    assert lines == [nasty]
    assert not (tmp_path / "canary").exists()


def test_a_missing_program_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="cannot start"):
        LocalTransport().run(
            ["/no/such/program"], idle_s=1, on_line=lambda line: None, environment={}
        )


def test_local_devices_are_reached_in_place(tmp_path: Path) -> None:
    link = transport_for(load_device("local-litert-int8-t1").connection)
    file = tmp_path / "a model.bin"
    file.write_bytes(b"x")
    assert link.push({"m.bin": file}) == {"m.bin": str(file)}
    assert link.python == sys.executable
