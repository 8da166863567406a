import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import DeviceError, MeasurementError, SpecError, UsageError
from edgenas.events import NOTICE, Event
from edgenas.hardware import LocalTransport, held, load_device
from edgenas.pareto import Metric
from edgenas.profiling import agent
from edgenas.profiling.runs import today
from edgenas.profiling.session import LINES, OtherVersionError, measure
from edgenas.profiling.settings import QUICK, Settings
from edgenas.profiling.timings import Timing

FAST = Settings(
    rounds=3,
    extra_rounds=0,
    seconds=0.03,
    patience=0.5,
    runs=15,
    warmup_s=0.005,
    warmup_runs=5,
    retries=1,
    cool_s=0.0,
)
DEVICE = load_device("local-onnxruntime-fp32-t1")


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def models(make_onnx: Callable[[str, int], Path]) -> dict[str, Path]:
    return {f"chain of {n}": make_onnx(f"m{n}", n) for n in (1, 4, 12)}


def test_models_are_timed_with_provenance_and_progress(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    events: list[Event] = []
    found = measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST, report=events.append)
    assert found.complete
    assert set(found.timings) == set(models)
    assert not found.failed
    for timing in found.timings.values():
        assert 0 < timing.latency_ms <= timing.p50_ms <= timing.p90_ms
        assert timing.n >= 15
        assert timing.n_rounds == 3
    times = found.latency_ms()
    assert times["chain of 12"] > times["chain of 1"]
    for key in ("runtime_version", "before", "after", "settings", "seed", "grade", "virtualised"):
        assert key in found.conditions
    json.dumps(found.conditions)
    assert events[-1].done == events[-1].total == 9


def test_a_second_call_measures_nothing_and_gives_the_same(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    first = measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)
    again = measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)
    assert again.timings == first.timings
    assert again.conditions["n_starts"] == 2
    assert (first.reused, again.reused) == (False, True)


def test_a_changed_file_is_measured_anew_and_it_alone(
    tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    files = {name: tmp_path / name for name in "abc"}
    for i, path in enumerate(files.values(), 1):
        path.write_text(f"{i}.0")
    device = oracle()
    measure(files, DEVICE, workdir=tmp_path / "w", settings=FAST, transport=device)
    files["b"].write_text("9.0")
    found = measure(files, DEVICE, workdir=tmp_path / "w", settings=FAST, transport=device)
    assert len(device.measured) == 9 + 3
    assert found.latency_ms() == {"a": 1.0, "b": 9.0, "c": 3.0}


def test_another_seed_or_setting_is_another_measurement(
    tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    file = tmp_path / "m"
    file.write_text("2.0")
    device = oracle()
    quick = 6 + QUICK.rounds
    for settings, seed, total in ((FAST, 0, 3), (FAST, 0, 3), (FAST, 1, 6), (QUICK, 1, quick)):
        measure(
            {"m": file},
            DEVICE,
            workdir=tmp_path / "w",
            settings=settings,
            seed=seed,
            transport=device,
        )
        assert len(device.measured) == total
    measure(
        {"m": file},
        DEVICE,
        workdir=tmp_path / "w",
        settings=QUICK,
        seed=1,
        transport=device,
        resume=False,
    )
    assert len(device.measured) == quick + QUICK.rounds


def test_an_agent_killed_midway_is_restarted_and_keeps_what_was_measured(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    pid_file = tmp_path / "pid"
    python = script(tmp_path / "python", f'echo $$ > "{pid_file}"\nexec "{sys.executable}" "$@"\n')
    killed: list[int] = []

    def kill_after_four(event: Event) -> None:
        if event.done == 4 and not killed:
            killed.append(int(pid_file.read_text()))
            os.kill(killed[0], signal.SIGKILL)

    found = measure(
        models,
        DEVICE,
        workdir=tmp_path / "w",
        settings=FAST,
        transport=LocalTransport(python=python),
        report=kill_after_four,
    )
    assert killed
    assert found.complete
    assert found.conditions["n_starts"] == 2
    records = agent.decode((tmp_path / "w" / LINES).read_text().splitlines())
    starts = [i for i, r in enumerate(records) if r["type"] == "start"]
    before = {
        (r["key"], r["round"]) for r in records[: starts[1]] if r["type"] == "visit" and r["final"]
    }
    after = {(r["key"], r["round"]) for r in records[starts[1] :] if r["type"] == "visit"}
    withdrawn = {
        (key, r["round"]) for r in records[starts[1] :] if r["type"] == "void" for key in r["keys"]
    }
    assert len(before) >= 4
    assert not before & (after - withdrawn)


def test_a_file_cut_anywhere_resumes(tmp_path: Path, models: dict[str, Path]) -> None:
    measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)
    store = tmp_path / "w" / LINES
    data = store.read_bytes()
    store.write_bytes(data[: int(len(data) * 0.6)])
    assert measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST).complete
    assert store.read_bytes().startswith(data[: int(len(data) * 0.6)])


def test_a_hung_device_times_out_and_keeps_what_was_measured(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    # The real agent's lines as far as the fourth visit, then silence.
    measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)
    store = tmp_path / "w" / LINES
    lines = store.read_text().splitlines(keepends=True)
    visits = [i for i, line in enumerate(lines) if '"type": "visit"' in line]
    (tmp_path / "said").write_text("".join(lines[: visits[3] + 1]))
    store.unlink()
    python = script(tmp_path / "python", f'cat "{tmp_path / "said"}"\nexec sleep 60\n')
    start = time.monotonic()
    with pytest.raises(DeviceError, match="silent") as caught:
        measure(
            models,
            DEVICE,
            workdir=tmp_path / "w",
            settings=replace(FAST, idle_s=1.0),
            transport=LocalTransport(python=python),
        )
    assert time.monotonic() - start < 30
    assert caught.value.exit_code == 4
    assert "resume" in caught.value.hint
    assert store.read_text().count('"type": "visit"') >= 4
    found = measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)
    assert found.complete
    assert found.conditions["n_starts"] == 2


