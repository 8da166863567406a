"""TensorFlow Lite's own metadata, which model viewers read, and Android's Task Library.

It tells the library how to prepare images for float files; int8 inputs it does not take.

A flatbuffer of the schema `metadata_schema.fbs` of tflite-support (file identifier M001) in the
buffer `TFLITE_METADATA`: normalisation of the input, colour space, and the file with the labels.
Slots are the numbers of fields in that schema, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from edgenas.export.contract import InputContract

KEY = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_RGB, _GREY = 1, 2  # ColorSpaceType
_IMAGE = 2  # ContentProperties: ImageProperties
_NORMALISATION = 1  # ProcessUnitOptions: NormalizationOptions
_AXIS_LABELS = 2  # AssociatedFileType: TENSOR_AXIS_LABELS


def standard_metadata(contract: InputContract, *, name: str, labels_file: str) -> bytes:
    """The buffer's content for a classifier with this contract; `name` is the network's.

    Readers normalise pixels in 0 to 255 by (x - mean) / std.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    low, high = contract.value_range
    spread = 255 / (high - low)
    mean = _floats(builder, [(m - low) * spread for m in contract.mean])
    std = _floats(builder, [s * spread for s in contract.std])
    options = _table(builder, {0: mean, 1: std})
    units = _list(builder, _table(builder, {1: options}, {0: _NORMALISATION}))
    image = _table(builder, {}, {0: _GREY if contract.shape[3] == 1 else _RGB})
    content = _table(builder, {1: image}, {0: _IMAGE})
    source = {0: builder.CreateString("image"), 3: content, 4: units}
    labels = _table(builder, {0: builder.CreateString(labels_file)}, {2: _AXIS_LABELS})
    target = {0: builder.CreateString("logits"), 6: _list(builder, labels)}
    inputs, outputs = (_list(builder, _table(builder, port)) for port in (source, target))
    graphs = _list(builder, _table(builder, {2: inputs, 3: outputs}))
    builder.Finish(_table(builder, {0: builder.CreateString(name), 3: graphs}), _IDENTIFIER)
    return bytes(builder.Output())


def _table(
    builder: Any, offsets: Mapping[int, int], numbers: Mapping[int, int] = MappingProxyType({})
) -> int:
    """A table whose fields, by their slots, are other objects and numbers of one byte."""
    builder.StartObject(1 + max([*offsets, *numbers]))
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in numbers.items():
        builder.PrependInt8Slot(slot, number, 0)
    return int(builder.EndObject())


def _list(builder: Any, offset: int) -> int:
    """A vector that holds one object."""
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
