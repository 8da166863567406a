"""Costly metrics of candidates, as the run file wants them read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed, digest
from edgenas.errors import SpecError
from edgenas.events import Report, silent
from edgenas.objectives import Objective
from edgenas.pipeline.config import RunConfig
from edgenas.pipeline.knowing import basis
from edgenas.spaces import Architecture

if TYPE_CHECKING:
    from edgenas.data import DataSet, Images, Unlabelled
    from edgenas.evaluation import SupernetEvaluator
    from edgenas.networks import Network
    from edgenas.supernet import Supernet


REVISIONS = {"top1": 1, "top1_int8": 1, "robustness": 1, "agreement": 1}
"""Each grows when the same network on the same images would be told another value."""
CALIBRATION_IMAGES = 256
"""Training images that set the ranges of int8."""


@dataclass(frozen=True)
class Evaluator:
    """The costly `metrics` of a run, with inherited weights, BatchNorm recalibrated."""

    inner: SupernetEvaluator
    metrics: tuple[str, ...]
    n_images: Mapping[str, int]
    """By metric, how many images it is read from."""
    rests_on: Mapping[str, str]
    """By the name of a metric's basis (see `knowing.basis`), the digest of what it rests on beside
    supernet and data: how many images, which."""

    def __call__(
        self, arch: Architecture, metrics: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The costly metrics of `arch`, or some of them."""
        return self.inner(arch, self.metrics if metrics is None else metrics)

    def network(self, arch: Architecture) -> Network:
        """The plain network that was evaluated."""
        return self.inner.network(arch)


def evaluator(
    supernet: Supernet,
    data: DataSet,
    config: RunConfig,
    metrics: Sequence[str] = ("top1",),
    *,
    report: Report = silent,
) -> Evaluator:
    """The evaluator of a run; where `search.images` is set, on as many images drawn by the seed.

    Raises:
        DataError: the folder of unlabelled images cannot be used.
    """
    from edgenas.evaluation import CORRUPTIONS, SEVERITIES, SupernetEvaluator

    settings, root = config.search, config.seed
    n = len(data.search) if settings.images is None else min(settings.images, len(data.search))
    drawn = data.search.drawn(n, seed=derive_seed(root, "search images"))
    n_corrupted = min(settings.robustness_images, len(data.search))
    seed = derive_seed(root, "recalibration")
    unlabelled = read_unlabelled(data, config, metrics, report=report)
    inner = SupernetEvaluator(
        supernet,
        replace(data, search=drawn),
        n_recalibration=settings.recalibration_images,
        seed=seed,
        calibration=calibration_images(data, root),
        corrupted=data.search.drawn(n_corrupted, seed=derive_seed(root, "corrupted images")),
        unlabelled=unlabelled,
    )
    n_images = {"top1": n, "top1_int8": n, "robustness": n_corrupted, "agreement": n}
    kinds = {name: parameters for name, (_, parameters) in CORRUPTIONS.items()}
    own: dict[str, list[Any]] = {
        "top1": [n],  # no name: caches of before there were other metrics stay valid
        "top1_int8": ["top1_int8", n, CALIBRATION_IMAGES],
        "robustness": ["robustness", n_corrupted, kinds, SEVERITIES],
        "agreement": ["agreement", n],
    }
    if unlabelled is not None:
        n_images["agreement"] = len(unlabelled)
        own["agreement"] = ["agreement", unlabelled.digest]
    rests_on = {
        basis(name): digest([REVISIONS[name], *own[name], settings.recalibration_images, seed])
        for name in metrics
    }
    return Evaluator(inner, tuple(metrics), n_images, rests_on)


def read_unlabelled(
    data: DataSet, config: RunConfig, metrics: Sequence[str], *, report: Report = silent
) -> Unlabelled | None:
    """The run's images without labels, as large and of as many channels as its data set's.

    Nothing where it names none, or where no metric reads them.

    Raises:
        DataError: the folder cannot be used.
    """
    from edgenas.data import unlabelled_images

    if config.search.unlabelled is None or "agreement" not in metrics:
        return None
    return unlabelled_images(
        Path(config.search.unlabelled),
        channels=data.channels,
        size=data.image_size,
        n=config.search.images,
        seed=derive_seed(config.seed, "unlabelled images"),
        report=report,
    )


def calibration_images(data: DataSet, seed: int) -> Images:
    """The training images that set the ranges of int8, drawn by a run's root seed."""
    return data.train.drawn(CALIBRATION_IMAGES, seed=derive_seed(seed, "calibration"))


def check_unlabelled(config: RunConfig, objectives: Sequence[Objective]) -> None:
    """Refuses a folder of unlabelled images that is empty, not there, or not asked for.

    Raises:
        SpecError: no objective reads it.
        DataError: it holds no images.
    """
    from edgenas.data import unlabelled_files

    if (folder := config.search.unlabelled) is None:
        return
    if all(objective.metric != "agreement" for objective in objectives):
        raise SpecError(
            f"search.unlabelled = {folder!r} is read for the metric 'agreement' alone, "
            "which no objective names",
            hint='add "max agreement" to the objectives, or leave it out',
        )
    unlabelled_files(Path(folder))
