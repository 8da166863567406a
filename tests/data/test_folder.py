from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from edgenas.data import DataSet, estimate, folder, load_data, unlabelled_images
from edgenas.data.folder import read_image, scan
from edgenas.data.memory import default_size
from edgenas.errors import DataError, ResourceError
from edgenas.events import Event

RED, BLUE = (220, 30, 40), (20, 40, 230)


def picture(
    path: Path, *, seed: int = 0, size: tuple[int, int] = (40, 32), mode: str = "RGB"
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def pictures(folder: Path, n: int, *, suffix: str = ".png", mode: str = "RGB") -> None:
    for i in range(n):
        picture(folder / f"{i:03}{suffix}", seed=zlib.crc32(str(folder).encode()) + i, mode=mode)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """20 cats and 10 dogs, as PNG and JPEG."""
    pictures(tmp_path / "pets" / "cat", 20)
    pictures(tmp_path / "pets" / "dog", 10, suffix=".jpg")
    return tmp_path / "pets"


def load(path: Path, **settings: int | None) -> tuple[DataSet, list[str]]:
    heard: list[Event] = []
    data = load_data(str(path), seed=0, report=heard.append, **settings)  # type: ignore[arg-type]
    return data, [event.message for event in heard if event.message.startswith("warning")]


def test_a_folder_a_class(two: Path) -> None:
    data, warned = load(two)
    assert data.name == "pets"
    assert data.classes == ("cat", "dog")
    assert data.channels == 3
    assert data.image_size == 32  # the shorter side
    assert {s: sum(c.values()) for s, c in data.counts().items()} == {
        "train": 22,
        "search": 4,
        "test": 4,
    }
    assert data.counts()["test"] == {"cat": 3, "dog": 1}
    assert data.imbalance == 14 / 8
    assert warned == []
    assert load(two)[0].digest == data.digest
    assert load_data(str(two), seed=1).digest != data.digest


def test_the_same_image_is_in_one_split_only(two: Path) -> None:
    data, _ = load(two)
    seen = [p.numpy().tobytes() for part in data.splits.values() for p in part.pixels]
    assert len(seen) == 30 == len(set(seen))


@pytest.mark.parametrize("search", [None, "search", "val", "validation"])
def test_ready_made_splits_are_kept(search: str | None, tmp_path: Path) -> None:
    names = {"train": 12, "test": 5} | ({search: 3} if search else {})
    for split, n in names.items():
        for c in ("a", "b"):
            pictures(tmp_path / split / c, n, mode="L")
    data, _ = load(tmp_path)
    assert data.channels == 1
    assert len(data.test) == 10
    assert [len(data.train), len(data.search)] == ([24, 6] if search else [21, 3])
    expected = read_image(tmp_path / "test" / "b" / "004.png", channels=1, size=32)
    assert torch.equal(data.test.pixels[9], expected)
    assert data.test.labels.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize(("train", "test"), [("Training", "Testing"), ("TRAIN", "Test")])
def test_ready_made_splits_may_be_called_otherwise(train: str, test: str, tmp_path: Path) -> None:
    for split, n in ((train, 12), (test, 5)):
        for c in ("a", "b"):
            pictures(tmp_path / split / c, n)
    data, warned = load(tmp_path)
    assert (data.classes, len(data.test), warned) == (("a", "b"), 10, [])


def test_hidden_files_are_no_images(two: Path) -> None:
    digest = load(two)[0].digest
    (two / "cat" / "._000.png").write_bytes(b"resources of another system")
    pictures(two / "dog" / ".ipynb_checkpoints", 3)
    data, warned = load(two)
    assert (data.digest, warned) == (digest, [])


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "test", "tram"):
        pictures(tmp_path / name, 4)
    assert load(tmp_path)[0].classes == ("test", "train", "tram")


def test_names_with_spaces_and_other_scripts_work(tmp_path: Path) -> None:
    home = tmp_path / "Bilder & größe"
    names = ("Äpfel rot", "梨", "a b", "-rf", "quote'\"$(x)")
    for name in names:
        pictures(home / name, 4)
        (home / name / "000.png").rename(home / name / "ünï cödé\n$(touch x).png")
    data, warned = load(home)
    assert data.classes == tuple(sorted(names))
    assert len(data.train) + len(data.search) + len(data.test) == 20
    assert warned == []


