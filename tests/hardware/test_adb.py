"""A phone over adb, with a stand-in that replays what the real one says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import DeviceError, SpecError, UsageError
from edgenas.hardware import AdbTransport
from edgenas.testing import fake_adb

PHONE = "R5CT1"
Install = Callable[..., Path]
REAL_ADB = shutil.which("adb")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    def make(**session: Any) -> Path:
        folder = fake_adb.install(tmp_path / "adb", **session)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return folder

    return make


def phone(folder: Path) -> AdbTransport:
    return AdbTransport(PHONE, python="python3", folder=str(folder / "phone"))


def answer(link: AdbTransport, *argv: str, idle_s: float = 60) -> list[str]:
    lines: list[str] = []
    ended = link.run(argv, idle_s=idle_s, on_line=lines.append, environment={})
    return [*lines, f"status {ended.returncode}"]


SHELL = ["-s", PHONE, "shell", "*"]

# what adb 29 to 34 says to a shell command; what the message holds, and the remedy
FAILURES = {
    "offline": ("error: device offline\n", "is offline", "reconnect"),
    "offline, new": ("adb: device offline\n", "is offline", "reconnect"),
    "unauthorised": (fake_adb.UNAUTHORISED, "does not trust", "Allow USB debugging"),
    "not there": (f"error: device '{PHONE}' not found\n", "there is no phone R5CT1", "adb devices"),
    "not there, new": (f"adb: device '{PHONE}' not found\n", "present: X1, X2 (offline)", "serial"),
    "no udev rule": (
        "error: insufficient permissions for device: user in plugdev group; are your udev rules "
        "wrong?\nSee [http://developer.android.com/tools/device.html] for more information\n",
        "may not open",
        "android-sdk-platform-tools-common",
    ),
    "server starts first": (
        "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"
        "error: device offline\n",
        "is offline",
        "reconnect",
    ),
    "server cannot start": (
        "* daemon not running; starting now at tcp:5037\nADB server didn't ACK\n"
        "* failed to start daemon\nerror: cannot connect to daemon\n",
        "cannot connect to daemon",
        "adb devices -l",
    ),
    "closed": ("error: closed\n", "error: closed", "adb devices -l"),
    "nothing": ("", "adb said nothing", "adb devices -l"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_has_its_remedy(install: Install, tmp_path: Path, name: str) -> None:
    stderr, said, remedy = FAILURES[name]
    replies = [{"argv": SHELL, "stderr": stderr, "status": 1}]
    install(phones={"X1": "device", "X2": "offline"}, replies=replies)
    for attempt in (
        lambda: answer(phone(tmp_path), "true"),
        lambda: phone(tmp_path).push({"x": tmp_path / "adb" / "adb"}),
    ):
        with pytest.raises(DeviceError) as caught:
            attempt()
        assert said in str(caught.value)
        assert remedy in caught.value.hint
        assert caught.value.exit_code == 4


def test_with_several_phones_only_the_named_one_is_spoken_to(
    install: Install, tmp_path: Path
) -> None:
    folder = install(phones={"X1": "device", PHONE: "device", "X2": "unauthorized"})
    assert answer(phone(tmp_path), "echo", "x") == ["x", "status 0"]
    assert [call[:2] for call in fake_adb.calls(folder)] == [["-s", PHONE]]


def test_no_phone_at_all(install: Install, tmp_path: Path) -> None:
    install(phones={})
    with pytest.raises(DeviceError, match="no phone is present"):
        answer(phone(tmp_path), "true")


def test_adb_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="cannot start adb") as caught:
        answer(phone(tmp_path), "true")
    assert caught.value.hint == "apt-get install adb"


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_the_exit_status_of_an_old_phone(install: Install, tmp_path: Path, code: int) -> None:
    """Without shell_v2 adb itself always ends with 0, and lines end with a carriage return."""
    install(phones={PHONE: "device"}, old=True)
    found = answer(phone(tmp_path), "sh", "-c", f"echo a; echo b >&2; exit {code}")
    assert found == ["a", "b", f"status {code}"]


@pytest.mark.parametrize(
    ("cut", "hint"),
    [
        (1, "adb devices -l"),  # before the command began: nothing is lost
        (30, "repeat the command to resume"),
        (60, "repeat the command to resume"),
        (400, "repeat the command to resume"),
    ],
)
def test_output_that_is_cut_is_a_lost_phone(
    install: Install, tmp_path: Path, cut: int, hint: str
) -> None:
    install(phones={PHONE: "device"}, cut_bytes=cut)
    with pytest.raises(DeviceError, match="closed") as caught:
        answer(phone(tmp_path), "sh", "-c", "seq 1000; exec sleep 300")
    assert hint in caught.value.hint


def test_a_file_that_the_phone_has_no_room_for(install: Install, tmp_path: Path) -> None:
    full = "adb: error: failed to copy 'x' to 'y': remote couldn't create file: No space left\n"
    replies = [{"argv": ["-s", PHONE, "push", "*", "*"], "stderr": full, "status": 1}]
    install(phones={PHONE: "device"}, replies=replies)
    with pytest.raises(DeviceError, match="No space left"):
        phone(tmp_path).push({"x": tmp_path / "adb" / "adb"})


def test_a_file_is_sent_once(install: Install, tmp_path: Path) -> None:
    folder = install(phones={PHONE: "device"})
    file = tmp_path / "a file"
    file.write_text("x")
    for _ in range(2):
        phone(tmp_path).push({"x.model": file})
    pushes = [call for call in fake_adb.calls(folder) if call[2] == "push"]
    assert pushes == [["-s", PHONE, "push", str(file), str(tmp_path / "phone" / "x.model")]]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, SpecError),
        ({"python": "python3", "benchmark_model": "/b"}, SpecError),
        ({"benchmark_model": "tools/b"}, UsageError),
        ({"python": "a b"}, UsageError),
        ({"python": "python3", "folder": "/x/../y"}, UsageError),
    ],
)
def test_what_a_phone_needs(options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        AdbTransport(PHONE, **options)


@pytest.mark.skipif(REAL_ADB is None, reason="adb is not installed (apt-get install adb)")
def test_the_real_adb_without_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a server of its own on a free port, ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        with pytest.raises(DeviceError, match="there is no phone R5CT1; no phone is present"):
            answer(phone(tmp_path), "true", idle_s=120)
        with pytest.raises(DeviceError, match="there is no phone R5CT1"):
            phone(tmp_path).push({"x": Path(__file__)})
    finally:
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True, timeout=120)
