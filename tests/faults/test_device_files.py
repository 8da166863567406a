"""Device files from elsewhere: no value of a connection is executed, or leaves its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.errors import SpecError, UsageError
from edgenas.hardware import load_device_file

NAME = "board-litert-int8-t1"
HEAD = f"""schema = "edgenas.device/1"
name = "{NAME}"
title = "A board"
class = "mobile"
chip = "arm-d0b-dotprod"
runtime = "litert"
precision = "int8"
threads = 1

[connection]
"""
SSH = {
    "kind": "ssh",
    "host": "192.0.2.1",
    "port": 22,
    "user": "pi",
    "identity": "~/.ssh/id_ed25519",
    "python": "python3",
    "folder": ".cache/edgenas",
}
ADB = {"kind": "adb", "serial": "R5CT1", "python": "python3", "folder": "/data/local/tmp/edgenas"}
PHONE = {"kind": "adb", "serial": "R5CT1", "benchmark_model": "/opt/benchmark_model"}
FIELDS = [
    *((SSH, key) for key in SSH),
    *((ADB, key) for key in ADB),
    (PHONE, "benchmark_model"),
]
NASTY = (
    "-oProxyCommand=touch canary",
    "-oProxyCommand=touch${IFS}canary",
    "-",
    "--",
    "$(touch canary)",
    "`touch canary`",
    "a; touch canary",
    "a && touch canary",
    "a|touch canary",
    "a>canary",
    "a\ntouch canary",
    "a\n",
    "a\0b",
    "'",
    '"',
    "a\\b",
    "../canary",
    "/tmp/../canary",
    "..",
    "a b",
    "*",
    "%h",
    "ä",
    "",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder; `ssh` and `adb` leave a canary when they are so much as started."""
    commands = tmp_path / "commands"
    work = tmp_path / "work"
    (work / "devices").mkdir(parents=True)
    commands.mkdir()
    for name in ("ssh", "scp", "sftp", "adb"):
        (commands / name).write_text(f'#!/bin/sh\ntouch "{work}/canary"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.chdir(work)
    return work


def device_file(connection: dict[str, object]) -> Path:
    path = Path("devices") / f"{NAME}.toml"
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in connection.items()]
    path.write_text(HEAD + "".join(lines), "utf-8")
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    ("connection", "key"), FIELDS, ids=[f"{c['kind']}-{key}" for c, key in FIELDS]
)
def test_no_value_is_executed(
    here: Path, connection: dict[str, object], key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for value in NASTY:
        if value == "" and key in ("user", "identity"):
            continue  # as if it were not given
        path = device_file({**connection, key: value})
        before = sorted(here.parent.rglob("*"))
        with pytest.raises((UsageError, SpecError), match=f"{NAME}.toml"):
            load_device_file(path)
        if value == "-oProxyCommand=touch${IFS}canary":
            for argv in (["profile", NAME], ["profile", str(path)], ["devices", "show", NAME]):
                assert main(argv) in (2, 3), argv
                assert f"{NAME}.toml: " in capfd.readouterr().err
        assert sorted(here.parent.rglob("*")) == before, value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hots": "x"}, "connection.hots: unknown key; did you mean 'host'?"),
        ({"kind": "shs"}, "transports: no 'shs'; did you mean 'ssh'?"),
        ({"kind": 7}, "connection.kind: 7 is not text"),
        ({"port": "22"}, "connection.port"),
        ({"port": 70000}, "connection.port"),
        ({"port": -1}, "connection.port"),
        ({"port": True}, "connection.port"),
        ({"port": 22.0}, "connection.port"),
        ({"host": 7}, "connection.host"),
        ({"host": None}, "connection.host is missing"),
        ({"host": ["a"]}, "connection.host"),
        ({"host": "-oProxyCommand=x"}, "connection.host"),
        ({"host": "a@b"}, "connection.host"),
        ({"host": "a" * 300}, "connection.host"),
        ({"folder": "~/x"}, "connection.folder"),
        ({"kind": "local"}, "connection.folder: unknown key"),
    ],
)
def test_a_wrong_connection_is_named(
    here: Path,
    change: dict[str, object],
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    connection = {k: v for k, v in {**SSH, **change}.items() if v is not None}
    device_file(connection)
    assert main(["devices", "show", NAME]) == 3
    assert said in capfd.readouterr().err


def test_a_sound_file_is_shown_without_reaching_anything(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for connection in (SSH, ADB, PHONE, {"kind": "ssh", "host": "fe80::1"}):
        device_file(connection)
        assert main(["devices", "show", NAME, "--json"]) == 0
        document = json.loads(capfd.readouterr().out)
        assert str(connection["kind"]) in json.dumps(document)
    assert not (here / "canary").exists()


def test_a_device_elsewhere_without_a_connection_is_not_timed_here(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = device_file({"kind": "local"})
    assert main(["profile", str(path)]) == 4
    shown = capfd.readouterr().err
    assert "is not this machine" in shown
    assert "--kit" in shown


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["local", "--kit", "k.zip"], 2, "a kit is for one"),
        (["local-litert-int8-t1", "--kit", "k.zip", "--models", "8"], 2, "does not go with"),
        (["local-litert-int8-t1", "--from-kit", "r.json", "--models", "8"], 2, "does not go with"),
        (["local-litert-int8-t1", "--kit", "k.zip", "--from-kit", "r.json"], 2, "one of them"),
    ],
)
def test_options_of_a_kit(
    here: Path, argv: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *argv]) == code
    assert said in capfd.readouterr().err
