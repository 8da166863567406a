from __future__ import annotations

import hashlib

import pytest

from edgenas.errors import SpecError
from edgenas.spaces import Architecture
from edgenas.spaces.architecture import split_line

ARCH = Architecture("tiny/1", (("depth", 1), ("act", "relu")))


def test_line_and_digest() -> None:
    assert str(ARCH) == "tiny/1 depth=1 act=relu"
    assert ARCH.digest == hashlib.sha256(b"tiny/1 depth=1 act=relu").hexdigest()[:12]
    assert split_line(str(ARCH)) == ("tiny/1", {"depth": "1", "act": "relu"})


def test_choices_by_name() -> None:
    assert ARCH["act"] == "relu"
    assert ARCH.params == {"depth": 1, "act": "relu"}
    with pytest.raises(KeyError):
        ARCH["width"]


def test_equal_by_value() -> None:
    assert len({ARCH, Architecture("tiny/1", (("depth", 1), ("act", "relu")))}) == 1
    assert Architecture("tiny/2", ARCH.choices) != ARCH


@pytest.mark.parametrize("line", ["", "  ", "tiny/1 depth", "tiny/1 depth=1 depth=2"])
def test_lines_that_cannot_be_read(line: str) -> None:
    with pytest.raises(SpecError):
        split_line(line)
