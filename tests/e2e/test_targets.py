"""A run on images of an unusual shape, for all kinds of targets, and what lies beside its model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.artifacts import check_manifest, sha256_file, toml_value, write_manifest
from edgenas.cli.main import main
from edgenas.data import prepare
from edgenas.data.folder import read_image
from edgenas.export.certificate import read_certificate, write_certificate
from edgenas.export.contract import read_document
from edgenas.export.formats import FORMATS
from edgenas.export.runners import open_model
from edgenas.objectives import Objective
from edgenas.pareto import ParetoFront
from edgenas.report import load_run
from edgenas.spaces.mobile import MobileSpace
from edgenas.targets import operators_of_file
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_invented_device

pytestmark = pytest.mark.slow

TARGETS = (
    "android-litert-int8-t4",
    "android-nnapi-int8",
    "coral-usb-edgetpu-int8",
    "cortex-m-tflm-int8",
    "ethos-u55-128-vela-int8",
    "rpi4-litert-int8-t4",
    "rpi4-onnxruntime-fp32-t4",
    "x86-openvino-fp32",
)
CLASSES = tuple(f'kind "{i}"?' for i in range(7))
SPACE = MobileSpace(
    resolutions=(32,),
    stages=tiny_space().stages,
    stem_width=8,
    head_width=32,
    in_channels=3,
    n_classes=len(CLASSES),
)


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy stripes, 96x96 in colour: a class is a direction and a width."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(CLASSES)
    y, x = np.mgrid[:96, :96] / 96
    pixels = np.empty((n, 96, 96, 3), np.uint8)
    for i, label in enumerate(labels):
        turn = np.pi * label / len(CLASSES)
        wave = np.sin(2 * np.pi * (3 + label) * (x * np.cos(turn) + y * np.sin(turn)))
        noisy = 127 + 90 * wave[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 20, (96, 96, 3))
        pixels[i] = np.clip(noisy, 0, 255)
    return pixels, labels


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made by the command line alone."""
    pytest.importorskip("litert_torch", reason="needs the extra edgenas[tflite]")
    pytest.importorskip("tflite_micro", reason="needs the extra edgenas[micro]")
    folder = tmp_path_factory.mktemp("targets")
    x_train, y_train = images(490, 0)
    x_test, y_test = images(700, 1)
    named = {"y_train": np.array(CLASSES)[y_train], "y_test": np.array(CLASSES)[y_test]}
    np.savez(folder / "stripes.npz", x_train=x_train, x_test=x_test, **named)
    write_invented_device(folder, SPACE)
    (folder / "run.toml").write_text(
        f"""schema = "edgenas.run/1"
name = "stripes"
space = {toml_value(SPACE.to_table())}
[data]
source = "stripes.npz"
[search]
devices = ["{INVENTED_DEVICE}"]
objectives = ["max top1", "min latency_ms"]
trials = 4
[train]
epochs = 8
batch = 32
n_random = 1
[export]
formats = {toml_value(FORMATS)}
targets = {toml_value(TARGETS)}
top = 1
""",
        "utf-8",
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["search", "run.toml", "--quiet"]) == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "stripes"


@pytest.fixture(scope="module")
def model(finished: Path) -> Path:
    """The folder of its one exported network."""
    (certificate,) = finished.glob("models/*/export.json")
    return certificate.parent


def test_every_format_is_verified_and_every_target_answers(finished: Path, model: Path) -> None:
    check_manifest(finished)
    certificate = read_certificate(model)
    assert [m.format for m in certificate.models] == list(FORMATS)
    assert [m.verified for m in certificate.models] == [True] * 5, certificate.problems()
    assert {m.input.shape for m in certificate.models} == {(1, 32, 32, 3)}
    found = {target.device: target for target in certificate.targets}
    assert list(found) == [INVENTED_DEVICE, *TARGETS]
    openvino = found.pop("x86-openvino-fp32")
    if importlib.util.find_spec("openvino") is None:
        assert openvino.verdict == "inconclusive"
        assert "pip install" in openvino.reasons[0]
    else:
        assert openvino.verdict == "passed", openvino.reasons
    assert {name: t.verdict for name, t in found.items()} == dict.fromkeys(found, "passed")
    npu = found["ethos-u55-128-vela-int8"]
    assert npu.checked_by.startswith("vela 5.")
    assert npu.on_npu_share == 1
    assert npu.cycles
    assert npu.sram_bytes
    micro = found["cortex-m-tflm-int8"]
    assert micro.checked_by.startswith("tflm ")
    assert 10_000 < (micro.arena_bytes or 0) < 262_144
    assert micro.flash_bytes == (model / "model.int8.tflite").stat().st_size
    assert "32 of 32 answers" in micro.reasons[0]
    coral = found["coral-usb-edgetpu-int8"]
    assert "published operator list" in coral.checked_by
    assert "not available here" in coral.reasons[-1]


