"""Images with labels, the three splits of a data set, and what is counted over them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgenas.errors import DataError

SPLITS = ("train", "search", "test")
_CHUNK = 4096
_NO_TEXT = frozenset(["Cc", "Cs", "Zl", "Zp"])
"""Of Unicode: control characters, halves of surrogate pairs, line and paragraph separators."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """One split: n square images and their classes, held in memory."""

    pixels: Tensor
    """uint8, (n, channels, size, size); channels 1 (grey) or 3 (RGB)."""
    labels: Tensor
    """int64, (n,): an index into the data set's classes."""

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise DataError(
                f"images must be uint8 (n, 1 or 3, size, size), not {self.pixels.dtype} {shape}"
            )
        if shape[2] != shape[3] or shape[2] < 1:
            raise DataError(f"images must be square, not {shape[2]}x{shape[3]} pixels")
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1]:
            raise DataError(
                f"labels must be int64 ({shape[0]},), one an image, "
                f"not {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Images:
        """The images at `index` (int64 positions), in that order, copied."""
        return Images(self.pixels[index], self.labels[index])

    def drawn(self, n: int, *, seed: int) -> Images:
        """`n` of the images, drawn without replacement, in their own order; all where fewer are."""
        if n >= len(self):
            return self
        generator = torch.Generator().manual_seed(seed)
        return self.take(torch.randperm(len(self), generator=generator)[:n].sort().values)


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """Square images whose classes nobody knows, held in memory."""

    pixels: Tensor
    """uint8, (n, channels, size, size), as a data set's."""

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over shape and pixels."""
        found = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        found.update(self.pixels.contiguous().numpy().data)
        return found.hexdigest()[:12]


@dataclass(frozen=True, slots=True, eq=False)
class DataSet:
    """A data set in its three splits: `train` teaches, `search` chooses, `test` certifies."""

    name: str
    classes: tuple[str, ...]
    train: Images
    search: Images
    test: Images
    mean: tuple[float, ...]
    """Per channel, of pixels / 255, over `train`."""
    std: tuple[float, ...]
    """Per channel, of pixels / 255, over `train`."""
    digest: str
    """First 12 hexadecimal digits of the SHA-256 over classes, pixels and labels of all splits."""
    mirror: bool = True
    """Whether a mirrored image is still of its class (not so for digits): may be augmented so."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.train.pixels.shape[1])

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.train.pixels.shape[2])

    @property
    def splits(self) -> dict[str, Images]:
        """The splits by name, in the order train, search, test."""
        return {"train": self.train, "search": self.search, "test": self.test}

    def counts(self) -> dict[str, dict[str, int]]:
        """Images of each class in each split: `counts()["train"]["Bag"]`."""
        return {
            split: dict(zip(self.classes, _count(part.labels, len(self.classes)), strict=True))
            for split, part in self.splits.items()
        }

    @property
    def imbalance(self) -> float:
        """Images of the most frequent class over those of the rarest one, in `train`; 1 is even."""
        return imbalance(self.train.labels, len(self.classes))

    def describe(self) -> str:
        """A table of the images a class and split, with the imbalance, for people."""
        counts = self.counts()
        kind = "grey" if self.channels == 1 else "RGB"
        width = max(5, *(len(name) for name in self.classes))
        size = self.image_size
        lines = [
            f"{self.name}: {len(self.classes)} classes, {size}x{size} {kind}, digest {self.digest}",
            f"{'class':<{width}}" + "".join(f" {split:>7}" for split in SPLITS),
        ]
        lines += [
            f"{name:<{width}}" + "".join(f" {counts[split][name]:>7}" for split in SPLITS)
            for name in self.classes
        ]
        totals = "".join(f" {len(part):>7}" for part in self.splits.values())
        lines.append(f"{'total':<{width}}{totals}")
        ratio = self.imbalance
        remedy = "" if ratio < 1.5 else "; the loss weighs the rare classes up"
        lines.append(f"imbalance in train: {ratio:.2f} (most frequent / rarest class){remedy}")
        return "\n".join(lines)


