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


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_is_decoded_as_for_training(
    channels: int,
    tmp_path: Path,
    script_beside: Callable[[InputContract], dict[str, Any]],
) -> None:
    plane = (0.5,) * channels
    contract = InputContract(
        (1, SIZE, SIZE, channels), plane, plane, ("cat", "dog"), "bilinear-antialias"
    )
    noise = np.random.default_rng(0).integers(0, 256, (400, 530, 3), dtype=np.uint8)
    path = tmp_path / "large.jpg"
    Image.fromarray(noise).save(path, quality=95)
    expected = read_image(path, channels=channels, size=SIZE).permute(1, 2, 0).numpy()
    found = np.asarray(script_beside(contract)["read"](path))
    np.testing.assert_array_equal(found.reshape(expected.shape), expected)
