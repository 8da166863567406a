"""A kit: written, run as its README says, read back; and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import ArtifactError, DeviceError, MeasurementError, SpecError
from edgenas.hardware import load_device
from edgenas.profiling import agent
from edgenas.profiling.kit import planned, read_results, write_kit
from edgenas.profiling.settings import Settings

FAST = Settings(
    rounds=2, extra_rounds=0, seconds=0.02, runs=6, warmup_s=0.005, warmup_runs=5, cool_s=0.0
)
DEVICE = load_device("local-onnxruntime-fp32-t1")


@pytest.fixture
def models(make_onnx: Callable[[str, int], Path]) -> dict[str, Path]:
    return {f"chain of {n}": make_onnx(f"m{n}", n) for n in (1, 4)}


@pytest.fixture
def kit(tmp_path: Path, models: dict[str, Path]) -> Path:
    path = tmp_path / "kit.zip"
    write_kit(models, DEVICE, path, back="edgenas profile X --from-kit results.json", settings=FAST)
    return path


def invented(kit: Path) -> list[str]:
    """Lines as the kit's agent writes them, without the time that it takes."""
    with zipfile.ZipFile(kit) as archive:
        job = json.loads(archive.read("job.json"))
    common = {"nonce": job["nonce"]}
    records: list[dict[str, object]] = [
        {"type": "start", "conditions": {}, "runtime_version": "1.0", "agent_sha256": "0",
         "timer_resolution_ns": 1}
    ]  # fmt: skip
    records += [{"type": "planned", "key": i, "name": job["names"][i]} for i in job["models"]]
    for i in job["models"]:
        records.append({"type": "model", "key": i, "init_ms": 1.0, "first_ms": 1.0})
        records += [
            {"type": "visit", "key": i, "round": n, "final": True, "contended": False, "n": 9,
             "median_ms": 2.0, "p10_ms": 1.9, "p90_ms": 2.2, "spread": 0.01}
            for n in range(job["rounds"])
        ]  # fmt: skip
    records.append({"type": "end", "complete": True, "conditions": {}})
    return [agent.encode({**record, **common}) for record in records]


