"""Corrupted images, after Hendrycks and Dietterich (arXiv:1903.12261), for small images in torch.

Seven of their corruptions at the severities 1, 3 and 5 of CIFAR-10-C, whose images have 32 pixels
(github.com/hendrycks/robustness, make_cifar_c.py). Values are those of pixels / 255:

| corruption | parameter | 1 | 3 | 5 |
|---|---|---|---|---|
| `gaussian_noise` | standard deviation of what is added | 0.04 | 0.08 | 0.10 |
| `shot_noise` | photons at full brightness (Poisson) | 500 | 100 | 50 |
| `impulse_noise` | share of values set to 0 or 1, as many each | 0.01 | 0.03 | 0.07 |
| `gaussian_blur` | standard deviation, in pixels of a 32-pixel image | 0.4 | 0.7 | 1.0 |
| `brightness` | added to the value of HSV, the largest of a pixel's channels | 0.05 | 0.15 | 0.3 |
| `contrast` | factor of the distance from the channel's mean | 0.75 | 0.4 | 0.15 |
| `pixelate` | share of the image's height and width that is kept | 0.95 | 0.85 | 0.65 |

Theirs need a JPEG encoder, textures or ImageMagick for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgenas.artifacts import derive_seed
from edgenas.errors import UsageError, nearest

SEVERITIES = (1, 3, 5)


def corrupt(pixels: Tensor, name: str, severity: int, *, seed: int) -> Tensor:
    """uint8 images (n, c, h, w) under the corruption `name`, uint8 of the same shape.

    What is random depends on the seed, the corruption and the severity alone.

    Raises:
        UsageError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"corruption {name!r} is unknown; {nearest(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UsageError(f"severity {severity}: it is one of {', '.join(map(str, SEVERITIES))}")
    function, parameters = CORRUPTIONS[name]
    generator = torch.Generator().manual_seed(derive_seed(seed, name, severity))
    images = function(pixels.cpu().float() / 255, parameters[SEVERITIES.index(severity)], generator)
    return (255 * images).round().clamp(0, 255).to(torch.uint8)


def _gaussian_noise(images: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=generator)


def _shot_noise(images: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(images * photons, generator=generator) / photons


def _impulse_noise(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(images.shape, generator=generator)
    images = torch.where(drawn < share / 2, 0.0, images)
    return torch.where(drawn > 1 - share / 2, 1.0, images)


def _gaussian_blur(images: Tensor, deviation: float, _: torch.Generator) -> Tensor:
    size = images.shape[-1]
    deviation = deviation * size / 32
    reach = min(math.ceil(4 * deviation), size - 1)
    weights = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * deviation**2))
    weights = weights / weights.sum()
    n, c, height, width = images.shape
    padded = functional.pad(images, (reach,) * 4, mode="replicate").flatten(0, 1).unsqueeze(1)
    rows = functional.conv2d(padded, weights.view(1, 1, -1, 1))
    return functional.conv2d(rows, weights.view(1, 1, 1, -1)).view(n, c, height, width)


def _brightness(images: Tensor, more: float, _: torch.Generator) -> Tensor:
    value = images.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    # a grey pixel stays grey, and hue and saturation are ratios: one factor a pixel keeps them
    return torch.where(value > 0, images * brighter / value.clamp(min=1e-6), brighter)


def _contrast(images: Tensor, factor: float, _: torch.Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def _pixelate(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    small = functional.adaptive_avg_pool2d(
        images, (max(1, int(height * share)), max(1, int(width * share)))
    )
    return functional.interpolate(small, (height, width), mode="nearest")


CORRUPTIONS: Mapping[
    str, tuple[Callable[[Tensor, float, torch.Generator], Tensor], tuple[float, float, float]]
] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.08, 0.10)),
    "shot_noise": (_shot_noise, (500, 100, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.07)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.7, 1.0)),
    "brightness": (_brightness, (0.05, 0.15, 0.3)),
    "contrast": (_contrast, (0.75, 0.4, 0.15)),
    "pixelate": (_pixelate, (0.95, 0.85, 0.65)),
}
"""What each corruption does to images in [0, 1], and its parameter at each of `SEVERITIES`."""
