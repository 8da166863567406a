"""`load_data`: from the name of a data set, a folder or a file to its three splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from edgenas import plugins
from edgenas.artifacts import derive_seed
from edgenas.data.arrays import array_estimate, array_source
from edgenas.data.folder import folder_estimate, folder_source
from edgenas.data.images import DataSet, Images, data_set
from edgenas.data.memory import Estimate, check_memory, pixel_bytes
from edgenas.data.sources import Parts, Request, Source
from edgenas.data.splits import cut
from edgenas.data.transforms import resize
from edgenas.errors import DataError, UsageError, nearest
from edgenas.events import Event, Report, silent

SOURCES = {
    "fashion-mnist": "edgenas.data.sources:fashion_mnist",
    "digits": "edgenas.data.sources:digits",
}
"""The data sets that edgenas knows by name; plug-ins add more."""
# Images, height and width, bytes on disk.
_KNOWN = {"fashion-mnist": (70_000, 28, 30_878_551), "digits": (1_797, 8, 0)}

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
        source: `fashion-mnist`, `digits`, the name that a plug-in gave, a folder with one
            sub-folder a class (or `train` and `test` folders of such), or an `.npz` file. A folder
            that is called like a known set is written `./digits`.
        seed: of the run; the same one gives the same splits.
        image_size: height and width in pixels; absent: as the source has them, for a folder or
            file the largest of 28, 32, 48, 64, 80, 96 that the median image reaches.
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
    name, find = _resolve(source)
    request = Request(seed, image_size, root, download, report)
    if source in _KNOWN:
        needed = _known_estimate(source, image_size).memory_bytes
        check_memory(source, needed, hint="use a smaller image_size")
    data = assemble(name, find(request), seed=seed, image_size=image_size)
    if source not in SOURCES:
        _report_doubles(data, report)
    return data


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
        channels = int(train.pixels.shape[1])
        if any(part.pixels.shape[-1] != image_size for part in splits.values()):
            needed = 2 * sum(pixel_bytes(len(p), channels, image_size) for p in splits.values())
            check_memory(name, needed, hint="use a smaller image_size")
        splits = {split: _resized(part, image_size) for split, part in splits.items()}
    return data_set(name, parts.classes, splits, mirror=parts.mirror)


def estimate(source: str, *, image_size: int | None = None) -> Estimate | None:
    """What loading `source` takes, without decoding an image; None where only a plug-in knows.

    Raises:
        DataError: as `load_data`, as far as names, headers and shapes tell.
    """
    if source in _KNOWN:
        return _known_estimate(source, image_size)
    path = _path(source)
    if path is None:
        return None
    return (array_estimate if _is_array(path) else folder_estimate)(path, image_size)


def _known_estimate(source: str, image_size: int | None) -> Estimate:
    n, size, disk_bytes = _KNOWN[source]
    memory = 3 * pixel_bytes(n, 1, size)  # the file's content, the images, cut into splits
    if image_size not in (None, size):
        memory += 2 * pixel_bytes(n, 1, image_size or size)
    return Estimate(n, 1, image_size or size, memory, disk_bytes)


def _report_doubles(data: DataSet, report: Report) -> None:
    """Warns of images that are in two splits, pixel for pixel: files that exist twice."""
    seen: dict[bytes, str] = {}
    doubles: Counter[tuple[str, str]] = Counter()
    for split, part in data.splits.items():
        for image in part.pixels.numpy():
            key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            first = seen.setdefault(key, split)
            doubles[first, split] += first != split
    for (first, split), n in doubles.items():
        if n:
            text = f"{n} images of {split} are also in {first}, pixel for pixel"
            report(Event("data", message=f"warning: {data.name}: {text}"))


def _resolve(source: str) -> tuple[str, Source]:
    """The data set's name and what reads it."""
    path = None if source in SOURCES else _path(source)
    if path is not None:
        find = array_source if _is_array(path) else folder_source
        return path.stem if _is_array(path) else path.resolve().name, partial(find, path)
    known = plugins.names("datasets", SOURCES)
    if source not in known:
        raise DataError(
            f"data set {source!r}: no known set, folder or .npz file; {nearest(source, known)}",
            hint=f"known sets: {', '.join(known)}; or the path of a folder or .npz file",
        )
    # What a plug-in names is checked by what it returns.
    return source, cast(Source, plugins.lookup("datasets", source, SOURCES))


def _path(source: str) -> Path | None:
    """The folder or file that `source` means; None for the name of a data set."""
    path = Path(source).expanduser()
    if path.is_dir() or _is_array(path):
        return path
    if path.is_file():
        raise DataError(f"{path}: neither a folder of images nor an .npz file")
    return path if len(path.parts) > 1 else None


def _is_array(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and not path.is_dir()


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
