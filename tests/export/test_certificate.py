from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest

from edgenas.artifacts import sha256_file
from edgenas.errors import ArtifactError
from edgenas.export.certificate import (
    Certificate,
    DataStatement,
    ExportedModel,
    Failure,
    Latency,
    read_certificate,
    recheck,
    sealed,
    write_certificate,
)
from edgenas.export.contract import InputContract
from edgenas.export.verify import Gate, Verification

EVIDENCE = Verification(
    n=600,
    top1=0.9,
    reference_top1=0.905,
    top1_drop=0.005,
    drop_low=-0.001,
    drop_high=0.011,
    agreement=0.99,
    n_disagree=6,
    max_abs_difference=0.5,
    mean_abs_difference=0.01,
    logit_rms=3.0,
    logit_scale=1.0,
)


@pytest.fixture
def certificate(tmp_path):
    path = tmp_path / "model.int8.tflite"
    path.write_bytes(b"weights")
    model = ExportedModel(
        path=path.name,
        format="tflite-int8",
        precision="int8",
        sha256=sha256_file(path),
        size_bytes=7,
        input=InputContract(
            shape=(1, 8, 8, 1),
            mean=(0.5,),
            std=(0.2,),
            classes=("a", "b"),
            resize="bilinear-antialias",
            dtype="int8",
            scale=0.02,
            zero_point=-3,
        ),
        verification=EVIDENCE,
        gates=(Gate("top1_drop", "passed", "fine"), Gate("int8", "passed", "fine")),
        device="local-litert-int8-t1",
        predicted_ms=Latency(0.5, "predicted", 0.4, 0.6),
        measured_ms=Latency(0.52, "measured", n=500),
    )
    return Certificate(
        architecture="mobile/1 r=8",
        digest="0123456789ab",
        macs=1000,
        params=100,
        models=(model,),
        failures=(Failure("onnx", "no", "try again"),),
        parents={"supernet": "ba9876543210"},
        tools={"torch": "2.13.0"},
        data=DataStatement("digits", "ba9876543210", 0, 8, 1, {"test": 600}),
    )


def edit(folder, change):
    path = folder / "export.json"
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(sealed(table)))


def test_round_trip(certificate, tmp_path):
    write_certificate(tmp_path, certificate)
    assert read_certificate(tmp_path) == certificate
    assert recheck(tmp_path) == certificate
    before = (tmp_path / "export.json").read_bytes()
    write_certificate(tmp_path, read_certificate(tmp_path))
    assert (tmp_path / "export.json").read_bytes() == before


def test_problems_and_exit_code(certificate):
    assert certificate.exit_code == 8
    assert certificate.problems() == ("onnx: no",)
    failed = replace(certificate.models[0], gates=(Gate("top1_drop", "failed", "too much"),))
    worse = replace(certificate, models=(failed,))
    assert worse.exit_code == 5
    assert "model.int8.tflite: top1_drop: too much" in worse.problems()
    assert replace(certificate, failures=()).exit_code == 0


def test_verified_is_none_while_inconclusive(certificate):
    model = certificate.models[0]
    assert model.verified is True
    assert replace(model, gates=(Gate("x", "inconclusive", ""),)).verified is None
    assert replace(model, gates=(Gate("x", "failed", ""),)).verified is False


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(extra=1),
        lambda t: t.pop("macs"),
        lambda t: t["models"][0].update(path="../elsewhere"),
        lambda t: t["models"][0].update(path="/etc/passwd"),
        lambda t: t["models"][0].update(sha256="0"),
        lambda t: t["models"][0].update(verified=False),
        lambda t: t["models"][0]["verification"].update(top1=1.5),
        lambda t: t["models"][0]["verification"].update(n=0),
        lambda t: t["models"][0]["measured_ms"].update(value_ms=-1.0),
        lambda t: t["models"][0]["gates"][0].update(verdict="fine"),
        lambda t: t["models"][0]["input"].update(std=[0.0]),
        lambda t: t.update(schema="edgenas.export/2"),
        lambda t: t["data"].update(image_size=3),
    ],
)
def test_damaged_certificates_are_refused(certificate, tmp_path, change):
    write_certificate(tmp_path, certificate)
    edit(tmp_path, change)
    with pytest.raises(ArtifactError, match=r"export\.json"):
        read_certificate(tmp_path)


def test_no_flipped_bit_is_taken(certificate, tmp_path):
    write_certificate(tmp_path, certificate)
    path = tmp_path / "export.json"
    whole = path.read_bytes()
    taken = []
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with contextlib.suppress(ArtifactError):
            taken.append((place, read_certificate(tmp_path)))
    assert all(found == certificate for _, found in taken), taken
    assert len(taken) < len(whole) / 100, "only the writing of a number"


def test_tampered_files_are_found(certificate, tmp_path):
    write_certificate(tmp_path, certificate)
    (tmp_path / "model.int8.tflite").write_bytes(b"Weights")
    with pytest.raises(ArtifactError, match="was changed"):
        recheck(tmp_path)
