"""Accuracy of an architecture with the weights that it inherits from the supernet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgenas.artifacts import derive_seed
from edgenas.data import DataSet, Images, batches, prepare
from edgenas.errors import DataError
from edgenas.networks import Network, fold
from edgenas.spaces import Architecture
from edgenas.supernet import Supernet, recalibrate


@dataclass(frozen=True)
class SupernetEvaluator:
    """`evaluator(arch)` is {"top1": share of the search split's images that are right}.

    Extracts the network, recalibrates its BatchNorm on images of the train split, and runs it over
    the search split. Deterministic: the same images every time.
    """

    supernet: Supernet
    data: DataSet
    n_recalibration: int = 2048
    """Train images, without augmentation, for the BatchNorm statistics."""
    n_images: int | None = None
    """Images of the search split; None: all of them."""
    batch: int = 256
    seed: int = 0
    """Of the choice of train images."""
    _chosen: Images = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.data.search) or self.n_images == 0:
            raise DataError(f"{self.data.name}: the search split is empty")
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "recalibration"))
        order = torch.randperm(len(self.data.train), generator=generator)
        chosen = self.data.train.take(order[: self.n_recalibration])
        object.__setattr__(self, "_chosen", chosen)

    def __call__(self, arch: Architecture) -> dict[str, float]:
        """The architecture's metrics, measured on the search split."""
        images = self.data.search
        if self.n_images is not None:
            images = images.take(torch.arange(min(self.n_images, len(images))))
        return {"top1": top1(self.logits(self.network(arch), images), images.labels)}

    def network(self, arch: Architecture) -> Network:
        """The extracted network with recalibrated BatchNorm, in evaluation mode."""
        network = self.supernet.extract(arch).to(self._device)
        return recalibrate(network, self._prepared(self._chosen, network, drop_last=True))

    def logits(self, network: Network, images: Images) -> Tensor:
        """Logits (n, classes) of `network` on `images`, in their order, on the CPU."""
        folded = fold(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            parts = [folded(x).cpu() for x in self._prepared(images, network, drop_last=False)]
        return torch.cat(parts)

    @property
    def _device(self) -> torch.device:
        return next(self.supernet.parameters()).device

    def _prepared(self, images: Images, network: Network, *, drop_last: bool) -> Iterator[Tensor]:
        _, resolution, _ = network.lowering.in_chw
        whole = drop_last and len(images) >= self.batch
        for index in batches(images, batch=self.batch, drop_last=whole):
            pixels = images.take(index).pixels.to(self._device)
            yield prepare(pixels, resolution=resolution, mean=self.data.mean, std=self.data.std)


def top1(logits: Tensor, labels: Tensor) -> float:
    """The share of rows of `logits` (n, classes) whose largest value is at the label."""
    return float((logits.argmax(1) == labels).double().mean())
