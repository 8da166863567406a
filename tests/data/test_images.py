from __future__ import annotations

import numpy as np
import pytest
import torch

from edgenas.data import DataSet, Images, class_weights, data_set, imbalance
from edgenas.errors import DataError


def images(n_each: list[int], *, size: int = 8, channels: int = 1, seed: int = 0) -> Images:
    labels = torch.repeat_interleave(torch.arange(len(n_each)), torch.tensor(n_each))
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        256, (len(labels), channels, size, size), generator=generator, dtype=torch.uint8
    )
    return Images(pixels, labels)


def made(**changes: Images) -> DataSet:
    splits = {"train": images([30, 10]), "search": images([3, 2]), "test": images([4, 5])}
    return data_set("pets", ("cat", "dog"), {**splits, **changes})


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), "uint8"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), torch.zeros(2).long(), "1 or 3"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(2).long(), "1 or 3"),
        (torch.zeros(2, 1, 8, 9, dtype=torch.uint8), torch.zeros(2).long(), "8x9"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3).long(), "labels"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2), "int64"),
    ],
)
def test_images_of_a_wrong_shape_or_type_are_refused(
    pixels: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Images(pixels, labels)


def test_mean_and_std_are_those_of_train() -> None:
    train = images([5000, 10], channels=3, size=4)
    data = data_set(
        "x",
        ("a", "b"),
        {
            "train": train,
            "search": images([1, 1], channels=3, size=4),
            "test": images([1, 1], channels=3, size=4),
        },
    )
    expected = train.pixels.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, expected.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, expected.std(axis=(0, 2, 3)), rtol=1e-12)
    assert data.channels == 3
    assert data.image_size == 4


def test_a_flat_channel_does_not_divide_by_zero() -> None:
    flat = Images(torch.full((4, 1, 8, 8), 7, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    assert made(train=flat).std == (1 / 255,)


def test_counts_and_imbalance_are_shown() -> None:
    data = made()
    assert data.counts()["train"] == {"cat": 30, "dog": 10}
    assert data.counts()["test"] == {"cat": 4, "dog": 5}
    assert data.imbalance == 3.0
    text = data.describe()
    assert "8x8 grey" in text
    assert "imbalance in train: 3.00" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:5]}
    assert rows == {
        "class": ["train", "search", "test"],
        "cat": ["30", "3", "4"],
        "dog": ["10", "2", "5"],
        "total": ["40", "5", "9"],
    }


def test_the_digest_follows_every_pixel_label_and_class_of_every_split() -> None:
    digest = made().digest
    assert digest == made().digest
    assert len(digest) == 12
    for split in ("train", "search", "test"):
        part = getattr(made(), split)
        pixels = part.pixels.clone()
        pixels[-1, 0, -1, -1] ^= 1
        assert made(**{split: Images(pixels, part.labels)}).digest != digest
        labels = part.labels.clone()
        labels[0] = 1
        assert made(**{split: Images(part.pixels, labels)}).digest != digest
    data = made()
    assert data_set("pets", ("cat", "wolf"), data.splits).digest != digest
    assert data_set("other name", ("cat", "dog"), data.splits).digest == digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": images([4, 0])}, "test has no image of dog"),
        ({"train": images([0, 4]), "search": images([0, 1])}, "train has no image of cat; search"),
        ({"test": images([4, 4], size=9)}, "differ in shape"),
        ({"test": images([4, 4], channels=3)}, "differ in shape"),
        ({"search": images([4, 4, 4])}, "labels 0..2"),
    ],
)
def test_splits_that_do_not_fit_are_refused(changes: dict[str, Images], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(**changes)


def test_one_class_or_doubled_names_are_refused() -> None:
    one = images([4])
    with pytest.raises(DataError, match=r"1 class \(cat\)"):
        data_set("x", ("cat",), {"train": one, "search": one, "test": one})
    with pytest.raises(DataError, match="named twice: cat"):
        data_set("x", ("cat", "cat"), made().splits)


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "a\rb", "a\tb", "a\0b", "\x1e", "\x85", "\u2028", "\u2029", "\ud800"]
)
def test_names_that_do_not_fit_a_line_are_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        data_set("x", ("cat", name), made().splits)
    assert str(caught.value).endswith(f"characters: {name!r}")
    assert "rename" in caught.value.hint
    assert data_set("x", ("Käse, weiß", "\U0001f408\u200d\u2b1b"), made().splits)


def test_class_weights_balance_classes_and_leave_the_mean_loss_alone() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights(labels, 3)
    totals = [float(weights[labels][labels == c].sum()) for c in range(3)]
    assert totals == pytest.approx([10 / 3] * 3)
    assert float(weights[labels].mean()) == pytest.approx(1.0)
    assert imbalance(labels, 3) == 6.0


def test_a_class_without_images_has_no_weight() -> None:
    with pytest.raises(DataError, match=r"\[1\]"):
        class_weights(torch.tensor([0, 2]), 3)
    assert imbalance(torch.tensor([0, 2]), 3) == float("inf")


def test_images_are_drawn_by_seed_in_their_own_order() -> None:
    n = 50
    pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1)
    images = Images(pixels, torch.arange(n))
    drawn = images.drawn(20, seed=3)
    positions = drawn.labels.tolist()
    assert len(set(positions)) == 20
    assert positions == sorted(positions)
    assert drawn.pixels.flatten().tolist() == positions
    assert images.drawn(20, seed=3).labels.tolist() == positions
    assert images.drawn(20, seed=4).labels.tolist() != positions
    assert images.drawn(n, seed=3) is images
