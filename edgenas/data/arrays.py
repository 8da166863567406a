"""Images and labels in an `.npz` file; nothing in it is unpickled.

Keys: `images` and `labels`, or `x_train`, `y_train`, `x_test`, `y_test` and optionally `x_search`,
`y_search` (`x_val`, `y_val`); optionally `classes`, the names. Images are (n, h, w), (n, h, w, 1 or
3) or (n, 1 or 3, h, w); where both of the latter fit (such as (n, 3, 32, 3)) nothing is guessed.
Grey levels are whole numbers in 0..255 of any type, or floats in [0, 1]; anything else, such as
normalised images, is refused. Labels are numbers from 0, or names.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgenas.artifacts import io_errors
from edgenas.data.images import Images
from edgenas.data.memory import Estimate, check_memory, default_size, pixel_bytes
from edgenas.data.sources import NO_SUCH_PATH, Parts, Request
from edgenas.data.transforms import resize
from edgenas.errors import DataError, EdgenasError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SETS = {
    "all": ("images", "labels"),
    "train": ("x_train", "y_train"),
    "search": ("x_search", "y_search"),
    "val": ("x_val", "y_val"),
    "test": ("x_test", "y_test"),
}
_KEYS = (*(key for pair in _SETS.values() for key in pair), "classes")
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


def array_source(path: Path, request: Request) -> Parts:
    """The images in the `.npz` file `path`; not square ones give their centre square.

    Raises:
        DataError: there is no such file; damaged, other keys, shapes or values than the module's
            text names.
        ResourceError: it does not fit into memory.
    """
    import numpy as np

    headers = _headers(path)
    estimate = _estimate(path, headers, request.image_size)
    check_memory(str(path), estimate.memory_bytes, hint="store fewer or smaller images, as uint8")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in headers}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged: {error}") from error
    sets = _sets(path, headers)
    scale = _scale(path, {x: arrays[x] for x, _ in sets.values()})
    classes, labels = _labels(path, {y: arrays[y] for _, y in sets.values()}, arrays.get("classes"))
    parts = {
        split: Images(_pixels(arrays.pop(x), scale, estimate.image_size), labels[y])
        for split, (x, y) in sets.items()
    }
    return Parts(
        classes,
        train=parts["train"] if "train" in parts else parts["all"],
        search=parts.get("search", parts.get("val")),
        test=parts.get("test"),
    )


def array_estimate(path: Path, image_size: int | None) -> Estimate:
    """What loading `path` takes, from the headers of its arrays. Raises as `array_source`."""
    return _estimate(path, _headers(path), image_size)


def _headers(path: Path) -> dict[str, _Header]:
    """Shape and type of each array, unread; whether the sizes can be true is checked."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file", hint=NO_SUCH_PATH)
    headers = {}
    try:
        with io_errors(path, "read"), zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                if key not in _KEYS:
                    raise DataError(f"{path}: the key {key!r} is unknown; {nearest(key, _KEYS)}")
                with archive.open(info) as file:
                    header = _header(file)
                    if header.dtype.hasobject:
                        raise DataError(
                            f"{path}: {key}: Python objects, which are not read",
                            hint="store arrays of numbers, such as uint8",
                        )
                    if info.file_size - file.tell() != header.n_bytes:
                        raise DataError(
                            f"{path}: {key}: {info.file_size - file.tell()} bytes of data, but "
                            f"{header.dtype} {header.shape} takes {header.n_bytes}"
                        )
                headers[key] = header
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not an .npz file, or damaged: {error}") from error
    except ValueError as error:
        if isinstance(error, EdgenasError):
            raise
        raise DataError(f"{path}: holds something that is no numpy array: {error}") from error
    return headers


def _header(file: IO[bytes]) -> _Header:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = readers[version](file)
    return _Header(shape, dtype)


def _sets(path: Path, headers: dict[str, _Header]) -> dict[str, tuple[str, str]]:
    """The pairs of keys that are there, checked for completeness and length."""
    for x, y in _SETS.values():
        if (x in headers) != (y in headers):
            there, missing = (x, y) if x in headers else (y, x)
            raise DataError(f"{path}: {there} without {missing}")
    sets = {split: pair for split, pair in _SETS.items() if pair[0] in headers}
    if ("all" in sets) == ("train" in sets) or ("all" in sets and len(sets) > 1):
        raise DataError(
            f"{path}: holds {', '.join(sorted(headers)) or 'nothing'}",
            hint="store images and labels, or x_train, y_train, x_test and y_test",
        )
    if "search" in sets and "val" in sets:
        raise DataError(f"{path}: both x_search and x_val: one search split is needed")
    for x, y in sets.values():
        n, shape = headers[x].shape[0] if headers[x].shape else 0, headers[y].shape
        if shape not in ((n,), (n, 1)):
            raise DataError(
                f"{path}: {y} has shape {shape}, but {x} holds {n} images",
                hint="labels are one number or name an image: shape (n,)",
            )
        if n == 0:
            raise DataError(f"{path}: {x} holds no images")
    layouts = {x: _layout(path, x, headers[x].shape)[0] for x, _ in sets.values()}
    if len(set(layouts.values())) > 1:
        raise DataError(f"{path}: grey and colour images mixed: channels {layouts}")
    return sets


