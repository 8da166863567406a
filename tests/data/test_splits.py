from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgenas.data.splits import cut
from edgenas.errors import DataError


@st.composite
def cuts(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    sizes = draw(st.lists(st.integers(2, 60), min_size=1, max_size=8))
    labels = [c for c, size in enumerate(sizes) for _ in range(size)]
    n = draw(st.integers(len(sizes), sum(sizes) - len(sizes)))
    return torch.tensor(draw(st.permutations(labels))), n


@given(cuts(), st.integers(0, 2**62))
def test_a_cut_is_a_partition_stratified_and_repeatable(
    case: tuple[torch.Tensor, int], seed: int
) -> None:
    labels, n = case
    kept, away = cut(labels, n, seed=seed)
    assert len(away) == n
    assert sorted([*kept.tolist(), *away.tolist()]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert away.tolist() == sorted(away.tolist())
    sizes = Counter(labels.tolist())
    shares = Counter(labels[away].tolist())
    for c, size in sizes.items():
        assert 1 <= shares[c] <= size - 1
    if min(n * size / len(labels) for size in sizes.values()) >= 1 and all(
        n * size / len(labels) <= size - 1 for size in sizes.values()
    ):
        for c, size in sizes.items():
            assert abs(shares[c] - n * size / len(labels)) < 1
    again = cut(labels, n, seed=seed)
    assert torch.equal(again[0], kept)
    assert torch.equal(again[1], away)


def test_another_seed_gives_another_cut() -> None:
    labels = torch.arange(10).repeat(100)
    found = {tuple(cut(labels, 100, seed=seed)[1].tolist()) for seed in range(20)}
    assert len(found) == 20


def test_every_image_is_cut_about_equally_often() -> None:
    labels = torch.arange(2).repeat(20)
    times = torch.zeros(40)
    for seed in range(400):
        times[cut(labels, 10, seed=seed)[1]] += 1
    assert times.mean() == 100
    assert times.min() > 70  # binomial, standard deviation 8.7
    assert times.max() < 130


def test_a_cut_is_the_same_everywhere() -> None:
    """Shipped weights rest on this: a new draw would put their training images into search."""
    labels = torch.arange(3).repeat(5)
    assert cut(labels, 6, seed=7)[1].tolist() == [1, 3, 6, 8, 10, 11]


@pytest.mark.parametrize(
    ("labels", "n"), [([0, 0, 1], 2), ([0, 0, 1, 1], 1), ([0, 0, 1, 1], 3), ([], 0), ([0, 0], 0)]
)
def test_a_cut_that_leaves_a_class_without_images_is_refused(labels: list[int], n: int) -> None:
    with pytest.raises(DataError, match="cannot cut"):
        cut(torch.tensor(labels, dtype=torch.int64), n, seed=0)
