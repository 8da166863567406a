"""`edgenas measure`: a front whose table is wrong is ranked anew; the table stays as it is."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.artifacts import check_manifest, read_json
from edgenas.cli.main import main
from edgenas.errors import ArtifactError, DeviceError, ExportError, ResourceError, UsageError
from edgenas.export.certificate import read_certificate
from edgenas.hardware import DeviceProfile, load_device
from edgenas.latency import LatencyTable, read_table, write_table
from edgenas.pareto import Candidate, Metric
from edgenas.pipeline import find_run, measure, measuring, read_config
from edgenas.pipeline.correcting import MEASURED, corrected, read_told, write_told
from edgenas.pipeline.opening import Opened, open_stages
from edgenas.profiling.timings import NothingTimedError
from edgenas.search.measuring import Outcomes
from edgenas.spaces import Architecture
from edgenas.testing.fakes import invented_table, tiny_space, write_tiny_run

pytestmark = pytest.mark.long

HERE = "local-onnxruntime-fp32-t1"
RUN = Path("runs/tiny")


def wrong_table() -> LatencyTable:
    """A table of this machine in which larger units are faster: all but the stem and the head."""
    table = invented_table(load_device(HERE), tiny_space())
    entries = {}
    for op, entry in table.entries.items():
        ms = 0.2 / (1 + op.macs / 2e4) if op.is_block else entry.latency_ms
        entries[op] = replace(entry, latency_ms=ms, p10_ms=ms, p50_ms=ms, p90_ms=ms)
    return replace(table, entries=entries)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run whose front was found by the wrong table."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_table(wrong_table(), folder / "latency_tables" / f"{HERE}.json")
        write_tiny_run(folder, device=HERE, trials=16)
        assert main(["search", "run.toml", "--quiet"]) == 0
    return folder


def front_of(run: Path) -> list[dict[str, Any]]:
    return list(read_json(run / "front.json", schema="edgenas.front/1")["candidates"])


def timed_by_macs(files: Mapping[Architecture, Path], *_: object, **options: object) -> Outcomes:
    """In place of a clock: what grows as the wrong table says it falls."""
    space = tiny_space()
    times = {arch: 0.01 + space.lower(arch).macs / 1e6 for arch in files}
    return {arch: Metric(ms, "measured", ms, ms, 50) for arch, ms in times.items()}


@pytest.mark.parametrize(
    "clock",
    [
        "by MACs",
        pytest.param("real", marks=pytest.mark.slow),  # others would disturb it
    ],
)
def test_measuring_ranks_a_front_anew_where_the_table_is_wrong(
    clock: str,
    searched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if clock == "by MACs":
        monkeypatch.setattr(measuring, "_timed", timed_by_macs)
    monkeypatch.chdir(shutil.copytree(searched, tmp_path / "own"))
    before, table = front_of(RUN), (RUN / "tables" / f"{HERE}.json").read_bytes()
    assert {c["metrics"]["latency_ms"]["origin"] for c in before} == {"predicted"}
    assert main(["measure", "tiny", "--quiet", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    (device,) = document["measured"]
    assert device["device"] == HERE
    assert {n["digest"] for n in device["networks"]} >= {c["digest"] for c in before}
    assert [n["place"] for n in device["networks"]] == list(range(1, len(device["networks"]) + 1))
    assert any(n["place"] != n["place_predicted"] for n in device["networks"])
    for network in device["networks"]:
        assert network["predicted"]["origin"] == "predicted"
        assert network["measured"]["origin"] == "measured"
        assert network["measured"]["n"] > 0

    after = front_of(RUN)
    assert after != before
    known = {n["digest"]: n["measured"] for n in device["networks"]}
    for candidate in after:
        latency = candidate["metrics"]["latency_ms"]
        if candidate["digest"] in known:
            assert latency == known[candidate["digest"]]
        else:
            assert latency["origin"] in ("predicted", "calibrated")
    assert (RUN / "tables" / f"{HERE}.json").read_bytes() == table, "the table stays as it is"
    check_manifest(RUN)
    predicted = {n["digest"]: n["predicted"]["value"] for n in device["networks"]}
    for row in document["exports"]:  # by the table that the certificate names, as it was
        if row["device"] == HERE:
            assert row["predicted_ms"] == predicted[Path(row["path"]).parent.name]

    # Whoever goes on with the search has what was measured, and nothing is measured twice.
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    assert front_of(RUN) == after


def test_a_device_that_cannot_be_reached_ends_with_4_and_loses_nothing(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgenas.profiling import session

    monkeypatch.chdir(searched)
    run = find_run("tiny")
    front = (run.folder / "front.json").read_text("utf-8")
    (run.folder / MEASURED).unlink(missing_ok=True)

    def gone(*args: object, **options: object) -> None:
        raise DeviceError("the board does not answer", hint="plug it in")

    monkeypatch.setattr(session, "measure", gone)
    monkeypatch.setattr("edgenas.pipeline.remeasuring._wanted", lambda run, *_: some(run))
    with pytest.raises(DeviceError, match=r"does not answer; edgenas measure .* goes on") as error:
        measure(run.config, run.folder)
    assert error.value.hint == "plug it in"
    assert error.value.exit_code == 4
    assert (run.folder / "front.json").read_text("utf-8") == front


@pytest.fixture
def unmeasured(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder holds the run, of which nothing is measured."""
    monkeypatch.chdir(shutil.copytree(searched, tmp_path / "own"))
    (RUN / MEASURED).unlink(missing_ok=True)


