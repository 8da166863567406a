"""Images in folders, one folder a class, of any size and mode.

    photos/cat/*.jpg  photos/dog/*.png                    splits are cut by seed
    photos/train/cat/*.jpg  ...  photos/test/cat/*.jpg    ready-made; search/ or val/ as well

The one conversion: the first frame; turned as EXIF says; 16-bit grey divided by 257; transparent
parts laid on white; palette, CMYK and the rest to RGB as Pillow does it. The set is grey (one
channel) only if every image is stored grey, else RGB. The centre square is resized with Pillow's
antialiased bilinear filter and kept as uint8.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgenas.data.images import SPLITS, Images, Unlabelled
from edgenas.data.memory import Estimate, check_memory, default_size, pixel_bytes
from edgenas.data.sources import NO_SUCH_PATH, Parts, Request
from edgenas.errors import DataError, ResourceError
from edgenas.events import Event, Report, silent

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's other readers are not let near a user's files: one of them starts a program."""
MAX_BROKEN_SHARE = 0.01
_GREY_MODES = frozenset(["1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"])
_HIDDEN = (".", "__MACOSX")
"""What names begin with that systems and editors put beside images."""
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "search": "search",
    "val": "search",
    "validation": "search",
    "valid": "search",
    "test": "test",
    "testing": "test",
}
"""Whatever the case."""
_EVERY = 200
_LISTED = 10
# What Pillow raises on damaged files, the decompression bomb among them.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError,
    TypeError, OverflowError, NotImplementedError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """The images of a folder after a look at their headers only."""

    classes: tuple[str, ...]
    files: dict[str, list[tuple[Path, int]]]
    """By split, or under "all" where the splits are not ready-made: path and class."""
    broken: dict[Path, str]
    channels: int
    short_side: int
    """Median over the images."""

    @property
    def n_images(self) -> int:
        """Images that can be opened."""
        return sum(len(files) for files in self.files.values())

    def memory_bytes(self, size: int) -> int:
        """Peak while loading: the images, and once more while splits are cut from them."""
        copies = 2 if len(self.files) < 3 else 1
        return copies * pixel_bytes(self.n_images, self.channels, size)


def folder_source(folder: Path, request: Request) -> Parts:
    """The images below `folder`; up to 1 % broken ones are left out with a warning.

    Raises:
        DataError: no, one or an empty class; splits with different classes; more broken images.
        ResourceError: the images do not fit into memory at this size; a folder cannot be read.
    """
    found = scan(folder, report=request.report)
    size = request.image_size or default_size(found.short_side)
    check_memory(
        str(folder), found.memory_bytes(size), hint=f"use smaller images than {size}: image_size"
    )
    broken = dict(found.broken)
    total = found.n_images
    tick = _ticker(f"reading images of {folder}", total, request.report)
    parts: dict[str, Images] = {}
    for split, files in found.files.items():
        paths = [path for path, _ in files]
        pixels, kept = _read(paths, channels=found.channels, size=size, broken=broken, tick=tick)
        labels = [files[i][1] for i in kept]
        parts[split] = Images(pixels, torch.tensor(labels, dtype=torch.int64))
    _tell_broken(folder, broken, total + len(found.broken), request.report)
    return Parts(
        found.classes,
        train=parts["train"] if "train" in parts else parts["all"],
        search=parts.get("search"),
        test=parts.get("test"),
    )


def unlabelled_images(
    folder: Path,
    *,
    channels: int,
    size: int,
    n: int | None = None,
    seed: int = 0,
    report: Report = silent,
) -> Unlabelled:
    """The images anywhere below `folder`, by the module's one conversion.

    Sorted by path; where `n` is fewer than there are, `n` drawn by `seed`. Up to 1 % broken ones
    are left out with a warning.

    Raises:
        DataError: no folder, no images, more broken ones.
        ResourceError: they do not fit into memory at this size; a folder cannot be read.
    """
    paths = unlabelled_files(folder)
    if n is not None and n < len(paths):
        paths = sorted(random.Random(seed).sample(paths, n))
    needed = pixel_bytes(len(paths), channels, size)
    check_memory(str(folder), needed, hint="search.images takes fewer of them")
    tick = _ticker(f"reading images of {folder}", len(paths), report)
    broken: dict[Path, str] = {}
    pixels, _ = _read(paths, channels=channels, size=size, broken=broken, tick=tick)
    _tell_broken(folder, broken, len(paths), report)
    return Unlabelled(pixels)


