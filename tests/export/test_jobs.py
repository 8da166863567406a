"""Conversions in bulk. The real TFLite process is slow, so most tests put a fake in its place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from edgenas import networks
from edgenas.errors import ExportError, ResourceError, SpecError
from edgenas.export import jobs, litert, onnx, tflite, worker
from edgenas.export.jobs import (
    TfliteJob,
    convert_networks,
    convert_units,
    read_lowering,
    run_tflite,
    tool_versions,
    write_lowering,
)
from edgenas.processes import environment
from edgenas.spaces import OpSpec, chain, conv
from edgenas.spaces.mobile import SMALL

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
BLOCK = OpSpec.of(
    "inverted", cin=8, hidden=24, cout=8, h=6, w=6, k=5, s=1, se=8, skip=1, act="hswish"
)
KINDS = [
    conv(3, 8, 12, 12, 3, s=2, act="relu6"),
    conv(8, 8, 6, 6, 7, g=8, act="relu6"),
    OpSpec.of("add", c=8, h=6, w=6),
    OpSpec.of("pool", c=8, h=6, w=6),
    OpSpec.of("linear", cin=8, cout=5),
    OpSpec.of("squeeze_excite", c=8, h=6, w=6, r=8),
    BLOCK,
    OpSpec.of("head", cin=8, hidden=16, cout=5, h=6, w=6, act="relu6"),
    OpSpec.of("conv2d", cin=8, cout=6, h=6, w=6, kh=2, kw=2, oh=3, ow=3, g=1, act="relu"),
    OpSpec.of("conv2d", cin=1, cout=4, h=9, w=6, kh=3, kw=1, oh=9, ow=6, g=1),
    OpSpec.of("pool2d", c=8, h=6, w=6, kh=2, kw=2, oh=3, ow=3),
    OpSpec.of("resize", c=8, h=6, w=6, oh=12, ow=12),
    OpSpec.of("activate", c=8, h=6, w=6, act="hswish"),
    OpSpec.of("function", c=8, h=6, w=6),
    OpSpec.of("scale", c=8, h=6, w=6),
    OpSpec.of("binary", c=8, h=6, w=6),
    OpSpec.of("copy", c=8, h=6, w=6),
    OpSpec.of("copy", c=5, h=6, w=6),
]
NAMES = [f"{i} {op.kind}" for i, op in enumerate(KINDS)]


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("op", KINDS, ids=NAMES)
def test_onnx_units_compute_what_torch_does(op, tmp_path):
    (path,) = convert_units([op, op], format="onnx", folder=tmp_path).values()
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1, *op.in_chw), dtype=np.float32) for _ in range(op.n_inputs)]
    run = session(path)
    assert len(run.get_inputs()) == op.n_inputs
    (answer,) = run.run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    with torch.no_grad():
        expected = networks.unit_network(op, seed=0)(*map(torch.from_numpy, inputs)).numpy()
    np.testing.assert_allclose(answer, expected, atol=2e-5)
    assert not {"Transpose"} & {name for name, _ in onnx.operators(path)}


@pytest.mark.parametrize(("activations", "kind"), [("u8", "uint8"), ("s8", "int8")])
@pytest.mark.parametrize("op", [KINDS[0], KINDS[2], KINDS[6], KINDS[7]], ids=lambda op: op.kind)
def test_int8_units_take_and_give_integers(op, activations, kind, tmp_path):
    found = convert_units([op], format="onnx-int8", folder=tmp_path, activations=activations)
    run = session(found[op.key])
    ports = [*run.get_inputs(), *run.get_outputs()]
    assert {port.type for port in ports} == {f"tensor({kind})"}
    shapes = [tuple(p.shape) for p in run.get_inputs()]
    feed = {p.name: np.full(p.shape, 3, kind) for p in run.get_inputs()}
    assert shapes == [(1, *op.in_chw)] * op.n_inputs
    (answer,) = run.run(None, feed)
    assert answer.size == np.prod(op.out_chw)


def test_units_are_cached_by_content(tmp_path):
    ops = [KINDS[0], KINDS[2]]
    events = []
    first = convert_units(ops, format="onnx", folder=tmp_path, report=events.append)
    assert events[-1].done == events[-1].total == 2
    times = {path: path.stat().st_mtime_ns for path in first.values()}
    events.clear()
    again = convert_units(ops[::-1], format="onnx", folder=tmp_path, report=events.append)
    assert again == first
    assert not events
    assert {path: path.stat().st_mtime_ns for path in first.values()} == times
    int8 = {a: convert_units(ops, format="onnx-int8", folder=tmp_path, activations=a)
            for a in ("u8", "s8")}  # fmt: skip
    assert not set(int8["u8"].values()) & set(int8["s8"].values())


@pytest.mark.long
def test_networks_take_nhwc(tmp_path):
    space = replace(SMALL, in_channels=1)
    lowering = space.lower(space.smallest())
    found = convert_networks({"a": lowering}, format="onnx", folder=tmp_path, seed=3)
    other = convert_networks({"a": lowering}, format="onnx", folder=tmp_path, seed=4)
    assert found["a"] != other["a"]
    (port,) = session(found["a"]).get_inputs()
    assert (port.name, port.shape) == ("image", [1, *lowering.in_chw[1:], 1])


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ExportError, match="did you mean 'tflite'"):
        convert_units(KINDS, format="tflit", folder=tmp_path)


def test_lowerings_survive_the_way_to_the_worker():
    space = replace(SMALL, squeeze_excite=True, activation="hswish")
    for arch in (space.smallest(), space.largest()):
        lowering = space.lower(arch)
        assert read_lowering(write_lowering(lowering)) == lowering
        primitive = lowering.primitive()
        assert read_lowering(write_lowering(primitive)) == primitive


FAKE = """
    import json, os, pathlib, sys, time
    table = json.loads(pathlib.Path(sys.argv[3]).read_text())
    with pathlib.Path(__file__).with_name("together").open("a") as file:
        print(table["together"], file=file)
    for job in table["jobs"]:
        print(json.dumps({"job": job["name"], "state": "started"}), flush=True)
        if job["name"].startswith("crash") or (
            job["name"].startswith("once") and not pathlib.Path(job["files"]["seen"]).exists()
        ):
            pathlib.Path(job["files"]["seen"]).touch()
            print("a converter's last words", file=sys.stderr, flush=True)
            os.abort()
        if job["name"].startswith("slow"):
            time.sleep(600)
        if job["name"].startswith("bad"):
            print(json.dumps({"job": job["name"], "state": "failed", "error": "no"}), flush=True)
            continue
        pathlib.Path(job["files"]["tflite"]).write_text("made")
        print(json.dumps({"job": job["name"], "state": "done"}), flush=True)
