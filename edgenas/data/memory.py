"""Whether a data set fits into memory, known before it is read."""

from __future__ import annotations

from dataclasses import dataclass

from edgenas.errors import ResourceError

DEFAULT_SIZES = (28, 32, 48, 64, 80, 96)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What loading a data set takes."""

    n_images: int
    channels: int
    image_size: int
    memory_bytes: int
    """While it is loaded; the data set itself is smaller where splits are cut from others."""
    disk_bytes: int
    """Of the files that are read."""


def default_size(short_side: int) -> int:
    """Height and width for images whose median short side is `short_side`, where none was asked.

    The largest of 28, 32, 48, 64, 80 and 96 that does not exceed it; smaller images keep their
    size, from 8 up. 96 is the cap: larger images cost memory and training time squared, so one
    has to ask for them.
    """
    fitting = [size for size in DEFAULT_SIZES if size <= short_side]
    return fitting[-1] if fitting else max(8, short_side)


def pixel_bytes(n_images: int, channels: int, image_size: int) -> int:
    """Bytes of the images as uint8, with int64 labels."""
    return n_images * (channels * image_size**2 + 8)


def check_memory(name: str, needed_bytes: int, *, hint: str) -> None:
    """Refuses what does not fit.

    Raises:
        ResourceError: more is needed than is free.
    """
    import psutil  # type: ignore[import-untyped]

    free = int(psutil.virtual_memory().available)
    if needed_bytes > free:
        raise ResourceError(
            f"{name}: {needed_bytes / 2**20:,.0f} MiB of memory are needed to load it, "
            f"{free / 2**20:,.0f} MiB are free",
            hint=hint,
        )
