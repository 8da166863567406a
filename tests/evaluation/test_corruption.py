"""Each corruption: deterministic, in the range of values, worse with severity, as stated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgenas.errors import UsageError
from edgenas.evaluation import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture(scope="module", params=[(1, 28), (3, 32)], ids=["grey", "RGB"])
def images(request: pytest.FixtureRequest) -> Tensor:
    """Eight smooth uint8 images with some structure."""
    channels, size = request.param
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, channels, 7, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    return (255 * smooth).round().to(torch.uint8)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).square().mean().sqrt())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_a_function_of_the_seed_and_grows_with_severity(images: Tensor, name: str) -> None:
    before = images.clone()
    found = [corrupt(images, name, severity, seed=3) for severity in SEVERITIES]
    for corrupted, severity in zip(found, SEVERITIES, strict=True):
        assert corrupted.dtype == torch.uint8
        assert corrupted.shape == images.shape
        assert torch.equal(corrupted, corrupt(images, name, severity, seed=3))
    assert torch.equal(images, before)
    one, three, five = (distance(images, corrupted) for corrupted in found)
    assert 0 < one < three < five


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_only_noise_depends_on_the_seed(images: Tensor, name: str) -> None:
    same = torch.equal(corrupt(images, name, 3, seed=1), corrupt(images, name, 3, seed=2))
    assert same is not name.endswith("_noise")


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_do_not_wrap_around(name: str, level: int) -> None:
    flat = torch.full((2, 1, 28, 28), level, dtype=torch.uint8)
    if name == "brightness" and level == 0:
        assert corrupt(flat, name, 5, seed=0).unique().tolist() == [round(0.3 * 255)]
    elif name == "impulse_noise":
        assert set(corrupt(flat, name, 5, seed=0).unique().tolist()) == {0, 255}
    else:  # far from the other end of the scale
        off = corrupt(flat, name, 5, seed=0).float() - level
        assert off.abs().max() < 0.6 * 255


def flat(level: float) -> Tensor:
    return torch.full((4, 1, 100, 100), round(255 * level), dtype=torch.uint8)


def test_noise_has_the_stated_deviation() -> None:
    noisy = corrupt(flat(0.5), "gaussian_noise", 5, seed=0).float() / 255
    assert float(noisy.std()) == pytest.approx(0.10, rel=0.02)
    shots = corrupt(flat(0.5), "shot_noise", 5, seed=0).float() / 255
    assert float(shots.std()) == pytest.approx((0.5 / 50) ** 0.5, rel=0.02)
    assert float(shots.mean()) == pytest.approx(0.5, abs=0.003)
    impulses = corrupt(flat(0.5), "impulse_noise", 5, seed=0)
    for end in (0, 255):
        assert float((impulses == end).float().mean()) == pytest.approx(0.035, abs=0.004)


def test_contrast_brightness_and_pixelation_by_hand() -> None:
    image = torch.tensor([[0, 200], [100, 100]], dtype=torch.uint8).view(1, 1, 2, 2)
    assert corrupt(image, "contrast", 3, seed=0).flatten().tolist() == [60, 140, 100, 100]
    colour = torch.tensor([51, 102, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    # the value 0.4 becomes 0.55; hue and saturation stay
    assert corrupt(colour, "brightness", 3, seed=0).flatten().tolist() == [70, 140, 0]
    image = torch.tensor([[0, 40], [80, 120]], dtype=torch.uint8).view(1, 1, 2, 2)
    assert corrupt(image, "pixelate", 5, seed=0).unique().tolist() == [60]


def test_blur_is_a_gaussian_that_scales_with_the_image() -> None:
    for size in (32, 64):
        point = torch.zeros(1, 1, size, size, dtype=torch.uint8)
        point[..., size // 2, size // 2] = 255
        wide = 255 * torch.ones(1, 1, size, size)
        assert torch.equal(corrupt(wide.to(torch.uint8), "gaussian_blur", 5, seed=0), wide)
        deviation = size / 32
        at = torch.arange(size) - size // 2
        weights = torch.exp(-(at**2) / (2 * deviation**2))
        expected = 255 * (weights / weights.sum()).outer(weights / weights.sum())
        found = corrupt(point, "gaussian_blur", 5, seed=0)[0, 0].float()
        assert float((found - expected).abs().max()) <= 0.51


def test_unknown_ones_are_refused(images: Tensor) -> None:
    with pytest.raises(UsageError, match="did you mean 'contrast'"):
        corrupt(images, "contrst", 1, seed=0)
    with pytest.raises(UsageError, match="severity 2: it is one of 1, 3, 5"):
        corrupt(images, "contrast", 2, seed=0)
