"""Certificates repeated in their run and away from it, and what a lie in them comes to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgenas.artifacts import sha256_file
from edgenas.cli.main import main
from edgenas.errors import ArtifactError
from edgenas.export import runners
from edgenas.export.certificate import read_certificate, sealed
from edgenas.testing.fakes import tiny_space
from tests.pipeline.conftest import edited, verify

pytestmark = pytest.mark.long


def test_a_certificate_says_what_is_in_a_file_and_of_which_images(model: Path) -> None:
    certificate = read_certificate(model)
    float32, int8 = certificate.models
    convolutions = sum(
        n
        for name, counts in float32.operators.items()
        for kind, n in counts.items()
        if name.endswith("Conv") and kind == "FLOAT32"
    )
    assert int8.operators["QLinearConv"] == {"INT8": convolutions}
    assert certificate.tools["edgenas"]
    assert certificate.licence == "Apache-2.0"
    data = certificate.data
    assert data is not None
    assert (data.name, data.licence, data.channels) == ("digits", "as found", 1)
    assert data.digest == certificate.parents["data"]
    for file in certificate.models:
        found = file.verification
        assert sum(c.n for c in found.classes) == found.n == data.images["test"]
        assert len(found.classes) == len(file.input.classes)
        mean = sum(c.n * (c.top1_drop or 0) for c in found.classes) / found.n
        assert mean == pytest.approx(found.top1_drop, abs=1e-9)


def test_what_a_run_no_longer_chooses_is_left_out_of_its_report_and_told(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = model.parent.parent
    other = tiny_space().smallest().digest
    assert model.name != other
    assert main(["export", "tiny", "smallest", "--quiet"]) == 0
    assert f"models/{other}/" in (run / "report.md").read_text("utf-8")
    code, document, _ = verify("runs/tiny", capfd=capfd)
    assert {Path(e["path"]).parent.name for e in document["exports"]} == {model.name, other}
    assert main(["search", "run.toml", "--resume", "--quiet"]) == 0
    assert f"models/{other}/" not in (run / "report.md").read_text("utf-8")
    edited(run / "models" / other / "export.json", lambda t: t.update(weights="of another time"))
    code, document, _ = verify("runs/tiny", capfd=capfd)
    assert code == 0
    assert {Path(e["path"]).parent.name for e in document["exports"]} == {model.name}
    assert f"edgenas verify runs/tiny/models/{other}" in " ".join(document["notes"])


@pytest.mark.parametrize("path", ["model.onnx", ".", "../../models/{digest}/model.int8.onnx"])
def test_paths_from_within_the_run(
    path: str, model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(model)
    code, document, _ = verify(path.format(digest=model.name), capfd=capfd)
    assert code == 0
    assert len(document["exports"]) == (2 if path == "." else 1)


def test_a_file_is_verified_without_those_beside_it(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (model / "model.int8.onnx").unlink()
    (model / "infer.py").write_text("# mine", "utf-8")
    code, document, _ = verify(str(model / "model.onnx"), capfd=capfd)
    assert code == 0
    assert [Path(row["path"]).name for row in document["exports"]] == ["model.onnx"]
    assert verify(str(model), capfd=capfd)[0] == 3


def first(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda table: change(table["models"][0])


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], int, str]] = {
    "mean": (first(lambda m: m["input"].update(mean=[0.9])), 3, "mean"),
    "std": (first(lambda m: m["input"].update(std=[7.0])), 3, "std"),
    "resize": (first(lambda m: m["input"].update(resize="nearest")), 3, "resize"),
    "classes": (
        first(lambda m: m["input"].update(classes=["a", "b", "c"])),
        3,
        "it lacks 'a', 'b', 'c' and adds '0'",
    ),
    "shape": (first(lambda m: m["input"].update(shape=[1, 9, 9, 1])), 3, "shape"),
    "range": (first(lambda m: m["input"].update(value_range=[0, 0])), 3, "value range"),
    "precision": (first(lambda m: m.update(precision="fp16")), 3, "onnx in fp16"),
    "top-1": (first(lambda m: m["verification"].update(top1=0.01)), 5, "0.0100 by its certificate"),
    "macs": (lambda t: t.update(macs=t["macs"] + 1), 3, "macs"),
    "less than nothing": (lambda t: t.update(macs=-5), 3, "macs"),
    "digest": (lambda t: t.update(digest="000000000000"), 3, "digest"),
    "images": (lambda t: t["parents"].update(data="x"), 3, "exported with the data x"),
    "supernet": (lambda t: t["parents"].update(supernet="ffff"), 3, "exported with the supernet"),
    "no file": (lambda t: t.update(models=[]), 3, "lists no file"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(name: str, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change, code, told = LIES[name]
    (model / "labels.txt").unlink()  # or it would contradict first
    edited(model / "export.json", change)
    found, _, said = verify(str(model), capfd=capfd)
    assert (found, told in said) == (code, True), said


LATENCY = {"value_ms": 0.001, "origin": "measured", "low_ms": None, "high_ms": None, "n": 9}
UNSEEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "latency": first(lambda m: m.update(measured_ms=LATENCY)),
    "licence": lambda t: t.update(licence="MIT"),
    "limit": lambda t: t.update(max_top1_drop=0.5),
    "table": lambda t: t["parents"].update({next(n for n in t["parents"] if " " in n): "0" * 12}),
    "agreement": first(lambda m: m["verification"].update(agreement=0.9995)),
    "torch": first(lambda m: m["verification"].update(reference_top1=0.5)),
    "operators": first(lambda m: m.update(operators={})),
}
"""What no file and no image contradicts."""


@pytest.mark.parametrize("name", UNSEEN)
def test_a_certificate_is_what_was_written(
    name: str, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = model / "export.json"
    table = json.loads(path.read_text("utf-8"))
    UNSEEN[name](table)
    assert table != json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(table), "utf-8")
    for argv in (["runs/tiny"], [str(model)], [str(model / "model.onnx")], [str(path)]):
        for more in ([], ["--data", "digits"]):
            code, _, said = verify(*argv, *more, capfd=capfd)
            assert (code, "export.json was changed" in said) == (3, True), said
    path.write_text(json.dumps(sealed(table)), "utf-8")  # its own digest agrees: the run's do not
    for argv in (["runs/tiny"], [str(model)], [str(model / "model.onnx")], [str(path)]):
        code, _, said = verify(*argv, capfd=capfd)
        assert (code, "differs from manifest.json" in said) == (3, True), said
        assert "edgenas export" in said


def test_labels_are_those_of_the_certificate(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = model / "labels.txt"
    first, second, *others = labels.read_text("utf-8").splitlines()
    labels.write_text("\n".join([second, first, *others, ""]), "utf-8")
    away = Path(shutil.copytree(model, tmp_path / "away"))
    for argv in ([str(model / "model.onnx")], [str(model)], [str(away), "--data", "digits"]):
        code, _, said = verify(*argv, capfd=capfd)
        assert (code, "labels.txt was changed" in said) == (3, True), said
    crlf = "\r\n".join([first, second, *others, ""])
    (away / "labels.txt").write_bytes(crlf.encode())
    assert verify(str(away), "--data", "digits", capfd=capfd)[0] == 0, "as git does on Windows"
    (away / "labels.txt").unlink()
    assert verify(str(away), "--data", "digits", capfd=capfd)[0] == 0, "they need not be there"
    assert verify(str(away), "--data", "", capfd=capfd)[0] == 2, "a variable that is not set"


def test_classes_are_compared_one_by_one(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Right answers said to be of another class: top-1 is what it was."""

    def move(row: dict[str, Any]) -> None:
        of = row["verification"]["classes"]
        most, least = max(of, key=lambda c: c["top1"]), min(of, key=lambda c: c["top1"])
        for found, other in ((most, least["top1"]), (least, most["top1"])):
            found["top1_drop"] += found["top1"] - other
            found["top1"] = other

    edited(model / "export.json", first(move))
    away = Path(shutil.copytree(model, tmp_path / "away"))
    for argv in ([str(model / "model.onnx")], [str(away / "model.onnx"), "--data", "digits"]):
        code, _, said = verify(*argv, capfd=capfd)
        assert (code, "class by class" in said) == (5, True), said


