from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import pytest
import torch

from edgenas.data import idx
from edgenas.data.idx import read_idx
from edgenas.errors import DataError, SpecError

CONTENT = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(range(24))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data))
    return path


def test_elements_come_in_the_shape_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    found = read_idx(path, dimensions=3, sha256=sha256)
    assert found.dtype == torch.uint8
    assert torch.equal(found, torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "dimensions", "message"),
    [
        (b"", 3, "begins with nothing"),
        (CONTENT[:10], 3, "not an idx file"),
        (b"<html>not found</html>", 3, "not an idx file"),
        (CONTENT, 1, "3 dimensions; unsigned bytes"),
        (CONTENT.replace(b"\x08\x03", b"\x0d\x03"), 3, "type 13"),
        (CONTENT[:-1], 3, "promises 24 bytes .* but 23 follow"),
        (CONTENT + b"x", 3, "but 25 follow"),
    ],
)
def test_content_that_is_no_idx_file_is_refused_by_name(
    tmp_path: Path, data: bytes, dimensions: int, message: str
) -> None:
    path = write(tmp_path / "train images.gz", data)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, dimensions=dimensions)
    assert str(path) in str(caught.value)


def test_a_file_cut_off_anywhere_or_damaged_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    packed = gzip.compress(CONTENT)
    for length in range(len(packed)):
        path.write_bytes(packed[:length])
        with pytest.raises(DataError, match=r"a\.gz"):
            read_idx(path, dimensions=3)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    for position in range(10, len(packed)):  # before: time stamp and system, which do not matter
        path.write_bytes(
            packed[:position] + bytes([packed[position] ^ 0x55]) + packed[position + 1 :]
        )
        with pytest.raises(DataError, match=r"a\.gz"):
            read_idx(path, dimensions=3, sha256=sha256)
    path.write_bytes(b"<html>no</html>")
    with pytest.raises(DataError, match="not gzip"):
        read_idx(path, dimensions=3)


def test_another_content_than_the_published_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gz", CONTENT)
    with pytest.raises(DataError, match="SHA-256"):
        read_idx(path, dimensions=3, sha256="0" * 64)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"a\.gz"):
        read_idx(tmp_path / "a.gz", dimensions=3)


def test_what_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "MAX_BYTES", 20)
    with pytest.raises(DataError, match="more than 20 bytes"):
        read_idx(write(tmp_path / "a.gz", CONTENT), dimensions=3)
