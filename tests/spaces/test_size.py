"""Predicted sizes against files that were exported: `tools/fit_size --networks 32`, held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.spaces import OpSpec, chain
from edgenas.spaces.mobile import default_space
from edgenas.spaces.size import count, size_bytes

ROWS = json.loads(Path(__file__).with_name("exported_sizes.json").read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_sizes_of_real_files_are_met(row):
    units = [(f"unit {i}", OpSpec.parse(key)) for i, key in enumerate(row["units"])]
    lowering = chain(tuple(row["in_chw"]), units)
    for name, size in row["sizes"].items():
        assert size_bytes(lowering, name) == pytest.approx(size, rel=0.01), name


def test_blocks_and_their_primitives_have_one_size():
    space = default_space(image_size=28, in_channels=3, n_classes=10, variant="full")
    lowering = space.lower(space.largest())
    for name in ROWS[0]["sizes"]:
        assert count(lowering, name) == count(lowering.primitive(), name)


def test_unknown_formats_are_refused():
    space = default_space(image_size=28, in_channels=3, n_classes=10)
    with pytest.raises(SpecError, match="did you mean 'tflite-int8'"):
        size_bytes(space.lower(space.smallest()), "tflite-int")