def unlabelled_files(folder: Path) -> list[Path]:
    """The files of `unlabelled_images`, by their suffixes alone. Raises as that."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: there is no such folder", hint="check the path in [search] unlabelled"
        )
    found = [path for path in _walk(folder, set()) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(f"{folder}: no images in it", hint=f"add images ({' '.join(SUFFIXES)})")
    return found


def folder_estimate(folder: Path, image_size: int | None) -> Estimate:
    """What loading `folder` takes, from the headers of its images. Raises as `folder_source`."""
    found = scan(folder)
    size = image_size or default_size(found.short_side)
    disk = sum(path.stat().st_size for files in found.files.values() for path, _ in files)
    return Estimate(found.n_images, found.channels, size, found.memory_bytes(size), disk)


def scan(folder: Path, *, report: Report = silent) -> Found:
    """Which classes, splits and images `folder` holds; opens each image, but decodes none.

    Raises:
        DataError: as `folder_source`.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder", hint=NO_SUCH_PATH)
    splits = _splits(folder, report)
    listed = {split: _classes(path, report) for split, path in splits.items()}
    classes = _same_classes(folder, listed)
    problems = [
        str(splits[split] / name)
        for split, members in listed.items()
        for name, paths in members.items()
        if not paths
    ]
    if problems:
        raise DataError(
            f"{folder}: no images in {', '.join(problems)}",
            hint=f"add images ({' '.join(SUFFIXES)}) or remove the folder",
        )
    if len(classes) < 2:
        raise DataError(
            f"{folder}: only one class, {classes[0]!r}; at least 2 are needed",
            hint="one sub-folder a class: add another",
        )
    total = sum(len(paths) for members in listed.values() for paths in members.values())
    files: dict[str, list[tuple[Path, int]]] = {split: [] for split in listed}
    broken: dict[Path, str] = {}
    short_sides: list[int] = []
    grey = True
    tick = _ticker(f"looking at images of {folder}", total, report)
    for split, members in listed.items():
        for label, name in enumerate(classes):
            for path in members[name]:
                tick()
                try:
                    mode, side = _header(path)
                except _DAMAGE as error:
                    broken[path] = _reason(error)
                    continue
                files[split].append((path, label))
                short_sides.append(side)
                grey = grey and mode in _GREY_MODES
    _check_broken(folder, broken, total)
    return Found(classes, files, broken, 1 if grey else 3, median_low(short_sides))


def read_image(path: Path, *, channels: int, size: int) -> Tensor:
    """The image in `path` by the module's one conversion, uint8 (channels, size, size).

    Raises:
        OSError, ValueError, ...: whatever Pillow raises for a damaged file.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path, formats=FORMATS) as file:
        # JPEG alone: decodes at a half, a quarter or an eighth, never below twice the target.
        file.draft(None, (2 * size, 2 * size))
        image = _to_mode(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut before resizing: the filter would look beyond a `box=`.
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


def _read(
    paths: Sequence[Path],
    *,
    channels: int,
    size: int,
    broken: dict[Path, str],
    tick: Callable[[], None],
) -> tuple[Tensor, list[int]]:
    """Those that can be read, uint8 (n, c, size, size), and where they stand in `paths`."""
    pixels = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    kept: list[int] = []
    for i, path in enumerate(paths):
        tick()
        try:
            with _strict():
                pixels[len(kept)] = read_image(path, channels=channels, size=size)
        except _DAMAGE as error:
            broken[path] = _reason(error)
        else:
            kept.append(i)
    return pixels[: len(kept)], kept


def _ticker(message: str, total: int, report: Report) -> Callable[[], None]:
    """Called once an image, it reports every so many."""
    done = itertools.count()

    def tick() -> None:
        if (i := next(done)) % _EVERY == 0:
            report(Event("data", i, total, message=message))

    return tick


def _to_mode(image: Image, mode: str) -> Image:
    import numpy as np
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "F" or low < 0 or high > 65535:
            raise ValueError(f"{image.mode} image with values {low}..{high}: not 8 or 16 bits")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def _header(path: Path) -> tuple[str, int]:
    """Mode and shorter side."""
    from PIL import Image

    with _strict(), Image.open(path, formats=FORMATS) as file:
        return file.mode, min(file.size)


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """Decompression bombs are errors; Pillow's other warnings (odd EXIF) are not shown."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(f"decompression bomb? {error}") from error


