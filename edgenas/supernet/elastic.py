"""The supernet: one set of weights for every architecture of a `mobile/1` space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenas.errors import SpecError
from edgenas.networks import Network, build, convolve
from edgenas.spaces import Architecture, Node, OpSpec
from edgenas.spaces.mobile import MobileSpace


class Supernet(nn.Module):
    """Weights shared by all architectures of `space`; `supernet(images, arch)` runs one of them.

    Each unit's weights are the first channels and the centre of the kernel of the widest one's. The
    architecture is an argument, never a state. Normalisation always uses the statistics of the
    batch: for an accuracy, `extract` the network and `recalibrate` it.
    """

    def __init__(self, space: MobileSpace, *, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self.slots = nn.ModuleDict(
            {slot_of(node): ElasticUnit(node.op) for node in widest_units(space)}
        )
        self._initialise(torch.Generator().manual_seed(seed))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # stubs lack it

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (n, classes) of normalised `images` (n, c, r, r), r being the architecture's.

        Raises:
            SpecError: where the images have another shape.
        """
        lowering = self.space.lower(arch)
        if tuple(images.shape[1:]) != lowering.in_chw:
            raise SpecError(f"images are {tuple(images.shape[1:])}, {arch} takes {lowering.in_chw}")
        x = images
        for node in lowering.nodes:
            x = self._unit(node)(x, node.op)
        return x

    def _unit(self, node: Node) -> ElasticUnit:
        unit = self.slots[slot_of(node)]
        assert isinstance(unit, ElasticUnit)  # noqa: S101  # for the type only
        return unit

    def weights(self, arch: Architecture) -> dict[str, Tensor]:
        """The architecture's own weights, by the names of `networks.Network`, without copying."""
        return {
            f"units.{i}.{j}.{name}": tensor
            for i, node in enumerate(self.space.lower(arch).nodes)
            for j, name, tensor in self._unit(node).weights(node.op)
        }

    def extract(self, arch: Architecture) -> Network:
        """A plain network with a copy of the architecture's weights; its BatchNorm is unset.

        In training mode its outputs equal `supernet(images, arch)`.
        """
        network = build(self.space.lower(arch))
        missing, unexpected = network.load_state_dict(self.weights(arch), strict=False)
        lost = [name for name in missing if not name.endswith(_STATISTICS)]
        assert not [*lost, *unexpected], (lost, unexpected)  # noqa: S101  # the builders agree
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for _, parameter in sorted(self.named_parameters()):
                if parameter.dim() > 1:
                    draw = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(draw * (2 / parameter[0].numel()) ** 0.5)


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def slot_of(node: Node) -> str:
    """Where a unit's weights live; each kind of block in one place has its own."""
    return slot_name(node.name, node.op.kind if node.op.is_block else "plain")


def slot_name(unit: str, kind: str) -> str:
    """Of the unit's name and kind; a single operator is a plain one."""
    return unit.replace(".", "_") + ("" if kind == "plain" else f"_{kind}")


def widest_units(space: MobileSpace) -> Iterator[Node]:
    """For every slot the unit with the most channels and the largest kernel."""
    genes = space.genes
    dearest = {name: values[-1] for name, values in genes.items()}
    kinds = {kind for stage in space.stages for kind in stage.kinds}
    seen: set[str] = set()
    for kind in sorted(kinds):
        params = dearest | {n: kind for n, v in genes.items() if n.endswith(".kind") and kind in v}
        for node in space.lower(space.architecture(params)).nodes:
            if slot_of(node) not in seen:
                seen.add(slot_of(node))
                yield node


class ElasticUnit(nn.Module):
    """The primitives of the widest unit; runs any narrower one."""

    def __init__(self, widest: OpSpec) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {
                node.name or "conv": _elastic(node.op)
                for node in widest.primitives()
                if node.op.weights
            }
        )

    def forward(self, x: Tensor, op: OpSpec) -> Tensor:
        """The output of `op`, a unit of this place, on `x` (n, c, h, w)."""
        outputs: list[Tensor] = []
        for node in op.primitives():
            inputs = [x if j < 0 else outputs[j] for j in node.inputs]
            if node.op.kind == "add":
                outputs.append(inputs[0] + inputs[1])
            elif node.op.kind == "pool":
                outputs.append(inputs[0].mean((2, 3), keepdim=True))
            else:
                outputs.append(self.part(node)(inputs[0], node.op))
        return outputs[-1]

    def weights(self, op: OpSpec) -> Iterator[tuple[int, str, Tensor]]:
        """What `op` uses of the weights: position of the primitive, name, tensor."""
        for j, node in enumerate(op.primitives()):
            if node.op.weights:
                for name, tensor in self.part(node).weights(node.op).items():
                    yield j, name, tensor

    def part(self, node: Node) -> _Elastic:
        """The primitive of that name."""
        part = self.parts[node.name or "conv"]
        assert isinstance(part, _Elastic)  # noqa: S101  # for the type only
        return part