def test_an_agent_that_always_dies_after_opening_a_model_is_given_up(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)
    store = tmp_path / "w" / LINES
    lines = store.read_text().splitlines(keepends=True)
    opened = next(i for i, line in enumerate(lines) if '"type": "opened"' in line)
    (tmp_path / "said").write_text("".join(lines[: opened + 1]))
    store.unlink()
    body = f'echo x >> "{tmp_path / "starts"}"\ncat "{tmp_path / "said"}"\nkill -9 $$\n'
    link = LocalTransport(python=script(tmp_path / "python", body))
    with pytest.raises(DeviceError, match="ended with status -9"):
        measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST, transport=link)
    assert (tmp_path / "starts").read_text().count("x") <= 4


def test_single_images_are_timed(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(DeviceError, match="single images are timed, not 8"):
        measure(models, replace(DEVICE, batch=8), workdir=tmp_path / "w", settings=FAST)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo no runtime: pip install x >&2; exit 4", "no runtime: pip install x"),
        ("echo Traceback >&2; echo KeyError: 7 >&2; exit 1", "KeyError: 7"),
        ("echo garbage; echo more", "ended with status 0"),
        ("kill -9 $$", "ended with status -9"),
    ],
)
def test_a_device_that_answers_nonsense_is_a_device_error(
    tmp_path: Path, models: dict[str, Path], body: str, said: str
) -> None:
    link = LocalTransport(python=script(tmp_path / "python", body + "\n"))
    with pytest.raises(DeviceError, match=said) as caught:
        measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST, transport=link)
    assert caught.value.exit_code == 4


def test_models_that_fail_are_named_and_none_at_all_is_an_error(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"nonsense")
    found = measure({**models, "bad": bad}, DEVICE, workdir=tmp_path / "w", settings=FAST)
    assert set(found.failed) == {"bad"}
    assert found.complete
    with pytest.raises(MeasurementError, match="no model could be timed"):
        measure({"bad": bad}, DEVICE, workdir=tmp_path / "v", settings=FAST)


def test_what_makes_no_sense_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(UsageError):
        measure({}, DEVICE, workdir=tmp_path)
    with pytest.raises(UsageError):
        measure(models, DEVICE, workdir=tmp_path, canary="none")
    with pytest.raises(SpecError):
        measure({"x": tmp_path / "missing.onnx"}, DEVICE, workdir=tmp_path)
    with pytest.raises(UsageError):
        replace(QUICK, rounds=0)


def test_two_measurements_in_one_folder_are_refused(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    def again(event: Event) -> None:
        measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST)

    with pytest.raises(DeviceError, match="another measurement"):
        measure(models, DEVICE, workdir=tmp_path / "w", settings=FAST, report=again)


def test_the_statistic_is_the_least_round_median_and_calm_rounds_come_first(
    tmp_path: Path, oracle: Callable[..., Any]
) -> None:
    file = tmp_path / "m"
    file.write_text("2.0")
    found = measure({"m": file}, DEVICE, workdir=tmp_path / "w", transport=oracle())
    timing = found.timings["m"]
    assert timing.latency_ms == 2.0  # rounds take 2.00, 2.02, ... 2.12
    assert timing.p50_ms == pytest.approx(2.06)
    assert timing.n == 70


TIMING = Timing(1.0, 1.02, 1.1, 1.3, n=50, n_rounds=7, n_contended=7, spread=0.04, init_ms=1.0,
                first_ms=1.0, confirmed=True)  # fmt: skip


@pytest.mark.parametrize(
    ("timing", "disturbed"),
    [
        (TIMING, False),  # a quota takes the processor, nobody disturbs
        (replace(TIMING, spread=0.2), True),
        (replace(TIMING, confirmed=False), True),
        (replace(TIMING, n_contended=6, spread=0.2), False),
    ],
)
def test_what_is_disturbed_wavers(timing: Timing, disturbed: bool) -> None:  # noqa: FBT001
    assert timing.disturbed is disturbed


