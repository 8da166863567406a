"""One builder from a lowering to a plain network.

The same function builds the networks that are extracted from a supernet, those that are trained
alone, and the one-unit networks that are timed on devices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgenas.errors import ExportError
from edgenas.spaces import Lowering, Node, OpSpec

T = TypeVar("T")
Apply = Callable[[OpSpec, nn.Module, list[T]], T]


class Network(nn.Module):
    """The network that `lowering` describes: (n, c, h, w) images in, (n, classes) logits out.

    A lowering whose last unit is no classifier gives that unit's (n, c, h, w) output. `norm` puts a
    BatchNorm behind every convolution; without it convolutions have a bias.
    """

    def __init__(self, lowering: Lowering, *, norm: bool = True) -> None:
        super().__init__()
        self.lowering = lowering
        self.norm = norm
        self.units = nn.ModuleList(_Unit(op, norm=norm) for op in lowering)

    def forward(self, *images: Tensor) -> Tensor:
        """The last unit's output; only a one-unit network may take several `images`."""
        return self._through(images, lambda unit, inputs: unit(*inputs))

    def walk(self, images: Sequence[T], apply: Apply[T]) -> T:
        """The last of what `apply` makes of each primitive, its module and what goes into it.

        In execution order, from `images`; `forward` is the walk that calls the modules.
        """
        return self._through(images, lambda unit, inputs: unit.walk(inputs, apply))

    def _through(self, images: Sequence[T], run: Callable[[_Unit, list[T]], T]) -> T:
        outputs: list[T] = []
        for unit, node in zip(self.units, self.lowering.nodes, strict=True):
            assert isinstance(unit, _Unit)  # noqa: S101  # for the type only
            outputs.append(run(unit, _gather(node, outputs, images)))
        return outputs[-1]

    def example_inputs(self) -> list[Tensor]:
        """Zeros of the shape of each input: (1, c, h, w)."""
        n = self.lowering.nodes[0].op.n_inputs if len(self.lowering) == 1 else 1
        return [torch.zeros(1, *self.lowering.in_chw) for _ in range(n)]


def build(lowering: Lowering, *, norm: bool = True) -> Network:
    """A network with torch's default initial weights; see `Network`."""
    return Network(lowering, norm=norm)


def fold(network: Network) -> Network:
    """A copy in evaluation mode, BatchNorm folded into the convolutions; the same function."""
    folded = copy.deepcopy(network).eval()
    if not folded.norm:
        return folded
    for module in folded.modules():
        if isinstance(module, _Conv | _Conv2d):
            assert isinstance(module.norm, nn.BatchNorm2d)  # noqa: S101  # norm is set: narrows the type
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    folded.norm = False
    return folded


def averaged(first: Network, second: Network, share: float) -> Network:
    """A copy of `second` with `share` of its weights, and the rest of those of `first`.

    Between weights and what they became by further training a network may be better than with
    either (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903). Statistics
    of BatchNorm are those of `second`, and have to be measured again.
    """
    between = copy.deepcopy(second)
    with torch.no_grad():
        for weight, other in zip(between.parameters(), first.parameters(), strict=True):
            weight.lerp_(other, 1 - share)
    return between


def random_network(lowering: Lowering, *, seed: int) -> Network:
    """A folded network with random weights that keep activations near unit variance."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(lowering, norm=False).eval()
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if name.endswith("bias"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                fan_in = parameter[0].numel()
                draw = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(draw * (2 / fan_in) ** 0.5)
    return network


def unit_network(op: OpSpec, *, seed: int) -> Network:
    """A network of this one unit with random weights, for timing; takes `op.n_inputs` images."""
    return random_network(Lowering(op.in_chw, (Node(op, (-1,) * op.n_inputs),)), seed=seed)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Convolves `x` (n, c, h, w) with an odd square `weight` (cout, cin / groups, k, k).

    The output has ceil(h / stride) rows. Where gradients follow and the image is smaller than the
    kernel, part of the padding is done beforehand: else the backward pass of oneDNN 3.12 takes 2 to
    25 times as long (n = 128, 384 channels, depthwise, forward and backward on one AVX2 core: k = 5
    on 4x4 54 ms against 21, k = 3 on 1x1 25 against 1).
    """
    k = weight.shape[-1]
    beforehand = max(0, k - min(x.shape[2:]) + 1) // 2 if torch.is_grad_enabled() else 0
    if beforehand:
        x = nn.functional.pad(x, [beforehand] * 4)
    groups = x.shape[1] // weight.shape[1]
    return nn.functional.conv2d(x, weight, bias, stride, k // 2 - beforehand, groups=groups)


def _gather(node: Node, outputs: Sequence[T], images: Sequence[T]) -> list[T]:
    if len(images) > 1:
        return list(images)
    return [images[0] if j < 0 else outputs[j] for j in node.inputs]


class _Unit(nn.ModuleList):
    """The primitives of one unit."""

    def __init__(self, op: OpSpec, *, norm: bool) -> None:
        self.nodes = op.primitives()
        self.is_block = op.is_block
        super().__init__(_primitive(node.op, norm=norm) for node in self.nodes)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.walk(list(inputs), lambda op, module, given: module(*given))

    def walk(self, inputs: list[T], apply: Apply[T]) -> T:
        if not self.is_block:
            return apply(self.nodes[0].op, self[0], inputs)
        outputs: list[T] = []
        for module, node in zip(self, self.nodes, strict=True):
            outputs.append(apply(node.op, module, _gather(node, outputs, inputs)))
        return outputs[-1]


class _Conv(nn.Module):
    """Convolution, normalisation or bias, activation."""

    def __init__(self, op: OpSpec, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            op["cin"],
            op["cout"],
            op["k"],
            op["s"],
            padding=op["k"] // 2,
            groups=op["g"],
            bias=not norm,
        )
        self.norm: nn.Module = nn.BatchNorm2d(op["cout"]) if norm else nn.Identity()
        self.act = activation(op.act)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        z = convolve(x, conv.weight, conv.bias, conv.stride[0]) if self.training else conv(x)
        y: Tensor = self.act(self.norm(z))
        return y


class _SqueezeExcite(nn.Module):
    """Channel attention (arXiv:1709.01507) with the hard sigmoid of MobileNetV3."""

    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(op["c"], op["r"], 1)
        self.expand = nn.Conv2d(op["r"], op["c"], 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True))

    def gate(self, squeezed: Tensor) -> Tensor:
        """The factor for each channel, of the channels' (n, c, 1, 1) means."""
        hidden = nn.functional.relu(self.reduce(squeezed))
        factor: Tensor = nn.functional.hardsigmoid(self.expand(hidden))
        return factor