class _Elastic(nn.Module):
    """A primitive with weights for the widest operator of its place."""

    def forward(self, x: Tensor, op: OpSpec) -> Tensor:
        raise NotImplementedError

    def weights(self, op: OpSpec) -> dict[str, Tensor]:
        """What `op` uses of the weights, by the names of the plain network's module."""
        raise NotImplementedError


def _elastic(op: OpSpec) -> _Elastic:
    match op.kind:
        case "conv":
            return ElasticConv(op)
        case "squeeze_excite":
            return ElasticSqueezeExcite(op)
        case "linear":
            return _ElasticLinear(op)
        case kind:
            raise SpecError(f"the supernet has no elastic {kind!r}")


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    # in place: what they read is a normalisation's output, which nothing else needs
    "relu": partial(functional.relu, inplace=True),
    "relu6": partial(functional.relu6, inplace=True),
    "hswish": functional.hardswish,
    "hsigmoid": functional.hardsigmoid,
}


class ElasticConv(_Elastic):
    """Convolution, batch normalisation, activation; sliced to what the operator asks for."""

    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        self.kernel = op["k"]
        shape = (op["cout"], op["cin"] // op["g"], op["k"], op["k"])
        self.conv = _Weight(torch.zeros(shape))
        self.norm = _Weight(torch.ones(op["cout"]), torch.zeros(op["cout"]))

    def forward(self, x: Tensor, op: OpSpec) -> Tensor:
        """(n, cout, h', w') of `x` (n, cin, h, w)."""
        return self.run(x, op, self.weights(op))

    def run(self, x: Tensor, op: OpSpec, w: Mapping[str, Tensor]) -> Tensor:
        """The same with weights `w`."""
        y = convolve(x, w["conv.weight"], None, op["s"])
        y = functional.batch_norm(
            y, None, None, w["norm.weight"], w["norm.bias"], training=True, eps=1e-5
        )
        return _ACTIVATIONS[op.act](y)

    def weights(self, op: OpSpec) -> dict[str, Tensor]:
        """See `_Elastic`."""
        cout, k = op["cout"], op["k"]
        a = (self.kernel - k) // 2
        return {
            "conv.weight": self.conv.weight[:cout, : op["cin"] // op["g"], a : a + k, a : a + k],
            "norm.weight": self.norm.weight[:cout],
            "norm.bias": self.norm.bias[:cout],
        }


class ElasticSqueezeExcite(_Elastic):
    """Channel attention, sliced to the operator's channels and bottleneck."""

    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        c, r = op["c"], op["r"]
        self.reduce = _Weight(torch.zeros(r, c, 1, 1), torch.zeros(r))
        self.expand = _Weight(torch.zeros(c, r, 1, 1), torch.zeros(c))

    def forward(self, x: Tensor, op: OpSpec, keep: Tensor | float = 1.0) -> Tensor:
        """`keep` (1, r, 1, 1) multiplies the bottleneck's channels."""
        w = self.weights(op)
        squeezed = x.mean((2, 3), keepdim=True)
        squeezed = functional.conv2d(squeezed, w["reduce.weight"], w["reduce.bias"]).relu() * keep
        gate = functional.conv2d(squeezed, w["expand.weight"], w["expand.bias"])
        return x * functional.hardsigmoid(gate)

    def weights(self, op: OpSpec) -> dict[str, Tensor]:
        """See `_Elastic`."""
        c, r = op["c"], op["r"]
        return {
            "reduce.weight": self.reduce.weight[:r, :c],
            "reduce.bias": self.reduce.bias[:r],
            "expand.weight": self.expand.weight[:c, :r],
            "expand.bias": self.expand.bias[:c],
        }


class _ElasticLinear(_Elastic):
    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        self.linear = _Weight(torch.zeros(op["cout"], op["cin"]), torch.zeros(op["cout"]))

    def forward(self, x: Tensor, op: OpSpec) -> Tensor:
        w = self.weights(op)
        return functional.linear(x.flatten(1), w["weight"], w["bias"])

    def weights(self, op: OpSpec) -> dict[str, Tensor]:
        return {
            "weight": self.linear.weight[: op["cout"], : op["cin"]],
            "bias": self.linear.bias[: op["cout"]],
        }


class _Weight(nn.Module):
    """A weight and, for some, a bias; a module so that names end in `.weight` and `.bias`."""

    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(bias)
