"""`infer.py` reads images as they are read for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgenas.data.folder import read_image
from edgenas.export.certificate import Certificate, ExportedModel
from edgenas.export.contract import InputContract
from edgenas.export.ready import write_ready
from edgenas.export.verify import Gate, Verification

SIZE = 24


def script(folder: Path, *, channels: int) -> dict[str, Any]:
    """The names that `infer.py` defines beside a model for images of so many channels."""
    plane = (0.5,) * channels
    model = ExportedModel(
        path="model.tflite",
        format="tflite",
        precision="fp32",
        sha256="0" * 64,
        size_bytes=1,
        input=InputContract(
            (1, SIZE, SIZE, channels), plane, plane, ("cat", "dog"), "bilinear-antialias"
        ),
        verification=Verification(600, 0.9, 0.9, 0.0, 0, 0, 1.0, 0, 0, 0, 3.0, 1.0),
        gates=(Gate("fp32", "passed", "fine"),),
    )
    certificate = Certificate("mobile/1 r=24", "0123456789ab", 1000, 100, (model,))
    write_ready(folder, certificate, image_size=SIZE)
    names: dict[str, Any] = {"__name__": "infer"}
    exec(compile((folder / "infer.py").read_text("utf-8"), "infer.py", "exec"), names)
    return names


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_is_decoded_as_for_training(channels: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 530, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).save(path, quality=95)
    expected = read_image(path, channels=channels, size=SIZE).permute(1, 2, 0).numpy()
    found = np.asarray(script(tmp_path, channels=channels)["read"](path))
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)