class _Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)  # keepdim: no TRANSPOSE in TFLite


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return super().forward(input.flatten(1))


class _Conv2d(nn.Module):
    """A convolution of any kernel, padded alike on both sides; normalisation or bias, activation.

    Raises:
        ExportError: its output cannot have the operator's size in that way.
    """

    def __init__(self, op: OpSpec, *, norm: bool) -> None:
        super().__init__()
        (sy, py), (sx, px) = (
            _stride_and_padding(op, op[size], op[f"k{size}"], op[f"o{size}"]) for size in "hw"
        )
        kernel = op["kh"], op["kw"]
        self.conv = nn.Conv2d(
            op["cin"], op["cout"], kernel, (sy, sx), (py, px), groups=op["g"], bias=not norm
        )
        self.norm: nn.Module = nn.BatchNorm2d(op["cout"]) if norm else nn.Identity()
        self.act = activation(op.act)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


def _stride_and_padding(op: OpSpec, size: int, kernel: int, out: int) -> tuple[int, int]:
    """Of the convolution that makes `out` pixels of `size`."""
    stride = max(1, round(size / out))
    around = max(0, (out - 1) * stride + kernel - size)
    if around % 2:
        raise ExportError(f"{op.key}: its padding differs from side to side")
    return stride, around // 2


class _Deconv(nn.Module):
    """The reverse of a convolution that is padded alike on both sides, with a bias; activation.

    Raises:
        ExportError: its output cannot have the operator's size in that way.
    """

    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        (sy, py), (sx, px) = (
            _stride_and_padding(op, op[f"o{size}"], op[f"k{size}"], op[size]) for size in "hw"
        )
        beyond = (
            op["oh"] - (op["h"] - 1) * sy - op["kh"] + 2 * py,
            op["ow"] - (op["w"] - 1) * sx - op["kw"] + 2 * px,
        )
        self.conv = nn.ConvTranspose2d(
            op["cin"], op["cout"], (op["kh"], op["kw"]), (sy, sx), (py, px), beyond
        )
        self.act = activation(op.act)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv(x))
        return y


class _Pool2d(nn.Module):
    """The maximum in a window."""

    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        self.kernel = op["kh"], op["kw"]
        self.stride = max(1, op["h"] // op["oh"]), max(1, op["w"] // op["ow"])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, self.kernel, self.stride)


class _Resize(nn.Module):
    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        self.size = op["oh"], op["ow"]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, self.size, mode="bilinear", align_corners=False)


class _Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, op: OpSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(op["c"], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class _Multiply(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Copy(nn.Module):
    """`x` twice, side by side, as many channels as `op` writes; NHWC where `channels_last`."""

    def __init__(self, op: OpSpec, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels, self.dim = op["c"], -1 if channels_last else 1

    def forward(self, x: Tensor) -> Tensor:
        """What `op` writes, of what it takes."""
        twice = torch.cat((x, x), self.dim)
        if twice.shape[self.dim] == self.channels:
            return twice
        return twice.narrow(self.dim, 0, self.channels)


def activation(name: str) -> nn.Module:
    """The module of one of `spaces.ops.ACTIVATIONS`."""
    modules: dict[str, type[nn.Module]] = {
        "none": nn.Identity,
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "hswish": nn.Hardswish,
        "hsigmoid": nn.Hardsigmoid,
    }
    return modules[name]()


def _primitive(op: OpSpec, *, norm: bool) -> nn.Module:
    match op.kind:
        case "conv":
            return _Conv(op, norm=norm)
        case "add":
            return _Add()
        case "squeeze_excite":
            return _SqueezeExcite(op)
        case "pool":
            return _Pool()
        case "linear":
            return _Linear(op["cin"], op["cout"])
        case "conv2d":
            return _Conv2d(op, norm=norm)
        case "deconv":
            return _Deconv(op)
        case "pool2d":
            return _Pool2d(op)
        case "resize":
            return _Resize(op)
        case "activate":
            return activation(op.act)
        case "function":
            return nn.Sigmoid()
        case "scale":
            return _Scale(op)
        case "binary":
            return _Multiply()
        case "copy":
            return Copy(op)
        case kind:
            raise ExportError(f"no module for operator kind {kind!r}")