def _layout(path: Path, key: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Channels and shorter side of images of this shape."""
    if len(shape) == 3 and min(shape) > 0:
        return 1, min(shape[1:])
    if len(shape) == 4 and min(shape) > 0:
        last, first = shape[3] in (1, 3), shape[1] in (1, 3)
        if last and first:
            raise DataError(
                f"{path}: {key} has shape {shape}: channels first or last? Both fit",
                hint="for grey images store (n, h, w)",
            )
        if last:
            return shape[3], min(shape[1:3])
        if first:
            return shape[1], min(shape[2:])
    raise DataError(
        f"{path}: {key} has shape {shape}; images are (n, h, w), (n, h, w, 1 or 3) "
        "or (n, 1 or 3, h, w)"
    )


def _estimate(path: Path, headers: dict[str, _Header], image_size: int | None) -> Estimate:
    sets = _sets(path, headers)
    n_images = sum(headers[x].shape[0] for x, _ in sets.values())
    channels, side = _layout(path, x := next(iter(sets.values()))[0], headers[x].shape)
    size = image_size or default_size(side)
    stored = sum(header.n_bytes for header in headers.values())
    memory = stored + 2 * pixel_bytes(n_images, channels, size)
    return Estimate(n_images, channels, size, memory, path.stat().st_size)


def _scale(path: Path, images: dict[str, NDArray[Any]]) -> float:
    """What to multiply all images by for grey levels 0..255; one answer for all splits."""
    import numpy as np

    for key, array in images.items():
        if array.dtype.kind not in "uif":
            raise DataError(f"{path}: {key} is {array.dtype}; numbers are needed, such as uint8")
    if all(array.dtype == np.uint8 for array in images.values()):
        return 1.0
    low = min(float(array.min()) for array in images.values())
    high = max(float(array.max()) for array in images.values())
    kinds = {array.dtype.kind for array in images.values()}
    if not (low >= 0 and high <= 255):  # NaN too
        raise DataError(
            f"{path}: values {low:g}..{high:g}; grey levels are 0..255, or floats in [0, 1]",
            hint="store the images before any normalisation, as uint8",
        )
    if kinds == {"f"} and high <= 1:
        return 255.0
    for key, array in images.items():
        if array.dtype.kind == "f" and not bool((array == np.floor(array)).all()):
            raise DataError(
                f"{path}: {key}: fractions in {low:g}..{high:g}: neither 0..255 nor [0, 1]",
                hint="store the images as uint8",
            )
    return 1.0


def _labels(
    path: Path, arrays: dict[str, NDArray[Any]], classes: NDArray[Any] | None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    import numpy as np

    kinds = {array.dtype.kind for array in arrays.values()}
    names: list[str] | None = None
    if classes is not None:
        if classes.ndim != 1 or classes.dtype.kind not in "US":
            raise DataError(f"{path}: classes must be a list of names, not {classes.dtype}")
        try:
            given = np.char.decode(classes, "utf-8") if classes.dtype.kind == "S" else classes
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: classes: the name {error.object!r} is not UTF-8",
                hint="store the names as text: np.array([...], dtype=str)",
            ) from error
        names = [str(name) for name in given.tolist()]
    if kinds == {"U"}:
        found = sorted(set(np.concatenate([a.ravel() for a in arrays.values()]).tolist()))
        if unknown := sorted(set(found) - set(names or found)):
            raise DataError(f"{path}: labels that classes does not list: {', '.join(unknown)}")
        names = names or found
        index = {name: i for i, name in enumerate(names)}
        return tuple(names), {
            key: torch.tensor([index[name] for name in array.ravel().tolist()])
            for key, array in arrays.items()
        }
    if not kinds <= {"u", "i"}:
        types = ", ".join(f"{key} is {array.dtype}" for key, array in arrays.items())
        raise DataError(f"{path}: {types}; labels are whole numbers from 0, or names")
    low = min(int(array.min()) for array in arrays.values())
    high = max(int(array.max()) for array in arrays.values())
    limit = len(names) if names else max(array.size for array in arrays.values())
    if low < 0 or high >= limit:
        what = f"there are {limit} classes" if names else f"there are {limit} images"
        raise DataError(f"{path}: labels {low}..{high}, but {what}", hint="labels count from 0")
    return tuple(names or map(str, range(high + 1))), {
        key: torch.from_numpy(array.ravel().astype(np.int64)) for key, array in arrays.items()
    }


def _pixels(array: NDArray[Any], scale: float, size: int) -> Tensor:
    import numpy as np

    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    side = min(array.shape[2:])
    top, left = (array.shape[2] - side) // 2, (array.shape[3] - side) // 2
    array = array[:, :, top : top + side, left : left + side]
    pixels = torch.empty(len(array), array.shape[1], size, size, dtype=torch.uint8)
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK]
        if scale != 1 or part.dtype != np.uint8:
            part = np.rint(part * scale).astype(np.uint8)
        images = torch.from_numpy(np.ascontiguousarray(part))
        if side != size:
            images = resize(images, size).round().clamp(0, 255).to(torch.uint8)
        pixels[start : start + _CHUNK] = images
    return pixels
