from __future__ import annotations

import pytest

from edgenas.artifacts import parse_json
from edgenas.errors import ArtifactError, SpecError
from edgenas.export.contract import (
    InputContract,
    contract_from,
    contract_table,
    write_document,
)

GOOD = InputContract(
    shape=(1, 8, 8, 3),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.1),
    classes=("cat", "žluťoučký kůň"),
    resize="bilinear-antialias",
)


def test_table_round_trips():
    assert contract_from(contract_table(GOOD), origin="x") == GOOD
    document = parse_json(write_document(GOOD, {"a": "b"}).encode(), origin="x")
    assert contract_from(document["input"], origin="x") == GOOD
    assert document["about"] == {"a": "b"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.5,)}, "means"),
        ({"std": (0.2, 0.0, 0.1)}, "positive"),
        ({"std": (0.2, float("nan"), 0.1)}, "positive"),
        ({"shape": (2, 8, 8, 3)}, "shape"),
        ({"shape": (1, 0, 8, 3)}, "shape"),
        ({"classes": ("one",)}, "classes"),
        ({"dtype": "int8"}, "scale"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    values = contract_table(GOOD) | change
    with pytest.raises(SpecError, match=message):
        InputContract(**values)
    with pytest.raises(ArtifactError):
        contract_from(values, origin="file")


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"layout": "NCHW"}, {"mean": "x"}, {"scale": float("inf")}]
)
def test_files_are_read_strictly(change):
    with pytest.raises(ArtifactError, match="file"):
        contract_from(contract_table(GOOD) | change, origin="file")
