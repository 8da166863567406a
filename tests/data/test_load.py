from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
import torch

from edgenas import data, plugins
from edgenas.data import Images, Parts, Request, assemble, estimate, load_data, sources
from edgenas.errors import DataError, ResourceError, SpecError, UsageError
from edgenas.events import Event


def images(n: int, *, size: int = 12) -> Images:
    generator = torch.Generator().manual_seed(n)
    pixels = torch.randint(256, (n, 1, size, size), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 3)


def test_missing_splits_are_cut_without_overlap() -> None:
    whole = images(300)
    found = assemble("x", Parts(("a", "b", "c"), train=whole), seed=5)
    assert [len(part) for part in found.splits.values()] == [219, 36, 45]
    rows = [p.numpy().tobytes() for part in found.splits.values() for p in part.pixels]
    assert len(set(rows)) == 300
    assert set(rows) == {p.numpy().tobytes() for p in whole.pixels}
    assert set(found.counts()["test"].values()) == {15}
    again = assemble("x", Parts(("a", "b", "c"), train=whole), seed=5)
    assert again.digest == found.digest
    assert assemble("x", Parts(("a", "b", "c"), train=whole), seed=6).digest != found.digest


def test_ready_made_splits_do_not_depend_on_the_seed() -> None:
    parts = Parts(("a", "b", "c"), train=images(30), search=images(9), test=images(12))
    assert assemble("x", parts, seed=0).digest == assemble("x", parts, seed=1).digest
    cut = Parts(("a", "b", "c"), train=images(30), test=images(12), search_images=6)
    first, second = assemble("x", cut, seed=0), assemble("x", cut, seed=1)
    assert torch.equal(first.test.pixels, second.test.pixels)
    assert len(first.search) == 6
    assert first.digest != second.digest


def test_images_of_another_size_are_resized() -> None:
    parts = Parts(("a", "b", "c"), train=images(30), search=images(9), test=images(12))
    found = assemble("x", parts, seed=0, image_size=20)
    assert found.image_size == 20
    expected = data.resize(parts.test.pixels, 20).round().to(torch.uint8)  # type: ignore[union-attr]
    assert torch.equal(found.test.pixels, expected)
    assert load_data("digits", seed=0, image_size=28).image_size == 28


def test_an_image_size_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="image_size 7"):
        load_data("digits", seed=0, image_size=7)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'") as caught:
        load_data("fashon-mnist", seed=0)
    assert "digits" in caught.value.hint


def test_a_known_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_data("digits", seed=0).classes[3] == "3"
    with pytest.raises(DataError, match="no class folders"):
        load_data("./digits", seed=0)


def test_estimates_of_known_sets() -> None:
    found = estimate("fashion-mnist")
    assert found is not None
    assert (found.n_images, found.image_size) == (70_000, 28)
    assert found.memory_bytes > 70_000 * 784
    digits = estimate("digits", image_size=28)
    assert digits is not None
    assert digits.memory_bytes < found.memory_bytes
    assert estimate("of-a-plug-in") is None


def test_known_sets_and_resizing_are_checked_against_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Memory:
        available = 2 * 51 * (20 * 20 + 8) - 1

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(sources, "fashion_mnist", lambda request: pytest.fail("read"))
    with pytest.raises(ResourceError, match="fashion-mnist: 1"):
        load_data("fashion-mnist", seed=0)
    parts = Parts(("a", "b", "c"), train=images(30), search=images(9), test=images(12))
    with pytest.raises(ResourceError, match="x: 0 MiB"):
        assemble("x", parts, seed=0, image_size=20)
    Memory.available += 1
    assert assemble("x", parts, seed=0, image_size=20).image_size == 20


def test_images_in_two_splits_are_told(tmp_path: Path) -> None:
    pixels = images(60).pixels[:, 0].numpy()
    labels = images(60).labels.numpy()
    arrays = {"x_train": pixels[:33], "y_train": labels[:33], "x_val": pixels[27:45]}
    arrays |= {"y_val": labels[27:45], "x_test": pixels[30:], "y_test": labels[30:]}
    np.savez(tmp_path / "a.npz", **arrays)
    heard: list[Event] = []
    load_data(str(tmp_path / "a.npz"), seed=0, report=heard.append)
    assert [event.message for event in heard] == [
        "warning: a: 6 images of search are also in train, pixel for pixel",
        "warning: a: 3 images of test are also in train, pixel for pixel",
        "warning: a: 12 images of test are also in search, pixel for pixel",
    ]


class TestPlugIn:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
        """A package with the data set `stripes`; keeps what it was asked."""
        asked: list[Request] = []

        def stripes(request: Request) -> Parts:
            asked.append(request)
            return Parts(("a", "b", "c"), train=images(60), mirror=False)

        module = ModuleType("stripes_package")
        module.source = stripes  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "stripes_package", module)
        entry = EntryPoint("stripes", "stripes_package:source", "edgenas.datasets")
        monkeypatch.setattr(
            plugins, "_plugins", lambda kind: (entry,) if kind == "datasets" else ()
        )
        return asked

    def test_it_adds_a_name(self, asked: list[Request]) -> None:
        found = load_data("stripes", seed=3, root=Path("x"))
        assert (found.name, len(found.train), found.mirror) == ("stripes", 44, False)
        assert (asked[0].seed, asked[0].root, asked[0].download) == (3, Path("x"), False)

    def test_it_is_named_where_a_name_is_unknown(self, asked: list[Request]) -> None:
        with pytest.raises(DataError, match="did you mean 'stripes'"):
            load_data("stripe", seed=0)

    def test_it_replaces_nothing(
        self, asked: list[Request], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = EntryPoint("digits", "stripes_package:source", "edgenas.datasets")
        monkeypatch.setattr(plugins, "_plugins", lambda kind: (entry,))
        with pytest.raises(SpecError, match="claimed by"):
            load_data("digits", seed=0)
