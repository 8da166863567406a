"""`targets.toml`: what it may say, and what is said of what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenas.ci import Gates, Target, read_targets
from edgenas.errors import SpecError
from edgenas.testing.fakes import write_tiny_run

HEAD = 'schema = "edgenas.targets/1"\nrun = "run.toml"\n'


def read(folder: Path, text: str) -> dict[str, Target]:
    write_tiny_run(folder, device="a-litert-int8-t1")
    (folder / "targets.toml").write_text(text, "utf-8")
    return {target.name: target for target in read_targets(folder / "targets.toml")}


def test_a_target_takes_the_run_file_and_its_own_words_go_before_it(tmp_path: Path) -> None:
    text = HEAD + (
        "[gates]\nmin_top1 = 0.5\nmax_size_bytes = 10\n"
        '[target.phone]\nbounds = ["latency_ms <= 2", "size_bytes <= 9", "top1 >= 0.3"]\n'
        'formats = ["tflite", "tflite"]\ngates = { max_size_bytes = 20, max_top1_drop = 0.02 }\n'
        "[target.plain]\n"
    )
    found = read(tmp_path, text)
    phone = found["phone"]
    assert phone.config.search.objectives == (
        "max top1 >= 0.3", "min latency_ms <= 2", "size_bytes <= 9",
    )  # fmt: skip
    assert [str(o) for o in phone.objectives] == [
        "max top1 >= 0.3",
        "min latency_ms@a-litert-int8-t1 <= 2",
        "size_bytes@a-litert-int8-t1 <= 9",
    ]
    assert phone.config.export.formats == ("tflite",)
    assert phone.config.export.max_top1_drop == 0.02
    assert phone.gates == Gates(min_top1=0.5, max_size_bytes=20, max_top1_drop=0.02)
    assert found["plain"].gates == Gates(min_top1=0.5, max_size_bytes=10)
    assert found["plain"].config.search.objectives == ("max top1", "min latency_ms")


def test_a_target_is_measured_where_the_file_or_it_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, HEAD + "[target.a]\n[target.b]\nmeasure = true\n")
    assert [found[name].measure for name in "ab"] == [False, True]
    found = read(tmp_path, HEAD + "measure = true\n[target.a]\n[target.b]\nmeasure = false\n")
    assert [found[name].measure for name in "ab"] == [True, False]


def test_what_is_said_of_no_device_is_meant_for_each(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        HEAD + '[target.x]\ndevices = ["a-b", "c-d"]\nbounds = ["latency_ms@c-d <= 3"]\n',
    )
    assert found["x"].config.search.objectives == (
        "max top1", "min latency_ms@a-b", "min latency_ms@c-d <= 3",
    )  # fmt: skip
    assert found["x"].qualified("latency_ms@a-b") == "latency_ms@a-b"


def test_settings_may_stand_in_place_of_a_run_file(tmp_path: Path) -> None:
    text = (
        'schema = "edgenas.targets/1"\n[target.x]\ndevices = ["a-b"]\n'
        '[target.x.settings]\nseed = 3\ndata = { source = "digits" }\n'
        'supernet = { checkpoint = "weights/s.safetensors" }\nsearch = { trials = 9 }\n'
    )
    config = read(tmp_path, text)["x"].config
    assert (config.seed, config.search.trials, config.search.devices) == (3, 9, ("a-b",))
    assert config.supernet.checkpoint == str(tmp_path / "weights" / "s.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "[target.x]\nbouds = []\n", "target.x.bouds: unknown key; did you mean 'bounds'"),
        (HEAD + "[gates]\nmin_top = 1\n[target.x]\n", "did you mean 'min_top1'"),
        (HEAD + "[target.x.gates]\nmin_top1 = 2.0\n", "target.x.gates.min_top1: Input should be"),
        (HEAD + "[target.'a b']\n", "target.a b: a target's name has letters"),
        (HEAD + "[target.'a.b']\n", "a target's name has letters"),
        (HEAD, "target: Field required"),
        (HEAD.replace("/1", "/2") + "[target.x]\n", "schema: Input should be 'edgenas.targets/1'"),
        ('schema = "edgenas.targets/1"\n[target.x]\n', "target.x: it names no run file"),
        (HEAD + '[target.x]\nrun = "other.toml"\n', r"target.x: .*cannot read .*other.toml"),
        (HEAD + '[target.x]\nrun = "run.toml"\nsettings = {}\n', "names a run file and has set"),
        (HEAD + '[target.x]\nbounds = ["latency <= 2"]\n', "did you mean 'latency_ms'"),
        (HEAD + '[target.x]\nbounds = ["min latency_ms <= 2"]\n', "has a direction"),
        (HEAD + '[target.x]\nbounds = ["latency_ms"]\n', "neither a direction nor a bound"),
        (HEAD + '[target.x]\nbounds = ["latency_ms@b-c <= 2"]\n', "no such metric of a-litert"),
        (HEAD + '[target.x]\nbounds = ["latency_ms >= 2"]\n', "keeps out only the best values"),
        (HEAD + '[target.x]\ndevices = ["a", "a"]\n', "devices: 'a' stands twice"),
        (
            HEAD + '[target.x]\nformats = ["onix"]\n',
            "formats.0: 'onix' is no format; did you",
        ),
        (HEAD + "[target.x]\n[target.x]\n", "targets.toml: "),
        (HEAD + "[target.x]\nfleet = 0\n", "target.x.fleet: Input should be greater than or equal"),
        (HEAD + "[target.x]\nfleet = 1\n", "target.x: a fleet is for several devices"),
        (HEAD + "[target.Board]\n[target.board]\n", "target.Board and target.board differ in capi"),
        (
            HEAD + '[target.x]\nbounds = ["latency_ms <= 2", "latency_ms <= 1"]\n',
            "'latency_ms@a-litert-int8-t1' stands twice: 'latency_ms@.* <= 2', 'late.* <= 1'",
        ),
        (HEAD + '[target.x]\nfleet = 1\ndevices = ["a", "b"]\n', "what a may take .nor b."),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read(tmp_path, text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", 'schema = "edgenas.targets/1"; a target is [target.NAME]'),
        (HEAD.replace("/1", "/2") + "[target.x]\n", 'begins with schema = "edgenas.targets/1"'),
        (HEAD + "[gates]\nmin_top1 = 92\n[target.x]\n", "min_top1: a fraction from 0 to 1"),
        (HEAD + "[target.x.gates]\nmax_size_bytes = 1e5\n", "max_size_bytes: a whole number of by"),
        (HEAD + "[gates]\nmin_top = 1\n[target.x]\n", "the keys of gates: min_top1, max_top1_loss"),
        (HEAD + "[target.x]\nbouds = []\n", "the keys of a target: run, settings, devices, bounds"),
        (HEAD + "[target.x]\nfleet = 0\n", "fleet = 1: how many networks at most"),
        (HEAD + '[target.x]\nbounds = "latency_ms <= 2"\n', 'bounds = ["latency_ms <= 2"]'),
        (HEAD + '[target.x]\nformats = ["onix"]\n', "the formats: onnx, onnx-int8"),
        (HEAD + "[target.x]\n[target.x]\n", "a table or a key stands once"),
        (HEAD + "[target.'a b']\n", "rename it"),
        (HEAD + '[target.x]\ndevices = ["a", "a"]\n', "leave one of them out"),
        (HEAD + '[target.x]\nbounds = ["speed <= 2"]\n', "the metrics: "),
        (HEAD + '[target.x]\nrun = "."\n', "/run.toml"),
        (HEAD + "[target.x]\nfleet = 1\n", "devices = "),
        (
            HEAD + '[target.x]\nfleet = 1\ndevices = ["a", "b"]\nbounds = ["latency_ms@a <= 1"]\n',
            'bounds = ["latency_ms@b <= NUMBER"] in the target',
        ),
    ],
)
def test_the_next_step_is_of_the_key_that_is_wrong(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    assert hint in caught.value.hint


def test_no_file_is_told_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file") as caught:
        read_targets(tmp_path / "targets.toml")
    assert "[target.NAME]" in caught.value.hint