"""


@pytest.fixture
def fake_process(tmp_path, monkeypatch):
    """A stand-in for the converter: it crashes in `crash...`, and the first time in `once...`."""
    script = tmp_path / "fake.py"
    script.write_text(textwrap.dedent(FAKE))
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(jobs.sys, "executable", str(launcher))
    monkeypatch.setattr(jobs.litert, "require_extra", lambda: None)

    def job(name: str) -> TfliteJob:
        files = {"tflite": tmp_path / f"{name}.tflite", "seen": tmp_path / f"{name}.seen"}
        return TfliteJob(name, chain((3, 12, 12), [("stem", KINDS[0])]), files)

    return job


def test_one_crash_does_not_stop_the_others(fake_process, tmp_path):
    names = ["a", "crash", "b", "once", "bad", "c"]
    todo = [fake_process(name) for name in names]
    events = []
    failures = run_tflite(todo, report=events.append)
    assert set(failures) == {"crash", "bad"}
    assert failures["bad"] == "no"
    assert "status -6" in failures["crash"]
    assert "last words" in failures["crash"]
    made = [job.name for job in todo if job.files["tflite"].is_file()]
    assert made == ["a", "b", "once", "c"]
    assert [e.done for e in events] == sorted(e.done for e in events)
    first, *others = (tmp_path / "together").read_text().split()
    assert first == "True"
    assert set(others) == {"False"}, "in which of several a process died is not known"


def test_nobody_waits_for_what_is_not_wanted_any_longer(fake_process, tmp_path):
    halt, done = jobs.Halt(), []
    todo = [fake_process(name) for name in ("a", "slow", "b")]
    thread = threading.Thread(target=lambda: done.append(run_tflite(todo, halt=halt)), daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "a.tflite").is_file():
            if time.monotonic() > until or not thread.is_alive():
                pytest.fail("a.tflite was not written")
            time.sleep(0.01)
    finally:
        halt()
        thread.join(30)
    assert done == [{}]
    assert not (tmp_path / "b.tflite").is_file()
    assert (tmp_path / "together").read_text().split() == ["True"], "it is not tried again"
    assert run_tflite([fake_process("c")], halt=halt) == {}
    assert not (tmp_path / "c.tflite").is_file()


def half_imported() -> None:
    """As torch.onnx ends when an interrupt hits it as it imports torch._dynamo."""
    try:
        raise KeyboardInterrupt
    except jobs.missing.UserError:
        pass


def test_a_converter_hides_no_interrupt():
    with pytest.raises(KeyboardInterrupt), jobs.converter_errors("onnx"):
        half_imported()
    with pytest.raises(ExportError, match="onnx: RuntimeError: no"), jobs.converter_errors("onnx"):
        raise RuntimeError("no")


def test_a_failed_unit_is_named(fake_process, tmp_path, monkeypatch):
    op = KINDS[0]
    monkeypatch.setattr(jobs, "TfliteJob", lambda name, *a, **k: TfliteJob(f"bad {name}", *a, **k))
    with pytest.raises(ExportError, match=op.key):
        convert_units([op], format="tflite", folder=tmp_path)


def test_no_room_for_a_file_is_no_fault_of_the_format(tmp_path):
    (tmp_path / "no folder").touch()
    files = {"tflite": tmp_path / "no folder" / "a.tflite"}
    with pytest.raises(ResourceError, match=r"^cannot write .*no folder") as caught:
        run_tflite([TfliteJob("a", chain((3, 12, 12), [("stem", KINDS[0])]), files)])
    assert caught.value.hint


def test_a_process_that_does_not_start_is_an_error(fake_process, monkeypatch):
    monkeypatch.setattr(jobs.sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match="did not start"):
        run_tflite([fake_process("a")])


def test_a_missing_extra_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs.litert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError) as caught:
        convert_units(KINDS[:1], format="tflite", folder=tmp_path)
    assert caught.value.hint == 'pip install "edgenas[tflite]"'
    assert "litert_torch" in str(caught.value)


@pytest.mark.slow
def test_tflite_units_compute_what_torch_does(tmp_path, capfd):
    found = convert_units(KINDS, format="tflite", folder=tmp_path)
    int8 = convert_units(KINDS, format="tflite-int8", folder=tmp_path)
    assert capfd.readouterr().out == ""
    from ai_edge_litert.interpreter import Interpreter

    for op in KINDS:
        assert "TRANSPOSE" not in {name for name, _ in tflite.operators(found[op.key])}
        assert {kind for _, kind in tflite.operators(int8[op.key])} == {"INT8"}
        run = Interpreter(str(found[op.key]), num_threads=1)
        run.allocate_tensors()
        rng = np.random.default_rng(0)
        inputs = [
            rng.standard_normal((1, *op.in_chw), dtype=np.float32) for _ in range(op.n_inputs)
        ]
        details = run.get_input_details()
        assert len(details) == op.n_inputs
        for detail, x in zip(details, inputs, strict=True):
            run.set_tensor(detail["index"], x.transpose(0, 2, 3, 1))
        run.invoke()
        answer = run.get_tensor(run.get_output_details()[0]["index"])
        with torch.no_grad():
            expected = networks.unit_network(op, seed=0)(*map(torch.from_numpy, inputs)).numpy()
        if expected.ndim == 4:
            expected = expected.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(answer, expected, atol=2e-5)


@pytest.mark.slow
def test_units_converted_together_are_what_each_is_alone(tmp_path):
    """In a process of its own, since the converter prints; a fall-back would leave no files."""
    ops = [KINDS[2], KINDS[6], KINDS[1], KINDS[4]]
    parts = [tmp_path / f"{i}.tflite" for i in range(len(ops))]
    todo = [
        TfliteJob(op.key, networks.unit_network(op, seed=0).lowering, {"tflite": part})
        for op, part in zip(ops, parts, strict=True)
    ]
    code = "import json, sys; from edgenas.export.worker import _convert_together as convert; "
    subprocess.run(
        [sys.executable, "-c", f"{code}convert(json.load(sys.stdin))"],
        input=json.dumps([job.to_table() for job in todo]),
        text=True,
        env=environment(),
        check=True,
        capture_output=True,
    )
    for op, part in zip(ops, parts, strict=True):
        (alone,) = convert_units([op], format="tflite", folder=tmp_path / "alone").values()
        assert_same_model(part, alone)


def test_a_file_of_one_output_has_one_part(tmp_path):
    whole, part = tmp_path / "whole.tflite", tmp_path / "part.tflite"
    shutil.copyfile(next(CALIBRATION.glob("*.tflite")), whole)
    tflite.canonicalise(whole, input_name="args_0", output_name="output_0")
    tflite.split(whole, [part])
    tflite.canonicalise(part, input_name="args_0", output_name="output_0")
    assert_same_model(part, whole)
    with pytest.raises(SpecError, match="1 graphs with 1 outputs"):
        tflite.split(whole, [part, part])


def assert_same_model(a, b):
    assert tflite.operators(a) == tflite.operators(b)
    assert sorted(tflite.tensor_types(a).values()) == sorted(tflite.tensor_types(b).values())
    assert tflite.read_metadata(a).keys() == tflite.read_metadata(b).keys()
    assert a.stat().st_size == pytest.approx(b.stat().st_size, rel=0.1)
    assert_same_answers(a, b)


def assert_same_answers(a, b):
    from ai_edge_litert.interpreter import Interpreter

    answers = []
    for path in (a, b):
        run = Interpreter(str(path), num_threads=1).get_signature_runner()
        rng = np.random.default_rng(0)
        ports = run.get_input_details()
        feed = {
            name: rng.standard_normal(ports[name]["shape"]).astype(ports[name]["dtype"])
            for name in sorted(ports)
        }
        answers.append(run(**feed))
    assert answers[0].keys() == answers[1].keys()
    for name, value in answers[0].items():
        np.testing.assert_array_equal(value, answers[1][name])


def test_where_several_cannot_be_converted_together_each_is_tried(tmp_path, monkeypatch):
    units = [chain((8, 6, 6), [("unit", op)]) for op in (KINDS[1], KINDS[3])]
    todo = [TfliteJob(f"{i}", unit, {"tflite": tmp_path / f"{i}"}) for i, unit in enumerate(units)]
    asked = []

    def refuse(networks, paths):
        asked.append(len(networks))
        raise RuntimeError("one of them")

    monkeypatch.setattr(litert, "write_together", refuse)
    worker._convert_together([job.to_table() for job in todo])
    assert asked == [2]
    assert list(tmp_path.iterdir()) == []
    worker._convert_together([todo[0].to_table()])
    (tmp_path / "1").touch()
    worker._convert_together([job.to_table() for job in todo])
    assert asked == [2], "one alone is no company"


def test_what_writes_a_plug_ins_format_is_not_known() -> None:
    assert tool_versions("onnx-mixed").keys() == tool_versions("onnx").keys() > {"torch", "onnx"}
    assert tool_versions("mine") == tool_versions("onnx-mine") == {}


def test_python_files_of_the_working_folder_are_not_our_modules(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('the queue.py of the user was run')")
    argv = [sys.executable, "-c", "import edgenas, queue; print(edgenas.__version__)"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