def _splits(folder: Path, report: Report) -> dict[str, Path]:
    """The folders that hold class folders, by split; {"all": folder} where none is ready-made."""
    ready = {
        entry.name: entry
        for entry in _folders(folder)
        if entry.name.casefold() in _SPLIT_FOLDERS and _folders(entry)
    }
    if not ready:
        return {"all": folder}
    if "train" not in {_SPLIT_FOLDERS[name.casefold()] for name in ready}:
        raise DataError(
            f"{folder}: holds {', '.join(ready)} with class folders, but no train",
            hint="name the splits train, test and (optionally) search",
        )
    splits: dict[str, Path] = {}
    for name, path in ready.items():
        split = _SPLIT_FOLDERS[name.casefold()]
        if split in splits:
            raise DataError(f"{folder}: both {splits[split].name} and {name} hold {split} images")
        splits[split] = path
    splits = {split: splits[split] for split in SPLITS if split in splits}
    others = [entry.name for entry in _folders(folder) if entry.name not in ready]
    if others:
        report(Event("data", message=f"warning: {folder}: ignored {', '.join(others)}"))
    return splits


def _folders(folder: Path) -> list[Path]:
    with _readable(folder):
        entries = sorted(folder.iterdir())
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(_HIDDEN)]


def _classes(folder: Path, report: Report) -> dict[str, list[Path]]:
    """The images of each class folder; names in composed Unicode, as systems differ in it."""
    classes: dict[str, list[Path]] = {}
    ignored: list[str] = []
    for entry in _folders(folder):
        name = unicodedata.normalize("NFC", entry.name)
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{folder}: the class folder {os.fsencode(entry.name)!r} is not named in UTF-8",
                hint="rename it",
            ) from error
        if name in classes:
            raise DataError(f"{folder}: two class folders are both named {name!r}")
        classes[name] = []
        for path in _walk(entry, set()):
            if path.suffix.lower() in SUFFIXES:
                classes[name].append(path)
            else:
                ignored.append(path.relative_to(folder).as_posix())
    if not classes:
        raise DataError(
            f"{folder}: holds no class folders",
            hint="put the images of each class into a sub-folder with the class's name",
        )
    stray = [p.name for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    ignored += [name for name in stray if not name.startswith(_HIDDEN)]
    if ignored:
        report(Event("data", message=f"warning: {folder}: no images of a class: {_some(ignored)}"))
    return classes


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Files below `folder` that are not hidden, sorted; links are followed, no folder twice."""
    with _readable(folder):
        status = folder.stat()
        entries = sorted(folder.iterdir())
    if (identity := (status.st_dev, status.st_ino)) in seen:
        return
    seen.add(identity)
    for entry in entries:
        if entry.name.startswith(_HIDDEN):
            continue
        if entry.is_dir():
            yield from _walk(entry, seen)
        else:
            yield entry


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"cannot read the folder {folder}: {error.strerror or error}",
            hint="check its permissions",
        ) from error


def _same_classes(folder: Path, listed: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    first, *others = listed
    classes = sorted(listed[first])
    for split in others:
        lacks = sorted(set(classes) - set(listed[split]))
        extra = sorted(set(listed[split]) - set(classes))
        if lacks or extra:
            texts = [f"{split} lacks {', '.join(lacks)}"] * bool(lacks)
            texts += [f"{split} alone has {', '.join(extra)}"] * bool(extra)
            raise DataError(
                f"{folder}: the classes of {first} and {split} differ: {'; '.join(texts)}",
                hint="each split needs the same class folders",
            )
    return tuple(classes)


def _check_broken(folder: Path, broken: dict[Path, str], total: int) -> None:
    if len(broken) > MAX_BROKEN_SHARE * total:
        raise DataError(
            f"{_broken_text(folder, broken)}: more than 1 % of {total} images",
            hint="remove or replace these files",
        )


def _tell_broken(folder: Path, broken: dict[Path, str], total: int, report: Report) -> None:
    """Refuses more than 1 % of broken images, and warns of fewer."""
    _check_broken(folder, broken, total)
    if broken:
        left_out = _broken_text(folder, broken)
        report(Event("data", total, total, message=f"warning: left out {left_out}"))


def _broken_text(folder: Path, broken: dict[Path, str]) -> str:
    texts = [f"{path.relative_to(folder)} ({reason})" for path, reason in sorted(broken.items())]
    return f"{len(broken)} broken images in {folder}: {_some(texts)}"


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "not an image" if text.startswith("cannot identify image file") else text
