"""Files of the idx format (the one of MNIST), gzip-compressed, read strictly.

Big-endian: two zero bytes, the element type (8: unsigned byte), the number of dimensions, each
dimension as a 32-bit number, then the elements.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from edgenas.artifacts import io_errors
from edgenas.errors import DataError

_UNSIGNED_BYTE = 8
MAX_BYTES = 2**31
"""More than this is refused while it is unpacked: a few bytes of gzip can stand for gigabytes."""


def read_idx(path: Path, *, dimensions: int, sha256: str = "") -> Tensor:
    """The elements of the idx file `path` (gzip), uint8, of its own shape.

    `sha256`, where given, is that of the *unpacked* file: packers differ in their headers.

    Raises:
        DataError: not gzip, cut off, another type or number of dimensions, a wrong length, another
            SHA-256.
        SpecError: there is no such file.
    """
    try:
        with io_errors(path, "read"), gzip.open(path) as file:
            data = file.read(MAX_BYTES + 1)
    except EOFError as error:
        raise DataError(f"{path}: cut off: the gzip stream ends too early") from error
    except zlib.error as error:
        raise DataError(f"{path}: damaged gzip stream: {error}") from error
    except OSError as error:
        if isinstance(error.__cause__, gzip.BadGzipFile):
            raise DataError(f"{path}: damaged or not gzip: {error.__cause__}") from error
        raise
    return parse_idx(data, origin=str(path), dimensions=dimensions, sha256=sha256)


def parse_idx(data: bytes, *, origin: str, dimensions: int, sha256: str = "") -> Tensor:
    """The elements of an unpacked idx file; `origin` names it in messages. Raises as `read_idx`."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{origin}: more than {MAX_BYTES} bytes when unpacked, refused")
    header = 4 + 4 * dimensions
    if len(data) < header or data[:2] != b"\0\0":
        raise DataError(f"{origin}: not an idx file: it begins with {data[:4].hex() or 'nothing'}")
    kind, found = data[2], data[3]
    if kind != _UNSIGNED_BYTE or found != dimensions:
        raise DataError(
            f"{origin}: idx elements of type {kind} in {found} dimensions; "
            f"unsigned bytes (type 8) in {dimensions} are expected"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = 1
    for length in shape:
        expected *= length
    if len(data) - header != expected:
        raise DataError(
            f"{origin}: the header promises {expected} bytes (shape {shape}), "
            f"but {len(data) - header} follow"
        )
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(
            f"{origin}: the content differs from the published file (SHA-256)",
            hint="get the files anew; for images of your own name a folder or an .npz file",
        )
    if expected == 0:
        return torch.zeros(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).reshape(shape)