@pytest.mark.usefixtures("unmeasured")
def test_the_first_networks_alone_are_those_that_would_be_exported_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed: list[str] = []

    def noted(files: Mapping[Architecture, Path], *_: object, **options: object) -> Outcomes:
        timed.extend(arch.digest for arch in files)
        return timed_by_macs(files)

    monkeypatch.setattr(measuring, "_timed", noted)
    front = front_of(RUN)
    best = max(front, key=lambda c: c["metrics"]["top1"]["value"])
    assert len(front) > 1
    assert main(["measure", "tiny", "--top", "1", "--quiet"]) == 0
    assert timed == [best["digest"]]
    assert [arch.digest for _, arch in read_told(RUN / MEASURED, tiny_space())] == timed


@pytest.mark.usefixtures("unmeasured")
def test_networks_that_could_not_be_measured_are_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    n = len(front_of(RUN))
    assert n > 1

    def all_but_one(files: Mapping[Architecture, Path], *args: object, **rest: object) -> Outcomes:
        found: Outcomes = dict.fromkeys(files, "its runtime refuses it")
        (first, *_) = files
        return {**found, first: Metric(1e3, "measured", 1e3, 1e3, 50)}

    monkeypatch.setattr(measuring, "_timed", all_but_one)
    assert main(["measure", "tiny", "--quiet"]) == 0
    told = capfd.readouterr().out
    assert told.count(f"was not measured on {HERE}: its runtime refuses it") == n - 1
    monkeypatch.setattr(measuring, "_timed", lambda *_, **__: {})
    assert main(["measure", "tiny", "--quiet"]) == 0
    assert f"was not measured on {HERE}: its runtime refuses it" in capfd.readouterr().out
    monkeypatch.setattr(measuring, "_timed", timed_by_macs)
    assert main(["measure", "tiny", "--quiet"]) == 0
    assert "was not measured" not in capfd.readouterr().out


@pytest.mark.usefixtures("unmeasured")
def test_a_device_that_measures_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "_timed", lambda files, *_, **__: dict.fromkeys(files, "no"))
    assert main(["measure", "tiny", "--quiet"]) == 4
    assert (
        f"{HERE} measured nothing: no; edgenas measure runs/tiny goes on" in capfd.readouterr().err
    )


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("all_refused", [True, False])
def test_a_file_that_the_device_itself_refuses_fails(
    monkeypatch: pytest.MonkeyPatch,
    all_refused: bool,  # noqa: FBT001
) -> None:
    """As a board does whose runtime is older than the one here."""
    (model,) = (path.parent for path in RUN.glob("models/*/export.json"))

    def refusing(files: Mapping[str, Path], device: DeviceProfile, **options: object) -> object:
        failed = dict.fromkeys(files, "unknown operator version 9")
        if all_refused:
            raise NothingTimedError(device, failed)
        return SimpleNamespace(timings={}, failed=failed)

    with monkeypatch.context() as patch:
        patch.setattr("edgenas.profiling.session.measure", refusing)
        assert main(["export", "tiny", model.name, "--quiet"]) == 5
    (file,) = read_certificate(model).models
    gate = file.gates[-1]
    assert (gate.name, gate.verdict) == ("device", "failed")
    assert gate.reason == f"{HERE} does not run it: unknown operator version 9"
    assert main(["verify", "runs/tiny", "--quiet"]) == 5, "it is not repeated, and stays told"
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0, "it was asked again"
    (file,) = read_certificate(model).models
    assert file.measured_ms is not None
    assert main(["verify", "runs/tiny", "--quiet"]) == 0


