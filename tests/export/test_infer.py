"""`infer.py` reads images as they are read for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgenas.data.folder import read_image
from edgenas.export.contract import InputContract

SIZE = 24


def contract(channels: int) -> InputContract:
    plane = (0.5,) * channels
    return InputContract(
        (1, SIZE, SIZE, channels), plane, plane, ("cat", "dog"), "bilinear-antialias"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_is_decoded_as_for_training(
    channels: int,
    tmp_path: Path,
    script_beside: Callable[[InputContract], dict[str, Any]],
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 530, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).save(path, quality=95)
    expected = read_image(path, channels=channels, size=SIZE).permute(1, 2, 0).numpy()
    found = np.asarray(script_beside(contract(channels))["read"](path))
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    ("values", "name", "said"),
    [
        (np.full((30, 30), 41_000_000, np.int32), "big.tif", "not 8 or 16 bits"),
        (np.full((30, 30), 0.5, np.float32), "float.tif", "not 8 or 16 bits"),
        (np.zeros((30, 30), np.uint8), "page.eps", "cannot identify"),
    ],
)
def test_what_training_refuses_is_refused(
    values: Any,
    name: str,
    said: str,
    tmp_path: Path,
    script_beside: Callable[[InputContract], dict[str, Any]],
) -> None:
    path = tmp_path / name
    Image.fromarray(values).save(path)
    for read in (
        script_beside(contract(1))["read"],
        lambda p: read_image(p, channels=1, size=SIZE),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            read(path)


def test_errors_name_the_file(
    tmp_path: Path,
    script_beside: Callable[[InputContract], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, broken = tmp_path / "whole.png", tmp_path / "broken.png"
    Image.new("L", (30, 30)).save(whole)
    broken.write_bytes(whole.read_bytes()[:40])
    script = script_beside(contract(1))
    damaged = tmp_path / "damaged.ONNX"
    damaged.write_bytes(b"no model")
    none, one = tmp_path / "none.onnx", ("--top", "0")
    for model, image, more, said in (
        (none, broken, (), "broken.png cannot be read"),
        (none, whole, (), "none.onnx: there is no"),
        (damaged, whole, (), "damaged.ONNX cannot be run"),
        (damaged, whole, one, "--top 0: at least 1"),
    ):
        monkeypatch.setattr("sys.argv", ["infer.py", str(model), str(image), *more])
        with pytest.raises(SystemExit) as ended:
            script["main"]()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
