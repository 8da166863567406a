"""The command line itself: help, exit codes, one JSON document, signals, pipes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas import __version__, errors
from edgenas.cli.main import app, main

COMMANDS = (
    *("quickstart", "init", "doctor", "devices", "profile", "table", "predict"),
    *("train", "search", "export", "verify", "measure", "report", "dashboard", "ci", "bench"),
)


def _raise(error: BaseException) -> Callable[..., object]:
    def function(*args: object, **kwargs: object) -> object:
        raise error

    return function


def test_help_and_each_commands_help_load_nothing_heavy() -> None:
    code = f"""
import contextlib, io, sys
from edgenas.cli.main import main
for argv in [[], *([name] for name in {COMMANDS!r}), ["devices", "list"], ["ci", "run"],
             ["bench", "search"]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*argv, "--help"]) == 0, argv
    assert "Usage: edgenas" in out.getvalue(), argv
heavy = "torch optuna numpy onnx onnxruntime ai_edge_litert plotly moocore sklearn PIL sqlalchemy"
print([name for name in heavy.split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_says_what_it_does_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in shown
    assert len(COMMANDS) == len(app.registered_commands) + len(app.registered_groups)


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"edgenas {__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EdgenasError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.SpecError("x"), 3),
        (errors.ArtifactError("x"), 3),
        (errors.DataError("x"), 3),
        (errors.MissingUnitsError("x"), 3),
        (errors.DeviceError("x"), 4),
        (errors.MeasurementError("x"), 4),
        (errors.VerificationError("x"), 5),
        (errors.ResourceError("x"), 6),
        (errors.InfeasibleError("x"), 7),
        (errors.ExportError("x"), 8),
        (errors.Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 6),
        (OSError(errno.ENOSPC, "No space left on device"), 6),
        (OSError(errno.EIO, "Input/output error"), 1),
        (RuntimeError("boom"), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenas.pipeline.examine", _raise(error))
    assert main(["doctor"]) == code


def test_who_reads_only_the_beginning_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgenas", "devices", "list", "--json"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_is_its_message_and_the_hint(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    error = errors.SpecError("table.json: NaN", hint="edgenas profile local")
    monkeypatch.setattr("edgenas.pipeline.examine", _raise(error))
    assert main(["doctor"]) == 3
    shown = capfd.readouterr()
    assert shown.err == "error: table.json: NaN\n  try: edgenas profile local\n"
    assert shown.out == ""


def test_an_unexpected_error_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgenas.pipeline.examine", _raise(RuntimeError("boom")))
    assert main(["doctor"]) == 1
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    path = Path(shown.split("(traceback: ")[1].split(")")[0])
    assert "RuntimeError: boom" in path.read_text("utf-8")
    assert main(["--debug", "doctor"]) == 1
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "one"])
def test_numbers_that_are_none_are_usage_errors(
    value: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "run.toml", "--minutes", value]) == 2
    assert main(["search", "run.toml", "--trials", value]) == 2
    assert capfd.readouterr().out == ""


def test_json_is_one_document_though_libraries_print(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy() -> list[object]:
        sys.stdout.write("from Python\n")
        os.write(1, b"from C++\n")
        subprocess.run(["echo", "from a child"], check=True)
        return []

    monkeypatch.setattr("edgenas.pipeline.examine", noisy)
    assert main(["doctor", "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {"schema": "edgenas.doctor/1", "checks": []}
    assert "from C++" in shown.err


def test_devices_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "list", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "edgenas.devices/1"
    keys = {"name", "class", "source", "date", "table"}
    keys |= {"error_median", "error_within_10", "n_validation"}
    assert all(keys <= set(device) for device in document["devices"])
    assert "local-litert-int8-t1" in {device["name"] for device in document["devices"]}


@pytest.mark.long
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_a_shell_closed(closed: str) -> None:
    argv = [sys.executable, "-m", "edgenas", "devices"]
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *argv], check=False, text=True,
                          capture_output=True)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m edgenas devices list | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_what_sqlalchemy_logs_of_an_interrupted_query_stays_off_stderr() -> None:
    code = """
import logging
from edgenas.cli import main
with main._logging(debug=False):
    logging.getLogger("sqlalchemy.pool.impl.QueuePool").error("Error closing cursor")
    logging.getLogger("edgenas").warning("ours")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "WARNING edgenas: ours\n"


def test_doctor_names_a_remedy_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "litert_torch" else find_spec(name, *rest),
    )
    assert main(["doctor"]) == 0
    assert "pip install 'edgenas[tflite]'" in capfd.readouterr().out


@pytest.mark.parametrize("code", [130, 143])
def test_a_signal_that_comes_in_a_destructor_is_not_lost(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Thing:
        def __del__(self) -> None:
            signal.raise_signal(code - 128)
            time.sleep(0)  # where Python runs the handler

    def work(**_: object) -> None:
        del_me = Thing()
        del del_me
        for _second in range(100):
            time.sleep(0.1)
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr("edgenas.pipeline.list_devices", work)
    assert main(["devices", "list"]) == code
