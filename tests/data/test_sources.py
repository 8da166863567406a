from __future__ import annotations

import gzip
import io
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from edgenas.data import load_data, sources
from edgenas.data.sources import FOLDER_VARIABLE, SYSTEM_FOLDER, user_data_folder
from edgenas.errors import DataError, ResourceError
from edgenas.events import Event

NAMES = tuple(sources._FASHION_FILES)


@pytest.fixture
def fashion_folder(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    if not (SYSTEM_FOLDER / NAMES[0]).is_file():
        pytest.skip(f"no Fashion-MNIST in {SYSTEM_FOLDER}: apt-get install dataset-fashion-mnist")
    return SYSTEM_FOLDER


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without the package and without earlier downloads."""
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    return tmp_path


def test_fashion_mnist_in_its_splits(fashion_folder: Path) -> None:
    data = load_data("fashion-mnist", seed=0)
    assert [len(part) for part in data.splits.values()] == [55_000, 5_000, 10_000]
    assert data.classes[9] == "Ankle boot"
    assert set(data.counts()["search"].values()) == {500}
    assert data.image_size == 28
    assert data.mean == pytest.approx((0.286,), abs=1e-3)
    assert data.std == pytest.approx((0.353,), abs=1e-3)
    # The first images of the published files, as everyone knows them.
    assert data.test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert data.train.labels[0] == 9
    assert data.digest == "8e21a599c01c"
    assert data.mirror


@pytest.mark.parametrize("below", ["", "fashion-mnist"])
def test_a_folder_named_by_the_environment_is_used(
    below: str, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / name).symlink_to(fashion_folder / name)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    heard: list[Event] = []
    sources.fashion_mnist(sources.Request(seed=0, report=heard.append))
    assert str(folder) in heard[0].message


def test_a_truncated_file_is_named(fashion_folder: Path, tmp_path: Path) -> None:
    for name in NAMES[1:]:
        (tmp_path / name).symlink_to(fashion_folder / name)
    (tmp_path / NAMES[0]).write_bytes((fashion_folder / NAMES[0]).read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cut off"):
        load_data("fashion-mnist", seed=0, root=tmp_path)


def test_nowhere_to_be_found_says_what_to_do(nowhere: Path) -> None:
    with pytest.raises(DataError, match="its four files are not in") as caught:
        load_data("fashion-mnist", seed=0)
    assert "apt-get install dataset-fashion-mnist" in caught.value.hint
    assert FOLDER_VARIABLE in caught.value.hint
    assert "digits" in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_incomplete_folder_is_told_from_an_empty_one(nowhere: Path) -> None:
    (nowhere / NAMES[0]).write_bytes(b"")
    with pytest.raises(DataError, match=f"without {NAMES[1]}"):
        load_data("fashion-mnist", seed=0, root=nowhere)


def test_other_images_under_the_same_names_are_refused(nowhere: Path) -> None:
    for name in NAMES:
        shape = (4).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2
        content = b"\0\0\x08\x03" + shape + bytes(4 * 784) if "idx3" in name else b"\0\0\x08\x01"
        (nowhere / name).write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="differs from the published file"):
        load_data("fashion-mnist", seed=0, root=nowhere)


class TestDownload:
    def test_without_a_network_it_says_so(
        self, nowhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(url: str, timeout: float) -> None:
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        with pytest.raises(ResourceError, match="Name or service not known") as caught:
            load_data("fashion-mnist", seed=0, download=True)
        assert "digits" in caught.value.hint

    def test_it_is_never_tried_unasked(
        self, nowhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("network"))
        with pytest.raises(DataError):
            load_data("fashion-mnist", seed=0)

    @pytest.mark.parametrize(
        "answer",
        [b"", b"<html></html>", gzip.compress(b"\0\0\x08\x03")],
        ids=["empty", "page", "short"],  # the same in every process: gzip notes the time
    )
    def test_what_is_not_the_published_file_is_not_kept(
        self, answer: bytes, nowhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: io.BytesIO(answer))
        with pytest.raises(DataError, match="https://"):
            load_data("fashion-mnist", seed=0, download=True)
        assert not list(nowhere.rglob("*.gz"))

    def test_published_files_are_kept_for_the_next_time(
        self, fashion_folder: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def serve(url: str, timeout: float) -> io.BytesIO:
            asked.append(url)
            return io.BytesIO((fashion_folder / url.rsplit("/", 1)[1]).read_bytes())

        monkeypatch.setattr(urllib.request, "urlopen", serve)
        for _ in range(2):
            sources.fashion_mnist(sources.Request(seed=0, download=True))
        assert [url.rsplit("/", 1)[1] for url in asked] == list(NAMES)
        assert (user_data_folder() / "fashion-mnist" / NAMES[0]).is_file()


def test_digits() -> None:
    data = load_data("digits", seed=0)
    assert [len(part) for part in data.splits.values()] == [1047, 250, 500]
    assert data.image_size == 8
    assert data.channels == 1
    assert data.train.pixels.max() == 255
    assert not data.mirror
    levels = torch.cat([p.pixels.flatten() for p in data.splits.values()]).unique()
    assert levels.tolist() == [round(i * 255 / 16) for i in range(17)]


def test_digits_without_scikit_learn_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn") as caught:
        load_data("digits", seed=0)
    assert "pip install" in caught.value.hint
