"""What a model file expects of its caller; stored in the file itself and in its certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import check_schema, parse_json, problems_of, to_json
from edgenas.errors import ArtifactError, SpecError, difference

SCHEMA = "edgenas.model/1"
METADATA_KEY = "edgenas"
"""Name of the metadata entry, in ONNX and TFLite files alike, that holds the JSON document."""


@dataclass(frozen=True, slots=True)
class InputContract:
    """How to turn an image into a network's input, and the answer into a class.

    pixels in [0, 255] -> `resize` to `shape` -> scaled to `value_range` -> (x - mean) / std for
    each channel -> where `dtype` is an integer, round(x / scale) + zero_point, clamped to
    what the type holds.

    Raises:
        SpecError: numbers of channels that differ, a standard deviation that is not positive, fewer
            than two classes, an empty range of values, an integer type without a scale.
    """

    shape: tuple[int, int, int, int]
    """1, height, width, channels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    """Labels in the order of the logits."""
    resize: str
    layout: Literal["NHWC"] = "NHWC"
    dtype: str = "float32"
    value_range: tuple[float, float] = (0.0, 1.0)
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        channels = self.shape[3]
        if len(self.mean) != channels or len(self.std) != channels:
            raise SpecError(
                f"input contract: {len(self.mean)} means and {len(self.std)} deviations "
                f"for {channels} channels"
            )
        if not all(math.isfinite(v) and v > 0 for v in self.std):
            raise SpecError(f"input contract: deviations {self.std} must be positive")
        if self.shape[0] != 1 or min(self.shape) < 1:
            raise SpecError(f"input contract: shape {self.shape} must be (1, h, w, c)")
        if self.value_range[0] >= self.value_range[1]:
            raise SpecError(f"input contract: value range {self.value_range} is empty")
        if len(self.classes) < 2:
            raise SpecError(f"input contract: {len(self.classes)} classes; at least 2 are needed")
        if self.dtype != "float32" and (self.scale is None or self.zero_point is None):
            raise SpecError(f"input contract: {self.dtype} input needs a scale and a zero point")


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    shape: tuple[int, int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    resize: str
    layout: Literal["NHWC"]
    dtype: str
    value_range: tuple[float, float]
    scale: float | None = None
    zero_point: int | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: str = Field(alias="schema")
    input: _Input
    about: dict[str, str]


def contract_table(contract: InputContract) -> dict[str, Any]:
    """`contract` as JSON values."""
    return asdict(contract)


def contract_from(table: object, *, origin: str) -> InputContract:
    """The contract that `contract_table` wrote.

    Raises:
        ArtifactError: unknown or missing keys, wrong types or values.
    """
    try:
        return InputContract(**_Input.model_validate(table).model_dump())
    except (ValidationError, SpecError) as error:
        raise ArtifactError(f"{origin}: {_problems(error)}") from error


def write_document(contract: InputContract, about: dict[str, str]) -> str:
    """The JSON document that a model file carries."""
    return to_json({"schema": SCHEMA, "input": contract_table(contract), "about": about})


def read_document(path: Path) -> tuple[InputContract, dict[str, str]]:
    """The contract of the model file at `path` and what it says about itself, from the file alone.

    Type, scale and zero point are those of the file's input tensor.

    Raises:
        ArtifactError: the file carries no such document, or a damaged one.
    """
    from edgenas.export import onnx, tflite

    if path.suffix not in (".onnx", ".tflite"):
        raise SpecError(f"{path} is no model file by its name: .onnx or .tflite")
    reader = tflite if path.suffix == ".tflite" else onnx
    text = reader.read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise ArtifactError(
            f"{path} carries no description by edgenas, of its classes and its input",
            hint="take a file that edgenas exported, as it was written",
        )
    value = parse_json(text.encode(), origin=str(path))
    try:
        document = _Document.model_validate(value)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_problems(error)}") from error
    check_schema(document.schema_, SCHEMA, origin=str(path))
    fields = document.input.model_dump()
    if path.suffix == ".tflite":
        fields |= tflite.input_quantisation(path)
    return contract_from(fields, origin=str(path)), document.about


def differing_fields(one: InputContract, other: InputContract) -> str:
    """What two contracts say of the same thing, where it differs by more than rounding.

    `"mean (0.5,), not (0.286,); of the classes it lacks 'bee'"`; empty where they agree.
    """
    told = []
    for name, value in contract_table(one).items():
        against = contract_table(other)[name]
        if value == against or (name in ("mean", "std") and _close(value, against)):
            continue
        if name == "classes":
            told.append(f"of the classes it {difference(against, value)}")
        else:
            told.append(f"{name} {value}, not {against}")
    return "; ".join(told)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-5) for a, b in zip(one, other, strict=True)
    )


def _problems(error: ValidationError | SpecError) -> str:
    return str(error) if isinstance(error, SpecError) else problems_of(error)
