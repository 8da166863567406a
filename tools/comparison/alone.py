"""A network that is trained alone, without a supernet."""

from __future__ import annotations

from torch import Tensor

from edgenas.artifacts import digest
from edgenas.data import DataSet, prepare
from edgenas.export.jobs import write_lowering
from edgenas.networks import Network
from edgenas.supernet import Recipe
from edgenas.supernet.training import HardLoss


class Alone:
    """A network that learns from the labels alone."""

    def __init__(self, network: Network, data: DataSet, recipe: Recipe) -> None:
        self.module = network
        self.fingerprint = {"network": digest(write_lowering(network.lowering))}
        self._data, self._hard_loss = data, HardLoss(network, data, recipe)

    def accumulate(self, pixels: Tensor, labels: Tensor, *, step: int, parts: int) -> float:
        """See `edgenas.supernet.training.Learner`."""
        images = prepare(
            pixels,
            resolution=self.module.lowering.in_chw[1],
            mean=self._data.mean,
            std=self._data.std,
        )
        loss = self._hard_loss(self.module(images), labels)
        (loss / parts).backward()
        return float(loss.detach())

    def work(self, steps: range) -> float:
        """See `Learner`: all steps are alike."""
        return len(steps)
