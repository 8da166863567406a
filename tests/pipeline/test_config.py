"""The run file: strict, all problems at once, round trip."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas import plugins
from edgenas.errors import SpecError, UsageError
from edgenas.pipeline.config import (
    FORMATS,
    DataConfig,
    FinalConfig,
    RunConfig,
    SearchConfig,
    known_formats,
    read_config,
    run_name,
    write_config,
)
from edgenas.spaces.mobile import SMALL

MINIMAL = """
schema = "edgenas.run/1"
[data]
source = "digits"
[search]
devices = ["local-litert-int8-t1"]
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, "utf-8")
    return path


def test_minimal_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = read_config(_file(tmp_path, MINIMAL))
    assert config == RunConfig(
        data=DataConfig("digits"), search=SearchConfig(("local-litert-int8-t1",))
    )
    assert config.export.formats == FORMATS
    assert config.max_trials == 200


def test_a_time_budget_alone_lifts_the_default_of_trials(tmp_path: Path) -> None:
    assert read_config(_file(tmp_path, MINIMAL + "minutes = 5\n")).max_trials is None


def test_all_problems_come_in_one_message_with_key_and_nearest(tmp_path: Path) -> None:
    text = (
        MINIMAL.replace("devices", "device")
        + 'trials = -1\nminutes = nan\n[export]\nformats = ["tflite-int4"]\nmax_top1_dorp = 0.1\n'
    )
    path = _file(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        read_config(path)
    message = str(caught.value)
    for expected in (
        "search.devices: missing",
        "search.device: unknown key; did you mean 'devices'?",
        "search.trials: ",
        "search.minutes: ",
        "export.formats[0]: 'tflite-int4' is no format; did you mean 'tflite-int8'?",
        "export.max_top1_dorp: unknown key; did you mean 'max_top1_drop'?",
    ):
        assert f"{path}: {expected}" in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (MINIMAL.replace("run/1", "run/2"), "'edgenas.run/1' is expected"),
        (MINIMAL + "trials = true\n", "search.trials"),
        (MINIMAL + 'trials = "200"\n', "search.trials"),
        (MINIMAL + 'objectives = ["max top1", "max top1"]\n', "stands twice"),
        ('space = "mobil/1"\n' + MINIMAL, "did you mean 'mobile/1'?"),
        (MINIMAL + "[space]\nresolutions = [32]\n", 'family is missing, as in family = "mobile/1"'),
        (MINIMAL + "[export]\ntop = -1\n", "export.top"),
        (MINIMAL + '[export]\nformats = ["onnx", "onnx"]\n', "export.formats: 'onnx' stands twice"),
        (MINIMAL + "[final]\nepoch = 1\n", "final.epoch: unknown key; did you mean 'epochs'?"),
        (MINIMAL + "[final]\ndistil = 1.5\n", "final.distil"),
        (MINIMAL + '[final]\nquantisation_aware = "maybe"\n', "final.quantisation_aware"),
        (MINIMAL + "robustness_images = 0\n", "search.robustness_images"),
        (MINIMAL + 'unlabelled = ""\n', "search.unlabelled"),
        ("seed = 1\nseed = 2\n", "line 2"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, text: str, fragment: str) -> None:
    with pytest.raises(SpecError, match=re.escape(fragment)):
        read_config(_file(tmp_path, text))


def test_a_plug_in_adds_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, MINIMAL + '[export]\nformats = ["onnx", "mine"]\n')
    installed(monkeypatch, "mine2")
    with pytest.raises(SpecError, match=r"formats\[1\]: 'mine' is no format; did you mean 'mine2'"):
        read_config(path)
    installed(monkeypatch, "mine")
    assert known_formats() == (*FORMATS, "mine", "onnx-mixed", "tflite-mixed")
    config = read_config(path)
    assert config.export.formats == ("onnx", "mine")
    write_config(tmp_path / "again.toml", config)
    assert read_config(tmp_path / "again.toml").export == config.export


def installed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = (EntryPoint(name, "edgenas.export.models:ONNX", "edgenas.exporters"),)
    monkeypatch.setattr(plugins, "_plugins", lambda kind: found if kind == "exporters" else ())


def test_paths_are_relative_to_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "fotos ä").mkdir()
    text = MINIMAL.replace("digits", "fotos ä") + '[supernet]\ncheckpoint = "a/b.safetensors"\n'
    text += '[final]\nteacher = "c.safetensors"\n'
    config = read_config(_file(tmp_path, text))
    assert config.data.source == str(tmp_path / "fotos ä")
    assert config.supernet.checkpoint == str(tmp_path / "a" / "b.safetensors")
    assert config.final is not None
    assert config.final.teacher == str(tmp_path / "c.safetensors")


def test_unlabelled_images_lie_beside_the_run_file(tmp_path: Path) -> None:
    path = _file(tmp_path, MINIMAL + 'unlabelled = "photos"\nrobustness_images = 7\n')
    search = read_config(path).search
    assert search.unlabelled == str(tmp_path / "photos")
    assert search.robustness_images == 7
    write_config(tmp_path / "again.toml", read_config(path))
    assert read_config(tmp_path / "again.toml").search == search


def test_final_training_is_asked_for_by_its_section(tmp_path: Path) -> None:
    assert read_config(_file(tmp_path, MINIMAL)).final is None
    config = read_config(_file(tmp_path, MINIMAL + "[final]\nminutes = 5\n"))
    assert config.final == FinalConfig(minutes=5.0)
    write_config(tmp_path / "again.toml", config)
    assert read_config(tmp_path / "again.toml").final == config.final


def test_round_trip_with_a_table_for_the_space(tmp_path: Path) -> None:
    config = RunConfig(
        data=DataConfig("digits", image_size=28),
        search=SearchConfig(
            ("a", "b"), ("max top1", "min latency_ms@a"), minutes=0.5, trials=7, patience=3
        ),
        space=SMALL.to_table(),
        name="x-1",
    )
    write_config(tmp_path / "run.toml", config)
    again = read_config(tmp_path / "run.toml")
    assert replace(again, space="") == replace(config, space="")
    from edgenas.spaces.mobile import from_table

    assert isinstance(again.space, dict)
    assert from_table(again.space, in_channels=3, n_classes=10) == SMALL


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    config = RunConfig(data=DataConfig("digits"), search=SearchConfig((text,)))
    write_config(path, config)
    assert read_config(path).search.devices == (text,)


@pytest.mark.parametrize("name", ["photos-1", "a", "v1.2_x", "console"])
def test_run_names(name: str) -> None:
    assert run_name(name) == name


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "a\\b", "-x", ".hidden", "con", "NUL.txt", "a..b", "ä", "x\n"]
)
def test_refused_run_names(name: str) -> None:
    with pytest.raises(UsageError, match="run name") as caught:
        run_name(name)
    assert caught.value.exit_code == 2
