"""The supernet through gates: the same outputs, and gradients that differences confirm."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgenas.data import DataSet
from edgenas.spaces import Choice
from edgenas.spaces.mobile import MobileSpace, default_space
from edgenas.supernet import LossGradient, Supernet
from edgenas.supernet.relaxed import Relaxed, _Run, has_gates

SPACES = {
    name: default_space(image_size=28, in_channels=1, n_classes=10, variant=name)
    for name in ("int8", "full")
}


def images_at(r: int) -> Tensor:
    return torch.randn(8, 1, r, r, generator=torch.Generator().manual_seed(r))


LABELS = torch.arange(8) % 10


def one_hot(space: MobileSpace, params: dict[str, Choice]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([float(v == params[name]) for v in values])
        for name, values in space.genes.items()
        if has_gates(name)
    }


def drawn(space: MobileSpace, seed: int) -> dict[str, Choice]:
    rng = random.Random(seed)
    return {name: rng.choice(values) for name, values in space.genes.items()}


@pytest.mark.parametrize("name", ["int8", "full", "expansions of 1"])
@pytest.mark.parametrize("seed", range(4))
def test_closed_gates_give_the_architecture_exactly(
    tiny_space: MobileSpace, name: str, seed: int
) -> None:
    space = SPACES.get(name, tiny_space)
    supernet = Supernet(space, seed=3)
    params = drawn(space, seed)
    arch = space.architecture(params)
    images = images_at(space.resolution(arch))
    with torch.no_grad():
        relaxed = _Run(supernet, arch, one_hot(space, params), 1.0, None).logits(images)
        plain = supernet(images, arch)
    torch.testing.assert_close(relaxed, plain, rtol=1e-4, atol=1e-4)


def test_gradients_are_what_differences_say(tiny_space: MobileSpace) -> None:
    supernet = Supernet(tiny_space, seed=0).double()
    params = drawn(tiny_space, 1)
    arch = tiny_space.architecture(params)
    images = images_at(int(params["r"])).double()
    _, slopes = Relaxed(supernet).gradients(params, lambda r: images_at(r).double(), LABELS)
    gates = {name: gate.double() for name, gate in one_hot(tiny_space, params).items()}
    step, seen = 1e-5, 0
    for name in gates.keys() & arch.params.keys():
        for i, value in enumerate(tiny_space.genes[name]):
            losses = []
            for sign in (1, -1):
                moved = gates[name].clone()
                moved[i] += sign * step
                run = _Run(supernet, arch, {**gates, name: moved}, 1.0, None)
                with torch.no_grad():
                    losses.append(float(functional.cross_entropy(run.logits(images), LABELS)))
            expected = (losses[0] - losses[1]) / (2 * step)
            assert slopes[name][value] == pytest.approx(expected, abs=2e-4, rel=2e-2), (name, value)
            seen += abs(expected) > 1e-3
    assert seen > 5


def test_depths_kinds_and_resolutions_have_the_losses_themselves() -> None:
    space = SPACES["int8"]
    supernet = Supernet(space, seed=0)
    params = drawn(space, 0)
    loss, slopes = Relaxed(supernet).gradients(params, images_at, LABELS)
    tried = [gene for gene in slopes if not has_gates(gene)]
    assert {gene.rpartition(".")[2] for gene in tried} == {"depth", "kind", "r"}
    for gene in tried:
        assert slopes[gene].keys() == set(space.genes[gene])
        for value, told in slopes[gene].items():
            arch = space.architecture({**params, gene: value})
            with torch.no_grad():
                logits = supernet(images_at(space.resolution(arch)), arch)
                expected = float(functional.cross_entropy(logits, LABELS))
            assert told == pytest.approx(expected, rel=1e-4), (gene, value)
        assert loss == slopes[gene][params[gene]]


def test_only_choices_that_the_architecture_has_are_judged() -> None:
    space = SPACES["int8"]
    params = drawn(space, 3)
    _, slopes = Relaxed(Supernet(space, seed=0)).gradients(params, images_at, LABELS)
    active = space.architecture(params).params
    # in a fixed order: what is summed over them decides which network is proposed
    assert list(slopes) == [gene for gene in space.genes if gene in active]
    assert slopes.keys() < space.genes.keys()


def test_partial_channels_judge_expansions_by_fewer() -> None:
    space = SPACES["int8"]
    supernet = Supernet(space, seed=0)
    params = drawn(space, 2)

    def of(partial: float) -> dict[str, dict[Choice, float]]:
        generator = torch.Generator().manual_seed(0)
        return Relaxed(supernet).gradients(
            params, images_at, LABELS, partial=partial, generator=generator
        )[1]

    whole, half, none = of(1.0), of(0.5), of(1e-9)
    expands = [gene for gene in whole if gene.endswith("expand")]
    assert all(slope == 0 for gene in expands for slope in none[gene].values())
    assert any(half[gene] != whole[gene] for gene in expands)
    assert any(slope != 0 for gene in expands for slope in half[gene].values())
    kernel = next(gene for gene in whole if gene.endswith("kernel"))
    assert half[kernel] == pytest.approx(whole[kernel], rel=1e-3, abs=1e-6)


def test_the_supernet_stays_as_it_is(tiny_space: MobileSpace, digits: DataSet) -> None:
    supernet = Supernet(tiny_space, seed=0)
    before = {n: p.detach().clone() for n, p in supernet.named_parameters()}
    gradient = LossGradient(supernet, digits, batch=16)
    first, again, other = (gradient(drawn(tiny_space, 0), seed) for seed in (5, 5, 6))
    assert first == again != other
    for name, parameter in supernet.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
