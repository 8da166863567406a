"""Costly metrics of candidates, as the run file wants them read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed, digest
from edgenas.errors import SpecError
from edgenas.events import Event, Report, silent
from edgenas.objectives import Objective
from edgenas.pipeline.config import RunConfig
from edgenas.pipeline.knowing import basis
from edgenas.spaces import Architecture

if TYPE_CHECKING:
    from edgenas.data import DataSet, Images, Unlabelled
    from edgenas.evaluation import Contested, SupernetEvaluator
    from edgenas.networks import Network
    from edgenas.supernet import Supernet


REVISIONS = {"top1": 1, "top1_int8": 1, "robustness": 1, "agreement": 1}
"""Each grows when the same network on the same images would be told another value."""
CALIBRATION_IMAGES = 256
"""Training images that set the ranges of int8."""
FEW_IMAGES = 1000
"""So few are scored in full: to find the contested ones would cost more than it spares."""


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
    pilots: tuple[Architecture, ...] = ()
    """Who say which images are scored; without them all are."""
    kept: Callable[[Callable[[], Contested]], Contested] = lambda find: find()
    """What they say, from where it is kept; found where it is not."""
    report: Report = silent

    def __call__(
        self, arch: Architecture, metrics: Sequence[str] | None = None
    ) -> dict[str, float]:
        """The costly metrics of `arch`, or some of them."""
        names = self.metrics if metrics is None else metrics
        return self.inner(arch, names, contested=self.contested)

    @functools.cached_property
    def contested(self) -> Contested | None:
        """Which images are scored; None: all. Found when it is first asked for."""
        return self.kept(self._contested) if self.pilots else None

    def _contested(self) -> Contested:
        n = len(self.inner.data.search)
        self.report(Event("evaluate", message=f"{len(self.pilots)} networks on all {n} images"))
        return self.inner.contested_by(self.pilots)

    @property
    def facts(self) -> dict[str, Any]:
        """What accuracies of candidates were read from, for `provenance.json`."""
        contested, n = self.contested, len(self.inner.data.search)
        told = {"images": n, "BatchNorm images": self.inner.n_recalibration}
        return told if contested is None else {**told, "contested images": len(contested.index)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the accuracies must know."""
        if (contested := self.contested) is None:
            return ()
        return (
            f"accuracy of candidates is estimated: of {contested.n} images those "
            f"{len(contested.index)} were scored that not all pilot networks name alike",
        )

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

    Of more than `FEW_IMAGES`, those are scored that `search.pilots` networks do not all name alike.

    Raises:
        DataError: the folder of unlabelled images cannot be used.
    """
    from edgenas.evaluation import CORRUPTIONS, SEVERITIES, SupernetEvaluator, pilots

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
    asked = pilots(supernet.space, settings.pilots, seed=derive_seed(root, "pilots"))
    asked = asked if n > FEW_IMAGES else ()
    scored = [n, "contested", len(asked)] if asked else [n]
    n_images = {"top1": n, "top1_int8": n, "robustness": n_corrupted, "agreement": n}
    kinds = {name: parameters for name, (_, parameters) in CORRUPTIONS.items()}
    own: dict[str, list[Any]] = {
        "top1": scored,  # no name: caches of before there were other metrics stay valid
        "top1_int8": ["top1_int8", *scored, CALIBRATION_IMAGES],
        "robustness": ["robustness", n_corrupted, kinds, SEVERITIES],
        "agreement": ["agreement", *scored],
    }
    if unlabelled is not None:
        n_images["agreement"] = len(unlabelled)
        own["agreement"] = ["agreement", unlabelled.digest]
    rests_on = {
        basis(name): digest([REVISIONS[name], *own[name], settings.recalibration_images, seed])
        for name in metrics
    }
    return Evaluator(inner, tuple(metrics), n_images, rests_on, asked, report=report)


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
