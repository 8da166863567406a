"""The lock of a device: one process at a time, a waiting one says so, a killed one frees it."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import ResourceError, SpecError
from edgenas.events import Event
from edgenas.hardware import LOCAL, Connection, held, place_of

BOARD = Connection("ssh", (("host", "board.lan"), ("port", 22), ("user", "pi")))


def hold(log: Path, connection: Connection, seconds: float, holds: Any = None) -> None:
    with held(connection):
        if holds is not None:
            holds.set()
        start = time.monotonic()
        time.sleep(seconds)
        with log.open("a") as file:
            file.write(f"{start} {time.monotonic()}\n")


def process(*arguments: Any) -> Any:
    child = multiprocessing.get_context("fork").Process(target=hold, args=arguments)
    with warnings.catch_warnings():  # Python 3.12 warns of other threads; the child uses none
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    return child


def test_one_process_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    crew = [process(log, LOCAL, 0.1) for _ in range(4)]
    for child in crew:
        child.join(30)
    spans = sorted(tuple(map(float, line.split())) for line in log.read_text().splitlines())
    assert len(spans) == 4
    assert all(spans[i][1] <= spans[i + 1][0] for i in range(3))


def test_who_waits_says_so_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    holds = multiprocessing.get_context("fork").Event()
    child = process(tmp_path / "log", BOARD, 60.0, holds)
    assert holds.wait(30)
    told: list[str] = []

    def kill(event: Event) -> None:
        told.append(event.message)
        child.kill()

    with held(BOARD, report=kill), held(BOARD, report=kill):  # the second time at once
        pass
    assert told == ["waiting: another process times on ssh host=board.lan port=22"]
    child.join()


def test_another_device_is_another_lock(tmp_path: Path) -> None:
    other = Connection("adb", (("serial", "1234"),))
    holds = multiprocessing.get_context("fork").Event()
    child = process(tmp_path / "log", BOARD, 60.0, holds)
    assert holds.wait(30)
    start = time.monotonic()
    with held(other), held(LOCAL):
        assert time.monotonic() - start < 30.0
    child.kill()
    child.join()


def test_a_place_is_the_thing_and_not_the_way_to_it() -> None:
    again = Connection("ssh", (("host", "board.lan"), ("port", 22), ("python", "python3.11")))
    assert place_of(again) == place_of(BOARD) == "ssh host=board.lan port=22"
    assert place_of(Connection("usb", (("bus", 1),))) == "usb bus=1"
    assert place_of(LOCAL).startswith("this machine ")


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises((ResourceError, SpecError), match="cannot lock"), held(LOCAL):
        pass
