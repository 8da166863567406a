"""Searches by several processes, from the command line: killed, interrupted, on a database."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from edgenas.artifacts import check_manifest, read_json
from edgenas.cli.main import main
from tests.faults.test_kills import start, trials_finished, wait_for

RUN = Path("runs/tiny")


@pytest.fixture
def long(clean: Path) -> Path:
    """A run of 30 trials; the accuracies that earlier runs found are gone."""
    text = (clean / "run.toml").read_text("utf-8").replace("trials = 4", "trials = 30")
    (clean / "run.toml").write_text(text, "utf-8")
    for path in Path("runs").glob("evaluations.db*"):
        path.unlink()
    return clean


def helpers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [c for c in children if "edgenas.pipeline.helper" in c.cmdline()]
    except psutil.NoSuchProcess:
        return []


def wait_until_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def finished(process: subprocess.Popen[str]) -> dict[str, object]:
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return dict(json.loads(output))


def workers_of(trials: Path) -> set[int]:
    """Process numbers that stand in the study's trials."""
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{trials}")
    try:
        found = optuna.load_study(study_name="edgenas", storage=storage).get_trials()
    finally:
        storage.remove_session()
        storage.engine.dispose()
    assert not any(t.state == optuna.trial.TrialState.RUNNING for t in found)
    return {int(t.user_attrs["worker"]["pid"]) for t in found if "worker" in t.user_attrs}


@pytest.mark.slow
def test_a_killed_helper_is_started_again(long: Path) -> None:
    process = start("search", "run.toml", "--workers", "3", "--json")
    wait_for(trials_finished(2), process)
    crew = helpers_of(process)
    assert len(crew) == 2
    for helper in crew:
        helper.kill()
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert json.loads(output)["trials"] == 30
    for number in (2, 3):
        assert f"worker {number} was killed by signal 9; it is started again" in errors
    wait_until_gone(crew)
    check_manifest(RUN)
    front = read_json(RUN / "front.json", schema="edgenas.front/1")
    digests = [c["digest"] for c in front["candidates"]]
    assert len(digests) == len(set(digests))


@pytest.mark.slow
def test_helpers_end_with_a_killed_leader_and_the_search_goes_on(long: Path) -> None:
    process = start("search", "run.toml", "--workers", "3", "--quiet")
    wait_for(trials_finished(2), process)
    crew = helpers_of(process)
    assert crew
    process.kill()
    process.communicate()
    wait_until_gone(crew)
    found = finished(start("search", "run.toml", "--workers", "2", "--resume", "--json"))
    assert found["trials"] == 30
    assert len(workers_of(RUN / "study.db")) >= 2


@pytest.mark.long
def test_an_interrupt_ends_the_helpers(long: Path) -> None:
    text = (long / "run.toml").read_text("utf-8").replace("trials = 30", "trials = 5000")
    (long / "run.toml").write_text(text, "utf-8")
    process = start("search", "run.toml", "--workers", "2", "--quiet")
    wait_for(trials_finished(2), process)
    crew = helpers_of(process)
    assert crew
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "to go on: edgenas search run.toml --workers 2 --quiet --resume" in errors
    wait_until_gone(crew)


@pytest.mark.slow
def test_a_helper_that_cannot_work_is_told_once(
    long: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    assert main(["search", "run.toml", "--workers", "2"]) == 0
    errors = capfd.readouterr().err
    assert errors.count("worker 2 failed") == 3
    assert errors.count("the search goes on without it") == 1


@pytest.mark.slow
def test_two_hosts_on_one_database(
    long: Path, postgresql_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = long.with_name("other host")
    shutil.copytree(long, other)
    leader = start("search", "run.toml", "--storage", postgresql_url, "--json")
    os.chdir(other)
    joined = start("search", "run.toml", "--storage", postgresql_url, "--worker", "--json")
    assert main(["search", "run.toml", "--name", "b", "--storage", postgresql_url, "--worker"]) == 3
    assert "copy the run's folder supernet/" in capsys.readouterr().err
    os.chdir(long)
    result, told = finished(leader), finished(joined)
    assert result["trials"] == told["trials"] == 30
    assert told["study"] == "tiny"
    assert not (RUN / "study.db").exists()
    check_manifest(RUN)
    made = {p.name for p in (other / RUN).iterdir()} - {"supernet"}
    assert made <= {"run.toml", "tables", ".lock", ".sessions"}


def test_a_worker_needs_a_database(long: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "run.toml", "--worker"]) == 2
    assert "--storage postgresql://" in capsys.readouterr().err
