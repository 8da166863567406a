"""Training extracted networks further, with the supernet's largest network as their teacher."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenas.data import DataSet, prepare
from edgenas.events import Report, silent
from edgenas.networks import Network
from edgenas.supernet.training import HardLoss, Recipe, Training

MOST_KEPT_BYTES = 1 << 30
"""Of a teacher's soft labels; those of later steps are computed for each network."""
_BLOCK_BYTES = 1 << 24
"""Taken at once for them: between a network's large tensors, small ones that stay would keep what
these leave from becoming one piece again. (Small networks at 28 pixels: 140 times what is kept.)"""


class Teacher:
    """A network in evaluation mode whose soft labels others learn from.

    Trainings with one seed see the same images at the same step. What the teacher says of a step's
    images is kept, so that it costs most for the first network that it teaches.
    """

    def __init__(self, network: Network) -> None:
        self.resolution = network.lowering.in_chw[1]
        self._network = network
        self._kept: dict[Hashable, Tensor] = {}
        self._left_bytes = MOST_KEPT_BYTES
        self._free = torch.empty(0)

    def soft_labels(self, key: Hashable | None, images: Callable[[], Tensor]) -> Tensor:
        """Probabilities (n, classes) for images (n, c, r, r) of its `resolution` r.

        Args:
            key: names the images; None where nothing shall be kept.
            images: called where there are none of that name.
        """
        if key is not None and key in self._kept:
            return self._kept[key]
        with torch.no_grad():
            soft: Tensor = self._network(images()).softmax(1)
        size = soft.numel() * soft.element_size()
        if key is not None and size <= self._left_bytes:
            self._kept[key] = self._kept_copy(soft)
            self._left_bytes -= size
        return soft

    def _kept_copy(self, soft: Tensor) -> Tensor:
        n = soft.numel()
        if n > len(self._free):
            self._free = soft.new_empty(max(n, _BLOCK_BYTES // soft.element_size()))
        place, self._free = self._free[:n], self._free[n:]
        return place.view_as(soft).copy_(soft)


def tune(
    module: nn.Module,
    data: DataSet,
    recipe: Recipe,
    *,
    resolution: int,
    teacher: Teacher,
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
        teacher: its soft labels count `distil`; of one data set and augmentation alone.
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
        _Pupil(
            module,
            data,
            recipe,
            resolution=resolution,
            teacher=teacher,
            distil=distil,
            seed=seed,
        ),
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
        teacher: Teacher,
        distil: float,
        seed: int,
    ) -> None:
        self.module = module
        self.fingerprint = {"distil": str(distil)}
        self._data, self._resolution = data, resolution
        self._teacher, self._distil = teacher, distil
        self._batch, self._seed = recipe.batch, seed
        self._hard_loss = HardLoss(module, data, recipe)

    def accumulate(self, pixels: Tensor, labels: Tensor, *, step: int, parts: int) -> float:
        """See `Learner`."""
        logits = self.module(self._prepared(pixels, self._resolution))
        loss = (1 - self._distil) * self._hard_loss(logits, labels)
        if self._distil:
            whole = len(pixels) == self._batch
            soft = self._teacher.soft_labels(
                (self._seed, self._batch, step) if whole else None,
                lambda: self._prepared(pixels, self._teacher.resolution),
            )
            loss = loss + self._distil * functional.cross_entropy(logits, soft)
        (loss / parts).backward()  # type: ignore[no-untyped-call]  # torch has no types here
        return float(loss.detach())

    def work(self, steps: range) -> float:
        """See `Learner`: all steps are alike."""
        return len(steps)

    def _prepared(self, pixels: Tensor, resolution: int) -> Tensor:
        return prepare(pixels, resolution=resolution, mean=self._data.mean, std=self._data.std)
