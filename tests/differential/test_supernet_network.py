"""Supernet, lowering and extracted network are the same function."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from edgenas.networks import Network, averaged, convolve, fold, random_network
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import SMALL, MobileSpace, Stage
from edgenas.supernet import Supernet, recalibrate

PLAIN = replace(SMALL, in_channels=1)
FULL = replace(SMALL, in_channels=3, activation="hswish", squeeze_excite=True)
NO_EXPANSION = MobileSpace(
    resolutions=(9, 13),  # odd sizes under stride 2
    stem_width=8,
    stem_stride=2,
    head_width=16,
    stages=(Stage(2, (8, 12), (1, 2), (3, 5), (1, 2), ("inverted", "plain", "fused")),),
)


def _cases() -> list[tuple[MobileSpace, Architecture]]:
    cases = []
    for space in (PLAIN, FULL, NO_EXPANSION):
        rng = random.Random(7)
        archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(4))]
        cases += [(space, arch) for arch in archs]
    return cases


CASES = _cases()


@pytest.fixture(scope="module", params=[PLAIN, FULL, NO_EXPANSION], ids=["plain", "full", "odd"])
def supernet(request: pytest.FixtureRequest) -> Supernet:
    net = Supernet(request.param, seed=3)
    with (
        torch.no_grad()
    ):  # norms that differ from channel to channel, or slicing them wrongly hides
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(len(parameter))
                )
    return net


def _archs(supernet: Supernet) -> list[Architecture]:
    return [arch for space, arch in CASES if space == supernet.space]


def _images(supernet: Supernet, arch: Architecture, n: int = 6) -> torch.Tensor:
    shape = (n, *supernet.space.in_chw(arch))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_the_extracted_network_gives_the_supernets_outputs(supernet: Supernet) -> None:
    for arch in _archs(supernet):
        images = _images(supernet, arch)
        network = supernet.extract(arch).train()
        torch.testing.assert_close(network(images), supernet(images, arch), rtol=0, atol=2e-5)


def test_the_extracted_network_has_its_own_weights(supernet: Supernet) -> None:
    arch = _archs(supernet)[2]
    before = supernet(_images(supernet, arch), arch)
    network = supernet.extract(arch)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.testing.assert_close(supernet(_images(supernet, arch), arch), before, rtol=0, atol=0)


def test_folding_changes_the_weights_and_not_the_function(supernet: Supernet) -> None:
    for arch in _archs(supernet):
        network = recalibrate(supernet.extract(arch), [_images(supernet, arch, 16)])
        folded = fold(network)
        images = _images(supernet, arch, 3)
        torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-4)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        lowering = supernet.space.lower(arch)
        assert sum(p.numel() for p in folded.parameters()) == lowering.params


def test_an_average_lies_between_two_networks_and_changes_neither(supernet: Supernet) -> None:
    arch = supernet.space.smallest()
    one, other = supernet.extract(arch), supernet.extract(arch)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1.0)
    between = averaged(one, other, 0.25)
    for weight, least, most in zip(
        between.parameters(), one.parameters(), other.parameters(), strict=True
    ):
        torch.testing.assert_close(weight, least + 0.25)
        torch.testing.assert_close(most, least + 1.0)
    assert all(
        torch.equal(weight, same)
        for weight, same in zip(one.parameters(), supernet.extract(arch).parameters(), strict=True)
    )


def test_shapes_seen_are_shapes_promised(supernet: Supernet) -> None:
    for arch in _archs(supernet):
        lowering = supernet.space.lower(arch)
        network = random_network(lowering, seed=0)
        seen: list[tuple[int, ...]] = []
        for unit in network.units:
            unit.register_forward_hook(
                lambda _m, _i, out, seen=seen: seen.append(tuple(out.shape[1:]))
            )
        network(_images(supernet, arch, 1))
        promised = [op.out_chw for op in lowering]
        assert [(*shape, 1, 1)[:3] for shape in seen] == promised


def test_macs_are_those_that_torch_counts(supernet: Supernet) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for arch in _archs(supernet):
        lowering = supernet.space.lower(arch)
        network = random_network(lowering, seed=0)
        with FlopCounterMode(display=False) as counter:
            network(_images(supernet, arch, 1))
        assert counter.get_total_flops() == 2 * lowering.macs


def test_images_of_another_shape_are_refused(supernet: Supernet) -> None:
    arch = supernet.space.smallest()
    with pytest.raises(ValueError, match="images are"):
        supernet(_images(supernet, supernet.space.largest()), arch)


def test_the_same_seed_gives_the_same_network() -> None:
    lowering = PLAIN.lower(PLAIN.smallest())
    a, b, c = (random_network(lowering, seed=s) for s in (1, 1, 2))
    assert _flat(a).equal(_flat(b))
    assert not _flat(a).equal(_flat(c))


def _flat(network: Network) -> torch.Tensor:
    return torch.cat([p.reshape(-1) for p in network.parameters()])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "kernel"), [(1, 3), (2, 7), (3, 5), (4, 5), (4, 7), (9, 5)])
def test_padding_beforehand_changes_neither_output_nor_gradients(
    size: int, kernel: int, stride: int
) -> None:
    draw = torch.Generator().manual_seed(size * kernel)
    x = torch.randn(2, 6, size, size, generator=draw, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 1, kernel, kernel, generator=draw, dtype=torch.float64, requires_grad=True)
    plain = nn.functional.conv2d(x, w, None, stride, kernel // 2, groups=6)
    ours = convolve(x, w, None, stride)
    assert torch.allclose(ours, plain, atol=1e-12)
    weights = torch.randn(plain.shape, generator=draw, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), (x, w)),
        torch.autograd.grad((plain * weights).sum(), (x, w)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-12)
