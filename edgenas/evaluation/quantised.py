"""A network in int8 as the TFLite export writes it and LiteRT computes it, simulated in torch.

Static quantisation after training, by what ai-edge-quantizer 0.10 (`static_wi8_ai8`, plain minima
and maxima) was seen to write; the formulas are those of arXiv:1712.05877, section 2.1:

- Weights: one symmetric scale an output channel, max |w| / 127, and integers in [-127, 127].
- Tensors: the least range over the calibration images that holds 0, cut into 255 steps; values
  beyond it are cut off.
- Biases: int32, of the scale of the input times that of the weight.
- A tensor is what TFLite stores: the image; a convolution's output behind its ReLU or ReLU6, which
  are fused; the input as well as the output of a hard swish; sums, means and logits. The gate of
  squeeze-and-excite is ReLU6(x + 3), with the 3 in the bias, then a product with 1/6.

In training mode, gradients pass each rounding as if it were not there, but for values that were cut
off (a straight-through estimator, arXiv:1308.3432), so that weights can be trained for int8. Ranges
stay those of the calibration.

Values are kept as floats that are whole steps. Kernels accumulate exactly and round once, so that
what is left is the rounding of ties and of sums in fixed point. LiteRT approximates a hard swish in
16 bits; that is not simulated, and costs about half a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenas.errors import DataError, ExportError
from edgenas.networks import Network, fold
from edgenas.spaces import OpSpec

_LEAST = 1e-9
"""Least width of a range, and least weight of a channel: the quantiser's own."""
_INT32 = 2.0**31


@dataclass(frozen=True, slots=True)
class Range:
    """What a tensor's int8 values stand for: [`low`, `high`], which holds 0, in 255 steps."""

    low: float = 0.0
    high: float = 0.0

    @property
    def scale(self) -> float:
        """One step."""
        return max(self.high - self.low, _LEAST) / 255

    @property
    def zero_point(self) -> int:
        """The integer that stands for 0."""
        return round(-128 - self.low / self.scale)

    def with_values(self, values: Tensor) -> Range:
        """The least range that holds these values too."""
        return Range(min(self.low, float(values.min())), max(self.high, float(values.max())))

    def rounded(self, values: Tensor) -> Tensor:
        """The nearest values that int8 can stand for."""
        zero = self.zero_point
        # in place: torch's own fake_quantize takes four times as long
        steps = values.mul(1 / self.scale).round_().clamp_(-128 - zero, 127 - zero)
        return steps.mul_(self.scale)


def rounded_weights(
    weight: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """Weights (out, ...) as int8 and biases (out,) as int32 can stand for them.

    `scale` is the step of the tensor that they are applied to.
    """
    step = weight.abs().flatten(1).amax(1).clamp(min=_LEAST) / 127
    by_channel = step.view(-1, *[1] * (weight.dim() - 1))
    whole = torch.round(weight / by_channel).clamp(-127, 127) * by_channel
    if bias is None:
        return whole, None
    fine = step * scale
    return whole, torch.round(bias / fine).clamp(-_INT32, _INT32 - 1) * fine


class QuantisedNetwork(nn.Module):
    """`network` in int8: (n, c, h, w) prepared images in, (n, classes) logits out.

    `calibration` holds the prepared images, in batches, that set the ranges. `network` is copied,
    with its BatchNorm folded; the copy, `self.network`, is what is trained in training mode. It is
    made in evaluation mode.

    Raises:
        DataError: no calibration images.
        ExportError: an operator that is not simulated.
    """

    def __init__(self, network: Network, calibration: Iterable[Tensor]) -> None:
        super().__init__()
        self.network = fold(network)
        self.ranges: list[Range] = []
        """Of the stored tensors, in the order of their computation."""
        with torch.inference_mode():
            for images in calibration:
                self._run(images, _Pass(self.ranges, observes=True))
        if not self.ranges:
            raise DataError("there are no images to calibrate int8 with")
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """The dequantised logits."""
        return self._run(images, _Pass(self.ranges, learns=self.training))

    def _run(self, images: Tensor, run: _Pass) -> Tensor:
        return self.network.walk([run.store(images)], run.primitive).values


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor as TFLite stores it, and its step."""

    values: Tensor
    scale: float


@dataclass(slots=True)
class _Pass:
    """One pass over the network: it rounds every stored tensor, or `observes` their ranges.

    One that `learns` has gradients.
    """

    ranges: list[Range]
    observes: bool = False
    learns: bool = False
    at: int = field(default=0, init=False)

    def store(self, values: Tensor) -> _Stored:
        if self.observes:
            if self.at == len(self.ranges):
                self.ranges.append(Range())
            self.ranges[self.at] = self.ranges[self.at].with_values(values)
        found = self.ranges[self.at]
        self.at += 1
        if self.observes:
            return _Stored(values, found.scale)
        rounded = found.rounded(values.detach() if self.learns else values)
        if self.learns:
            rounded = _passing(values.clamp(found.low, found.high), rounded)
        return _Stored(rounded, found.scale)

    def primitive(self, op: OpSpec, module: nn.Module, inputs: list[_Stored]) -> _Stored:
        x = inputs[0]
        match op.kind:
            case "conv":
                return self._activated(self._applied(module.conv, x), module.act)
            case "linear":
                return self.store(self._applied(module, _Stored(x.values.flatten(1), x.scale)))
            case "add":
                return self.store(x.values + inputs[1].values)
            case "pool":
                return self._mean(x)
            case "squeeze_excite":
                hidden = self._applied(module.reduce, self._mean(x)).relu()
                gate = self._applied(module.expand, self.store(hidden), more=3.0)
                gate = self.store(functional.relu6(gate)).values / 6
                return self.store(x.values * self.store(gate).values)
            case kind:
                raise ExportError(f"int8 of the operator kind {kind!r} is not simulated")

    def _mean(self, x: _Stored) -> _Stored:
        return self.store(x.values.mean((2, 3), keepdim=True))

    def _activated(self, values: Tensor, act: Tensor | nn.Module) -> _Stored:
        assert isinstance(act, nn.Module)  # noqa: S101  # for the type only
        if not isinstance(act, nn.Identity | nn.ReLU | nn.ReLU6):  # these are fused
            values = self.store(values).values
        return self.store(act(values))

    def _applied(self, module: Tensor | nn.Module, x: _Stored, *, more: float = 0.0) -> Tensor:
        """A convolution or a linear layer with its rounded weights, `more` added to the bias."""
        assert isinstance(module, nn.Conv2d | nn.Linear)  # noqa: S101  # for the type only
        weight, bias = module.weight, module.bias
        bias = bias + more if more and bias is not None else bias
        if not self.observes:
            weight, bias = self._rounded(weight, bias, x.scale)
        if isinstance(module, nn.Linear):
            return functional.linear(x.values, weight, bias)
        return functional.conv2d(
            x.values, weight, bias, module.stride, module.padding, module.dilation, module.groups
        )

    def _rounded(
        self, weight: Tensor, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor | None]:
        if not self.learns:
            return rounded_weights(weight, bias, scale)
        with torch.no_grad():
            whole, whole_bias = rounded_weights(weight, bias, scale)
        if bias is None or whole_bias is None:
            return _passing(weight, whole), None
        return _passing(weight, whole), _passing(bias, whole_bias)


def _passing(values: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `values`."""
    return values + (rounded - values).detach()
