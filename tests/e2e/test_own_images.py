"""A folder of images of one's own: init, train, search, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgenas.artifacts import toml_value
from edgenas.cli.main import main
from edgenas.pipeline.config import read_config
from edgenas.spaces.mobile import MobileSpace
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_invented_device

HERE = "local-litert-fp32-t1"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five classes of 64x64 colour images, made of scanned digits."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    monkeypatch.chdir(tmp_path)
    digits = load_digits()
    rng = np.random.default_rng(0)
    for label in range(5):
        folder = tmp_path / "photos" / f"class {label}"
        folder.mkdir(parents=True)
        for i, image in enumerate(digits.images[digits.target == label][:60]):
            tint = 0.3 + 0.7 * rng.random(3)
            pixels = (image[..., None] / 16 * 255 * tint).astype(np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.long
def test_a_folder_in_three_commands(photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "photos", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["classes"] == [f"class {i}" for i in range(5)]
    config = read_config(Path("run.toml"))
    assert config.data.image_size == 64
    assert config.data.source == str(photos / "photos")
    assert config.name == "photos"
    text = Path("run.toml").read_text("utf-8")
    assert text.count("#") > 10, "it is commented"
    Path("run.toml").write_text("mine", "utf-8")
    assert main(["init", "photos"]) == 2, "a file that is there is not replaced"
    assert Path("run.toml").read_text("utf-8") == "mine"
    assert main(["init", "photos", "--force"]) == 0
    assert Path("run.toml").read_text("utf-8") == text
    twice = ["--device", HERE, "--device", HERE, "--out", "twice.toml"]
    assert main(["init", "photos", *twice]) == 0
    assert read_config(Path("twice.toml")).search.devices == (HERE,)

    # the default space for 64 pixels takes minutes; a tiny one takes seconds
    space = MobileSpace(
        resolutions=(32,),
        stages=tiny_space().stages,
        stem_width=8,
        head_width=32,
        in_channels=3,
        n_classes=5,
    )
    write_invented_device(photos, space)
    for old, new in (
        ('"mobile/1"', toml_value(space.to_table())),
        ("local-litert-int8-t1", INVENTED_DEVICE),
        ("trials = 200", "trials = 4"),
        ('"onnx-int8", "tflite", ', ""),
        ('"tflite-fp16", "tflite-int8"', ""),
        ("top = 3", "top = 1"),
        ("\nepochs = ", "\nepochs = 1  # "),
    ):
        assert old in text
        text = text.replace(old, new)
    Path("run.toml").write_text(text, "utf-8")

    capfd.readouterr()
    assert main(["train", "run.toml", "--quiet"]) == 0
    assert main(["search", "run.toml", "--quiet"]) == 0
    capfd.readouterr()
    assert main(["export", "photos", "largest", "--format", "onnx", "--quiet", "--json"]) == 0
    row = json.loads(capfd.readouterr().out)["exports"][0]
    assert row["verified"] is None, "too few test images to say"
    assert 0 <= row["top1"] <= 1
