"""The images that tell networks apart: the others need not be asked for every candidate.

Networks of one supernet name most images alike. Where several networks, spread over the space, all
name an image alike, one more hardly ever differs, and it costs ten times less to score the rest.
The estimate that comes of it ranks networks far better than as many images drawn by chance
(`tools/bench/trial_cost` measures both). What is taken for granted, it takes to be a little too
good: a network that errs where all others agree is not noticed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenas.spaces import Architecture, SearchSpace

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Contested:
    """Which of `n` images are scored, and how many of the others count as right.

    `index` are positions among the images that would be scored.
    """

    index: tuple[int, ...]
    others_right: int
    n: int

    @classmethod
    def everything(cls, n: int) -> Contested:
        """All of `n` images."""
        return cls(tuple(range(n)), 0, n)

    @classmethod
    def of(cls, named: Classes, labels: Classes) -> Contested:
        """From the classes (networks, images) that networks name, and the right ones (images)."""
        contested = (named != named[0]).any(axis=0)
        right = (named[0] == labels) & ~contested
        return cls(tuple(np.flatnonzero(contested).tolist()), int(right.sum()), len(labels))


def pilots(space: SearchSpace, n: int, *, seed: int) -> tuple[Architecture, ...]:
    """The largest and the smallest architecture and random ones, at most `n` in all."""
    rng = random.Random(seed)
    drawn = (space.sample(rng) for _ in range(max(0, n - 2)))
    return tuple(dict.fromkeys([space.largest(), space.smallest(), *drawn]))[:n]
