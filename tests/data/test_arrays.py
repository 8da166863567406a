from __future__ import annotations

import contextlib
import random
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from edgenas.data import DataSet, estimate, load_data
from edgenas.errors import DataError, ResourceError

RNG = np.random.default_rng(0)
N = 40
GREY = RNG.integers(0, 256, (N, 12, 12), dtype=np.uint8)
RGB = RNG.integers(0, 256, (N, 12, 12, 3), dtype=np.uint8)
LABELS = np.arange(N) % 4


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def load(path: Path, **settings: Any) -> DataSet:
    return load_data(str(path), seed=0, **settings)


def ready(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any] = LABELS) -> dict[str, Any]:
    """As ready-made splits, so that order is kept: 24, 8, 8 images."""
    return {
        "x_train": images[:24], "y_train": labels[:24],
        "x_val": images[24:32], "y_val": labels[24:32],
        "x_test": images[32:], "y_test": labels[32:],
    }  # fmt: skip


def test_images_and_labels_are_cut_into_splits(tmp_path: Path) -> None:
    data = load(save(tmp_path / "my set.npz", images=GREY, labels=LABELS))
    assert data.name == "my set"
    assert data.classes == ("0", "1", "2", "3")
    assert [len(part) for part in data.splits.values()] == [29, 5, 6]
    found = torch.cat([part.pixels for part in data.splits.values()])
    assert sorted(p.numpy().tobytes() for p in found) == sorted(p.tobytes() for p in GREY)


@pytest.mark.parametrize(
    ("images", "channels"),
    [
        (GREY, 1),
        (GREY[..., None], 1),
        (GREY[:, None], 1),
        (RGB, 3),
        (RGB.transpose(0, 3, 1, 2), 3),
        (np.asfortranarray(RGB), 3),
    ],
)
def test_layouts(images: np.ndarray[Any, Any], channels: int, tmp_path: Path) -> None:
    data = load(save(tmp_path / "a.npz", **ready(images)))
    expected = RGB.transpose(0, 3, 1, 2) if channels == 3 else GREY[:, None]
    np.testing.assert_array_equal(data.train.pixels, expected[:24])
    np.testing.assert_array_equal(data.search.pixels, expected[24:32])
    np.testing.assert_array_equal(data.test.pixels, expected[32:])
    assert data.test.labels.tolist() == LABELS[32:].tolist()