def spoil(lines: list[str], changes: dict[str, object], *, kind: str = "visit") -> list[str]:
    """The lines with the first record of a kind changed, under a checksum that fits."""
    place = next(i for i, line in enumerate(lines) if f'"type": "{kind}"' in line)
    (record,) = agent.decode([lines[place]])
    text = json.dumps({**record, **changes}, sort_keys=True)
    return [*lines[:place], f"{zlib.crc32(text.encode()):08x} {text}", *lines[place + 1 :]]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def test_a_kit_is_run_as_its_readme_says(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    board = tmp_path / "board"
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(board)
    readme = (board / "README.txt").read_text("utf-8")
    assert "edgenas profile X --from-kit results.json" in readme
    (command,) = re.findall(r"^    (python3 .*)$", readme, re.MULTILINE)
    argv = shlex.split(command)
    assert argv == ["python3", "agent.py", "job.json", "--out", "results.json"]
    subprocess.run([sys.executable, *argv[1:]], cwd=board, check=True, capture_output=True)
    found = read_results(models, DEVICE, board / "results.json", settings=FAST)
    assert found.complete
    assert set(found.timings) == set(models)
    assert all(timing.latency_ms > 0 for timing in found.timings.values())


def test_the_same_models_make_the_same_kit(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    again = tmp_path / "again.zip"
    write_kit(
        models, DEVICE, again, back="edgenas profile X --from-kit results.json", settings=FAST
    )
    assert again.read_bytes() == kit.read_bytes()


def test_cut_and_damaged_lines_count_as_not_measured(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    lines = invented(kit)
    path = tmp_path / "results.json"
    assert read_results(models, DEVICE, write(path, lines), settings=FAST).complete
    visits = [i for i, line in enumerate(lines) if '"visit"' in line]
    damaged = [*lines]
    damaged[visits[0]] = lines[visits[0]].replace("2.0", "1.0")
    found = read_results(models, DEVICE, write(path, damaged), settings=FAST)
    assert not found.complete
    assert sorted(t.n_rounds for t in found.timings.values()) == [1, 2]
    text = "\n".join(lines)
    for end in range(0, len(text), 97):
        path.write_text(text[:end], "utf-8")
        try:
            found = read_results(models, DEVICE, path, settings=FAST)
        except (ArtifactError, MeasurementError):
            continue
        assert set(found.latency_ms().values()) == {2.0}


@pytest.mark.parametrize(
    "spoilt",
    [
        {"type": "visits"},
        {"type": ["visit"]},
        {"nonce": None},
    ],
)
def test_a_sound_checksum_over_what_no_agent_writes_does_not_count(
    tmp_path: Path, kit: Path, models: dict[str, Path], spoilt: dict[str, object]
) -> None:
    path = write(tmp_path / "results.json", spoil(invented(kit), spoilt))
    found = read_results(models, DEVICE, path, settings=FAST)
    assert not found.complete
    assert set(found.latency_ms().values()) == {2.0}


@pytest.mark.parametrize(
    "spoilt",
    [
        {"median_ms": 0},
        {"median_ms": -1.0},
        {"median_ms": 1e-310},
        {"median_ms": float("nan")},
        {"p10_ms": 2.1},
        {"p90_ms": 1.9},
        {"median_ms": "2.0"},
        {"median_ms": True},
        {"median_ms": 1e300},
        {"n": 1.5},
        {"round": -1},
        {"board": "\ud800"},
    ],
)
def test_a_sound_checksum_over_nonsense_is_told(
    tmp_path: Path, kit: Path, models: dict[str, Path], spoilt: dict[str, object]
) -> None:
    path = write(tmp_path / "results.json", spoil(invented(kit), spoilt))
    with pytest.raises(ArtifactError, match=r"results\.json: .* of 'chain of [14]': ") as caught:
        read_results(models, DEVICE, path, settings=FAST)
    assert "delete that line" in caught.value.hint


@pytest.mark.parametrize("load", [float("nan"), "\ud800"])
def test_conditions_that_cannot_be_written_are_told(
    tmp_path: Path, kit: Path, models: dict[str, Path], load: object
) -> None:
    spoilt = {"conditions": {"load_1min": load}}
    path = write(tmp_path / "results.json", spoil(invented(kit), spoilt, kind="start"))
    with pytest.raises(ArtifactError, match="'start'"):
        read_results(models, DEVICE, path, settings=FAST)


def test_results_that_an_editor_saved_with_a_mark_of_their_encoding(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    path = tmp_path / "results.json"
    path.write_text("\n".join(invented(kit)), "utf-8-sig")
    assert read_results(models, DEVICE, path, settings=FAST).complete


def test_timings_without_a_start_are_told_apart_from_none(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    path = write(tmp_path / "results.json", invented(kit)[1:])
    with pytest.raises(MeasurementError, match="no whole line of the type 'start'") as caught:
        read_results(models, DEVICE, path, settings=FAST)
    assert "repeat the command" in caught.value.hint


def test_what_another_version_of_the_runtime_took_does_not_count(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    lines = invented(kit)
    later = spoil(lines, {"runtime_version": "2.0"}, kind="start")
    found = read_results(models, DEVICE, write(tmp_path / "r", [*lines, *later]), settings=FAST)
    assert (found.complete, found.conditions["runtime_version"]) == (True, "2.0")
    with pytest.raises(MeasurementError, match="no model could be timed"):
        read_results(models, DEVICE, write(tmp_path / "r", [*lines, later[0]]), settings=FAST)


def test_a_version_that_the_devices_file_does_not_want_is_told(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    pinned = replace(DEVICE, runtime_version="1.22.0")
    write_kit(models, pinned, tmp_path / "kit.zip", back="", settings=FAST)
    path = write(tmp_path / "results.json", invented(tmp_path / "kit.zip"))
    with pytest.raises(DeviceError, match=r"'1\.22\.0', but .* runs onnxruntime 1\.0"):
        read_results(models, pinned, path, settings=FAST)


def test_the_results_say_which_models_the_kit_held(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    lines = invented(kit)
    path = write(tmp_path / "results.json", lines)
    assert sorted(planned(DEVICE, path, settings=FAST)) == sorted(models)
    path = write(path, [line for line in lines if '"planned"' not in line])
    with pytest.raises(ArtifactError, match="2 of the 2 models that were timed have no name"):
        planned(DEVICE, path, settings=FAST)


def test_results_of_another_job_are_refused(
    tmp_path: Path, kit: Path, models: dict[str, Path]
) -> None:
    path = write(tmp_path / "results.json", invented(kit))
    other = replace(DEVICE, threads=2)
    for device, settings in ((other, FAST), (DEVICE, replace(FAST, rounds=3))):
        with pytest.raises(ArtifactError, match="another job") as caught:
            read_results(models, device, path, settings=settings)
        assert caught.value.exit_code == 3
        assert "--quick" in caught.value.hint
    with pytest.raises(MeasurementError, match="no model could be timed"):
        read_results({"changed": tmp_path / "kit.zip"}, DEVICE, path, settings=FAST)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 9000, b"<html>no</html>", b"{}", b"00000000 {}", b"[" * 100_000, b"\xff" * 99],
)
def test_garbage_is_refused(tmp_path: Path, models: dict[str, Path], data: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="no whole line") as caught:
        read_results(models, DEVICE, path, settings=FAST)
    assert caught.value.exit_code == 3


def test_lines_that_are_nested_too_deeply(tmp_path: Path, models: dict[str, Path]) -> None:
    text = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    path = write(tmp_path / "results.json", [f"{zlib.crc32(text.encode()):08x} {text}"])
    with pytest.raises(MeasurementError, match="no agent writes"):
        read_results(models, DEVICE, path, settings=FAST)


def test_no_such_file(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(SpecError, match=r"none\.json"):
        read_results(models, DEVICE, tmp_path / "none.json", settings=FAST)
