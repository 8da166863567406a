"""The supernet with its choices as numbers: how the loss changes with each, by one gradient.

Choices of channels and of kernels are vectors of gates, one a value, of which one is 1 and the
others 0. The widest blocks run, their channels and the rings of their kernels multiplied by the
gates that hold them (DARTS, arXiv:1806.09055; channels by masks, FBNetV2, arXiv:2004.05565). The
output is exactly that of the chosen architecture, as the supernet's own, and the gradient by a gate
says to first order what a little of that value would do. Weights stay as they are.

A depth, a kind of block and the resolution have no gates: each of their few values is tried. A
mixture of two depths is better than either of them alone, so its slopes point to depth from both
sides, and are several times what the whole step does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgenas.artifacts import derive_seed
from edgenas.data import DataSet, prepare
from edgenas.spaces import Architecture, Choice, OpSpec
from edgenas.spaces.mobile import MobileSpace, Stage, squeezed
from edgenas.supernet.elastic import (
    ElasticConv,
    ElasticSqueezeExcite,
    ElasticUnit,
    Supernet,
    slot_name,
    slot_of,
    widest_units,
)

Gates = Mapping[str, Tensor]
Options = Sequence[tuple[int, Tensor]]
"""Values of a choice, each with its gate."""


@dataclass(frozen=True)
class Relaxed:
    """How a supernet's loss changes with the choices of an architecture."""

    supernet: Supernet

    @property
    def space(self) -> MobileSpace:
        """The supernet's."""
        return self.supernet.space

    def gradients(
        self,
        params: Mapping[str, Choice],
        images_at: Callable[[int], Tensor],
        labels: Tensor,
        *,
        partial: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> tuple[float, dict[str, dict[Choice, float]]]:
        """The cross entropy of the architecture `params`, and what it says of every active choice.

        Those of channels and kernels have the gradient by the gate of each value, the others the
        loss of the architecture with that value: in both, differences between values count. In the
        order of the space's genes.

        Args:
            params: a value for every gene.
            images_at: normalised images (n, c, r, r) at a resolution r.
            labels: int64 (n,).
            partial: the share of hidden channels, drawn at random, that gates of the expansion are
                judged by (partial channels: PC-DARTS, arXiv:1907.05737).
            generator: of that draw.
        """
        space = self.space
        arch = space.architecture(params)
        active = {gene: values for gene, values in space.genes.items() if gene in arch.params}
        gates = {
            gene: torch.tensor([float(v == params[gene]) for v in values], requires_grad=True)
            for gene, values in active.items()
            if has_gates(gene)
        }
        run = _Run(self.supernet, arch, gates, partial, generator)
        loss = functional.cross_entropy(run.logits(images_at(space.resolution(arch))), labels)
        found = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
        by_gate = dict(zip(gates, found, strict=True))
        slopes: dict[str, dict[Choice, float]] = {}
        for gene, values in active.items():
            if gene not in gates:
                told = [
                    float(loss.detach())
                    if v == params[gene]
                    else self._loss(space.architecture({**params, gene: v}), images_at, labels)
                    for v in values
                ]
            else:
                slope = by_gate[gene]
                told = [0.0] * len(values) if slope is None else slope.tolist()
            slopes[gene] = dict(zip(values, told, strict=True))
        return float(loss.detach()), slopes

    @torch.no_grad()
    def _loss(
        self, arch: Architecture, images_at: Callable[[int], Tensor], labels: Tensor
    ) -> float:
        logits = self.supernet(images_at(self.space.resolution(arch)), arch)
        return float(functional.cross_entropy(logits, labels))


def has_gates(gene: str) -> bool:
    """Whether gradients judge it; otherwise its values are tried."""
    return gene.rpartition(".")[2] in ("width", "kernel", "expand")


@dataclass(frozen=True)
class LossGradient:
    """`gradient(params, seed)`: by active gene and value, on images of the search split.

    `seed` draws the images. See `Relaxed.gradients`, also for `partial_channels`.
    """

    supernet: Supernet
    data: DataSet
    batch: int = 64
    """Images of one gradient."""
    partial_channels: float = 1.0

    def __call__(self, params: Mapping[str, Choice], seed: int) -> dict[str, dict[Choice, float]]:
        """Differences between the values of a gene count; in nats."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "gradient"))
        count = len(self.data.search)
        index = torch.randperm(count, generator=generator)[: min(self.batch, count)]
        images = self.data.search.take(index)
        device = next(self.supernet.parameters()).device

        def images_at(r: int) -> Tensor:
            pixels = images.pixels.to(device)
            return prepare(pixels, resolution=r, mean=self.data.mean, std=self.data.std)

        _, slopes = Relaxed(self.supernet).gradients(
            params,
            images_at,
            images.labels.to(device),
            partial=self.partial_channels,
            generator=generator,
        )
        return slopes


class _Run:
    """One pass of an architecture's blocks, each as wide as it can be, through the gates."""

    def __init__(
        self,
        supernet: Supernet,
        arch: Architecture,
        gates: Gates,
        partial: float,
        generator: torch.Generator | None,
    ) -> None:
        self._space = supernet.space
        self._slots = supernet.slots
        self._widest = {slot_of(node): node.op for node in widest_units(supernet.space)}
        self._params = arch.params
        self._gates = gates
        self._partial = partial
        self._generator = generator

    def logits(self, images: Tensor) -> Tensor:
        space = self._space
        stem, *_, head = space.lower(space.largest()).nodes
        x: Tensor = self._unit(slot_of(stem))(images, stem.op)
        before: Options = [(space.stem_width, torch.ones(()))]
        for i, stage in enumerate(space.stages, 1):
            widths = self._options(f"s{i}.width", stage.widths)
            kind = str(self._params.get(f"s{i}.kind", stage.kinds[0]))
            for j in range(1, int(self._params.get(f"s{i}.depth", stage.depths[0])) + 1):
                x = self._block(x, (i, j), stage, kind, before if j == 1 else widths, widths)
            before = widths
        logits: Tensor = self._unit(slot_of(head))(x, head.op)
        return logits

    def _block(
        self,
        x: Tensor,
        place: tuple[int, int],
        stage: Stage,
        kind: str,
        before: Options,
        widths: Options,
    ) -> Tensor:
        i, j = place
        slot = slot_name(f"s{i}.{j}", kind)
        unit, op = self._unit(slot), self._widest[slot]
        if kind == "plain":
            y: Tensor = unit(x, op)
            return y * _channels(op["cout"], widths)
        expands = self._options(f"s{i}.{j}.expand", stage.expands)
        hidden = self._hidden(op, before, expands)
        y = x
        for node in op.primitives():
            if node.name == "add":
                continue
            part = unit.part(node)
            if node.name == "depthwise" and isinstance(part, ElasticConv):
                weights = part.weights(node.op)
                kernels = self._options(f"s{i}.{j}.kernel", stage.kernels)
                weights["conv.weight"] = weights["conv.weight"] * _rings(node.op["k"], kernels)
                y = part.run(y, node.op, weights)
            elif isinstance(part, ElasticSqueezeExcite):
                sizes = [(squeezed(w * e), g * h) for w, g in before for e, h in expands]
                y = part(y, node.op, _channels(node.op["r"], sizes))
            else:
                y = part(y, node.op)
            if node.name == "expand" and 1 in stage.expands and kind == "inverted":
                # an expansion of 1 has no such convolution: its channels are the input's own
                one = next(gate for value, gate in expands if value == 1)
                own = functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
                y = one * own + (1 - one) * y
            if node.name in ("expand", "depthwise"):
                y = y * hidden
        y = y * _channels(op["cout"], widths)
        same = [g * h for w, g in before for v, h in widths if w == v]
        if (stage.stride == 1 or j > 1) and same:
            n = min(x.shape[1], y.shape[1])  # beyond it, whichever is wider is 0 where they match
            skip = functional.pad(x[:, :n], (0, 0, 0, 0, 0, y.shape[1] - n))
            y = y + torch.stack(same).sum() * skip if j == 1 else y + skip
        return y

    def _hidden(self, op: OpSpec, before: Options, expands: Options) -> Tensor:
        """The gates of the hidden channels; some, drawn at random, pass on no gradient."""
        sizes = [(w * e, g * h) for w, g in before for e, h in expands]
        mask = _channels(op["hidden"], sizes)
        if self._partial < 1:
            draw = torch.rand(mask.shape, generator=self._generator) < self._partial
            mask = torch.where(draw, mask, mask.detach())
        return mask

    def _options(self, gene: str, values: tuple[int, ...]) -> Options:
        gates = self._gates.get(gene, torch.ones(1))
        return list(zip(values, gates, strict=True))

    def _unit(self, slot: str) -> ElasticUnit:
        unit = self._slots[slot]
        assert isinstance(unit, ElasticUnit)  # noqa: S101  # for the type only
        return unit


def _channels(n: int, sizes: Options) -> Tensor:
    """(1, n, 1, 1): each channel's sum of the gates of the sizes that include it."""
    index = torch.arange(n)
    parts = [gate * (index < size) for size, gate in sizes]
    return torch.stack(parts).sum(0).view(1, n, 1, 1)


def _rings(k: int, kernels: Options) -> Tensor:
    """(k, k): each tap's sum of the gates of the kernels, centred in k x k, that include it."""
    away = (torch.arange(k) - k // 2).abs()
    ring = torch.maximum(away.view(-1, 1), away.view(1, -1))
    return torch.stack([gate * (ring <= kernel // 2) for kernel, gate in kernels]).sum(0)
