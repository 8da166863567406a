from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgenas.data import (
    POLICIES,
    Policy,
    augment,
    policy_for,
    prepare,
    resize,
)
from edgenas.errors import UsageError


def noise(n: int, c: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, c, h, w), generator=generator, dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_resize_keeps_values_and_antialiases() -> None:
    flat = torch.full((2, 3, 30, 30), 200, dtype=torch.uint8)
    assert torch.allclose(resize(flat, 17), torch.full((2, 3, 17, 17), 200.0))
    # Stripes of one pixel become grey, not stripes again, when the size is halved.
    stripes = (torch.arange(32) % 2 * 255).to(torch.uint8).expand(1, 1, 32, 32)
    assert (resize(stripes, 16) - 127.5).abs().max() < 40
    same = noise(2, 1, 8, 8)
    assert torch.equal(resize(same, 8), same.float())


def test_resize_is_the_filter_that_pillow_calls_bilinear() -> None:
    pixels = noise(1, 1, 28, 28)
    for size in (20, 24, 40):
        image = Image.fromarray(pixels[0, 0].numpy().astype(np.float32))
        expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(resize(pixels, size)[0, 0].numpy(), expected, atol=1e-3)


def test_prepare_normalises_each_channel_and_is_channels_last() -> None:
    pixels = noise(4, 3, 12, 12)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    found = prepare(pixels, resolution=12, mean=mean, std=std)
    for c in range(3):
        expected = (pixels[:, c] / 255 - mean[c]) / std[c]
        torch.testing.assert_close(found[:, c], expected, atol=1e-6, rtol=1e-5)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    smaller = prepare(pixels, resolution=9, mean=mean, std=std)
    full = prepare(pixels, resolution=12, mean=mean, std=std)
    torch.testing.assert_close(smaller, resize(full, 9), atol=1e-5, rtol=1e-4)


@given(
    crop=st.integers(1, 4),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    shape=st.tuples(
        st.integers(1, 5), st.sampled_from([1, 3]), st.integers(3, 9), st.integers(3, 9)
    ),
    seed=st.integers(0, 1000),
)
def test_crop_and_flip_equal_a_loop_over_images(
    crop: int, flip: float, shape: tuple[int, int, int, int], seed: int
) -> None:
    pixels = noise(*shape, seed)
    found = augment(pixels, generator=seeded(seed), policy=Policy(crop=crop, flip=flip))

    generator = seeded(seed)
    n, _, h, w = shape
    down, right = torch.randint(2 * crop + 1, (2, n), generator=generator).tolist()
    mirrored = (torch.rand(n, generator=generator) < flip).tolist() if flip else [False] * n
    for i in range(n):
        padded = np.pad(pixels[i].numpy(), ((0, 0), (crop, crop), (crop, crop)))
        window = padded[:, down[i] : down[i] + h, right[i] : right[i] + w]
        if mirrored[i]:
            window = window[:, :, ::-1]
        np.testing.assert_array_equal(found[i].numpy(), window)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_augment_repeats_under_its_generator_and_leaves_its_input(name: str, channels: int) -> None:
    pixels = noise(64, channels, 16, 16)
    before = pixels.clone()
    policy = policy_for(name, image_size=28, mirror=True)
    first = augment(pixels, generator=seeded(3), policy=policy)
    assert torch.equal(pixels, before)
    assert torch.equal(first, augment(pixels, generator=seeded(3), policy=policy))
    assert first.dtype == torch.uint8
    assert first.shape == pixels.shape
    if name == "none":
        assert torch.equal(first, pixels)
    else:
        assert not torch.equal(first, augment(pixels, generator=seeded(4), policy=policy))


def test_augment_takes_floats() -> None:
    pixels = noise(16, 3, 12, 12).float() / 255 - 0.5
    found = augment(pixels, generator=seeded(), policy=POLICIES["strong"])
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert not torch.equal(found, pixels)


def test_half_of_the_images_are_mirrored_and_all_offsets_occur() -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(2000, 1, 8, 8)
    flipped = augment(ramp, generator=seeded(), policy=Policy(flip=0.5))
    share = (flipped[:, 0, 0, 0] == 7).float().mean()
    assert 0.45 < share < 0.55
    assert ((flipped == ramp) | (flipped == ramp.flip(-1))).all()
    one = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    one[:, 0, 2, 2] = 255
    moved = augment(one, generator=seeded(), policy=Policy(crop=2))
    hits = (moved == 255).sum(dim=0)[0]
    assert hits.sum() == 2000
    assert hits.min() > 40  # 80 expected at each of the 25 places
    assert hits.max() < 130


def test_erase_fills_one_rectangle_of_the_right_size_with_the_mean() -> None:
    pixels = noise(500, 1, 20, 20)
    pixels[pixels == 127] = 128
    policy = Policy(erase=1.0, erase_area=(0.1, 0.3))
    found = augment(pixels, generator=seeded(), policy=policy)
    for image, before in zip(found, pixels, strict=True):
        changed = (image != before)[0]
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert 0.06 < height * width / 400 < 0.36  # rounding of the sides
        inside = image[0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.unique().tolist() == [int(before.float().mean().round())]
    some = augment(pixels, generator=seeded(), policy=Policy(erase=0.25))
    share = (some != pixels).flatten(1).any(1).float().mean()
    assert 0.2 < share < 0.3


def test_brightness_and_contrast_stay_in_their_range() -> None:
    flat = torch.full((500, 3, 4, 4), 100, dtype=torch.uint8)
    bright = augment(flat, generator=seeded(), policy=Policy(brightness=0.2))
    assert bright.min() >= 80
    assert bright.max() <= 120
    assert bright.float().std() > 5
    assert torch.equal(augment(flat, generator=seeded(), policy=Policy(contrast=0.5)), flat)
    dark_and_light = torch.cat([flat, flat + 100], dim=2)
    found = augment(dark_and_light, generator=seeded(), policy=Policy(contrast=0.5)).float()
    distance = found[:, :, 4:].mean((1, 2, 3)) - found[:, :, :4].mean((1, 2, 3))
    assert 49 <= distance.min() < 60
    assert 140 < distance.max() <= 151
    assert (found.mean((1, 2, 3)) - 150).abs().max() <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"flip": -0.1},
        {"flip": 1.1},
        {"crop": -1},
        {"erase": 2},
        {"contrast": float("nan")},
        {"erase_area": (0, 0.2)},
        {"erase_area": (0.3, 0.2)},
    ],
)
def test_a_policy_out_of_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Policy(**settings)  # type: ignore[arg-type]


def test_policies_scale_and_respect_mirroring() -> None:
    assert policy_for("light", image_size=28, mirror=True) == Policy(flip=0.5, crop=2)
    assert policy_for("light", image_size=64, mirror=True).crop == 5
    assert policy_for("light", image_size=8, mirror=False) == Policy(crop=1)
    assert policy_for("none", image_size=96, mirror=True) == Policy()
    with pytest.raises(UsageError, match="did you mean 'strong'"):
        policy_for("stong", image_size=28, mirror=True)
