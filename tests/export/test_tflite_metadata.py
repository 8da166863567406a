"""TFLite's own metadata, read back field by field through the flatbuffer's tables."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types as kinds
from flatbuffers.table import Table

from edgenas.export.contract import METADATA_KEY, InputContract, write_document
from edgenas.export.tflite_metadata import KEY, standard_metadata
from edgenas.export.worker import _metadata

COLOUR = InputContract(
    (1, 32, 32, 3), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), ("a", "b"), "bilinear-antialias"
)
GREY = InputContract(
    (1, 28, 28, 1), (0.0,), (0.5,), ("a", "b"), "bilinear-antialias", value_range=(-1.0, 1.0)
)


class Reader:
    """A table of a flatbuffer; fields by their slots."""

    def __init__(self, data: bytes, at: int) -> None:
        self.table = Table(data, at)

    def _offset(self, slot: int) -> int:
        return int(self.table.Offset(4 + 2 * slot))

    def number(self, slot: int) -> int:
        offset = self._offset(slot)
        return int(self.table.Get(kinds.Int8Flags, offset + self.table.Pos)) if offset else 0

    def text(self, slot: int) -> str:
        return str(self.table.String(self._offset(slot) + self.table.Pos).decode())

    def child(self, slot: int) -> Reader:
        at = self.table.Indirect(self._offset(slot) + self.table.Pos)
        return Reader(self.table.Bytes, at)

    def only(self, slot: int) -> Reader:
        assert self.table.VectorLen(self._offset(slot)) == 1
        start = self.table.Vector(self._offset(slot))
        return Reader(self.table.Bytes, self.table.Indirect(start))

    def floats(self, slot: int) -> np.ndarray:
        return np.asarray(self.table.GetVectorAsNumpy(kinds.Float32Flags, self._offset(slot)))


def root(data: bytes) -> Reader:
    assert flatbuffers.util.BufferHasIdentifier(data, 0, b"M001")
    return Reader(data, int(np.frombuffer(data, np.uint32, 1)[0]))


@pytest.mark.parametrize(
    ("contract", "colour", "mean", "std"),
    [
        (COLOUR, 1, [102, 127.5, 153], [51, 63.75, 76.5]),
        (GREY, 2, [127.5], [63.75]),  # pixels are brought to -1 to 1 first
    ],
)
def test_readers_find_normalisation_colours_and_labels(
    contract: InputContract, colour: int, mean: Any, std: Any
) -> None:
    model = root(standard_metadata(contract, name="0123456789ab", labels_file="labels.txt"))
    assert model.text(0) == "0123456789ab"
    graph = model.only(3)
    source, target = graph.only(2), graph.only(3)
    assert (source.text(0), target.text(0)) == ("image", "logits")
    content = source.child(3)
    assert content.number(0) == 2, "ImageProperties"
    assert content.child(1).number(0) == colour
    unit = source.only(4)
    assert unit.number(0) == 1, "NormalizationOptions"
    np.testing.assert_allclose(unit.child(1).floats(0), mean, rtol=1e-6)
    np.testing.assert_allclose(unit.child(1).floats(1), std, rtol=1e-6)
    labels = target.only(6)
    assert labels.text(0) == "labels.txt"
    assert labels.number(2) == 2, "TENSOR_AXIS_LABELS"


def test_a_pixel_is_normalised_as_the_contract_says() -> None:
    for contract in (COLOUR, GREY):
        unit = root(standard_metadata(contract, name="x", labels_file="y")).only(3).only(2).only(4)
        low, high = contract.value_range
        pixels = np.array([0.0, 100.0, 255.0])[:, None]
        ours = (low + pixels / 255 * (high - low) - contract.mean) / contract.std
        theirs = (pixels - unit.child(1).floats(0)) / unit.child(1).floats(1)
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def test_files_with_a_contract_get_it_and_others_do_not() -> None:
    document = write_document(COLOUR, {"digest": "0123456789ab"})
    found = _metadata({METADATA_KEY: document, "more": "text"})
    assert set(found) == {METADATA_KEY, "more", KEY}
    assert root(found[KEY]).text(0) == "0123456789ab"
    assert found["more"] == b"text"
    assert set(_metadata({"more": "text"})) == {"more"}
