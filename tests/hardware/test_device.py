from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import SpecError, UsageError
from edgenas.hardware import (
    FORMATS,
    chip_name,
    device_names,
    device_toml,
    load_device,
    load_device_file,
    on_this_chip,
)

GOOD = """schema = "edgenas.device/1"
name = "board-litert-int8-t4"
title = "A board"
class = "mobile"
chip = "arm-d0b-dotprod"
runtime = "litert"
runtime_version = "2.3.0"
precision = "int8"
threads = 4
affinity = [2, 3]

[memory]
ram_bytes = 1048576
"""


def write(folder: Path, text: str, name: str = "board-litert-int8-t4") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_device_file_becomes_a_profile(tmp_path: Path) -> None:
    device = load_device_file(write(tmp_path, GOOD))
    assert (device.device_class, device.format, device.threads) == ("mobile", "tflite-int8", 4)
    assert device.ram_bytes == 1048576
    assert device.affinity == (2, 3)
    assert on_this_chip(device) == "arm-d0b-dotprod-litert-int8-t4"


def test_the_digest_depends_on_what_decides_a_latency_only(tmp_path: Path) -> None:
    device = load_device_file(write(tmp_path, GOOD))
    assert replace(device, title="Other", name="x").digest == device.digest
    for change in ({"threads": 2}, {"runtime_version": "2.4.0"}, {"chip": "y"}, {"affinity": ()}):
        assert replace(device, **change).digest != device.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("threads = 4", "threds = 4", "did you mean 'threads'?"),
        ("ram_bytes", "ram_byte", "did you mean 'ram_bytes'?"),
        ("threads = 4", "threads = 0", "threads"),
        ("threads = 4", 'threads = "4"', "threads"),
        ("threads = 4", "threads = true", "threads"),
        ('"mobile"', '"phone"', "'phone'"),
        ('"litert"', '"pytorch"', "'pytorch'"),
        ('"int8"', '"int4"', "'int4'"),
        ('"2.3.0"', '"$(touch x)"', "runtime_version"),
        ("device/1", "device/2", "schema"),
        ('title = "A board"\n', "", "title"),
        ("threads = 4", "threads 4", "line 9"),
        ('"board-litert-int8-t4"', '"another"', "another"),
        ("ram_bytes = 1048576", "ram_bytes = -1", "memory.ram_bytes"),
        ("ram_bytes = 1048576", f"ram_bytes = {'9' * 400}", "memory.ram_bytes"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_place(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load_device_file(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("value", ["../../x", "-oProxyCommand=x", "a;touch canary", "a/b"])
@pytest.mark.parametrize("key", ["name", "chip"])
def test_names_in_a_file_cannot_leave_it(tmp_path: Path, key: str, value: str) -> None:
    text = "\n".join(
        f'{key} = "{value}"' if line.startswith(f"{key} =") else line for line in GOOD.splitlines()
    )
    with pytest.raises(SpecError, match=" name '"):
        load_device_file(write(tmp_path, text))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("threads = 4", "threads = 0").replace('"mobile"', '"phone"')
    with pytest.raises(SpecError, match=r"class.*threads|threads.*class"):
        load_device_file(write(tmp_path, text))


@pytest.mark.parametrize(
    ("runtime", "toolchain", "fits"),
    [
        *(("onnxruntime", t, False) for t in ("edgetpu", "tflm", "vela", "nnapi", "litert")),
        *(("litert", t, False) for t in ("onnxruntime", "openvino")),
        ("edgetpu", "openvino", False),
        ("unstated", "edgetpu", False),
        *(("onnxruntime", t, True) for t in ("onnxruntime", "openvino")),
        *(("litert", t, True) for t in ("litert", "nnapi", "edgetpu", "tflm", "vela")),
    ],
)
def test_runtime_and_tool_chain_take_the_same_files(
    tmp_path: Path, runtime: str, toolchain: str, *, fits: bool
) -> None:
    text = GOOD.replace('"litert"', f'"{runtime}"\ntoolchain = "{toolchain}"')
    path = write(tmp_path, text.replace('"arm-d0b-dotprod"', '"ethos-u55-128"'))
    if fits:
        assert load_device_file(path).toolchain == toolchain
        return
    with pytest.raises(SpecError) as caught:
        load_device_file(path)
    assert str(caught.value).startswith(f"{path}: device board-litert-int8-t4: runtime '{runtime}'")
    assert f"'{toolchain}'" in str(caught.value)
    assert "toolchain = " in caught.value.hint


@pytest.mark.parametrize(
    ("runtime", "operators", "said"),
    [
        ("litert", '"CONV_2D", "MUL"', ""),
        ("onnxruntime", '"Conv", "HardSwish"', ""),
        ("litert", '"CONV_2D", "CONV2D"', "'CONV2D' (did you mean 'CONV_2D'?): no operator of TFL"),
        ("litert", '"xyz", "ADD"', "operators: 'xyz': no operator of TFLite files, which litert"),
        ("onnxruntime", '"Conv", "ADD"', "'ADD': no operator of ONNX files, which onnx"),
    ],
)
def test_operators_have_the_names_of_files(
    tmp_path: Path, runtime: str, operators: str, said: str
) -> None:
    text = GOOD.replace('"litert"', f'"{runtime}"\noperators = [{operators}]')
    path = write(tmp_path, text)
    if not said:
        assert len(load_device_file(path).operators) == 2
        return
    with pytest.raises(SpecError) as caught:
        load_device_file(path)
    assert str(caught.value).startswith(f"{path}: operators: ")
    assert said in str(caught.value)
    assert caught.value.hint


def test_the_machine_at_hand_needs_no_file() -> None:
    for (runtime, precision), format_name in FORMATS.items():
        device = load_device(f"local-{runtime}-{precision}-t2")
        assert (device.runtime, device.precision, device.threads) == (runtime, precision, 2)
        assert device.format == format_name
        assert device.chip == chip_name()
        assert device.is_local
    assert {"local-litert-int8-t1", "local-onnxruntime-fp32-t1"} <= set(device_names())


@pytest.mark.parametrize(
    "name",
    [
        *("local", "local-litert", "local-litert-int8-t0", "local-litert-int8-t01"),
        *("local-x-int8-t1", "local-litert-int8-t9999", "local-litert-fp16-t1", "no-such-board"),
    ],
)
def test_an_unknown_device_is_a_usage_error_with_a_hint(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_device(name)
    assert name in str(caught.value)
    assert caught.value.hint


def test_a_near_miss_names_the_right_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'local-litert-int8-t1'"):
        load_device("local-litert-int9-t1")


def test_a_device_of_the_working_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices").mkdir()
    write(tmp_path / "devices", GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_device("board-litert-int8-t4").path == tmp_path / "devices" / (
        "board-litert-int8-t4.toml"
    )


def test_every_shipped_device_loads(root: Path) -> None:
    paths = sorted((root / "devices").glob("*.toml"))
    assert paths
    for path in paths:
        device = load_device_file(path)
        assert not device.is_local


PUBLISHED = """schema = "edgenas.device/1"
name = "v100-unstated-b32"
title = "A GPU that is not here"
class = "gpu"
chip = "v100"
runtime = "unstated"
precision = "unstated"
batch = 32
"""


def test_a_device_known_by_published_figures_may_leave_threads_unstated(tmp_path: Path) -> None:
    device = load_device_file(write(tmp_path, PUBLISHED, "v100-unstated-b32"))
    assert (device.threads, device.batch, device.format) == (None, 32, "onnx")
    assert not device.can_be_timed
    assert replace(device, batch=1).digest != device.digest
    assert on_this_chip(device) == "v100-unstated-unstated-b32"
    again = load_device_file(write(tmp_path, device_toml(device), "v100-unstated-b32"))
    assert replace(again, path=None) == replace(device, path=None)


def test_a_title_of_any_characters_is_written_as_toml_that_can_be_read(tmp_path: Path) -> None:
    device = replace(load_device_file(write(tmp_path, GOOD)), title="Pi \U0001f967 \x7f")
    again = load_device_file(write(tmp_path, device_toml(device)))
    assert again == device


@pytest.mark.parametrize("affinity", ["[1000000000000]", "[1024]", "[2, 2]", "[-1]"])
def test_processors_that_cannot_be_are_refused(tmp_path: Path, affinity: str) -> None:
    with pytest.raises(SpecError, match="affinity"):
        load_device_file(write(tmp_path, GOOD.replace("[2, 3]", affinity)))


def test_a_wrong_file_is_told_what_prints_a_right_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="threds") as caught:
        load_device_file(write(tmp_path, GOOD.replace("threads = 4", "threds = 4")))
    assert caught.value.hint == "edgenas devices show NAME --toml prints one"


def test_a_runtime_that_runs_here_needs_its_threads_and_a_known_precision(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="threads is missing"):
        load_device_file(write(tmp_path, GOOD.replace("threads = 4\n", "")))
    with pytest.raises(SpecError, match="does not run unstated"):
        load_device_file(write(tmp_path, GOOD.replace('"int8"', '"unstated"')))
    with pytest.raises(SpecError, match="batch"):
        load_device_file(write(tmp_path, GOOD.replace("threads = 4", "threads = 4\nbatch = 0")))
