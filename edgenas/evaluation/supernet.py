"""Metrics of an architecture with the weights that it inherits from the supernet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgenas.artifacts import derive_seed
from edgenas.data import DataSet, Images, Unlabelled, keep_memory, prepare
from edgenas.errors import DataError, SpecError, nearest
from edgenas.evaluation.contested import Contested
from edgenas.evaluation.corruption import CORRUPTIONS, SEVERITIES, corrupt
from edgenas.evaluation.quantised import QuantisedNetwork
from edgenas.networks import Network, fold
from edgenas.spaces import Architecture
from edgenas.supernet import Supernet, recalibrate


@dataclass(frozen=True)
class SupernetEvaluator:
    """`evaluator(arch, metrics)` has these metrics of the extracted network, by name.

    - `top1`: share of the search split's images that are right.
    - `top1_int8`: the same in int8, by ranges over `calibration` (see `evaluation.quantised`).
    - `robustness`: mean top-1 on `corrupted`, over all corruptions and severities.
    - `agreement`: share of images whose class is the one that the largest network of the supernet
      names; no label is read.

    BatchNorm is recalibrated on images of the train split. Deterministic: the same images, with the
    same corruptions, every time.

    Raises:
        DataError: no images.
    """

    supernet: Supernet
    data: DataSet
    n_recalibration: int = 2048
    """Train images, without augmentation, for the BatchNorm statistics."""
    batch: int = 256
    seed: int = 0
    """Of the choice of train images, and of the corruptions."""
    calibration: Images | None = None
    """For the ranges of int8; None: the train images of the BatchNorm statistics."""
    corrupted: Images | None = None
    """Images to corrupt; None: those of the search split."""
    unlabelled: Unlabelled | None = None
    """Images for the agreement; None: those of the search split."""
    _chosen: Images = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.data.search):
            raise DataError(f"{self.data.name}: the search split is empty")
        if self.unlabelled is not None and not len(self.unlabelled):
            raise DataError(f"{self.data.name}: there are no unlabelled images")
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "recalibration"))
        order = torch.randperm(len(self.data.train), generator=generator)
        chosen = self.data.train.take(order[: self.n_recalibration])
        object.__setattr__(self, "_chosen", chosen)
        keep_memory()

    def __call__(
        self,
        arch: Architecture,
        metrics: Sequence[str] = ("top1",),
        *,
        contested: Contested | None = None,
    ) -> dict[str, float]:
        """These metrics of the architecture.

        With `contested` (see `contested_by`) the other images of the search split are not asked
        but counted as it says: `top1`, `top1_int8` and `agreement` are estimates then.

        Raises:
            SpecError: an unknown metric.
        """
        network = self.network(arch)
        float32 = fold(network)
        answers = functools.cache(lambda pixels: self._answers(float32, pixels, network))
        contested = contested or Contested.everything(len(self.data.search))
        index = torch.tensor(contested.index, dtype=torch.int64)
        scored = self.data.search.take(index)

        def share(logits: Tensor, classes: Tensor, others: int) -> float:
            return (int((logits.argmax(1) == classes).sum()) + others) / contested.n

        measures: dict[str, Callable[[], float]] = {
            "top1": lambda: share(answers(scored.pixels), scored.labels, contested.others_right),
            "top1_int8": lambda: share(
                self._answers(self.quantised(network), scored.pixels, network),
                scored.labels,
                contested.others_right,
            ),
            "robustness": lambda: self._robustness(float32),
            "agreement": lambda: (
                share(
                    answers(scored.pixels),
                    self._named_by_largest[index],
                    contested.n - len(index),
                )
                if self.unlabelled is None
                else top1(answers(self._compared), self._named_by_largest)
            ),
        }
        for name in metrics:
            if name not in measures:
                raise SpecError(f"metric {name!r} is not evaluated; {nearest(name, measures)}")
        return {name: measures[name]() for name in metrics}

    def contested_by(self, archs: Sequence[Architecture]) -> Contested:
        """The images of the search split that these architectures do not all name alike.

        The largest must be among them: for `agreement` the other images count as named like it.
        """
        named = [
            self._answers(fold(net), self.data.search.pixels, net).argmax(1)
            for net in map(self.network, archs)
        ]
        return Contested.of(torch.stack(named).numpy(), self.data.search.labels.numpy())

    def network(self, arch: Architecture) -> Network:
        """The extracted network with recalibrated BatchNorm, in evaluation mode."""
        return self.recalibrated(self.supernet.extract(arch).to(self._device))

    def recalibrated(self, network: Network) -> Network:
        """`network` itself, its BatchNorm measured on images of the train split."""
        return recalibrate(network, self._prepared(self._chosen.pixels, network, drop_last=True))

    def quantised(self, network: Network) -> QuantisedNetwork:
        """`network` as it is in int8."""
        images = self._chosen if self.calibration is None else self.calibration
        return QuantisedNetwork(network, self._prepared(images.pixels, network))

    def logits(self, network: Network, images: Images) -> Tensor:
        """Logits (n, classes) of `network` on `images`, in their order, on the CPU."""
        return self._answers(fold(network), images.pixels, network)

    def logits_int8(self, network: Network, images: Images) -> Tensor:
        """The same of `network` in int8."""
        return self._answers(self.quantised(network), images.pixels, network)

    def _robustness(self, network: Network) -> float:
        images = self.data.search if self.corrupted is None else self.corrupted
        seed = derive_seed(self.seed, "corruption")
        shares = [
            top1(
                self._answers(network, corrupt(images.pixels, name, severity, seed=seed), network),
                images.labels,
            )
            for name in CORRUPTIONS
            for severity in SEVERITIES
        ]
        return sum(shares) / len(shares)

    @property
    def _compared(self) -> Tensor:
        return self.data.search.pixels if self.unlabelled is None else self.unlabelled.pixels

    @functools.cached_property
    def _named_by_largest(self) -> Tensor:
        """The class of each compared image, by the supernet's largest network."""
        network = self.network(self.supernet.space.largest())
        return self._answers(fold(network), self._compared, network).argmax(1)

    def _answers(self, module: nn.Module, pixels: Tensor, network: Network) -> Tensor:
        """Logits of `module`, on the CPU, for `pixels` as `network` takes them."""
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            return torch.cat([module(x).cpu() for x in self._prepared(pixels, network)])

    @property
    def _device(self) -> torch.device:
        return next(self.supernet.parameters()).device

    def _prepared(
        self, pixels: Tensor, network: Network, *, drop_last: bool = False
    ) -> Iterator[Tensor]:
        """Batches as `network` takes them; a last one that is not full can be left out."""
        _, resolution, _ = network.lowering.in_chw
        for part in torch.split(pixels, self.batch):
            if drop_last and len(part) < self.batch <= len(pixels):
                return
            yield prepare(
                part.to(self._device),
                resolution=resolution,
                mean=self.data.mean,
                std=self.data.std,
            )


def top1(logits: Tensor, labels: Tensor) -> float:
    """The share of rows of `logits` (n, classes) whose largest value is at the label."""
    return float((logits.argmax(1) == labels).double().mean())
