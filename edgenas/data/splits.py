"""Splits by seed: stratified by class, without overlap, the same for the same seed everywhere."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from edgenas.errors import DataError


def cut(labels: Tensor, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of the images that stay, and of `n` that are cut off, both int64 and ascending.

    Each class gives in proportion to its size (largest remainders), at least one image, and keeps
    at least one. The draw rests on `random.Random.random` alone, which Python promises not
    to change, so a split outlives versions of torch and numpy.

    Raises:
        DataError: a class with one image, or an `n` that leaves a class without an image.
    """
    classes = [(labels == c).nonzero().flatten().tolist() for c in sorted(set(labels.tolist()))]
    shares = _shares([len(members) for members in classes], n)
    rng = random.Random(seed)
    keys = [rng.random() for _ in range(len(labels))]
    away = torch.zeros(len(labels), dtype=torch.bool)
    for members, share in zip(classes, shares, strict=True):
        away[sorted(members, key=keys.__getitem__)[:share]] = True
    return (~away).nonzero().flatten(), away.nonzero().flatten()


def _shares(sizes: list[int], n: int) -> list[int]:
    """Parts of `n` in proportion to `sizes`, each at least 1 and below its size."""
    if not sizes or min(sizes) < 2 or not len(sizes) <= n <= sum(sizes) - len(sizes):
        raise DataError(
            f"cannot cut {n} of {sum(sizes)} images in {len(sizes)} classes "
            f"({min(sizes, default=0)} in the smallest): each class must give one and keep one",
            hint="add images, or remove the smallest classes",
        )
    exact = [n * size / sum(sizes) for size in sizes]
    shares = [min(max(int(share), 1), size - 1) for share, size in zip(exact, sizes, strict=True)]
    while (missing := n - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        # The class that is furthest from its exact share moves; ties go to the first.
        movable = [
            i for i, share in enumerate(shares) if (share + 1 < sizes[i] if step > 0 else share > 1)
        ]
        best = max(movable, key=lambda i: step * (exact[i] - shares[i]))
        shares[best] += step
    return shares
