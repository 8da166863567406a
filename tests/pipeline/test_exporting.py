"""Networks of a run exported again: what stays, what goes, and what certificates say of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from edgenas.artifacts import check_manifest
from edgenas.cli.main import main
from edgenas.errors import ExportError, Interrupted, ResourceError
from edgenas.export import certified, onnx
from edgenas.export import targets as export_targets
from edgenas.export.certificate import read_certificate
from edgenas.pareto import Metric
from edgenas.pipeline.correcting import MEASURED, write_told
from edgenas.pipeline.runs import read_result
from edgenas.testing.fakes import tiny_space
from tests.pipeline.conftest import verify, written

pytestmark = pytest.mark.long

RUN = Path("runs/tiny")


def broken(*args: object, **kwargs: object) -> None:
    raise ExportError("the quantiser is broken")


def test_no_file_loses_its_certificate_to_the_export_of_another(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, before = Path("runs/tiny/run.toml"), (model / "export.json").read_bytes()
    text = run.read_text("utf-8")
    assert "max_top1_drop" in text
    run.write_text(re.sub("max_top1_drop = .*", "max_top1_drop = 0.5", text), "utf-8")
    argv = ["export", "tiny", model.name, "--quiet"]
    assert main([*argv, "--format", "onnx"]) == 2
    said = capfd.readouterr().err
    assert "model.int8.onnx would be left without a certificate" in said
    assert "--format onnx --format onnx-int8" in said
    (model / "model.mixed.onnx").write_bytes(b"a file")
    assert main([*argv, "--format", "onnx", "--format", "onnx-int8"]) == 2
    assert "model.mixed.onnx would be left without a certificate" in capfd.readouterr().err
    (model / "model.mixed.onnx").unlink()
    assert (model / "export.json").read_bytes() == before
    assert main([*argv, "--format", "onnx", "--format", "onnx-int8"]) == 0
    assert verify("runs/tiny", capfd=capfd)[0] == 0


def test_a_mixed_file_is_made_anew_with_another_limit_and_the_others_stay(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path("runs/tiny/run.toml")

    def limit(value: float) -> None:
        text = run.read_text("utf-8")
        assert "max_mixed_drop" in text
        run.write_text(re.sub("max_mixed_drop = .*", f"max_mixed_drop = {value}", text), "utf-8")

    argv = ["export", "tiny", model.name, "--quiet"]
    limit(1.0)
    assert main([*argv, "--format", "onnx-mixed"]) == 0
    before = read_certificate(model)
    assert [m.format for m in before.models] == ["onnx", "onnx-int8", "onnx-mixed"]
    assert before.max_mixed_drop == 1
    assert verify("runs/tiny", capfd=capfd)[0] == 0
    limit(0.9)
    assert main([*argv, "--format", "onnx"]) == 2
    said = capfd.readouterr().err
    assert "model.mixed.onnx would be left without a certificate" in said
    assert "model.int8.onnx" not in said
    assert read_certificate(model) == before
    assert main([*argv, "--format", "onnx-mixed"]) == 0
    after = read_certificate(model)
    assert after.max_mixed_drop == 0.9
    assert after.models[:2] == before.models[:2]
    assert after.models[2].sha256 == before.models[2].sha256


def test_other_formats_stay_when_one_is_exported_again(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_certificate(model)
    argv = ["export", "tiny", model.name, "--quiet"]
    assert main([*argv, "--format", "onnx", "--format", "onnx"]) == 0
    after = read_certificate(model)
    assert [m.format for m in after.models] == ["onnx", "onnx-int8"]
    assert after.models[1].sha256 == before.models[1].sha256
    told = json.loads(Path("runs/tiny/result.json").read_text("utf-8"))["exports"]
    assert [(row["format"], row["sha256"]) for row in told] == [
        (m.format, m.sha256) for m in after.models
    ]
    assert after.models[0].sha256 in Path("runs/tiny/report.html").read_text("utf-8")
    assert verify(str(model), capfd=capfd)[0] == 0


def test_what_cannot_be_written_again_stays_as_it_was(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_certificate(model)
    argv = ["export", "tiny", model.name, "--quiet", "--format"]
    with monkeypatch.context() as patch:
        patch.setattr(certified, "write_onnx_int8", broken)
        assert main([*argv, "onnx-int8"]) == 8
    after = read_certificate(model)
    assert after.models == before.models
    assert [(f.format, f.error) for f in after.failures] == [
        ("onnx-int8", "the quantiser is broken")
    ]
    assert verify(str(model / "model.int8.onnx"), capfd=capfd)[0] == 0
    assert main([*argv, "onnx-int8"]) == 0
    assert read_certificate(model).failures == ()


def test_a_damaged_file_is_written_again_and_the_others_are_kept(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = read_certificate(model)
    (model / "model.int8.onnx").write_bytes(b"damaged")
    assert main(["export", "tiny", model.name, "--quiet", "--format", "onnx-int8"]) == 0
    after = read_certificate(model)
    assert after.models[0] == before.models[0]
    assert [m.sha256 for m in after.models] == [m.sha256 for m in before.models]
    assert verify("runs/tiny", capfd=capfd)[0] == 0


def test_a_failure_stays_told_when_another_format_is_exported(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "tiny", model.name, "--quiet", "--format"]
    with monkeypatch.context() as patch:
        patch.setattr(certified, "write_onnx_int8", broken)
        assert main([*argv, "onnx-int8"]) == 8
    assert read_result(RUN)["exit_code"] == 8
    assert main([*argv, "onnx"]) == 8
    assert [f.format for f in read_certificate(model).failures] == ["onnx-int8"]
    result = read_result(RUN)
    assert (result["exit_code"], len(result["failures"])) == (8, 1)
    assert verify("runs/tiny", capfd=capfd)[0] == 8
    assert main([*argv, "onnx-int8"]) == 0
    result = read_result(RUN)
    assert (result["exit_code"], result["failures"]) == (0, [])
    assert verify("runs/tiny", capfd=capfd)[0] == 0


def test_an_interrupted_export_leaves_the_certificate_of_what_stays(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_certificate(model)

    def stopped(*args: object, **kwargs: object) -> None:
        raise Interrupted("stopped")

    argv = ["export", "tiny", model.name, "--quiet", "--format", "onnx-int8"]
    with monkeypatch.context() as patch:
        patch.setattr(export_targets, "check_targets", stopped)
        assert main(argv) == 130
    assert [m.sha256 for m in read_certificate(model).models] == [m.sha256 for m in before.models]
    assert main(argv) == 0


def test_files_that_no_certificate_lists_any_more_go(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written("top = 1", "top = 1\nmax_top1_drop = 0.02")  # so that the certificate does not hold
    written('"onnx", "onnx-int8"', '"onnx"')
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    assert [m.path for m in read_certificate(model).models] == ["model.onnx"]
    assert not (model / "model.int8.onnx").exists()
    assert verify("runs/tiny", capfd=capfd)[0] == 0
    assert main(["export", "tiny", model.name, "--quiet", "--format", "onnx"]) == 0


def test_a_file_of_former_settings_goes_where_its_format_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written("top = 1", "top = 1\nmax_top1_drop = 0.02")
    monkeypatch.setattr(certified, "write_onnx_int8", broken)
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 8
    assert [f.format for f in read_certificate(model).failures] == ["onnx-int8"]
    assert not (model / "model.int8.onnx").exists()


def test_another_licence_reaches_certificates_of_files_that_stay(model: Path) -> None:
    before = read_certificate(model)
    written('"Apache-2.0"', '"MIT"')
    written('"as found"', '"CC-BY-4.0"')
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    after = read_certificate(model)
    assert [m.sha256 for m in after.models] == [m.sha256 for m in before.models]
    assert after.licence == "MIT"
    assert after.data is not None
    assert after.data.licence == "CC-BY-4.0"


def test_a_refused_search_leaves_the_runs_own_settings(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (RUN / "run.toml").read_bytes()
    written('"min latency_ms"]', '"min latency_ms", "min macs"]')
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 3
    assert "belongs to another search" in capfd.readouterr().err
    assert (RUN / "run.toml").read_bytes() == before
    assert verify(str(model), capfd=capfd)[0] == 0


def test_latencies_beside_the_models_are_those_of_the_front(model: Path) -> None:
    """What measured networks say of the table counts for all that is told of a network."""
    space = tiny_space()
    predicted = json.loads((model / "latency.json").read_text("utf-8"))["latencies"][0]
    told = {
        ("latency_ms", space.parse(t["architecture"])): Metric(
            3 * t["metrics"]["latency_ms"]["value"], "measured"
        )
        for t in json.loads((RUN / "trials.json").read_text("utf-8"))["trials"]
    }
    assert len(told) >= 3
    write_told(RUN / MEASURED, told)
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    (now,) = json.loads((model / "latency.json").read_text("utf-8"))["latencies"]
    assert now["origin"] == "calibrated"
    assert now["latency_ms"] == pytest.approx(3 * predicted["latency_ms"])
    assert main(["export", "tiny", model.name, "--quiet", "--format", "onnx"]) == 0
    (again,) = json.loads((model / "latency.json").read_text("utf-8"))["latencies"]
    assert again == now


def test_integers_are_made_anew_for_a_board_that_wants_others(model: Path) -> None:
    before = read_certificate(model)
    written("top = 1", 'top = 1\ntargets = ["rpi4-ort-int8-t4"]')
    source = Path(__file__).parents[2] / "devices" / "rpi4-onnxruntime-fp32-t4.toml"
    text = source.read_text("utf-8").replace("rpi4-onnxruntime-fp32-t4", "rpi4-ort-int8-t4")
    Path("devices/rpi4-ort-int8-t4.toml").write_text(text.replace('"fp32"', '"int8"'), "utf-8")
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    after = read_certificate(model)
    assert after.models[0].sha256 == before.models[0].sha256
    assert after.models[1].sha256 != before.models[1].sha256
    assert [onnx.activations_of(model / m.path) for m in after.models] == [None, "s8"]


@pytest.mark.parametrize("name", ["front.json", "run.toml", "models/{}/infer.py", "models/{}"])
def test_a_run_that_was_changed_is_not_sealed_again(
    model: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = RUN / name.format(model.name)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    others = ["export", "tiny", str(tiny_space().smallest()), "--format", "onnx", "--quiet"]
    for argv in (["report", "tiny"], *([others] if name != "run.toml" else [])):
        capfd.readouterr()
        assert main(argv) == 3
        assert str(path) in capfd.readouterr().err
    assert verify("runs/tiny", capfd=capfd)[0] == 3
    if "models" in name:
        assert main(["export", "tiny", model.name, "--quiet"]) == 0
        assert verify("runs/tiny", capfd=capfd)[0] == 0


def test_an_export_that_no_report_could_follow_leaves_a_run_that_holds(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(folder: Path) -> None:
        raise ResourceError(f"cannot write {folder / 'report.html'}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edgenas.report.write_report", full)
        assert main(["export", "tiny", model.name, "--format", "onnx", "--quiet"]) == 6
    assert verify("runs/tiny", capfd=capfd)[0] == 0
    assert "report.html" not in check_manifest(RUN)
    assert main(["report", "tiny"]) == 0
    assert {"report.html", f"models/{model.name}/model.onnx"} <= check_manifest(RUN).keys()


def test_a_network_of_which_no_certificate_tells_is_told(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stopped = RUN / "models" / "0123456789ab"
    stopped.mkdir()
    (stopped / "model.onnx").write_bytes(b"of an export that was stopped")
    assert main(["verify", "runs/tiny", "--quiet"]) == 0
    assert f"{stopped} has no certificate" in capfd.readouterr().out


def test_a_run_without_its_manifest_is_not_verified_as_a_whole(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (RUN / "manifest.json").unlink()
    code, _, said = verify("runs/tiny", capfd=capfd)
    assert (code, "manifest.json is missing" in said) == (3, True)
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    assert verify("runs/tiny", capfd=capfd)[0] == 0
