"""kill -9, Ctrl-C and SIGTERM at whatever moment, then --resume: as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.artifacts import check_manifest, sha256_file
from edgenas.cli.main import main
from edgenas.pipeline.finishing import FINAL
from tests.pipeline.conftest import written

RUN = Path("runs/tiny")
WEIGHTS = RUN / "supernet" / "supernet.safetensors"
MODELS = (".onnx", ".tflite", ".safetensors")


ROOT = Path(__file__).resolve().parents[2]


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgenas", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what runs in the background with SIGINT ignored; children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `condition` holds or the process has ended; a minute and a half at most."""
    for _ in range(1800):
        if process.poll() is not None or condition():
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail("nothing happened for 90 s")


def trials_finished(n: int) -> Callable[[], bool]:
    def enough() -> bool:
        path = RUN / "study.db"
        if not path.exists():
            return False
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as study:
                rows = study.execute("select count(*) from trials where state = 'COMPLETE'")
                return int(rows.fetchone()[0]) >= n
        except sqlite3.Error:  # not made yet, or being written
            return False

    return enough


def checkpoint_after(step: int) -> Callable[[], bool]:
    def later() -> bool:
        path = RUN / "supernet" / "checkpoint.json"
        return path.exists() and json.loads(path.read_text("utf-8"))["step"] > step

    return later


def kill(process: subprocess.Popen[str]) -> None:
    assert process.poll() is None, "nothing is left to be killed"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.long
def test_a_killed_training_ends_with_the_same_weights(clean: Path) -> None:
    written("epochs = 1", "epochs = 8")  # so that there is a middle to be killed in
    shutil.rmtree(RUN)
    assert main(["train", "run.toml", "--quiet"]) == 0
    undisturbed = sha256_file(WEIGHTS)
    shutil.rmtree(RUN)
    rng = random.Random(0)
    process = start("train", "run.toml", "--quiet")
    for step in (0, 40):
        wait_for(checkpoint_after(step), process)
        time.sleep(rng.random() * 0.1)
        kill(process)
        assert not WEIGHTS.exists()
        process = start("train", "run.toml", "--quiet", "--resume")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert sha256_file(WEIGHTS) == undisturbed
    assert not list(RUN.rglob("*step-*")), "checkpoints of a finished training are left"


@pytest.mark.long
def test_a_killed_search_ends_with_the_same_front(clean: Path) -> None:
    written("trials = 4", "trials = 24")
    for path in Path("runs").glob("evaluations.db*"):  # what is known costs no time
        path.unlink()
    undisturbed = clean.with_name("undisturbed")
    shutil.copytree(clean, undisturbed)
    os.chdir(undisturbed)
    assert main(["search", "run.toml", "--quiet"]) == 0
    os.chdir(clean)
    process = start("search", "run.toml", "--quiet")
    for n in (2, 7):
        wait_for(trials_finished(n), process)
        kill(process)
        assert not trials_finished(24)()
        process = start("search", "run.toml", "--quiet", "--resume", "--json")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert json.loads(output)["trials"] == 24
    assert (RUN / "front.json").read_bytes() == (undisturbed / RUN / "front.json").read_bytes()
    check_manifest(RUN)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_a_line_that_says_how_to_go_on(
    clean: Path, number: signal.Signals, code: int
) -> None:
    written("trials = 4", "trials = 5000")
    process = start("search", "run.toml", "--quiet")
    wait_for(trials_finished(1), process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "to go on: edgenas search run.toml --quiet --resume" in errors
    assert "Traceback" not in errors
    assert output == ""
    assert main(["search", "run.toml", "--quiet", "--resume", "--trials", "3"]) == 0


@pytest.mark.slow
def test_a_killed_final_training_ends_with_the_same_files(clean: Path) -> None:
    text = (clean / "run.toml").read_text("utf-8")
    (clean / "run.toml").write_text(text + "\n[final]\nepochs = 20\nbatch = 64\n", "utf-8")
    undisturbed = clean.with_name("undisturbed")
    shutil.copytree(clean, undisturbed)
    os.chdir(undisturbed)
    assert main(["search", "run.toml", "--quiet"]) == 0
    os.chdir(clean)
    process = start("search", "run.toml", "--quiet")
    rng, resumed = random.Random(0), ["search", "run.toml", "--quiet", "--resume"]
    for _ in range(3):
        wait_for(lambda: bool([*(RUN / FINAL).glob("*/*/checkpoint.json")]), process)
        time.sleep(rng.random())
        kill(process)
        process = start(*resumed)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not (RUN / FINAL).exists(), "checkpoints of a finished training are left"
    files = {p.relative_to(RUN) for p in (RUN / "models").rglob("*") if p.suffix in MODELS}
    assert files
    for file in files:
        assert sha256_file(RUN / file) == sha256_file(undisturbed / RUN / file), file
    check_manifest(RUN)