def test_a_class_named_over_two_lines_is_refused(two: Path) -> None:
    pictures(two / "a\nb", 4)
    with pytest.raises(DataError, match=r"line breaks.*'a\\nb'"):
        load(two)


def test_composed_and_decomposed_letters_are_one_name(tmp_path: Path) -> None:
    for split, name in (("train", "\u00e4"), ("test", "a\u0308")):
        for c in (name, "b"):
            pictures(tmp_path / split / c, 6)
    assert load(tmp_path)[0].classes == ("b", "\u00e4")


def test_links_are_followed_once_and_loops_end(two: Path) -> None:
    (two / "cat" / "again").symlink_to(two, target_is_directory=True)
    (two / "cat" / "self.png").symlink_to("self.png")
    (two / "bird").symlink_to(two / "dog", target_is_directory=True)
    found = {name: len(paths) for name, paths in folder._classes(two, lambda event: None).items()}
    # In cat: its own 20, through the link dog's 10, and the link to itself (a broken image).
    assert found == {"bird": 10, "cat": 31, "dog": 10}


class TestConversion:
    """One defined conversion, checked on flat colours."""

    def pixel(self, path: Path, channels: int = 3) -> list[int]:
        pixels = read_image(path, channels=channels, size=8)
        assert pixels.shape == (channels, 8, 8)
        assert pixels.dtype == torch.uint8
        assert (pixels == pixels[:, :1, :1]).all()
        return [int(v) for v in pixels[:, 0, 0]]

    def test_rgb_and_palette(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (12, 10), RED)
        for i, mode in enumerate(("RGB", "P")):
            path = tmp_path / f"{i}.png"
            image.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
            assert self.pixel(path) == list(RED)

    def test_transparent_parts_are_white(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.new("RGBA", (12, 10), (*RED, 0)).save(path)
        assert self.pixel(path) == [255, 255, 255]
        Image.new("RGBA", (12, 10), (*RED, 255)).save(path)
        assert self.pixel(path) == list(RED)
        Image.new("LA", (12, 10), (10, 0)).save(path)
        assert self.pixel(path, channels=1) == [255]
        palette = Image.new("P", (12, 10), 1)
        palette.putpalette([*RED, *BLUE])
        palette.save(path, transparency=1)
        assert self.pixel(path) == [255, 255, 255]
        palette.save(path, transparency=0)
        assert self.pixel(path) == list(BLUE)

    @pytest.mark.parametrize("suffix", [".tif", ".jpg"])
    def test_cmyk(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"a{suffix}"
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
        assert self.pixel(path) == pytest.approx([255, 0, 0], abs=4)

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
    def test_16_bit_grey_is_divided_not_cut_off(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"a{suffix}"
        for value in (0, 128, 129, 257, 1000, 40_000, 65_535):
            Image.fromarray(np.full((10, 12), value, dtype=np.uint16)).save(path)
            assert self.pixel(path, channels=1) == [round(value / 257)]
            assert self.pixel(path) == [round(value / 257)] * 3

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_other_depths_are_refused(self, dtype: type, tmp_path: Path) -> None:
        path = tmp_path / "a.tif"
        Image.fromarray(np.full((10, 12), -1, dtype=dtype)).save(path)
        with pytest.raises(ValueError, match="not 8 or 16 bits"):
            read_image(path, channels=1, size=8)

    def test_black_and_white_and_grey(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.new("1", (12, 10), 1).save(path)
        assert self.pixel(path, channels=1) == [255]
        Image.new("L", (12, 10), 77).save(path)
        assert self.pixel(path) == [77, 77, 77]

    def test_exif_rotation(self, tmp_path: Path) -> None:
        upright = np.zeros((16, 16, 3), dtype=np.uint8)
        upright[:8] = 255  # light above
        path = tmp_path / "a.png"
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        Image.fromarray(np.rot90(upright)).save(path, exif=exif)
        pixels = read_image(path, channels=3, size=16)
        assert torch.equal(pixels, torch.from_numpy(upright).permute(2, 0, 1))

    def test_the_first_frame_of_an_animation(self, tmp_path: Path) -> None:
        path = tmp_path / "a.gif"
        frames = [Image.new("RGB", (12, 10), colour) for colour in (RED, BLUE)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert self.pixel(path) == list(RED)

    @pytest.mark.parametrize("size", [(40, 16), (16, 40), (5, 5), (200, 50)])
    def test_the_centre_square_is_kept(self, size: tuple[int, int], tmp_path: Path) -> None:
        width, height = size
        image = Image.new("RGB", size, RED)
        side = min(size)
        box = ((width - side) // 2, (height - side) // 2)
        image.paste(BLUE, (*box, box[0] + side, box[1] + side))
        image.save(tmp_path / "a.png")
        assert self.pixel(tmp_path / "a.png") == list(BLUE)

    def test_large_photographs_keep_their_brightness(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((640, 640), Image.Resampling.BICUBIC)
        photo.save(tmp_path / "a.png")
        photo.save(tmp_path / "a.jpg", quality=95)
        plain = read_image(tmp_path / "a.png", channels=3, size=32).int()
        reduced = read_image(tmp_path / "a.jpg", channels=3, size=32).int()
        assert (plain - reduced).abs().max() < 6
        assert (plain - reduced).abs().float().mean() < 1


def test_grey_only_if_every_image_is(two: Path, tmp_path: Path) -> None:
    for c in ("a", "b"):
        pictures(tmp_path / "grey" / c, 5, mode="L")
    assert load(tmp_path / "grey")[0].channels == 1
    picture(tmp_path / "grey" / "b" / "one.png")
    data, _ = load(tmp_path / "grey")
    assert data.channels == 3


def test_the_default_size_is_the_median_image_capped() -> None:
    sides = (5, 8, 20, 28, 31, 32, 47, 64, 500)
    assert [default_size(side) for side in sides] == [8, 8, 20, 28, 28, 32, 32, 64, 96]


def test_an_image_size_asked_for_is_kept(two: Path) -> None:
    assert load(two, image_size=20)[0].image_size == 20


class TestBroken:
    @pytest.fixture
    def many(self, tmp_path: Path) -> Path:
        """100 and 100 small images."""
        for c in ("a", "b"):
            for i in range(100):
                picture(tmp_path / c / f"{i:03}.jpg", size=(10, 9), seed=1000 * ord(c) + i)
        return tmp_path

    def test_up_to_one_percent_are_left_out_with_a_warning(self, many: Path) -> None:
        (many / "a" / "000.jpg").write_bytes(b"")
        (many / "b" / "007.jpg").write_text("<html>404</html>")
        data, warned = load(many)
        assert sum(len(part) for part in data.splits.values()) == 198
        assert len(warned) == 1
        assert "a/000.jpg (not an image)" in warned[0]
        assert "b/007.jpg" in warned[0]
        # Never zeros in their place.
        assert min(int(p.max()) for part in data.splits.values() for p in part.pixels) > 0

    def test_more_are_refused_with_their_names(self, many: Path) -> None:
        data = (many / "a" / "001.jpg").read_bytes()
        (many / "a" / "000.jpg").write_bytes(b"")
        (many / "a" / "001.jpg").write_bytes(data[: len(data) // 2])  # its header is whole
        (many / "b" / "007.jpg").write_text("<html>404</html>")
        with pytest.raises(DataError, match=r"3 broken .* more than 1 % of 200") as caught:
            load(many)
        for name in ("a/000.jpg", "a/001.jpg", "b/007.jpg"):
            assert name in str(caught.value)
        assert caught.value.exit_code == 3

    def test_a_long_list_is_cut(self, many: Path) -> None:
        for i in range(40):
            (many / "a" / f"{i:03}.jpg").write_bytes(b"")
        with pytest.raises(DataError, match=r"40 broken images .* and 30 more"):
            load(many)

    def test_truncated_in_the_middle_is_broken_not_grey(self, many: Path) -> None:
        path = many / "b" / "050.jpg"
        path.write_bytes(path.read_bytes()[:-40])
        _, warned = load(many)
        assert "b/050.jpg (image file is truncated" in warned[0]

    @pytest.mark.parametrize("limit", [60, 100])
    def test_a_decompression_bomb_is_broken(
        self, limit: int, many: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pillow warns above its limit and raises above twice the limit; both count here."""
        picture(many / "a" / "000.jpg", size=(15, 10))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit + 30)
        _, warned = load(many)
        assert "a/000.jpg (decompression bomb?" in warned[0]

    def test_an_eps_file_starts_no_program(self, many: Path) -> None:
        (many / "a" / "000.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        _, warned = load(many)
        assert "a/000.png (not an image)" in warned[0]

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".ppm"])
    def test_flipped_and_missing_bytes_never_end_in_a_traceback(
        self, suffix: str, tmp_path: Path
    ) -> None:
        good = picture(tmp_path / f"good{suffix}", size=(12, 12)).read_bytes()
        rng = random.Random(suffix)
        path = tmp_path / f"bad{suffix}"
        for _ in range(120):
            data = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
            try:
                with folder._strict():
                    folder._header(path)
                    assert read_image(path, channels=3, size=8).shape == (3, 8, 8)
            except folder._DAMAGE:
                pass


class TestRefused:
    @pytest.mark.parametrize("name", ["missing", "sub/missing"])
    def test_a_missing_folder(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such folder"):
            load(tmp_path / name)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no class folders") as caught:
            load(tmp_path)
        assert "sub-folder" in caught.value.hint

    def test_images_without_class_folders(self, tmp_path: Path) -> None:
        pictures(tmp_path / "flat", 3)
        with pytest.raises(DataError, match="no class folders"):
            load(tmp_path / "flat")

    def test_one_class(self, tmp_path: Path) -> None:
        pictures(tmp_path / "cat", 3)
        with pytest.raises(DataError, match="only one class, 'cat'"):
            load(tmp_path)

    def test_empty_classes_are_named(self, two: Path) -> None:
        (two / "bird").mkdir()
        (two / "fish").mkdir()
        (two / "fish" / "notes.txt").write_text("none yet")
        with pytest.raises(DataError, match=r"no images in .*pets/bird, .*pets/fish"):
            load(two)

    def test_a_class_too_small_to_be_split(self, two: Path) -> None:
        picture(two / "fish" / "only.png")
        with pytest.raises(DataError, match=r"pets: cannot cut .* \(1 in the smallest\)"):
            load(two)

    def test_classes_that_differ_between_splits(self, tmp_path: Path) -> None:
        for name in ("train/cat", "train/dog", "train/bird", "test/cat", "test/bee"):
            pictures(tmp_path / name, 3)
        with pytest.raises(DataError, match="test lacks bird, dog; test alone has bee"):
            load(tmp_path)

    def test_splits_without_train(self, two: Path) -> None:
        two.rename(two.parent / "test")
        (two.parent / "x").mkdir()
        with pytest.raises(DataError, match="holds test with class folders, but no train"):
            load(two.parent)

    def test_two_search_splits(self, tmp_path: Path) -> None:
        for split in ("train", "val", "search"):
            pictures(tmp_path / split / "a", 3)
        with pytest.raises(DataError, match="both search and val"):
            load(tmp_path)

    def test_a_file_that_is_neither(self, tmp_path: Path) -> None:
        (tmp_path / "data.csv").write_text("a,b")
        with pytest.raises(DataError, match=r"neither a folder of images nor an \.npz file"):
            load(tmp_path / "data.csv")

    def test_a_folder_name_that_is_no_text(self, tmp_path: Path) -> None:
        os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102 - bytes on purpose
        with pytest.raises(DataError, match="not named in UTF-8"):
            load(tmp_path)


def test_what_is_no_image_is_left_alone_with_a_warning(two: Path) -> None:
    (two / "cat" / "readme.txt").write_text("cats")
    (two / "cat" / ".DS_Store").write_text("x")
    (two / "__MACOSX").mkdir()
    (two / ".git").mkdir()
    picture(two / "stray.png")
    data, warned = load(two)
    assert data.classes == ("cat", "dog")
    assert len(warned) == 1
    assert warned[0].endswith("no images of a class: cat/readme.txt, stray.png")


def test_folders_beside_train_and_test_are_named(two: Path) -> None:
    two.rename(two.parent / "train")
    pictures(two.parent / "masks", 1)
    _, warned = load(two.parent)
    assert warned[0].endswith("ignored masks")


def test_images_in_deeper_folders_belong_to_the_class(two: Path) -> None:
    pictures(two / "dog" / "puppies" / "2024", 6)
    assert sum(c["dog"] for c in load(two)[0].counts().values()) == 16


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = estimate(str(two), image_size=64)
    assert expected is not None
    assert (expected.n_images, expected.channels, expected.image_size) == (30, 3, 64)
    assert expected.memory_bytes == 2 * 30 * (3 * 64 * 64 + 8)
    assert expected.disk_bytes == sum(p.stat().st_size for p in two.rglob("*.*"))

    class Memory:
        available = expected.memory_bytes - 1

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(folder, "read_image", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(ResourceError, match="pets: 1 MiB of memory are needed") as caught:
        load(two, image_size=64)
    assert caught.value.exit_code == 6
    assert "image_size" in caught.value.hint


def test_progress_is_reported(two: Path) -> None:
    heard: list[Event] = []
    load_data(str(two), seed=0, report=heard.append)
    assert any("looking at" in e.message and e.total == 30 for e in heard)
    assert any("reading" in e.message and e.total == 30 for e in heard)


def test_scanning_decodes_nothing(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *a, **k: pytest.fail("decoded"))
    found = scan(two)
    assert found.n_images == 30
    assert found.channels == 3


class TestUnlabelled:
    """Images of any size and kind, in whatever folders, by the same conversion."""

    @pytest.fixture
    def heap(self, tmp_path: Path) -> Path:
        heap = tmp_path / "heap"
        pictures(heap, 6)
        pictures(heap / "a" / "deeper", 3, suffix=".jpg", mode="L")
        picture(heap / "wide.png", size=(90, 20))
        (heap / "notes.txt").write_text("no image")
        picture(heap / ".hidden" / "x.png")
        return heap

    def test_all_are_read_in_the_order_of_their_paths(self, heap: Path) -> None:
        found = unlabelled_images(heap, channels=3, size=16)
        assert found.pixels.shape == (10, 3, 16, 16)
        assert found.pixels.dtype == torch.uint8
        paths = sorted(p for p in heap.rglob("*.*g") if ".hidden" not in p.parts)
        for pixels, path in zip(found.pixels, paths, strict=True):
            assert torch.equal(pixels, read_image(path, channels=3, size=16))
        assert unlabelled_images(heap, channels=1, size=8).pixels.shape == (10, 1, 8, 8)

    def test_fewer_are_drawn_by_the_seed(self, heap: Path) -> None:
        some = unlabelled_images(heap, channels=1, size=16, n=4, seed=1)
        assert len(some) == 4
        again = unlabelled_images(heap, channels=1, size=16, n=4, seed=1)
        assert some.digest == again.digest
        assert torch.equal(some.pixels, again.pixels)
        others = unlabelled_images(heap, channels=1, size=16, n=4, seed=2)
        assert some.digest != others.digest
        assert len(unlabelled_images(heap, channels=1, size=16, n=99)) == 10

    def test_broken_ones_are_treated_as_in_the_data_folder(self, heap: Path) -> None:
        pictures(heap / "many", 100)
        (heap / "broken.png").write_bytes(b"no image")
        heard: list[Event] = []
        found = unlabelled_images(heap, channels=3, size=16, report=heard.append)
        assert len(found) == 110
        assert "1 broken images" in heard[-1].message
        assert "broken.png (not an image)" in heard[-1].message
        (heap / "empty.png").touch()
        with pytest.raises(DataError, match=r"2 broken images .* more than 1 % of 112"):
            unlabelled_images(heap, channels=3, size=16)

    def test_no_folder_no_images_and_too_many(
        self, tmp_path: Path, heap: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(DataError, match="nowhere: there is no such folder") as caught:
            unlabelled_images(tmp_path / "nowhere", channels=3, size=16)
        assert "unlabelled" in caught.value.hint
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="empty: no images in it"):
            unlabelled_images(tmp_path / "empty", channels=3, size=16)

        class Memory:
            available = 1000

        monkeypatch.setattr(psutil, "virtual_memory", Memory)
        with pytest.raises(ResourceError, match="heap: 0 MiB of memory are needed"):
            unlabelled_images(heap, channels=3, size=16)
