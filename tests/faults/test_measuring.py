"""`search --measure` from the command line: this machine, a board over ssh, kills, no device."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from edgenas.artifacts import check_manifest, read_json
from edgenas.cli.main import main
from edgenas.hardware import DeviceProfile, held, load_device, load_device_file
from edgenas.latency import write_table
from edgenas.testing.fakes import INVENTED_DEVICE, invented_table, tiny_space, write_tiny_run
from edgenas.testing.ssh_server import SSHD, serving
from tests.faults.test_kills import start, trials_finished, wait_for
from tests.faults.test_workers import finished, helpers_of, wait_until_gone
from tests.profiling.test_over_ssh import board

HERE = "local-onnxruntime-fp32-t1"
RUN = Path("runs/tiny")
TRIALS = 40


def study(run: Path) -> tuple[list[optuna.trial.FrozenTrial], Mapping[str, Any]]:
    """The trials of a run and what was measured, by digest."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{run / 'study.db'}")
    try:
        found = optuna.load_study(study_name="edgenas", storage=storage)
        told = {
            key.rpartition(" ")[2]: value
            for key, value in found.user_attrs.items()
            if key.startswith("measured latency_ms ")
        }
        return found.get_trials(), told
    finally:
        storage.remove_session()
        storage.engine.dispose()


def check_measured(run: Path) -> None:
    """The front is measured, and every file says of what was measured what the study says."""
    _, told = study(run)
    front = read_json(run / "front.json", schema="edgenas.front/1")["candidates"]
    assert front
    assert {c["metrics"]["latency_ms"]["origin"] for c in front} == {"measured"}
    for row in read_json(run / "trials.json", schema="edgenas.trials/1")["trials"] + front:
        latency = row["metrics"]["latency_ms"]
        if latency["origin"] == "measured":
            assert latency == told[row["digest"]]["value"]
            assert latency["low"] <= latency["value"] <= latency["high"]
        else:  # perhaps measured after the search had ended
            assert latency["origin"] in ("predicted", "calibrated")
    assert "measured" in (run / "report.md").read_text("utf-8")
    check_manifest(run)


OF_ITS_OWN = """import pathlib, sys, time
sys.argv = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(sys.argv[0]).parent))
import agent
agent.CPU_SHARE = 0.0  # a real board's processor is not shared with the searches
start = time.time()
code = agent.main()
with open({log!r}, "a") as file:
    file.write(f"{{start}} {{time.time()}}\\n")
sys.exit(code)
"""
"""What the board runs in place of the agent alone: it keeps when it timed."""


def end(process: subprocess.Popen[str]) -> None:
    """Kills a process that a failed test left."""
    process.kill()
    process.communicate()


def write_run(folder: Path, device: str, *, trials: int) -> None:
    """A run file for `device`, with the accuracies of earlier runs gone."""
    write_tiny_run(folder, device=device, trials=trials)
    for path in (folder / "runs").glob("evaluations.db*"):
        path.unlink()


@pytest.mark.slow  # others on the machine would disturb the timing
def test_this_machine_is_measured_and_a_killed_worker_starts_again(clean: Path) -> None:
    table = invented_table(load_device(HERE), tiny_space())
    write_table(table, clean / "latency_tables" / f"{HERE}.json")
    write_run(clean, HERE, trials=10)
    process = start("search", "run.toml", "--measure", "--json")
    killed = []
    for session in (RUN / ".sessions" / f"{HERE}-networks").joinpath, None:
        # Once as it times, once as it starts.
        wait_for(lambda: bool(helpers_of(process)), process)
        if session is not None:
            wait_for(session("measured.jsonl").exists, process)
        crew = helpers_of(process)
        killed += crew
        for helper in crew:
            helper.kill()
        time.sleep(0.5)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert killed
    assert f"measuring {HERE} was killed by signal 9; it is started again" in errors
    assert json.loads(output)["trials"] == 10
    check_measured(RUN)
    wait_until_gone(killed)
    # Whoever goes on without the option has what was measured.
    before = (RUN / "front.json").read_text("utf-8")
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    assert (RUN / "front.json").read_text("utf-8") == before


@pytest.mark.slow
def test_the_worker_ends_with_a_killed_leader(clean: Path) -> None:
    table = invented_table(load_device(HERE), tiny_space())
    write_table(table, clean / "latency_tables" / f"{HERE}.json")
    write_run(clean, HERE, trials=60)
    process = start("search", "run.toml", "--measure", "--quiet")
    wait_for(trials_finished(1), process)
    crew = helpers_of(process)
    assert len(crew) == 1
    process.kill()
    process.communicate()
    wait_until_gone(crew)


