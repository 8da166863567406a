"""Evidence of targets on real exported files, from the tools themselves where those are here."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgenas.artifacts import sha256_file
from edgenas.errors import ArtifactError
from edgenas.export import targets, tflite
from edgenas.export.certificate import (
    REJECTED,
    Certificate,
    ExportedModel,
    TargetEvidence,
    read_certificate,
    write_certificate,
)
from edgenas.export.contract import InputContract
from edgenas.export.ready import c_string, check_micro, micro_methods, write_ready
from edgenas.export.targets import check_targets
from edgenas.export.verify import Gate, Verification
from edgenas.hardware import DeviceProfile, load_device_file
from edgenas.hardware.micro import MicroArena
from edgenas.hardware.transports import LOCAL
from edgenas.models import read_model
from edgenas.models.tflite import unpack
from edgenas.targets import operators_of_file

ROOT = Path(__file__).parents[2]
CALIBRATION = ROOT / "edgenas" / "shipped" / "calibration"
SOURCE = min(CALIBRATION.glob("*.int8.tflite"), key=lambda path: path.stat().st_size)
EVIDENCE = Verification(600, 0.9, 0.9, 0.0, -0.01, 0.01, 0.99, 6, 0.5, 0.01, 3.0, 1.0)
CLASSES = tuple(f"class {i}" for i in range(10))

needs_micro = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="needs the extra edgenas[micro]"
)
needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="needs the extra edgenas[micro]"
)


def device(name: str) -> DeviceProfile:
    return load_device_file(ROOT / "devices" / f"{name}.toml")


def certified(folder: Path, **files: Path) -> Certificate:
    """A certificate over copies of `files`, by format (with _ for -)."""
    models = []
    for key, source in files.items():
        kind = key.replace("_", "-")
        path = folder / ("model" + ".".join(source.name.partition(".")[1:]))
        path.write_bytes(source.read_bytes())
        size = tflite.unpack(SOURCE.read_bytes(), SOURCE).subgraphs[0].tensors[0].shape[1]
        scale = tflite.input_quantisation(SOURCE)
        models.append(
            ExportedModel(
                path=path.name,
                format=kind,
                precision="int8",
                sha256=sha256_file(path),
                size_bytes=path.stat().st_size,
                input=InputContract(
                    (1, int(size), int(size), 1),
                    (0.5,),
                    (0.25,),
                    CLASSES,
                    "bilinear-antialias",
                    **(scale if path.suffix == ".tflite" else {}),
                ),
                verification=EVIDENCE,
                gates=(Gate("int8", "passed", "fine"),),
            )
        )
    return Certificate("mobile/1 r=24", "0123456789ab", 1000, 100, tuple(models))


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return certified(tmp_path, tflite_int8=SOURCE)


@pytest.fixture
def images(certificate: Certificate) -> np.ndarray:
    shape = certificate.models[0].input.shape
    return np.random.default_rng(0).standard_normal((40, *shape[1:]), dtype=np.float32)


def asked(
    folder: Path, certificate: Certificate, images: np.ndarray, target: DeviceProfile
) -> TargetEvidence:
    (found,) = check_targets(folder, certificate, [target], images=images)
    return found


def test_a_mixed_file_is_asked_about_on_the_device_that_runs_it(tmp_path: Path) -> None:
    source = tmp_path / "a.mixed.tflite"
    source.write_bytes(SOURCE.read_bytes())
    certificate = certified(tmp_path, tflite_int8=SOURCE, tflite_mixed=source)
    images = np.zeros((4, *certificate.models[0].input.shape[1:]), np.float32)
    pi = device("rpi4-litert-int8-t4")
    small = replace(pi, flash_bytes=1000)

    def told(target: DeviceProfile, held: Certificate) -> list[tuple[str, str]]:
        found = check_targets(
            tmp_path, held, [target], images=images, mixtures={"tflite-mixed": pi}
        )
        return [(one.path, one.verdict) for one in found]

    both = [model.path for model in certificate.models]
    assert told(pi, certificate) == [(path, "passed") for path in both]
    assert told(small, certificate) == [(path, "failed") for path in both]
    alone = replace(certificate, models=certificate.models[1:])
    assert told(pi, alone) == [(both[1], "passed")]
    other = replace(pi, name="another")
    assert told(other, alone) == [("", "inconclusive")]


def test_answers_are_compared_on_images_of_the_whole_split(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, shape = 1000, certificate.models[0].input.shape[1:]
    images = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, *shape))
    seen: list[np.ndarray] = []

    def noted(path: Path, device: DeviceProfile, chain: object, images: np.ndarray) -> object:
        seen.append(images[:, 0, 0, 0])
        return targets._Told("noted")

    monkeypatch.setattr(targets, "_asked", noted)
    asked(tmp_path, certificate, images, device("rpi4-litert-int8-t4"))
    assert (len(seen[0]), seen[0][0], seen[0][-1]) == (targets.ANSWERS, 0, n - 1)
    assert max(np.diff(seen[0])) < 2 * n / targets.ANSWERS


@needs_vela
def test_vela_says_what_share_the_npu_runs(certificate, images, tmp_path) -> None:
    ethos = device("ethos-u55-128-vela-int8")
    found = asked(tmp_path, certificate, images, ethos)
    assert (found.verdict, found.on_npu_share) == ("passed", 1.0)
    assert found.checked_by.startswith("vela ")
    assert min(found.cycles or 0, found.sram_bytes or 0, found.flash_bytes or 0) > 1000
    less = replace(ethos, ram_bytes=1024)
    found = asked(tmp_path, certificate, images, less)
    assert found.verdict == "failed"
    assert "bytes of RAM, the device has 1,024" in found.problem


def test_too_few_operators_on_the_npu_fail(
    certificate, images, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgenas.hardware.vela import Estimate

    def estimated(npu: int, cpu: int):
        return lambda path, settings: Estimate(1.0, 500_000, 5e8, 9000, 9000, npu, cpu)

    ethos = device("ethos-u55-128-vela-int8")
    for npu, cpu, verdict in ((19, 1, "passed"), (18, 1, "failed")):
        monkeypatch.setattr(targets, "estimate", estimated(npu, cpu))
        found = asked(tmp_path, certificate, images, ethos)
        assert found.verdict == verdict
    assert "18 of 19 operators on the NPU, 95% are wanted" in found.problem


@needs_micro
def test_tflite_micro_gives_arena_and_answers(certificate, images, tmp_path) -> None:
    board = device("cortex-m-tflm-int8")
    found = asked(tmp_path, certificate, images, board)
    assert found.verdict == "passed", found.reasons
    assert found.checked_by.startswith("tflm ")
    assert found.flash_bytes == certificate.models[0].size_bytes
    assert "32 of 32 answers" in found.reasons[0]
    arena = found.arena_bytes or 0
    assert asked(tmp_path, certificate, images, replace(board, ram_bytes=arena)).verdict == "passed"
    small = replace(board, ram_bytes=arena - 1, flash_bytes=1000)
    found = asked(tmp_path, certificate, images, small)
    assert found.verdict == "failed"
    assert "RAM" in found.problem
    assert "flash" in found.problem


@needs_micro
def test_an_interpreter_that_answers_otherwise_fails(
    certificate, images, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does where weights lie outside the flatbuffer: TFLite-Micro answers with a constant."""
    run = targets.MicroRunner.run
    monkeypatch.setattr(targets.MicroRunner, "run", lambda self, x: run(self, x * 0)[:, ::-1])
    found = asked(tmp_path, certificate, images, device("cortex-m-tflm-int8"))
    assert found.verdict == "failed"
    assert "of 32 answers are those of LiteRT" in found.problem