def test_a_lie_in_the_file_itself_is_found(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another normalisation in file and certificate alike: neither is of the run's images."""
    path = model / "model.onnx"
    loaded = onnx.load(path)
    (entry,) = (e for e in loaded.metadata_props if e.key == "edgenas")
    document = json.loads(entry.value)
    document["input"]["std"] = [9.0]
    entry.value = json.dumps(document)
    onnx.save(loaded, path)

    def agree(row: dict[str, Any]) -> None:
        row.update(sha256=sha256_file(path), size_bytes=path.stat().st_size)
        row["input"]["std"] = [9.0]

    edited(model / "export.json", first(agree))
    code, _, said = verify(str(path), capfd=capfd)
    assert code == 3
    assert "is not of these images: std" in said
    code, _, said = verify(str(path), "--data", "digits", capfd=capfd)
    assert code == 5
    assert "by its certificate" in said


def test_a_rejected_file_is_no_success(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def reject(row: dict[str, Any]) -> None:
        row["path"] += ".rejected"
        row["verified"] = False
        row["gates"][0].update(verdict="failed", reason="it lost too much")

    (model / "model.onnx").rename(model / "model.onnx.rejected")
    edited(model / "export.json", first(reject))
    for path in (model, model / "model.onnx.rejected"):
        code, document, said = verify(str(path), capfd=capfd)
        assert code == 5
        assert "it lost too much" in said
        assert document["exports"]


def test_away_from_its_run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere" / "model"
    elsewhere.mkdir(parents=True)
    for name in ("model.onnx", "export.json"):
        shutil.copy(model / name, elsewhere / name)
    monkeypatch.chdir(tmp_path)
    recorded = read_certificate(elsewhere).models[0].verification
    path = "elsewhere/model/model.onnx"
    code, _, said = verify(path, capfd=capfd)
    assert code == 2
    assert "--data" in said
    code, document, _ = verify(path, "--data", "digits", capfd=capfd)
    assert code == 0
    (row,) = document["exports"]
    assert row["top1"] == pytest.approx(recorded.top1, abs=0.01)
    assert row["n_images"] == recorded.n
    assert row["verified"] is True
    assert any("are not repeated" in note for note in document["notes"])

    (elsewhere / "export.json").unlink()  # the file alone says how to prepare images
    code, document, _ = verify(path, "--data", "digits", capfd=capfd)
    assert code == 0
    assert document["exports"][0]["top1"] > 0.3


def test_the_next_step_is_of_the_file_that_was_changed(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path, step in (
        (Path("runs/tiny/front.json"), "put the file back"),
        (model / "labels.txt", "edgenas export"),
    ):
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        code, _, said = verify("runs/tiny", capfd=capfd)
        assert (code, path.name in said, step in said) == (3, True, True), said
        path.write_bytes(before)


def test_over_other_images(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    classes = list(read_certificate(model).models[0].input.classes)
    labels = np.array(classes)[np.arange(200) % 10]
    np.savez(tmp_path / "noise.npz", images=pixels, labels=labels)
    np.savez(
        tmp_path / "three.npz", images=pixels, labels=np.array(["a", "b", "c"])[np.arange(200) % 3]
    )
    path = str(model / "model.onnx")
    code, document, _ = verify(path, "--data", str(tmp_path / "noise.npz"), capfd=capfd)
    assert code == 0, "there is nothing that it could be held to"
    assert document["exports"][0]["verified"] is None
    assert "is not what the files were verified on" in document["notes"][0]
    code, _, said = verify(path, "--data", str(tmp_path / "three.npz"), capfd=capfd)
    assert code == 3
    assert "names 10 classes, " in said
    assert "three.npz has 3: it lacks '0', '1', '2', '3', '4', ... and adds 'a', 'b', 'c'" in said
    assert main(["verify", path, "--data", str(tmp_path / "noise.npz"), "--quiet"]) == 0
    out = capfd.readouterr().out
    assert "not compared" in out
    assert "too few" not in out


def test_what_could_not_be_written_fails_away_from_the_run(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failure = {"format": "tflite", "error": "it broke", "hint": "", "exit_code": 8}
    edited(model / "export.json", lambda table: table.update(failures=[failure]))
    code, _, said = verify(str(model), "--data", "digits", capfd=capfd)
    assert (code, "tflite: it broke" in said) == (8, True)
    code, _, said = verify(str(model / "model.onnx"), "--data", "digits", capfd=capfd)
    assert (code, said.count("it broke")) == (0, 0)


def test_why_a_target_is_inconclusive_is_said(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(model), "--quiet"]) == 0
    why = "inconclusive: invented-board-litert-int8-t1: no tflite-int8 file was exported"
    assert why in capfd.readouterr().out


@pytest.mark.parametrize("name", ["a.json", "a.onnxtxt", "a.textproto", "a.onnx", "a.tflite"])
def test_what_is_no_model_is_said_to_be_none(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    for content in (b"{}", b"\x08\x07 \xff\xfe", b"    TFL3" + bytes(64)):
        path.write_bytes(content)
        for argv in ([], ["--data", "digits"]):
            code, _, said = verify(str(path), *argv, capfd=capfd)
            assert code == 3, said


def test_a_file_that_is_not_there_is_said_not_to_be(capfd: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--data", "digits"]):
        code, _, said = verify("nowhere.onnx", *argv, capfd=capfd)
        assert code == 2
        assert "nowhere.onnx: there is no such file" in said


@pytest.mark.parametrize(
    ("drop_low", "code", "verified"), [(-0.01, 0, None), (0.015, 5, False)], ids=["chance", "sure"]
)
def test_a_drop_fails_away_from_the_run_only_where_chance_is_no_explanation(
    drop_low: float,
    code: int,
    verified: bool | None,  # noqa: FBT001  # a value of the parameters
    model: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def lose(row: dict[str, Any]) -> None:
        found = row["verification"]
        found.update(reference_top1=found["top1"] + 0.02, drop_low=drop_low)

    edited(model / "export.json", first(lose))
    found, document, said = verify(str(model / "model.onnx"), "--data", "digits", capfd=capfd)
    assert found == code, said
    assert document["exports"][0]["verified"] is verified


def test_a_file_without_a_certificate_is_first_run_where_it_can_do_no_harm(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    probed: list[Path] = []

    def crash(path: Path) -> None:
        probed.append(path)
        raise ArtifactError(f"{path} cannot be run (exit status -7): no message")

    monkeypatch.setattr(runners, "probe", crash)
    path = Path(shutil.copy(model / "model.onnx", tmp_path / "other.onnx"))
    code, _, said = verify(str(path), "--data", "digits", capfd=capfd)
    assert (code, "exit status -7" in said, probed) == (3, True, [path])
    assert verify(str(model / "model.onnx"), "--data", "digits", capfd=capfd)[0] == 0


def test_a_graph_other_than_it_says_of_itself_is_refused(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a certificate: what the file's own description says need not be true."""
    two = onnx.load(model / "model.onnx")
    two.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1]))
    larger = onnx.load(model / "model.onnx")
    (entry,) = (e for e in larger.metadata_props if e.key == "edgenas")
    document = json.loads(entry.value)
    _, h, w, c = document["input"]["shape"]
    document["input"]["shape"] = [1, 100 * h, 100 * w, c]
    entry.value = json.dumps(document)
    loose = onnx.load(model / "model.onnx")
    loose.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    for graph, told in (
        (two, "has 2 inputs"),
        (larger, "though it says"),
        (loose, "not all sizes are fixed"),
    ):
        onnx.save(graph, tmp_path / "other.onnx")
        code, _, said = verify(str(tmp_path / "other.onnx"), "--data", "digits", capfd=capfd)
        assert (code, told in said) == (3, True), said
