"""Data sets that are known by name: where their files lie and how they become images.

A source is a function of a `Request` that returns `Parts`; `load_data` cuts what parts are
missing, checks, and counts. Plug-ins add sources by the entry point group `edgenas.datasets`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgenas.artifacts import write_atomic
from edgenas.data.idx import parse_idx, read_idx
from edgenas.data.images import Images
from edgenas.errors import DataError, ResourceError
from edgenas.events import Event, Report, silent

FOLDER_VARIABLE = "EDGENAS_DATA"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
_TIMEOUT_S = 60.0
# SHA-256 of the unpacked files, since the Debian package packs them anew.
_FASHION_FILES = {
    "train-images-idx3-ubyte.gz": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte.gz": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}
_FASHION_MAX_BYTES = 40 * 2**20
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


NO_SUCH_PATH = "check the path: [data] source of the run file, or --data"
"""The hint where images are not where they are said to be."""
LICENCES = {"fashion-mnist": "MIT", "digits": "CC-BY-4.0"}
"""Of the known sets: the file LICENSE of zalandoresearch/fashion-mnist; UCI Machine Learning
Repository, Optical Recognition of Handwritten Digits (doi:10.24432/C50P49)."""


def licence_of(source: str) -> str:
    """The licence of a known set's images; empty where nothing is known."""
    return LICENCES.get(source, "")


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller of `load_data` asked of a source."""

    seed: int
    image_size: int | None = None
    """Wanted height and width; a source may return another one, which is then resized."""
    root: Path | None = None
    """A folder that holds the source's files, where the caller named one."""
    download: bool = False
    """Whether the network may be used."""
    report: Report = silent


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a source returns: classes and the splits that it has ready-made."""

    classes: tuple[str, ...]
    train: Images
    search: Images | None = None
    test: Images | None = None
    search_images: int = 0
    """How many images to cut from `train` where `search` is missing; 0: the default share."""
    test_images: int = 0
    """The same for `test`."""
    mirror: bool = True


Source = Callable[[Request], Parts]


def fashion_mnist(request: Request) -> Parts:
    """Fashion-MNIST: 60,000 training and 10,000 test images of 10 classes, grey, 28x28.

    The files (gzip, idx) are looked for in `request.root`; else in the folder that `EDGENAS_DATA`
    names, or its sub-folder `fashion-mnist`; else where the Debian package `dataset-fashion-mnist`
    puts them; else in the user's data folder, where a download goes.

    Raises:
        DataError: they are nowhere, incomplete, damaged or other ones.
        ResourceError: a download was asked for and failed.
    """
    folders = _fashion_folders(request.root)
    folder = next((f for f in folders if _holds_all(f)), None)
    if folder is None and request.download:
        folder = folders[-1]
        _download(folder, request.report)
    if folder is None:
        partial = [
            f"{folder} (without {', '.join(missing)})"
            for folder in folders
            if 0 < len(missing := _missing(folder)) < len(_FASHION_FILES)
        ]
        looked = ", ".join(partial) or ", ".join(map(str, folders))
        raise DataError(
            f"fashion-mnist: its four files are not in {looked}",
            hint="apt-get install dataset-fashion-mnist; or name a folder that holds "
            f"{next(iter(_FASHION_FILES))} and the others: {FOLDER_VARIABLE}=FOLDER; "
            "or use the data set digits",
        )
    train, test = (_fashion_split(folder, part, request.report) for part in ("train", "t10k"))
    return Parts(FASHION_CLASSES, train=train, test=test, search_images=5000)


def digits(request: Request) -> Parts:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels in 10 classes.

    Grey levels 0..16 are spread over 0..255. Without a ready-made test split, 500 images are cut
    for it (fewer would make every gate inconclusive) and 250 for the search split.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            "digits: these images are inside scikit-learn, which is not installed",
            hint="pip install 'edgenas[digits]'",
        ) from error
    found = load_digits()
    pixels = torch.from_numpy(found.images).double().mul(255 / 16).round().to(torch.uint8)
    labels = torch.from_numpy(found.target).long()
    return Parts(
        tuple(str(digit) for digit in range(10)),
        train=Images(pixels.unsqueeze(1), labels),
        search_images=250,
        test_images=500,
        mirror=False,
    )


def user_data_folder() -> Path:
    """The user's folder for data sets, where downloads go."""
    import platformdirs

    return Path(platformdirs.user_data_dir("edgenas")) / "datasets"


def _fashion_folders(root: Path | None) -> list[Path]:
    """Where to look; the last one is where a download goes. A folder named is the only one."""
    if root is not None:
        return [root]
    if named := os.environ.get(FOLDER_VARIABLE):
        return [Path(named), Path(named) / "fashion-mnist"]
    return [SYSTEM_FOLDER, user_data_folder() / "fashion-mnist"]


def _missing(folder: Path) -> list[str]:
    return [name for name in _FASHION_FILES if not (folder / name).is_file()]


def _holds_all(folder: Path) -> bool:
    return not _missing(folder)


def _fashion_split(folder: Path, part: str, report: Report) -> Images:
    def read(kind: str, dimensions: int) -> Tensor:
        name = f"{part}-{kind}-ubyte.gz"
        report(Event("data", message=f"reading {folder / name}"))
        return read_idx(folder / name, dimensions=dimensions, sha256=_FASHION_FILES[name])

    return Images(read("images-idx3", 3).unsqueeze(1), read("labels-idx1", 1).long())


def _download(folder: Path, report: Report) -> None:
    """Gets what is missing in `folder`; a file is there only once its SHA-256 is right."""
    import gzip
    import http.client
    import urllib.request

    for done, (name, sha256) in enumerate(_FASHION_FILES.items()):
        if (folder / name).is_file():
            continue
        url = f"{_URL}/{name}"
        report(Event("data", done, len(_FASHION_FILES), message=f"downloading {url}"))
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - https, fixed
                packed = answer.read(_FASHION_MAX_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ResourceError(
                f"cannot download {url}: {error}",
                hint="without a network: apt-get install dataset-fashion-mnist, "
                "or use the data set digits",
            ) from error
        data = b""
        with contextlib.suppress(OSError, EOFError):  # damaged: the check below says so
            data = gzip.decompress(packed)
        parse_idx(data, origin=url, dimensions=3 if "idx3" in name else 1, sha256=sha256)
        write_atomic(folder / name, packed)
