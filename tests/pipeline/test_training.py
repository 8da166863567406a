"""What the settings of `[train]` and the data set make of a recipe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgenas.data import DataSet, Images, data_set, load_data
from edgenas.pipeline.config import DataConfig, RunConfig, SearchConfig, TrainConfig
from edgenas.pipeline.training import recipe_for
from edgenas.supernet import Recipe


def recipe(data: DataSet, **settings: bool) -> Recipe:
    train = TrainConfig(**settings)
    return recipe_for(RunConfig(DataConfig(data.name), SearchConfig(("a",)), train=train), data)


def pets(n_cats: int, n_dogs: int) -> DataSet:
    labels = torch.tensor([0] * n_cats + [1] * n_dogs)
    images = Images(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    return data_set("pets", ("cat", "dog"), dict.fromkeys(("train", "search", "test"), images))


@pytest.mark.parametrize(
    ("n_dogs", "balance"), [(10, False), (14, False), (15, True), (16, True), (6, True)]
)
def test_rare_classes_weigh_more_where_one_has_half_as_many_images_again(
    n_dogs: int, *, balance: bool
) -> None:
    data = pets(10, n_dogs)
    assert recipe(data).balance == balance
    assert recipe(data, balance=not balance).balance != balance


def test_the_data_set_says_whether_images_are_mirrored() -> None:
    pytest.importorskip("sklearn", reason="the data set digits is in scikit-learn")
    digits = load_data("digits", seed=0)
    assert not recipe(digits).mirror
    assert recipe(digits, mirror=True).mirror
    assert recipe(replace(digits, mirror=True)).mirror
    assert not recipe(replace(digits, mirror=True), mirror=False).mirror