def test_memory_of_a_target_bounds_the_search(finished: Path) -> None:
    front = ParetoFront.read(finished / "front.json", parse=SPACE.parse)
    arena = Objective("peak_memory_bytes", "cortex-m-tflm-int8", relation="<=", bound=256901.0)
    assert arena in front.objectives
    planned = front.candidates[0].values[arena.name]
    measured = [
        t.arena_bytes
        for path in finished.glob("models/*/export.json")
        for t in read_certificate(path.parent).targets
        if t.arena_bytes
    ]
    assert planned == pytest.approx(measured[0], rel=0.4), "of another network of the front"


def test_the_report_shows_the_targets(finished: Path) -> None:
    view = load_run(finished)
    assert [t.device for t in view.models[0].targets] == [INVENTED_DEVICE, *TARGETS]
    page = (finished / "report.html").read_text("utf-8")
    assert "cortex-m-tflm-int8" in page
    assert "published operator list" in page
    assert "cortex-m-tflm-int8" in (finished / "report.md").read_text("utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_the_script_answers_as_the_runner_does(model: Path, tmp_path: Path, name: str) -> None:
    pixels, _ = images(7, 2)
    photo = tmp_path / "photo.png"  # neither square nor of the data's size
    Image.fromarray(pixels[4]).resize((150, 130)).save(photo)
    certificate = read_certificate(model)
    (exported,) = (m for m in certificate.models if m.format == name)
    contract = exported.input
    read = read_image(photo, channels=3, size=96)
    ready = prepare(read[None], resolution=32, mean=contract.mean, std=contract.std)
    expected = open_model(model / exported.path).run(ready.permute(0, 2, 3, 1).numpy())[0]

    argv = [sys.executable, "infer.py", exported.path, str(photo)]
    done = subprocess.run([*argv, "--json"], cwd=model, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["label"] == contract.classes[int(expected.argmax())]
    step = 1e-3 if exported.precision == "fp32" else 0.2
    np.testing.assert_allclose(answer["logits"], expected, atol=step)
    told = subprocess.run([*argv, "--top", "2"], cwd=model, capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(answer["label"])


compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@compiler
def test_the_c_array_compiles_and_is_the_file(model: Path, tmp_path: Path) -> None:
    main_c = tmp_path / "main.c"
    main_c.write_text(
        '#include <stdint.h>\n#include <stdio.h>\n#include "model_data.h"\n'
        "int main(void) {\n"
        "  if ((uintptr_t)model_data % 16) return 1;\n"
        "  fwrite(model_data, 1, MODEL_BYTES, stdout);\n"
        '  fprintf(stderr, "%d %s", MODEL_ARENA_BYTES, model_labels[MODEL_CLASSES - 1]);\n'
        "  return 0;\n}\n"
    )
    flags = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", "-I", str(model / "micro")]
    subprocess.run(
        ["cc", *flags, str(main_c), str(model / "micro" / "model_data.c"), "-o", "out"],
        cwd=tmp_path,
        check=True,
    )
    done = subprocess.run([str(tmp_path / "out")], capture_output=True, check=True)
    assert done.stdout == (model / "model.int8.tflite").read_bytes()
    arena, label = done.stderr.decode().split(" ", 1)
    (measured,) = (t.arena_bytes for t in read_certificate(model).targets if t.arena_bytes)
    assert 0 <= int(arena) - measured < 16
    assert label == CLASSES[-1]


STAND_INS = {
    "tensorflow/lite/c/c_api.h": """
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk };
enum TfLiteType { kTfLiteFloat32, kTfLiteInt8 };
struct TfLiteQuantizationParams { float scale; int32_t zero_point; };
struct TfLiteModel; struct TfLiteInterpreter; struct TfLiteInterpreterOptions; struct TfLiteTensor;
TfLiteModel* TfLiteModelCreateFromFile(const char*);
void TfLiteModelDelete(TfLiteModel*);
TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate();
void TfLiteInterpreterOptionsDelete(TfLiteInterpreterOptions*);
TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*);
void TfLiteInterpreterDelete(TfLiteInterpreter*);
TfLiteStatus TfLiteInterpreterAllocateTensors(TfLiteInterpreter*);
TfLiteStatus TfLiteInterpreterInvoke(TfLiteInterpreter*);
TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter*, int32_t);
const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter*, int32_t);
TfLiteQuantizationParams TfLiteTensorQuantizationParams(const TfLiteTensor*);
TfLiteType TfLiteTensorType(const TfLiteTensor*);
size_t TfLiteTensorByteSize(const TfLiteTensor*);
void* TfLiteTensorData(const TfLiteTensor*);
TfLiteStatus TfLiteTensorCopyFromBuffer(TfLiteTensor*, const void*, size_t);
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
#define TF_LITE_ENSURE_STATUS(a) do { if ((a) != kTfLiteOk) return kTfLiteError; } while (0)
struct TfLiteTensor { union { int8_t* int8; } data; };
namespace tflite {
struct Model; struct MicroOpResolver {};
struct MicroInterpreter {
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors(); TfLiteStatus Invoke();
  TfLiteTensor* input(size_t); TfLiteTensor* output(size_t);
};
}
""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
#pragma once
namespace tflite {
template <unsigned N> struct MicroMutableOpResolver : MicroOpResolver {
  TfLiteStatus AddAdd(); TfLiteStatus AddConv2D(); TfLiteStatus AddDepthwiseConv2D();
  TfLiteStatus AddFullyConnected(); TfLiteStatus AddMean(); TfLiteStatus AddPad();
};
}
""",
    "tensorflow/lite/schema/schema_generated.h": """
#pragma once
namespace tflite { const Model* GetModel(const void*); }
""",
}
"""Declarations of what the snippets call, as TensorFlow's headers have them, which are not here."""


def write_stand_ins(folder: Path) -> None:
    for header, text in STAND_INS.items():
        path = folder / header
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("name", ["classify.cc", "micro/model_runner.h"])
def test_the_cpp_snippets_compile(model: Path, tmp_path: Path, name: str) -> None:
    write_stand_ins(tmp_path)
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", str(tmp_path)]
    subprocess.run(["c++", *flags, "-x", "c++", str(model / name)], check=True)


MAIN = """
#include <cstdio>
#include "model_runner.h"
static std::int8_t bytes[MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS];
static TfLiteTensor tensor{{bytes}};
TfLiteStatus tflite::MicroInterpreter::AllocateTensors() { return kTfLiteOk; }
TfLiteTensor* tflite::MicroInterpreter::input(size_t) { return &tensor; }
const tflite::Model* tflite::GetModel(const void*) { return nullptr; }
int main() {
  static ModelRunner runner;
  static std::uint8_t pixels[sizeof(bytes)];
  for (size_t i = 0; i < sizeof(pixels); ++i) pixels[i] = static_cast<std::uint8_t>(i);
  runner.Fill(pixels);
  for (int byte : bytes) std::printf("%d ", byte);
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_runner_takes_pixels_as_the_file_wants_them(model: Path, tmp_path: Path) -> None:
    write_stand_ins(tmp_path)
    shutil.copytree(model / "micro", tmp_path / "micro")
    header_file = tmp_path / "micro" / "model_data.h"
    wide = re.sub(r"(INPUT_SCALE) .*", r"\1 0.007f", header_file.read_text("utf-8"))
    header_file.write_text(wide, "utf-8")  # so that some lie outside of a byte
    (tmp_path / "main.cc").write_text(MAIN)
    places = ["-I", str(tmp_path), "-I", str(tmp_path / "micro")]
    data = tmp_path / "data.o"
    subprocess.run(
        ["cc", "-c", *places, str(tmp_path / "micro" / "model_data.c"), "-o", str(data)], check=True
    )
    built = tmp_path / "main"
    argv = ["c++", "-std=c++17", *places, str(tmp_path / "main.cc"), str(data), "-o", str(built)]
    subprocess.run(argv, check=True)
    done = subprocess.run([str(built)], check=True, capture_output=True, text=True)
    found = np.array(done.stdout.split(), int)
    contract, _ = read_document(model / "model.int8.tflite")
    height, width, channels = contract.shape[1:]
    values = (np.arange(height * width * channels) % 256).astype(np.uint8) / 255
    mean, std = (np.tile(part, height * width) for part in (contract.mean, contract.std))
    expected = np.clip(np.round((values - mean) / std / 0.007) + contract.zero_point, -128, 127)
    assert {-128, 127} <= set(found)
    assert np.abs(found - expected).max() <= 1, "half a step may be rounded either way"
    assert (found == expected).mean() > 0.99


def test_the_runner_adds_the_operators_that_the_file_has(model: Path) -> None:
    text = (model / "micro" / "model_runner.h").read_text("utf-8")
    adds = [
        line.split(".")[1].split("(")[0] for line in text.splitlines() if "operators.Add" in line
    ]
    names = {op.name for op in operators_of_file(model / "model.int8.tflite")}
    assert {add[3:].lower() for add in adds} == {name.replace("_", "").lower() for name in names}
    assert adds == sorted(set(adds))
    assert f"MicroMutableOpResolver<{len(adds)}>" in text


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the working folder; the path of its exported network in it."""
    work = tmp_path / "work"
    shutil.copytree(finished.parent.parent, work)
    monkeypatch.chdir(work)
    (certificate,) = Path("runs/stripes").glob("models/*/export.json")
    return certificate.parent


def test_verify_repeats_gates_and_targets(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copied / "model.int8.tflite"), "--quiet", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [row["format"] for row in document["exports"]] == ["tflite-int8"]
    assert {t["device"] for t in document["targets"]} >= {"cortex-m-tflm-int8"}
    limited = Path("devices/cortex-m-tflm-int8.toml")
    limited.write_text(
        'schema = "edgenas.device/1"\nname = "cortex-m-tflm-int8"\ntitle = "Less memory"\n'
        'class = "mcu"\nchip = "cortex-m"\nruntime = "tflm"\nprecision = "int8"\n'
        "[memory]\nram_bytes = 12000\nflash_bytes = 524288\n"
    )
    assert main(["verify", str(copied / "model.int8.tflite"), "--quiet"]) == 5
    assert "bytes of RAM, the device has 12,000" in "".join(capfd.readouterr())


def test_away_from_the_run_the_targets_that_are_known_are_asked_again(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away"
    shutil.copytree(copied, away / "model")
    shutil.copy(copied.parent.parent.parent.parent / "stripes.npz", away)
    stated = {t.device for t in read_certificate(copied).targets if t.path == "model.int8.tflite"}
    monkeypatch.chdir(away)
    argv = ["model/model.int8.tflite", "--data", "stripes.npz", "--quiet", "--json"]
    assert main(["verify", *argv]) == 0
    document = json.loads(capfd.readouterr().out)
    found = {t["device"]: t for t in document["targets"]}
    assert found.keys() == stated - {INVENTED_DEVICE}
    assert found["cortex-m-tflm-int8"]["arena_bytes"] > 0
    assert found["ethos-u55-128-vela-int8"]["on_npu_share"] >= 0.95
    (unknown,) = (note for note in document["notes"] if INVENTED_DEVICE in note)
    assert "is not asked about model.int8.tflite" in unknown


def test_a_file_changed_by_one_byte_is_refused(
    copied: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = copied / "model.int8.tflite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(path), "--quiet"]) == 3
    assert "was changed since it was verified" in capfd.readouterr().err


def test_a_file_of_someone_else_is_refused(
    copied: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    foreign = onnx.helper.make_model(graph)
    alone = tmp_path / "theirs.onnx"
    onnx.save(foreign, alone)
    assert main(["verify", str(alone), "--quiet"]) == 3
    told = capfd.readouterr().err
    assert "has no certificate" in told
    assert "carries no description by edgenas" in told
    assert main(["verify", str(alone), "--data", "stripes.npz", "--quiet"]) == 3
    assert "take a file that edgenas exported" in capfd.readouterr().err
    beside = copied / "theirs.onnx"
    onnx.save(foreign, beside)
    assert main(["verify", str(beside), "--quiet"]) == 3
    assert "not in the certificate beside it" in capfd.readouterr().err
    onnx.save(foreign, copied / "model.onnx")
    assert main(["verify", str(copied / "model.onnx"), "--quiet"]) == 3
    assert "was changed" in capfd.readouterr().err


def test_a_file_with_other_classes_fails(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from edgenas.export import tflite

    path = copied / "model.tflite"
    model = tflite.unpack(path.read_bytes(), path)
    graph = model.subgraphs[0]
    last = graph.operators[-1]
    assert isinstance(last.builtinOptions, schema.FullyConnectedOptionsT)
    weights, bias = (graph.tensors[int(t)] for t in last.inputs[1:3])
    weights.shape = np.array([5, *weights.shape[1:]], np.int32)
    bias.shape = np.array([5], np.int32)
    for tensor, n in ((weights, 4 * 5 * int(weights.shape[1])), (bias, 4 * 5)):
        buffer = model.buffers[tensor.buffer]
        buffer.data = np.asarray(buffer.data[:n])
    graph.tensors[int(graph.outputs[0])].shape = np.array([1, 5], np.int32)
    path.write_bytes(tflite._pack(model))
    certificate = read_certificate(copied)
    models = tuple(
        replace(m, sha256=sha256_file(path), size_bytes=path.stat().st_size)
        if m.path == path.name
        else m
        for m in certificate.models
    )
    write_certificate(copied, replace(certificate, models=models))
    write_manifest(copied.parent.parent)
    assert main(["verify", str(path), "--quiet"]) == 5
    assert "5 classes, the network" in capfd.readouterr().err