@pytest.fixture
def on_board(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceProfile]:
    """A board over ssh in the working folder, with its table and a run file."""
    if SSHD is None:
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    (clean / "board.py").write_text(OF_ITS_OWN.format(log=str(clean / "log")), "utf-8")
    with serving(clean / "sshd") as server:
        monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
        (clean / "bin").mkdir()
        body = f'exec "{sys.executable}" "{clean / "board.py"}" "$@"'
        file = board(clean / "bin", server, body=body)
        shutil.copy(file, clean / "devices" / file.name)
        device = load_device_file(clean / "devices" / file.name)
        table = invented_table(device, tiny_space())
        write_table(table, clean / "latency_tables" / f"{device.name}.json")
        write_run(clean, device.name, trials=TRIALS)
        text = (clean / "run.toml").read_text("utf-8")  # trials that take a while
        slow = 'strategy = "gradient"\ngradient_steps = 200\n'
        (clean / "run.toml").write_text(text.replace("[search]\n", f"[search]\n{slow}"), "utf-8")
        yield device


def timed(folder: Path) -> list[tuple[float, ...]]:
    """When the board timed, in order."""
    lines = (folder / "log").read_text().splitlines()
    return sorted(tuple(map(float, line.split())) for line in lines)


def last_trial(run: Path) -> float:
    ended = [t.datetime_complete for t in study(run)[0] if t.state == TrialState.COMPLETE]
    return max(t.timestamp() for t in ended if t)


@pytest.mark.slow
def test_a_board_is_timed_while_trials_go_on_and_when_it_is_free(
    clean: Path, on_board: DeviceProfile, request: pytest.FixtureRequest
) -> None:
    with held(on_board.connection):
        process = start("search", "run.toml", "--measure", "--json")
        request.addfinalizer(partial(end, process))
        assert process.stderr is not None
        said = "waiting: another process times on ssh host=127.0.0.1 port="
        assert any(said in line for line in process.stderr)
        assert not (clean / "log").exists()
    output, _ = process.communicate(timeout=180)
    assert json.loads(output)["exit_code"] == process.returncode == 0
    check_measured(RUN)
    assert timed(clean)[0][0] < last_trial(RUN)


@pytest.mark.slow
def test_two_searches_measure_on_one_board_in_turn(
    clean: Path, on_board: DeviceProfile, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(RUN, "runs/other")
    command = ("search", "run.toml", "--measure", "--json")
    searches = [start(*command), start(*command, "--name", "other")]
    for process in searches:
        request.addfinalizer(partial(end, process))
    assert [finished(process)["trials"] for process in searches] == [TRIALS] * 2
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(timed(clean)))
    for run in (RUN, Path("runs/other")):
        check_measured(run)


@pytest.mark.slow
def test_a_board_that_cannot_be_reached_costs_no_trial(clean: Path) -> None:
    device = (clean / "devices" / f"{INVENTED_DEVICE}.toml").read_text("utf-8")
    device += '\n[connection]\nkind = "ssh"\nhost = "127.0.0.1"\nport = 1\n'
    (clean / "devices" / f"{INVENTED_DEVICE}.toml").write_text(
        device.replace('runtime = "litert"\nprecision = "int8"', 'runtime = "onnxruntime"\n'
                       'precision = "fp32"'),
        "utf-8",
    )  # fmt: skip
    device_read = load_device(INVENTED_DEVICE)
    table = invented_table(device_read, tiny_space())
    write_table(table, clean / "latency_tables" / f"{INVENTED_DEVICE}.json")
    process = start("search", "run.toml", "--measure", "--json")
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 4, errors
    result = json.loads(output)
    assert result["trials"] == 4
    assert result["exit_code"] == 4
    (failure,) = result["failures"]
    assert f"nothing was measured on {INVENTED_DEVICE}" in failure
    assert "[127.0.0.1]:1 cannot be reached" in failure
    assert "[127.0.0.1]:1 cannot be reached" in errors
    front = read_json(RUN / "front.json", schema="edgenas.front/1")["candidates"]
    assert {c["metrics"]["latency_ms"]["origin"] for c in front} == {"predicted"}
    assert result["exports"]
    check_manifest(RUN)


def test_a_device_that_is_not_here_is_refused_before_any_trial(
    clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "run.toml", "--measure"]) == 4
    errors = capsys.readouterr().err
    assert f"measuring: {INVENTED_DEVICE} is not this machine" in errors
    assert "[connection]" in errors
    assert not (RUN / "study.db").exists()
