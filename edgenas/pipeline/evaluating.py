"""Accuracy of candidates, as the run file wants it read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgenas.artifacts import derive_seed, digest
from edgenas.pipeline.config import RunConfig
from edgenas.spaces import Architecture

if TYPE_CHECKING:
    from edgenas.data import DataSet
    from edgenas.evaluation import SupernetEvaluator
    from edgenas.networks import Network
    from edgenas.supernet import Supernet


REVISION = 1
"""Grows when the same network on the same images would be told another accuracy."""


@dataclass(frozen=True)
class Evaluator:
    """`top1` on (a part of) the search split, inherited weights, BatchNorm recalibrated."""

    inner: SupernetEvaluator
    n_images: int
    digest: str
    """Of what the figure rests on beside supernet and data: how many images, which."""

    def __call__(self, arch: Architecture) -> dict[str, float]:
        """The costly metrics of `arch`."""
        return self.inner(arch)

    def network(self, arch: Architecture) -> Network:
        """The plain network that was evaluated."""
        return self.inner.network(arch)


def evaluator(supernet: Supernet, data: DataSet, config: RunConfig) -> Evaluator:
    """The evaluator of a run; where `search.images` is set, on as many images drawn by the seed."""
    from edgenas.evaluation import SupernetEvaluator

    wanted = config.search.images
    n = len(data.search) if wanted is None else min(wanted, len(data.search))
    drawn = data.search.drawn(n, seed=derive_seed(config.seed, "search images"))
    data = replace(data, search=drawn)
    seed = derive_seed(config.seed, "recalibration")
    inner = SupernetEvaluator(
        supernet, data, n_recalibration=config.search.recalibration_images, seed=seed
    )
    return Evaluator(inner, n, digest([REVISION, n, config.search.recalibration_images, seed]))