def data_set(
    name: str,
    classes: tuple[str, ...],
    splits: Mapping[str, Images],
    *,
    mirror: bool = True,
) -> DataSet:
    """The data set made of `splits` (train, search, test), checked, with mean, std and digest.

    Raises:
        DataError: one class or none, names that no list of lines can hold, a class without images
            in a split, labels without a class, splits that differ in shape.
    """
    if len(classes) < 2:
        raise DataError(
            f"{name}: {len(classes)} class ({', '.join(classes) or 'none'}); at least 2 are needed"
        )
    if len(set(classes)) != len(classes):
        double = sorted({c for c in classes if classes.count(c) > 1})
        raise DataError(f"{name}: classes named twice: {', '.join(double)}")
    if unfit := [c for c in classes if not _fits_a_line(c)]:
        raise DataError(
            f"{name}: class names that are empty or hold line breaks, control characters or halves "
            f"of characters: {', '.join(map(repr, unfit))}",
            hint="rename these classes: labels.txt and the files for apps hold one name a line",
        )
    shapes = {split: tuple(splits[split].pixels.shape[1:]) for split in SPLITS}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: the splits differ in shape: {shapes}")
    problems = []
    for split in SPLITS:
        labels = splits[split].labels
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
            raise DataError(
                f"{name}: {split}: labels {int(labels.min())}..{int(labels.max())}, "
                f"but there are {len(classes)} classes, 0..{len(classes) - 1}"
            )
        counts = _count(labels, len(classes))
        if empty := [c for c, n in zip(classes, counts, strict=True) if n == 0]:
            problems.append(f"{split} has no image of {', '.join(empty)}")
    if problems:
        raise DataError(
            f"{name}: {'; '.join(problems)}", hint="add images of these classes, or remove them"
        )
    mean, std = _moments(splits["train"].pixels)
    return DataSet(
        name=name,
        classes=classes,
        train=splits["train"],
        search=splits["search"],
        test=splits["test"],
        mean=mean,
        std=std,
        digest=_digest(classes, splits),
        mirror=mirror,
    )


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Weights for the loss, float32 (n_classes,), that give every class the same total weight.

    n / (n_classes * n_c) for a class with n_c of the n labels: the mean over the images is 1.

    Raises:
        DataError: a class without an image has no weight.
    """
    counts = torch.bincount(labels, minlength=n_classes)
    if empty := (counts == 0).nonzero().flatten().tolist():
        raise DataError(f"no image of the classes {empty}: they have no weight")
    return (len(labels) / (n_classes * counts.double())).float()


def imbalance(labels: Tensor, n_classes: int) -> float:
    """Images of the most frequent class over those of the rarest; infinite where one has none."""
    counts = _count(labels, n_classes)
    return max(counts) / min(counts) if min(counts) else float("inf")


def _fits_a_line(name: str) -> bool:
    """Whether the class name can be written as UTF-8 and read back from a list of lines."""
    return bool(name.strip()) and not {*map(unicodedata.category, name)} & _NO_TEXT


def _count(labels: Tensor, n_classes: int) -> list[int]:
    return [int(n) for n in torch.bincount(labels, minlength=n_classes).tolist()]


def _moments(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixels / 255 per channel; a flat channel has one grey level.

    Sums of integers in float64, so exact: the result does not depend on the chunks.
    """
    channels = pixels.shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    for start in range(0, len(pixels), _CHUNK):
        part = pixels[start : start + _CHUNK].double()
        total += part.sum(dim=(0, 2, 3))
        squares += part.square().sum(dim=(0, 2, 3))
    n = pixels.numel() / channels
    mean = total / n
    std = (squares / n - mean.square()).clamp(min=0).sqrt().clamp(min=1.0)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _digest(classes: tuple[str, ...], splits: Mapping[str, Images]) -> str:
    found = hashlib.sha256(repr(classes).encode())
    for split in SPLITS:
        part = splits[split]
        found.update(f"{split} {tuple(part.pixels.shape)}".encode())
        found.update(part.pixels.contiguous().numpy().data)
        found.update(part.labels.contiguous().numpy().data)
    return found.hexdigest()[:12]