@needs_micro
def test_tflite_micro_answers_in_the_arena_that_was_measured(
    certificate, images, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model needs more than the interpreter is given by default."""
    given = []
    start = targets.MicroRunner.__init__

    def started(self, path, *, arena_bytes) -> None:
        given.append(arena_bytes)
        start(self, path, arena_bytes=arena_bytes)

    monkeypatch.setattr(targets.MicroRunner, "__init__", started)
    large = 9 * 2**20
    monkeypatch.setattr(targets, "measure_arena", lambda path: MicroArena(large, large, 0))
    found = asked(tmp_path, certificate, images, device("cortex-m-tflm-int8"))
    assert given[0] > large
    assert found.arena_bytes == large
    monkeypatch.setattr(targets, "_ARENA_SLACK", 0)
    monkeypatch.setattr(targets, "measure_arena", lambda path: MicroArena(9000, 9000, 0))
    found = asked(tmp_path, certificate, images, device("cortex-m-tflm-int8"))
    assert found.verdict == "failed"
    assert "TFLite-Micro refuses it in 9000 bytes" in found.problem


@needs_micro
def test_an_operator_that_tflite_micro_lacks_fails(certificate, images, tmp_path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    path = tmp_path / certificate.models[0].path
    model = unpack(path.read_bytes(), path)
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.ADD:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.POW
    path.write_bytes(tflite._pack(model))
    found = asked(tmp_path, certificate, images, device("cortex-m-tflm-int8"))
    assert found.verdict == "failed"
    assert "POW (operator" in found.problem
    assert "TFLite-Micro refuses" in found.problem


@pytest.mark.parametrize(
    ("name", "tool", "hint"),
    [
        ("ethos-u55-128-vela-int8", "ethosu", 'pip install "edgenas[micro]"'),
        ("cortex-m-tflm-int8", "tflite_micro", 'pip install "edgenas[micro]"'),
    ],
)
def test_without_its_tool_nothing_is_called_passed(
    certificate, images, tmp_path, monkeypatch: pytest.MonkeyPatch, name: str, tool: str, hint: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == tool else found(n))
    evidence = asked(tmp_path, certificate, images, device(name))
    assert evidence.verdict == "inconclusive"
    assert hint in " ".join(evidence.reasons)
    small = replace(device(name), flash_bytes=1000)
    assert asked(tmp_path, certificate, images, small).verdict == "failed"


def test_a_published_list_is_named_with_its_address(certificate, images, tmp_path) -> None:
    found = asked(tmp_path, certificate, images, device("coral-usb-edgetpu-int8"))
    assert (found.verdict, found.on_npu_share) == ("passed", 1.0)
    assert found.checked_by == "published operator list, 2026-11"
    assert "https://coral.ai" in found.reasons[0]
    own = replace(device("coral-usb-edgetpu-int8"), operators=("CONV_2D", "DEPTHWISE_CONV_2D"))
    found = asked(tmp_path, certificate, images, own)
    assert (found.verdict, found.checked_by) == ("failed", "the operators of the device's file")
    assert "coral.ai" not in " ".join(found.reasons)
    assert "not among the device's operators" in found.problem


def test_the_last_mean_may_stay_on_the_processor_and_more_may_not(
    certificate, images, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgenas.targets import Operator

    def network(n: int, n_means: int) -> None:
        mean = Operator("MEAN", "x", version=2, rescales=True)
        operators = [Operator("CONV_2D", "x", version=3)] * (n - n_means) + [mean] * n_means
        monkeypatch.setattr(targets, "operators_of_file", lambda path: operators)

    phone = device("android-nnapi-int8")
    for n, n_means, verdict in ((9, 1, "passed"), (30, 3, "passed"), (29, 3, "failed")):
        network(n, n_means)
        found = asked(tmp_path, certificate, images, phone)
        assert (found.verdict, found.on_npu_share) == (verdict, pytest.approx(1 - n_means / n))
    assert "89.7% of the operators are taken, 90% are wanted; not: MEAN" in found.problem


def test_a_float_file_fails_where_integers_alone_are_taken(
    certificate, images, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = replace(read_model(tmp_path / certificate.models[0].path), precision="fp32")
    monkeypatch.setattr(targets, "read_model", lambda path: graph)
    found = asked(tmp_path, certificate, images, device("coral-usb-edgetpu-int8"))
    assert found.verdict == "failed"
    assert "it takes int8 files, this is fp32" in found.problem


def test_a_format_that_was_not_exported_leaves_it_open(certificate, images, tmp_path) -> None:
    found = asked(tmp_path, certificate, images, device("rpi4-onnxruntime-fp32-t4"))
    assert (found.verdict, found.path) == ("inconclusive", "")
    assert "no onnx file" in found.reasons[0]
    name = certificate.models[0].path + REJECTED
    rejected = replace(certificate, models=(replace(certificate.models[0], path=name),))
    assert asked(tmp_path, rejected, images, device("rpi4-litert-int8-t4")).path == ""


def test_devices_of_which_nothing_is_known_are_left_out_unless_wanted(
    certificate, images, tmp_path
) -> None:
    unknown = device("nucleo-h7a3zi-xcubeai-int8-t1")
    assert unknown.connection == LOCAL
    assert check_targets(tmp_path, certificate, [unknown], images=images) == ()
    asked_for = {"images": images, "wanted": [unknown.name]}
    (found,) = check_targets(tmp_path, certificate, [unknown], **asked_for)
    assert (found.verdict, found.reasons) == (
        "inconclusive",
        ("what xcubeai accepts is not known here",),
    )
    limited = replace(unknown, ram_bytes=1000)
    assert "bytes of RAM" in asked(tmp_path, certificate, images, limited).problem
    found = asked(tmp_path, certificate, images, replace(unknown, ram_bytes=10**6))
    assert found.verdict == "inconclusive"
    assert found.reasons == ("what xcubeai accepts is not known here",)


def test_own_operators_are_held_against_a_file_where_nothing_else_is_known(
    certificate, images, tmp_path
) -> None:
    names = {op.name for op in operators_of_file(tmp_path / certificate.models[0].path)}
    board = replace(device("nucleo-h7a3zi-xcubeai-int8-t1"), operators=tuple(names))
    found = asked(tmp_path, certificate, images, board)
    assert (found.verdict, found.checked_by) == ("passed", "the operators of the device's file")
    assert found.reasons == ("xcubeai itself is not asked",)
    found = asked(tmp_path, certificate, images, replace(board, operators=("CONV_2D",)))
    assert found.verdict == "failed"
    assert "not among the device's operators" in found.problem


@needs_vela
def test_own_operators_are_held_against_a_file_beside_vela(certificate, images, tmp_path) -> None:
    board = replace(device("ethos-u55-128-vela-int8"), operators=("CONV_2D",))
    found = asked(tmp_path, certificate, images, board)
    assert found.verdict == "failed"
    assert "not among the device's operators" in found.problem
    assert found.cycles


def test_openvino_is_asked_where_it_is_installed(images, tmp_path) -> None:
    source = SOURCE.with_suffix(".onnx")
    certificate = certified(tmp_path, onnx_int8=source)
    x86 = replace(device("x86-openvino-fp32"), precision="int8")
    found = asked(tmp_path, certificate, images, x86)
    if importlib.util.find_spec("openvino") is None:
        assert found.verdict == "inconclusive"
        assert 'pip install "edgenas[openvino]"' in found.reasons[0]
    else:
        assert found.verdict == "passed", found.reasons
        assert found.checked_by.startswith("openvino 2")
    found = asked(tmp_path, certificate, images, replace(x86, operators=("Conv",)))
    assert found.verdict == "failed"
    assert "Transpose (" in found.problem


def test_targets_stand_in_the_certificate_and_fail_it(certificate, images, tmp_path) -> None:
    board = replace(device("rpi4-litert-int8-t4"), flash_bytes=1000)
    told = check_targets(tmp_path, certificate, [board], images=images)
    failed = replace(certificate, targets=told)
    assert failed.exit_code == 5
    assert failed.problems() == (told[0].problem,)
    write_certificate(tmp_path, failed)
    assert read_certificate(tmp_path) == failed
    assert replace(certificate, targets=()).exit_code == 0
    write_certificate(tmp_path, certificate)
    assert b"targets" not in (tmp_path / "export.json").read_bytes()


@needs_micro
def test_what_lies_ready_beside_a_model(certificate, images, tmp_path) -> None:
    write_ready(tmp_path, certificate, image_size=28)
    names = {path.name for path in tmp_path.iterdir()} - {certificate.models[0].path}
    assert names == {"Classifier.kt", "classify.cc", "infer.py", "labels.txt"}
    assert (tmp_path / "labels.txt").read_text("utf-8").splitlines() == list(CLASSES)
    compile((tmp_path / "infer.py").read_text("utf-8"), "infer.py", "exec")
    board = device("cortex-m-tflm-int8")
    told = check_targets(tmp_path, certificate, [board], images=images)
    write_ready(tmp_path, replace(certificate, targets=told), image_size=28)
    micro = tmp_path / "micro"
    header = (micro / "model_data.h").read_text("utf-8")
    assert f"#define MODEL_BYTES {certificate.models[0].size_bytes}\n" in header
    assert certificate.models[0].sha256 in header
    assert "measured in tflm" in header
    assert "CMSIS-NN" in header.partition("*/")[0]
    assert "$" not in header + (micro / "model_runner.h").read_text("utf-8")
    path = tmp_path / certificate.models[0].path
    assert micro_methods(path) == (
        *("AddAdd", "AddConv2D", "AddDepthwiseConv2D", "AddFullyConnected", "AddMean", "AddPad"),
    )


@needs_micro
@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("model_data.c", "0x54", "0x55", "model_data"),
        ("model_data.c", '"class 3"', '"class 4"', "model_labels"),
        ("model_data.h", "MODEL_INPUT_ZERO_POINT ", "MODEL_INPUT_ZERO_POINT 9", "ZERO_POINT"),
    ],
)
def test_what_is_flashed_is_held_against_the_file_that_was_verified(
    certificate, images, tmp_path, file: str, old: str, new: str, named: str
) -> None:
    told = check_targets(tmp_path, certificate, [device("cortex-m-tflm-int8")], images=images)
    taken = replace(certificate, targets=told)
    check_micro(tmp_path, taken)
    write_ready(tmp_path, taken, image_size=28)
    path = tmp_path / "micro" / file
    text = path.read_text("utf-8")
    path.write_bytes(text.replace("\n", "\r\n").encode())
    check_micro(tmp_path, taken)
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(ArtifactError, match=f"{file} was changed: .*{named}"):
        check_micro(tmp_path, taken)


@needs_micro
def test_a_model_that_does_not_fit_is_not_made_ready_for_it(certificate, images, tmp_path) -> None:
    board = device("cortex-m-tflm-int8")
    for target, made in ((board, True), (replace(board, ram_bytes=1000), False)):
        told = check_targets(tmp_path, certificate, [target], images=images)
        write_ready(tmp_path, replace(certificate, targets=told), image_size=28)
        assert (tmp_path / "micro").exists() is made


@needs_micro
def test_nothing_is_left_ready_of_files_that_were_replaced(certificate, images, tmp_path) -> None:
    path = tmp_path / certificate.models[0].path
    (told,) = check_targets(tmp_path, certificate, [device("cortex-m-tflm-int8")], images=images)
    taken = replace(certificate, targets=(told,))
    write_ready(tmp_path, taken, image_size=28)
    assert (tmp_path / "micro" / "model_data.c").is_file()
    float_one = replace(certificate, targets=(replace(told, path="model.tflite"),))
    write_ready(tmp_path, float_one, image_size=28)
    assert not (tmp_path / "micro").exists(), "that target was asked about another file"
    planned = replace(told, checked_by="edgenas' memory plan", verdict="inconclusive")
    write_ready(tmp_path, replace(certificate, targets=(planned,)), image_size=28)
    header = (tmp_path / "micro" / "model_data.h").read_text("utf-8")
    assert "planned, not measured, with 2% to spare" in header
    (arena,) = re.findall(r"MODEL_ARENA_BYTES (\d+)", header)
    assert int(arena) >= (told.arena_bytes or 0)
    rejected = replace(certificate.models[0], path=path.name + REJECTED)
    write_ready(tmp_path, replace(taken, models=(rejected,)), image_size=28)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ['say "hi"', "back\\slash", "what??/", "Käse", "line\nbreak"])
def test_labels_survive_in_c(text: str) -> None:
    literal = c_string(text)
    assert literal.isascii()
    inner = literal[1:-1]
    assert '"' not in inner
    assert "?" not in inner
    assert inner.encode().decode("unicode_escape").encode("latin-1").decode() == text