@pytest.mark.parametrize(
    "images",
    [
        GREY.astype(np.int64),
        GREY.astype(np.uint16),
        GREY.astype(np.float32),
        GREY.astype(np.float32) / 255,
        GREY.astype(np.float64) / 255,
    ],
    ids=["int64", "uint16", "float of whole numbers", "float32 in [0, 1]", "float64 in [0, 1]"],
)
def test_values_that_leave_no_doubt_are_converted(
    images: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    data = load(save(tmp_path / "a.npz", **ready(images)))
    np.testing.assert_array_equal(data.train.pixels[:, 0], GREY[:24])


def test_the_range_is_one_over_all_splits(tmp_path: Path) -> None:
    """Test images that happen to be dark must not be taken for [0, 1]."""
    images = GREY.astype(np.float32)
    images[32:] = images[32:] > 128
    data = load(save(tmp_path / "a.npz", **ready(images)))
    assert data.test.pixels.max() == 1


def test_names_as_labels_and_classes(tmp_path: Path) -> None:
    names = np.array(["bee", "ant", "cat", "dog"])
    data = load(save(tmp_path / "a.npz", **ready(GREY, names[LABELS])))
    assert data.classes == ("ant", "bee", "cat", "dog")
    assert data.test.labels.tolist()[:4] == [1, 0, 2, 3]
    data = load(save(tmp_path / "a.npz", **ready(GREY), classes=names))
    assert data.classes == ("bee", "ant", "cat", "dog")
    encoded = np.array([name.encode() for name in ("bee", "Käfer", "cat", "dog")])
    data = load(save(tmp_path / "a.npz", **ready(GREY), classes=encoded))
    assert data.classes == ("bee", "Käfer", "cat", "dog")
    data = load(save(tmp_path / "a.npz", **ready(GREY, names[LABELS]), classes=names))
    assert data.classes == ("bee", "ant", "cat", "dog")
    assert data.test.labels.tolist()[:4] == [0, 1, 2, 3]


def test_labels_may_be_a_column(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=GREY, labels=LABELS[:, None].astype(np.uint8))
    assert len(load(path).classes) == 4


def test_oblong_images_give_their_centre_square(tmp_path: Path) -> None:
    images = np.zeros((N, 28, 40), dtype=np.uint8)
    images[:, :, 6:34] = 200
    data = load(save(tmp_path / "a.npz", images=images, labels=LABELS))
    assert data.image_size == 28
    assert data.train.pixels.unique().tolist() == [200]
    assert load(tmp_path / "a.npz", image_size=16).image_size == 16


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREY}, "images without labels"),
        ({"labels": LABELS}, "labels without images"),
        ({"x_test": GREY, "y_test": LABELS}, "holds x_test, y_test"),
        ({}, "holds nothing"),
        ({"images": GREY, "labels": LABELS, **ready(GREY)}, "holds images, labels"),
        ({"images": GREY, "label": LABELS}, "'label' is unknown; did you mean 'labels'"),
        ({"images": GREY, "labels": LABELS[:-1]}, r"shape \(39,\), but images holds 40"),
        ({"images": GREY, "labels": np.eye(4)[LABELS]}, r"labels has shape \(40, 4\)"),
        ({"images": GREY[0], "labels": LABELS[:12]}, r"images has shape \(12, 12\)"),
        ({"images": GREY[:, :, :, None, None], "labels": LABELS}, "images has shape"),
        ({"images": np.zeros((N, 8, 8, 4), "u1"), "labels": LABELS}, r"shape \(40, 8, 8, 4\)"),
        ({"images": np.zeros((N, 3, 8, 3), "u1"), "labels": LABELS}, "Both fit"),
        ({"images": np.zeros((N, 1, 8, 1), "u1"), "labels": LABELS}, "Both fit"),
        ({"images": GREY[:0], "labels": LABELS[:0]}, "no images"),
        ({"images": GREY[:, :0], "labels": LABELS}, r"shape \(40, 0, 12\)"),
        ({"images": np.float32(3), "labels": LABELS}, r"but images holds 0"),
        ({**ready(GREY), "x_test": RGB[32:]}, "grey and colour images mixed"),
        ({**ready(GREY), "x_search": GREY, "y_search": LABELS}, "both x_search and x_val"),
        ({"images": GREY.astype(object), "labels": LABELS}, "images: Python objects"),
        ({"images": GREY, "labels": LABELS.astype(object)}, "labels: Python objects"),
        ({"images": GREY > 3, "labels": LABELS}, "images is bool"),
        ({"images": GREY.astype(complex), "labels": LABELS}, "complex"),
        ({"images": GREY.astype("U3"), "labels": LABELS}, "images is <U3"),
        ({"images": GREY / 128 - 1, "labels": LABELS}, "values -1..0.99"),
        ({"images": GREY.astype("u2") * 257, "labels": LABELS}, "grey levels are 0..255"),
        ({"images": GREY / 2, "labels": LABELS}, "fractions in"),
        ({"images": np.full((N, 8, 8), np.nan), "labels": LABELS}, "values nan"),
        ({"images": np.full((N, 8, 8), np.inf), "labels": LABELS}, "values inf"),
        ({"images": GREY, "labels": LABELS - 1}, r"labels -1..2"),
        ({"images": GREY, "labels": LABELS.astype("i8") + 10**12}, "but there are 40 images"),
        ({"images": GREY, "labels": LABELS + 0.0}, "labels is float64"),
        ({"images": GREY, "labels": LABELS + 1}, "cannot cut|no image of 0"),
        ({"images": GREY, "labels": LABELS * 0}, r"1 class \(0\)"),
        ({"images": GREY, "labels": LABELS, "classes": np.array(["a", "b"])}, "there are 2 class"),
        ({"images": GREY, "labels": LABELS, "classes": np.arange(4)}, "classes must be a list"),
        ({"images": GREY, "labels": LABELS, "classes": np.array(list("aabc"))}, "named twice: a"),
        ({"images": GREY, "labels": LABELS, "classes": np.array([b"a", b"\xff"])}, "not UTF-8"),
        ({"images": GREY, "labels": np.array(list("abc\ud800"))[LABELS]}, r"characters: '\\ud800'"),
        (
            {"images": GREY, "labels": np.array(list("wxyz"))[LABELS], "classes": np.array(["w"])},
            "does not list: x, y, z",
        ),
        (ready(GREY, np.array([0] * 24 + [0, 1] * 8)), "train has no image of 1"),
        (ready(GREY, np.array([0, 1] * 16 + [0] * 8)), "test has no image of 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(
    arrays: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "bad set.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "bad set" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: there is no such file") as caught:
        load(tmp_path / "none.npz")
    assert "[data] source" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz"):
        load(tmp_path / "a.npz")


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", b"hello")
        archive.writestr("labels.npy", b"hello")
    with pytest.raises(DataError, match="no numpy array"):
        load(tmp_path / "a.npz")


def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("images.npy", "w") as f:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
        np.lib.format.write_array_header_1_0(f, header)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="0 bytes of data, but uint8"):
        load(tmp_path / "a.npz")


def test_damage_never_ends_in_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=GREY[:, :8, :8], labels=LABELS)
    good = path.read_bytes()
    rng = random.Random(0)
    for _ in range(150):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        with contextlib.suppress(DataError):
            load(path)


def test_memory_is_checked_before_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.npz", images=RGB, labels=LABELS)
    expected = estimate(str(path))
    assert expected is not None
    assert (expected.n_images, expected.channels, expected.image_size) == (N, 3, 12)
    assert expected.memory_bytes >= RGB.nbytes
    assert expected.disk_bytes == path.stat().st_size

    class Memory:
        available = expected.memory_bytes - 1

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(ResourceError, match="of memory are needed"):
        load(path)
