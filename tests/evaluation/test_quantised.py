"""The int8 simulation against numbers computed by hand; against LiteRT in tests/differential."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgenas.errors import DataError, ExportError
from edgenas.evaluation import QuantisedNetwork
from edgenas.evaluation.quantised import Range, rounded_weights
from edgenas.networks import Network, build, random_network
from edgenas.spaces import Lowering, Node, OpSpec
from edgenas.testing.fakes import tiny_space


def test_a_range_holds_zero_and_has_255_steps() -> None:
    # 0.5 .. 2.55 is widened to 0 .. 2.55: steps of 0.01, zero at the lowest integer
    seen = Range().with_values(torch.tensor([0.5, 2.55]))
    assert (seen.low, seen.high) == (0.0, pytest.approx(2.55))
    assert seen.scale == pytest.approx(0.01)
    assert seen.zero_point == -128
    values = torch.tensor([-1.0, 0.004, 0.006, 1.2345, 9.0])
    expected = torch.tensor([0.0, 0.0, 0.01, 1.23, 2.55])
    torch.testing.assert_close(seen.rounded(values), expected)
    # -1 .. 1.55: zero is 100 steps above -128
    both = Range(-1.0, 1.55)
    assert both.zero_point == -28
    expected = torch.tensor([-1.0, 0.0, 1.55])
    torch.testing.assert_close(both.rounded(torch.tensor([-3.0, 0.0, 3.0])), expected)


def test_weights_have_a_scale_a_channel_and_biases_that_of_the_sum() -> None:
    weight = torch.tensor([[1.27, -0.504, 0.006], [-12.7, 0.04, 0.06]])
    bias = torch.tensor([0.00126, -3.0])
    found, whole = rounded_weights(weight, bias, 0.1)
    expected = torch.tensor([[1.27, -0.50, 0.01], [-12.7, 0.0, 0.1]])
    torch.testing.assert_close(found, expected)
    assert whole is not None
    torch.testing.assert_close(whole, torch.tensor([0.001, -3.0]))  # steps of 0.001 and 0.01
    assert rounded_weights(weight, None, 0.1)[1] is None


def test_a_bias_that_int32_cannot_hold_is_cut_off() -> None:
    dead = torch.full((1, 4), 1e-12)  # the quantiser's least step is 1e-9 / 127
    _, whole = rounded_weights(dead, torch.tensor([5.0]), 1e-3)
    assert whole is not None
    assert float(whole[0]) == pytest.approx(2**31 * 1e-12 / 127)


def linear() -> Network:
    op = OpSpec.of("linear", cin=3, cout=2)
    network = build(Lowering((3, 1, 1), (Node(op, (-1,)),)), norm=False).eval()
    layer = network.units[0][0]  # type: ignore[index]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, -0.504, 0.006], [-12.7, 0.04, 0.06]]))
        layer.bias.copy_(torch.tensor([0.00126, -3.0]))
    return network


def test_a_linear_layer_by_hand() -> None:
    """Input, weights, bias and output are rounded, each to its own scale."""
    calibration = torch.tensor([[-1.0, 0.5, 1.55], [1.0, 0.2, -0.3]]).view(2, 3, 1, 1)
    network = QuantisedNetwork(linear(), [calibration[:1], calibration[1:]])
    given, answers = network.ranges
    assert (given.low, given.high) == (-1.0, pytest.approx(1.55))
    logits = linear()(calibration).detach()
    assert (answers.low, answers.high) == pytest.approx((float(logits.min()), float(logits.max())))
    image = torch.tensor([0.734, -0.128, 7.0]).view(1, 3, 1, 1)
    x = [0.73, -0.13, 1.55]  # steps of 0.01, cut off at 1.55
    first = 1.27 * x[0] - 0.50 * x[1] + 0.01 * x[2] + 0.0013  # a bias in steps of 0.01 * 0.01
    second = -12.7 * x[0] + 0.0 * x[1] + 0.1 * x[2] - 3.0
    steps = torch.round(torch.tensor([[first, second]]) / answers.scale)
    zero = answers.zero_point
    expected = steps.clamp(-128 - zero, 127 - zero) * answers.scale
    torch.testing.assert_close(network(image).detach(), expected)


def stored(network: Network) -> int:
    return len(QuantisedNetwork(network, [torch.rand(4, *network.lowering.in_chw)]).ranges)


def test_what_is_stored_is_what_the_file_holds() -> None:
    """ReLU6 is fused; a hard swish has an input tensor; squeeze-and-excite has five of its own."""
    for space, conv_tensors, excite in (
        (tiny_space(), 1, 0),
        (replace(tiny_space(), activation="hswish"), 2, 0),
        (replace(tiny_space(), squeeze_excite=True), 1, 5),
    ):
        lowering = space.lower(space.largest())
        expected = 1  # the image
        for node in lowering.primitive().nodes:
            match node.op.kind:
                case "conv":
                    expected += conv_tensors if node.op.act == space.activation else 1
                case "squeeze_excite":
                    expected += excite
                case _:
                    expected += 1
        assert stored(random_network(lowering, seed=0)) == expected


def images(network: Network, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, *network.lowering.in_chw, generator=generator)


def test_it_is_near_the_network_deterministic_and_leaves_it_alone() -> None:
    network = random_network(tiny_space().lower(tiny_space().largest()), seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quantised = QuantisedNetwork(network, images(network, 64).split(16))
    with torch.inference_mode():
        found, reference = quantised(images(network, 50)), network(images(network, 50))
    assert torch.equal(found, quantised(images(network, 50)))
    error = float((found - reference).square().mean().sqrt() / reference.std())
    assert 0.001 < error < 0.2
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert len(found.unique()) <= 256


def test_norms_are_folded_before_weights_are_rounded() -> None:
    network = build(tiny_space().lower(tiny_space().smallest())).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(100.0)
            module.running_mean.fill_(0.5)
    quantised = QuantisedNetwork(network, [images(network, 32)])
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quantised.modules())
    assert network.norm, "the network itself keeps its norms"


def test_gradients_pass_rounding_but_not_what_was_cut_off() -> None:
    calibration = torch.tensor([[-1.0, 0.5, 1.55], [1.0, 0.2, -0.3]]).view(2, 3, 1, 1)
    network = QuantisedNetwork(linear(), [calibration])
    image = torch.tensor([0.73, -0.13, 7.0]).view(1, 3, 1, 1).requires_grad_()
    with torch.inference_mode():
        expected = network(image)
    network.train()
    logits = network(image)
    torch.testing.assert_close(logits, expected)  # the same values as in evaluation mode
    logits[0, 1].backward()
    # the rounded weights of that output, but 0 where the input was cut off
    assert image.grad is not None
    torch.testing.assert_close(image.grad.flatten(), torch.tensor([-12.7, 0.0, 0.0]))
    layer = network.network.units[0][0]  # type: ignore[index]
    torch.testing.assert_close(layer.weight.grad[1], torch.tensor([0.73, -0.13, 1.55]))
    torch.testing.assert_close(layer.bias.grad, torch.tensor([0.0, 1.0]))


def test_training_for_int8_lowers_its_error() -> None:
    """Against the float network's own answers, with weights that int8 rounds badly."""
    network = random_network(tiny_space().lower(tiny_space().smallest()), seed=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("conv.weight"):  # one large weight a channel makes the others coarse
                parameter.flatten(1)[:, 0] *= 8
    given = images(network, 64)
    with torch.no_grad():
        wanted = network(given)
    quantised = QuantisedNetwork(network, [given])

    def error() -> float:
        with torch.no_grad():
            return float((quantised(given) - wanted).square().mean())

    before = error()
    quantised.train()
    optimiser = torch.optim.Adam(quantised.parameters(), lr=1e-4)
    for _ in range(60):
        optimiser.zero_grad()
        (quantised(given) - wanted).square().mean().backward()
        optimiser.step()
    quantised.eval()
    assert 0 < error() < 0.8 * before


def test_what_cannot_be_simulated_is_refused() -> None:
    network = linear()
    with pytest.raises(DataError, match="no images to calibrate int8"):
        QuantisedNetwork(network, [])
    pool = OpSpec.of("pool2d", c=3, h=8, w=8, kh=2, kw=2, oh=4, ow=4)
    odd = build(Lowering((3, 8, 8), (Node(pool, (-1,)),)), norm=False)
    with pytest.raises(ExportError, match="'pool2d' is not simulated"):
        QuantisedNetwork(odd, [torch.rand(1, 3, 8, 8)])
