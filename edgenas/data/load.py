"""`load_data`: from the name of a data set, a folder or a file to its three splits."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edgenas.artifacts import derive_seed
from edgenas.data.images import DataSet, Images, data_set
from edgenas.data.sources import Parts, Request, Source, digits, fashion_mnist
from edgenas.data.splits import cut
from edgenas.data.transforms import resize
from edgenas.errors import DataError, UsageError, nearest
from edgenas.events import Report, silent

SOURCES: dict[str, Source] = {"fashion-mnist": fashion_mnist, "digits": digits}
"""The data sets that edgenas knows by name; plug-ins add more."""

SEARCH_SHARE = 0.12
TEST_SHARE = 0.15
_CHUNK = 4096


def load_data(
    source: str,
    *,
    seed: int,
    image_size: int | None = None,
    root: Path | None = None,
    download: bool = False,
    report: Report = silent,
) -> DataSet:
    """The data set `source` in its splits, in memory, as uint8.

    Ready-made splits are kept. A test split that is missing is cut from train (15 %), then a search
    split (12 % of what was there), stratified by class; which images is decided by `seed` alone.

    Args:
        source: `fashion-mnist`, `digits`, or the name that a plug-in gave.
        seed: of the run; the same one gives the same splits.
        image_size: height and width in pixels; absent: as the source has them.
        root: the folder that holds the files of a data set known by name.
        download: whether the network may be used where files are missing.
        report: progress and warnings.

    Raises:
        UsageError: an unknown name or an image size below 8.
        DataError: the data cannot be used; the message says which file or class.
        ResourceError: it does not fit into memory, or a download failed.
    """
    if image_size is not None and image_size < 8:
        raise UsageError(f"image_size {image_size}: at least 8 pixels are needed")
    request = Request(seed, image_size, root, download, report)
    parts = _resolve(source)(request)
    return assemble(source, parts, seed=seed, image_size=image_size)


def assemble(name: str, parts: Parts, *, seed: int, image_size: int | None = None) -> DataSet:
    """The data set made of `parts`: missing splits cut, resized to `image_size`, checked."""
    train, search, test = parts.train, parts.search, parts.test
    total = len(train)
    if test is None:
        n = parts.test_images or _share(total, TEST_SHARE, len(parts.classes))
        train, test = _cut(name, train, n, seed=derive_seed(seed, "split", "test"))
    if search is None:
        n = parts.search_images or _share(total, SEARCH_SHARE, len(parts.classes))
        train, search = _cut(name, train, n, seed=derive_seed(seed, "split", "search"))
    splits = {"train": train, "search": search, "test": test}
    if image_size is not None:
        splits = {split: _resized(part, image_size) for split, part in splits.items()}
    return data_set(name, parts.classes, splits, mirror=parts.mirror)


def _resolve(source: str) -> Source:
    if source in SOURCES:
        return SOURCES[source]
    raise UsageError(f"data set {source!r} is unknown; {nearest(source, SOURCES)}")


def _share(total: int, share: float, n_classes: int) -> int:
    return max(n_classes, round(total * share))


def _cut(name: str, images: Images, n: int, *, seed: int) -> tuple[Images, Images]:
    try:
        kept, away = cut(images.labels, n, seed=seed)
    except DataError as error:
        raise DataError(f"{name}: {error}", hint=error.hint) from error
    return images.take(kept), images.take(away)


def _resized(images: Images, size: int) -> Images:
    if images.pixels.shape[-1] == size:
        return images
    parts: list[Tensor] = [
        resize(images.pixels[start : start + _CHUNK], size).round().clamp(0, 255).to(torch.uint8)
        for start in range(0, len(images), _CHUNK)
    ]
    return Images(torch.cat(parts), images.labels)
