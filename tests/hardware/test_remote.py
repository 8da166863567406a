"""The one place where lines for a device's shell are made, with a local shell as the device."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from edgenas.errors import DeviceError
from edgenas.hardware.remote import RemoteShell, remote_line


def lost(stderr: str, started: bool) -> DeviceError:  # noqa: FBT001
    return DeviceError(f"lost, started {started}: {stderr.strip()}")


SHELL = RemoteShell(("sh", "-c"), lost)


def test_every_argument_stays_one() -> None:
    nasty = ["printf", "%s|", "a b", "$(id)", "`id`", "'", '"', "", ";", "-o", "a\nb"]
    line = remote_line(nasty, mark="M", environment={"A": "x; y"})
    assert shlex.split(line)[3:] == ["M", "env", "A=x; y", *nasty]
    shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    lines = shown.stdout.split("\n")
    assert "\n".join(lines[1:-2]) == "".join(f"{a}|" for a in nasty[2:])


def test_what_a_login_script_says_is_left_out() -> None:
    noisy = RemoteShell(
        ("sh", "-c", 'echo Welcome; echo oh >&2; sh -c "$1"; echo Bye; exit 9', "sh"), lost
    )
    assert noisy.lines(["echo", "x"]) == ["x"]


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (("sh", "-c", "echo oh >&2; exit 0", "sh"), "started False: oh"),
        (("sh", "-c", 'sh -c "$1" | head -n 2; exit 0', "sh"), "started True"),
        (("sh", "-c", 'sh -c "$1" | head -n 1; kill -9 $$', "sh"), "started True"),
    ],
)
def test_without_its_last_mark_a_command_did_not_end(client: tuple[str, ...], said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        RemoteShell(client, lost).lines(["sh", "-c", "echo a; echo b; sleep 1; echo c"])


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(DeviceError, match="ended with status 7: no such thing"):
        SHELL.lines(["sh", "-c", "echo no such thing >&2; exit 7"])


def test_a_command_that_is_never_silent_ends_too() -> None:
    with pytest.raises(DeviceError, match=r"sh on the device did not end in .* still says 'w'"):
        SHELL.lines(["sh", "-c", "while :; do echo w; sleep 0.05; done"], timeout_s=0.3)


def test_only_what_differs_is_sent(tmp_path: Path) -> None:
    sent: list[list[str]] = []
    there = tmp_path / "device" / "deep"

    def send(files: Mapping[str, Path]) -> None:
        sent.append(sorted(files))
        for name, path in files.items():
            (there / name).write_bytes(path.read_bytes())

    files = {name: tmp_path / name for name in ("a.model", "b.model")}
    for name, path in files.items():
        path.write_text(name)
    for _ in range(2):
        paths = SHELL.push(files, PurePosixPath(there), send)
    assert paths == {name: str(there / name) for name in files}
    files["b.model"].write_text("changed")
    (there / "a.model").write_text("cut")
    SHELL.push(files, PurePosixPath(there), send)
    files["b.model"].write_text("changed again")
    SHELL.push(files, PurePosixPath(there), send)
    assert sent == [["a.model", "b.model"], ["a.model", "b.model"], ["b.model"]]


def test_a_file_that_did_not_arrive_whole_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "m"
    file.write_text("x")
    with pytest.raises(DeviceError, match="not the file that was sent") as caught:
        SHELL.push({"m": file}, PurePosixPath(tmp_path / "device"), lambda files: None)
    assert "free space" in caught.value.hint


@pytest.mark.parametrize("name", ["../x", "a/b", "-rf", "", ".x", "a b", "x\n"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeviceError, match="no plain file name"):
        SHELL.push({name: tmp_path}, PurePosixPath(tmp_path), lambda files: None)
