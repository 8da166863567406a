"""Contested images: which they are, what the others count, and what that is worth."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from edgenas.data import DataSet, load_data
from edgenas.evaluation import Contested, SupernetEvaluator, pilots
from edgenas.supernet import Supernet
from edgenas.testing.fakes import tiny_space

SPACE = tiny_space()


def test_contested_is_what_networks_do_not_name_alike() -> None:
    named = np.array([[0, 1, 2, 3, 1], [0, 1, 1, 3, 2], [0, 1, 2, 3, 3]])
    labels = np.array([0, 2, 2, 3, 0])
    assert Contested.of(named, labels) == Contested((2, 4), others_right=2, n=5)
    assert Contested.of(named[:1], labels) == Contested((), others_right=3, n=5)
    assert Contested.everything(3) == Contested((0, 1, 2), 0, 3)


def test_pilots_are_spread_and_drawn_by_the_seed() -> None:
    some = pilots(SPACE, 6, seed=1)
    assert some == pilots(SPACE, 6, seed=1)
    assert some[:2] == (SPACE.largest(), SPACE.smallest())
    assert len(set(some)) == len(some) <= 6
    assert pilots(SPACE, 1, seed=1) == (SPACE.largest(),)
    assert pilots(SPACE, 0, seed=1) == ()


def test_the_others_count_as_the_pilots_name_them(digits: DataSet) -> None:
    torch.manual_seed(0)
    evaluator = SupernetEvaluator(Supernet(SPACE), digits, n_recalibration=64)
    asked = pilots(SPACE, 3, seed=0)
    contested = evaluator.contested_by(asked)
    assert 0 < len(contested.index) <= contested.n == len(digits.search)
    both = ("top1", "agreement")
    for arch in asked:
        assert evaluator(arch, both, contested=contested) == evaluator(arch, both), "exactly"
    rng = random.Random(3)
    arch = next(a for a in iter(lambda: SPACE.sample(rng), None) if a not in asked)
    network = evaluator.network(arch)
    right = evaluator.logits(network, digits.search).argmax(1) == digits.search.labels
    expected = (int(right[list(contested.index)].sum()) + contested.others_right) / contested.n
    assert evaluator(arch, contested=contested)["top1"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    pytest.importorskip("sklearn", reason="the data set digits is in scikit-learn")
    return load_data("digits", seed=0)
