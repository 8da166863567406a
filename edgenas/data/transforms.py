"""What happens to pixels on their way into a network: the one resize, preparing, augmenting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgenas.errors import UsageError, nearest

RESIZE = "bilinear-antialias"
"""Name of the one resize; exported models carry it."""


def resize(images: Tensor, size: int) -> Tensor:
    """Images (n, c, h, w) as float32 (n, c, size, size), in the same range of values.

    Bilinear with antialiasing, corners not aligned; images that have the size are only cast.
    Training, evaluation, verification and inference scripts all use this one.
    """
    images = images.float()
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return functional.interpolate(
        images, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )


def prepare(
    pixels: Tensor, *, resolution: int, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """What a network takes: (pixels / 255 - mean) / std at `resolution`, float32, channels_last.

    `pixels` are uint8 (or float of the same range) (n, c, h, w).
    """
    scale = torch.tensor([1 / (255 * s) for s in std], device=pixels.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=pixels.device)
    images = resize(pixels, resolution)
    images = images * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True)
class Policy:
    """How images are varied while training; all zero changes nothing."""

    flip: float = 0.0
    """Probability of mirroring left and right."""
    crop: int = 0
    """Pixels of black padding on each side, from which the image's size is cut at random."""
    erase: float = 0.0
    """Probability of filling a random rectangle with the image's mean (arXiv:1708.04896)."""
    erase_area: tuple[float, float] = (0.02, 0.2)
    """Least and largest share of the image that is erased."""
    brightness: float = 0.0
    """b: values are multiplied by a factor from [1 - b, 1 + b]."""
    contrast: float = 0.0
    """c: distances from the image's mean are multiplied by a factor from [1 - c, 1 + c]."""

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"augmentation: {name} {getattr(self, name)} must lie in [0, 1]")
        if self.crop < 0:
            raise UsageError(f"augmentation: crop {self.crop} must not be negative")
        if not 0 < self.erase_area[0] <= self.erase_area[1] <= 1:
            raise UsageError(f"augmentation: erase_area {self.erase_area}: 0 < least <= largest")


POLICIES = {
    "none": Policy(),
    "light": Policy(flip=0.5, crop=2),
    "erase": Policy(flip=0.5, crop=2, erase=0.25),
    "strong": Policy(flip=0.5, crop=2, erase=0.25, brightness=0.2, contrast=0.2),
}
"""Policies by name, for images of 28 pixels that may be mirrored."""


def policy_for(name: str, *, image_size: int, mirror: bool) -> Policy:
    """The policy `name`, its crop scaled from 28 pixels to `image_size`; flips only if `mirror`.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in POLICIES:
        raise UsageError(f"augmentation {name!r} is unknown; {nearest(name, POLICIES)}")
    policy = POLICIES[name]
    crop = max(1, round(policy.crop * image_size / 28)) if policy.crop else 0
    return dataclasses.replace(policy, crop=crop, flip=policy.flip if mirror else 0.0)


def augment(pixels: Tensor, *, generator: torch.Generator, policy: Policy) -> Tensor:
    """The batch (n, c, h, w) varied by `policy`, each image on its own; same dtype and shape.

    uint8 stays in 0..255; floats are not clamped. The same generator state gives the same result
    (draws are made on the generator's device).
    """
    if policy.crop:
        pixels = _crop(pixels, policy.crop, generator)
    if policy.flip:
        chosen = _uniform(len(pixels), generator, pixels.device) < policy.flip
        pixels = torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if policy.brightness or policy.contrast:
        pixels = _shade(pixels, policy, generator)
    if policy.erase:
        pixels = _erase(pixels, policy, generator)
    return pixels


def _uniform(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device).to(device)


def _crop(pixels: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    n, _, height, width = pixels.shape
    offsets = torch.randint(2 * crop + 1, (2, n), generator=generator, device=generator.device)
    down, right = offsets.to(pixels.device)
    padded = functional.pad(pixels, (crop, crop, crop, crop))
    # A view of every possible window; picking one an image copies only what is picked.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=pixels.device), :, down, right]


def _shade(pixels: Tensor, policy: Policy, generator: torch.Generator) -> Tensor:
    n = len(pixels)
    bright = 1 + policy.brightness * (2 * _uniform(n, generator, pixels.device) - 1)
    contrast = 1 + policy.contrast * (2 * _uniform(n, generator, pixels.device) - 1)
    images = pixels.float() * bright.view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * contrast.view(-1, 1, 1, 1)
    return _like(images, pixels)


def _erase(pixels: Tensor, policy: Policy, generator: torch.Generator) -> Tensor:
    n, _, height, width = pixels.shape
    device = pixels.device
    chosen, size, shape, y, x = (_uniform(n, generator, device) for _ in range(5))
    least, largest = policy.erase_area
    area = (least + (largest - least) * size) * height * width
    ratio = torch.exp((2 * shape - 1) * 1.2)  # from about 0.3 to 3.3, as in the paper
    rows = (area * ratio).sqrt().round().clamp(1, height)
    columns = (area / ratio).sqrt().round().clamp(1, width)
    top = (y * (height - rows + 1)).floor()
    left = (x * (width - columns + 1)).floor()
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    inside_y = (row >= top[:, None]) & (row < (top + rows)[:, None])
    inside_x = (column >= left[:, None]) & (column < (left + columns)[:, None])
    inside = inside_y[:, :, None] & inside_x[:, None, :] & (chosen < policy.erase)[:, None, None]
    fill = _like(pixels.float().mean(dim=(2, 3), keepdim=True), pixels)
    return torch.where(inside[:, None], fill, pixels)


def _like(images: Tensor, pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return images.round().clamp(0, 255).to(torch.uint8)
    return images.to(pixels.dtype)