def test_the_best_round_may_lie_below_p10() -> None:
    assert TIMING.metric == Metric(1.0, "measured", 1.0, 1.3, 50)


def test_a_timing_waits_for_the_device(tmp_path: Path, oracle: Callable[..., Any]) -> None:
    file = tmp_path / "m"
    file.write_text("2.0")
    lock = threading.Barrier(2)
    waits = threading.Event()
    told: list[str] = []

    def hold() -> None:
        with held(DEVICE.connection):
            lock.wait(10)
            waits.wait(30)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    lock.wait(10)

    def hear(event: Event) -> None:
        if event.message.startswith("waiting: another process times on"):
            told.append(event.message)
            waits.set()

    try:
        found = measure({"m": file}, DEVICE, workdir=tmp_path, transport=oracle(), report=hear)
    finally:
        waits.set()
        holder.join(10)
    assert len(told) == 1
    assert found.timings["m"].confirmed


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in "ab"}
    for path in found.values():
        path.write_text("2.0")
    return found


def test_another_version_of_the_runtime_is_measured_anew_and_said(
    tmp_path: Path, files: dict[str, Path], oracle: Callable[..., Any]
) -> None:
    how = {"workdir": tmp_path / "w", "settings": FAST}
    assert measure(files, DEVICE, transport=oracle(), **how).conditions["runtime_version"] == "1.0"
    events: list[Event] = []
    upgraded = oracle(version="2.0", slow=(1.5,))
    for _ in range(2):
        found = measure(files, DEVICE, transport=upgraded, report=events.append, **how)
        assert found.conditions["runtime_version"] == "2.0"
        assert found.latency_ms() == {"a": 3.0, "b": 3.0}
        assert len(upgraded.measured) == 2 * FAST.rounds
    told = [e.message for e in events if e.stage == NOTICE]
    assert told == ["the runtime is now 2.0: all is timed anew"]


def test_a_version_that_the_file_or_the_table_does_not_have_stops_before_any_timing(
    tmp_path: Path, files: dict[str, Path], oracle: Callable[..., Any]
) -> None:
    device = oracle(version="1.23.0")
    pinned = replace(DEVICE, runtime_version="1.22.0")
    with pytest.raises(DeviceError, match=r"'1\.22\.0', but .* runs onnxruntime 1\.23\.0"):
        measure(files, pinned, workdir=tmp_path / "w", settings=FAST, transport=device)
    with pytest.raises(OtherVersionError, match=r"1\.23\.0, its table has 1\.22\.0") as caught:
        measure(
            files,
            DEVICE,
            workdir=tmp_path / "w",
            settings=FAST,
            transport=device,
            table_version="1.22.0",
        )
    assert caught.value.exit_code == 4
    assert not device.measured


@pytest.mark.parametrize(("rounds", "complete"), [(3, True), (2, False)])
def test_three_rounds_are_enough_where_time_is_given(
    tmp_path: Path,
    files: dict[str, Path],
    oracle: Callable[..., Any],
    rounds: int,
    complete: bool,  # noqa: FBT001
) -> None:
    how = {"workdir": tmp_path / "w", "transport": oracle(rounds=rounds)}
    found = measure(files, DEVICE, settings=replace(FAST, rounds=7, budget_s=60.0), **how)
    assert found.complete is complete
    assert found.conditions["n_rounds"] == rounds
    assert found.conditions["grade"] == ("fair" if complete else "poor")
    assert not measure(files, DEVICE, settings=replace(FAST, rounds=7), **how).complete


def test_timings_keep_their_day(
    tmp_path: Path, files: dict[str, Path], oracle: Callable[..., Any]
) -> None:
    how = {"workdir": tmp_path / "w", "settings": FAST, "transport": oracle()}
    before = today()
    found = measure(files, DEVICE, **how).measured_on
    assert found is not None
    assert before <= found <= today()
    store = tmp_path / "w" / LINES
    for time_s, day in ((1767225600, "2026-01-01"), (5, None), ("x", None)):
        records = agent.decode(store.read_text("utf-8").splitlines())
        records[0]["time_s"] = time_s
        store.write_text("".join(agent.encode(r) + "\n" for r in records), "utf-8")
        assert measure(files, DEVICE, **how).measured_on == day


def test_a_device_that_says_much_but_measures_nothing_times_out(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    python = script(tmp_path / "python", "while :; do echo W: a warning; sleep 0.05; done\n")
    with pytest.raises(DeviceError, match=r"no record for .* lines such as 'W: a warning'"):
        measure(
            models,
            DEVICE,
            workdir=tmp_path / "w",
            settings=replace(FAST, idle_s=0.5),
            transport=LocalTransport(python=python),
        )


def test_processors_that_are_not_there_are_told_with_the_devices_file(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    device = replace(DEVICE, affinity=(1023,))
    with pytest.raises(DeviceError, match=r"processors \[1023\] are not there") as caught:
        measure(models, device, workdir=tmp_path / "w", settings=FAST)
    assert "affinity of the device's file" in caught.value.hint