@pytest.mark.usefixtures("unmeasured")
def test_a_device_that_refuses_every_network_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refusing(files: Mapping[str, Path], device: DeviceProfile, **options: object) -> None:
        raise NothingTimedError(device, dict.fromkeys(files, "unknown operator version 9"))

    monkeypatch.setattr("edgenas.profiling.session.measure", refusing)
    assert main(["measure", "tiny", "--quiet"]) == 4
    assert "unknown operator version 9" in capfd.readouterr().err


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("error", "code"), [(ResourceError("the disk is full"), 6), (ExportError("no converter"), 8)]
)
def test_what_lacks_here_is_no_fault_of_the_device(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> None:
        raise error

    monkeypatch.setattr(measuring, "_converted", failing)
    assert main(["measure", "tiny", "--quiet"]) == code


def some(run: Opened) -> list[Any]:
    return [run.supernet.space.smallest()]


def test_a_search_that_is_not_finished_has_no_front(tmp_path: Path) -> None:
    path = write_tiny_run(tmp_path, device=HERE)
    with pytest.raises(UsageError, match="not finished"):
        measure(read_config(path), tmp_path / "runs" / "tiny")


@pytest.fixture
def opened(searched: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    monkeypatch.chdir(searched)
    run = find_run("tiny")
    return open_stages(run.config, run.folder, resume=True, may_train=False)


def with_latencies(run: Opened, factor: float, n: int) -> list[Candidate]:
    archs = [run.supernet.space.smallest(), run.supernet.space.largest()]
    archs += [run.supernet.space.sample(random.Random(i)) for i in range(20)]
    archs = list(dict.fromkeys(archs))[:n]
    told = {a: run.cheap.explain(a) for a in archs}
    return [
        Candidate(
            a, {**told[a], "latency_ms": Metric(factor * told[a]["latency_ms"].value, "measured")}
        )
        for a in archs
    ]


def test_others_are_predicted_by_the_corrected_table(opened: Opened) -> None:
    other = opened.supernet.space.sample(random.Random(99))
    before = opened.cheap.explain(other)["latency_ms"]
    run, (device,) = corrected(opened, with_latencies(opened, 3.0, 6))
    after = run.cheap.explain(other)["latency_ms"]
    assert after.value == pytest.approx(3 * before.value)
    assert (before.origin, after.origin) == ("predicted", "calibrated")
    assert device.correction.applied
    assert device.correction.scale == pytest.approx(3.0)
    assert device.correction.error_before == pytest.approx(2 / 3, abs=1e-5)
    assert all(n.place == n.place_predicted for n in device.networks)
    assert read_table(opened.folder / "tables" / f"{HERE}.json").digest == run.tables[HERE].digest


@pytest.mark.parametrize(("factor", "n"), [(1.0, 6), (3.0, 2)])
def test_a_right_table_or_too_few_networks_correct_nothing(
    opened: Opened, factor: float, n: int
) -> None:
    run, (device,) = corrected(opened, with_latencies(opened, factor, n))
    assert not device.correction.applied
    assert run.cheap.predictors == opened.cheap.predictors
    assert corrected(opened, []) == (replace(opened, cheap=replace(opened.cheap)), ())


def test_what_was_measured_is_kept_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    space, path = tiny_space(), tmp_path / MEASURED
    told = {
        ("latency_ms", space.smallest()): Metric(0.5, "measured", 0.4, 0.6, 20),
        ("latency_ms", space.largest()): "it does not convert",
    }
    assert read_told(path, space) == {}
    write_told(path, dict(told))
    assert read_told(path, space) == told
    path.write_text(path.read_text("utf-8").replace("0.5", "-0.5"), "utf-8")
    with pytest.raises(ArtifactError, match=r"measured\.json: told\.1\.value\.value"):
        read_told(path, space)
