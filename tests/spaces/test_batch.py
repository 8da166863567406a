import random

import numpy as np
import pytest

from edgenas.spaces.batch import Sums, decode, draw, encode
from edgenas.spaces.mobile import MEDIUM, SMALL, MobileSpace
from edgenas.testing.fakes import tiny_space


@pytest.mark.parametrize("space", [SMALL, MEDIUM, tiny_space()], ids=["small", "medium", "tiny"])
def test_sums_are_those_of_the_lowering(space: MobileSpace) -> None:
    rng = random.Random(0)
    architectures = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(60))]
    codes = encode(space, architectures)
    assert decode(space, codes) == architectures
    sums = Sums(space, lambda op: (op.macs, op.params, 1))(codes)
    nets = [space.lower(arch) for arch in architectures]
    assert sums.tolist() == [[net.macs, net.params, len(net)] for net in nets]


def test_what_is_inactive_does_not_matter() -> None:
    codes = draw(SMALL, 200, np.random.default_rng(1))
    again = encode(SMALL, decode(SMALL, codes))
    assert (again != codes).any()
    macs = Sums(SMALL, lambda op: (op.macs,))
    assert (macs(codes) == macs(again)).all()


def test_draws_are_within_the_genes_and_repeat() -> None:
    codes = draw(SMALL, 500, np.random.default_rng(3))
    sizes = [len(values) for values in SMALL.genes.values()]
    assert codes.min() == 0
    assert codes.max(axis=0).tolist() == [size - 1 for size in sizes]
    assert (draw(SMALL, 500, np.random.default_rng(3)) == codes).all()
