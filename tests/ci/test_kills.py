"""kill -9 at whatever moment, then `ci run` again: the lock of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.ci import read_lock
from edgenas.cli.main import main
from tests.ci.conftest import change, write_other_supernet

ROOT = Path(__file__).resolve().parents[2]


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgenas", "ci", "run", "--jobs", "1", "--quiet"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def tighter() -> None:
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.024")


def everything() -> None:
    """Both targets stale: another supernet, a tighter bound, a format more."""
    tighter()
    write_other_supernet(Path(), seed=1)
    change("run.toml", 'formats = ["onnx"]', 'formats = ["onnx", "onnx-int8"]')


def killed(took_s: float, rng: random.Random) -> int:
    """Kills `ci run` at random moments of `took_s` until it ends before one; how often it hit."""
    hits = 0
    while True:
        process = start()
        try:
            _, errors = process.communicate(timeout=rng.random() * took_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            hits += 1
        else:
            assert process.returncode == 0, errors.decode()
            return hits
        for run in (Path("runs") / entry.run for entry in read_lock(Path("edgenas.lock")).values()):
            assert (run / "front.json").is_file(), "what the lock names is whole at any moment"


def undisturbed_beside(locked: Path, make: Callable[[], None]) -> tuple[Path, float]:
    """A copy of the repository after `make` and `ci run`, and how long the latter took."""
    folder = locked.with_name("undisturbed")
    shutil.copytree(locked, folder, symlinks=True)
    with contextlib.chdir(folder):
        make()
        began = time.monotonic()
        process = start()
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    return folder, time.monotonic() - began


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_lock(locked: Path) -> None:
    undisturbed, _ = undisturbed_beside(locked, tighter)
    tighter()
    before = set(Path("runs").glob("board-*/study.db"))
    process = start()
    while process.poll() is None and before == set(Path("runs").glob("board-*/study.db")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert Path("edgenas.lock").read_bytes() != (undisturbed / "edgenas.lock").read_bytes()
    assert main(["ci", "run", "--quiet"]) == 0
    assert Path("edgenas.lock").read_bytes() == (undisturbed / "edgenas.lock").read_bytes()
    assert len(list(Path("runs").glob("board-*"))) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_killed_twenty_times_end_with_the_same_lock(locked: Path) -> None:
    undisturbed, took_s = undisturbed_beside(locked, everything)
    rng, hits, n = random.Random(20), 0, 0
    while hits < 20:
        n += 1
        folder = locked.with_name(f"killed-{n}")
        shutil.copytree(locked, folder, symlinks=True)
        with contextlib.chdir(folder):
            everything()
            hits += killed(took_s, rng)
            assert main(["ci", "check"]) == 0
        assert (folder / "edgenas.lock").read_bytes() == (undisturbed / "edgenas.lock").read_bytes()
        shutil.rmtree(folder)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_says_how_to_go_on(locked: Path, number: signal.Signals, code: int) -> None:
    change("run.toml", "trials = 24", "trials = 100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgenas", "ci", "run", "--jobs", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "search" in line:
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "to go on: edgenas ci run --jobs 1" in errors
    assert "Traceback" not in errors
