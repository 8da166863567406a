"""Training one extracted network further, with the supernet's largest network as its teacher."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenas.data import DataSet, prepare
from edgenas.events import Report, silent
from edgenas.networks import Network
from edgenas.supernet.training import HardLoss, Recipe, Training


def tune(
    module: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    resolution: int,
    teacher: Network,
    distil: float,
    n_steps: int,
    folder: Path,
    seed: int,
    stop_after_steps: int | None = None,
    report: Report = silent,
) -> float:
    """Trains `module` in place; returns the seconds that it took, those before a resume included.

    It goes on from the last checkpoint in `folder`, if there is one. Statistics of BatchNorm are
    not part of it: `recalibrate` afterwards.

    Args:
        module: takes prepared images (n, c, r, r) of `resolution` r, gives logits (n, classes).
        data: only the train split is read.
        recipe: as for a supernet; `epochs` and `n_random` do not matter.
        resolution: of the module's images, in pixels.
        teacher: a network in evaluation mode, whose soft labels count `distil`.
        distil: share in [0, 1] of the teacher's soft labels in the loss; the labels have the rest.
        n_steps: of the whole training.
        folder: for checkpoints; locked while training.
        seed: of everything that is drawn.
        stop_after_steps: stop (resumably) after this many steps of this call.
        report: receives an event a step.

    Raises:
        SpecError, ResourceError, Interrupted: see `edgenas.supernet.train`.
    """
    training = Training(
        _Pupil(module, data, recipe, resolution=resolution, teacher=teacher, distil=distil),
        data,
        recipe,
        folder=folder,
        seed=seed,
        section="final",
        n_steps=n_steps,
        report=report,
    )
    module.train()
    try:
        training(resume=True, stop_after_steps=stop_after_steps)
    finally:
        module.eval()
    return training.wall_s


class _Pupil:
    """A network that learns from the labels and from a teacher."""

    def __init__(
        self,
        module: nn.Module,
        data: DataSet,
        recipe: Recipe,
        *,
        resolution: int,
        teacher: Network,
        distil: float,
    ) -> None:
        self.module = module
        self.fingerprint = {"distil": str(distil)}
        self._data, self._resolution = data, resolution
        self._teacher, self._distil = teacher, distil
        self._hard_loss = HardLoss(module, data, recipe)

    def accumulate(self, pixels: Tensor, labels: Tensor, *, step: int, parts: int) -> float:
        """See `Learner`."""
        logits = self.module(self._prepared(pixels, self._resolution))
        loss = (1 - self._distil) * self._hard_loss(logits, labels)
        if self._distil:
            with torch.no_grad():
                images = self._prepared(pixels, self._teacher.lowering.in_chw[1])
                soft = self._teacher(images).softmax(1)
            loss = loss + self._distil * functional.cross_entropy(logits, soft)
        (loss / parts).backward()  # type: ignore[no-untyped-call]  # torch has no types here
        return float(loss.detach())

    def work(self, steps: range) -> float:
        """See `Learner`: all steps are alike."""
        return len(steps)

    def _prepared(self, pixels: Tensor, resolution: int) -> Tensor:
        return prepare(pixels, resolution=resolution, mean=self._data.mean, std=self._data.std)
