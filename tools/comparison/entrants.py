"""Networks that enter the comparison: as verified files, with what each file answers."""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import digest
from edgenas.data import RESIZE, DataSet
from edgenas.errors import ExportError, SpecError
from edgenas.events import Report, silent
from edgenas.export.certificate import Certificate, recheck
from edgenas.export.certified import ExportRequest, export_networks
from edgenas.export.contract import InputContract
from edgenas.export.jobs import convert_networks, write_lowering
from edgenas.export.runners import open_model
from edgenas.networks import Network
from edgenas.pipeline.config import FORMATS
from edgenas.pipeline.evaluating import calibration_images
from edgenas.pipeline.network_files import network_images
from edgenas.spaces import Lowering

IntArray = npt.NDArray[np.int64]
Answers = Mapping[str, IntArray]
"""The class that a file names for each image of a split: (n,), by `search` and `test`."""

ANY_DROP = 1.0
"""Of top-1 in int8: no file is rejected for it, since all of them are scored."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A network with its files, by format."""

    name: str
    family: str
    macs: int
    params: int
    files: Mapping[str, Path]
    resolution: int
    size_bytes: Mapping[str, int]
    """By format."""
    answers: Mapping[str, Answers] = field(default_factory=dict)
    """By format, where they are known; else the files are asked."""

    @classmethod
    def certified(cls, name: str, family: str, folder: Path, found: Certificate) -> Entrant:
        """The network whose certificate lies in `folder`.

        Raises:
            ExportError: a file failed a gate, or could not be written.
        """
        if problems := found.problems():
            raise ExportError(f"{folder}: {'; '.join(problems)}")
        files = {model.format: folder / model.path for model in found.models}
        _, resolution, _, _ = found.models[0].input.shape
        sizes = {model.format: model.size_bytes for model in found.models}
        return cls(name, family, found.macs, found.params, files, resolution, sizes)


@dataclass(frozen=True)
class Trained:
    """A network trained by somebody else than our pipeline; `weights` names them."""

    name: str
    family: str
    network: Network
    weights: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A network whose training is a file of results."""

    name: str
    family: str
    lowering: Lowering
    result: Mapping[str, Any]


def of_results(finished: Sequence[Finished], formats: Sequence[str], folder: Path) -> list[Entrant]:
    """Finished networks as answers of the trained files, and files to be timed.

    Those have the trained ones' operators (a test compares them) and weights drawn by chance: so
    results suffice, and the files of a training need not be kept.
    """
    lowerings = {one.name: one.lowering for one in finished}
    files = {f: convert_networks(lowerings, format=f, folder=folder) for f in formats}
    return [
        Entrant(
            one.name,
            one.family,
            one.lowering.macs,
            one.lowering.params,
            {f: files[f][one.name] for f in formats},
            one.lowering.in_chw[1],
            one.result["size_bytes"],
            {f: unpacked(one.result["answers"][f]) for f in formats},
        )
        for one in finished
    ]


def export_trained(
    networks: Sequence[Trained], data: DataSet, folder: Path, *, seed: int, report: Report = silent
) -> list[Entrant]:
    """The networks as verified files; those that are there are kept."""
    requests, places = [], {}
    sample = calibration_images(data, seed)
    prepared = functools.cache(functools.partial(network_images, data))
    for one in networks:
        network = one.network
        places[one.name] = place = folder / one.name.replace(" ", "-").replace("%", "")
        parents = {"data": data.digest, "weights": one.weights}
        if _is_exported(place, parents):
            continue
        size = network.lowering.in_chw[1]
        calibration, _ = prepared(sample, size)
        images, labels = prepared(data.test, size)
        requests.append(
            ExportRequest(
                network=network,
                folder=place,
                architecture=one.name,
                digest=digest(write_lowering(network.lowering)),
                contract=InputContract(
                    (1, size, size, data.channels), data.mean, data.std, data.classes, RESIZE
                ),
                calibration=calibration,
                images=images,
                labels=labels,
                parents=parents,
                weights="trained alone",
            )
        )
    export_networks(requests, formats=FORMATS, max_top1_drop=ANY_DROP, report=report)
    return [
        Entrant.certified(one.name, one.family, places[one.name], recheck(places[one.name]))
        for one in networks
    ]


def told_of(
    one: Trained, data: DataSet, folder: Path, *, formats: Sequence[str], seed: int
) -> dict[str, Any]:
    """What a result keeps of a trained network: it is exported, verified, and asked all images."""
    (entrant,) = export_trained([one], data, folder, seed=seed)
    certificate = recheck(entrant.files[formats[0]].parent)
    kept = ("n", "top1", "top1_drop", "agreement", "max_abs_difference")
    return {
        "macs": entrant.macs,
        "params": entrant.params,
        "size_bytes": dict(entrant.size_bytes),
        "verified": {
            model.format: {name: getattr(model.verification, name) for name in kept}
            for model in certificate.models
        },
        "answers": {
            f: packed(answers(entrant.files[f], data, entrant.resolution)) for f in formats
        },
    }


def _is_exported(folder: Path, parents: Mapping[str, str]) -> bool:
    try:
        return dict(recheck(folder).parents) == dict(parents)
    except SpecError:  # not there, or damaged
        return False


def answers(path: Path, data: DataSet, resolution: int) -> Answers:
    """What the file names in its runtime, for both splits."""
    model = open_model(path)
    found = {}
    for split, images in (("search", data.search), ("test", data.test)):
        pixels, _ = network_images(data, images, resolution)
        found[split] = model.run(pixels).argmax(1)
    return found


def packed(found: Answers) -> dict[str, str]:
    """As short text, for a file of results; `unpacked` reads it."""
    return {split: as_text(named.astype("<u2").tobytes()) for split, named in found.items()}


def unpacked(texts: Mapping[str, str]) -> Answers:
    """What `packed` wrote."""
    return {
        split: np.frombuffer(of_text(text), "<u2").astype(np.int64) for split, text in texts.items()
    }


def as_text(data: bytes) -> str:
    """Compressed, for a file of results; `of_text` reads it."""
    return base64.b85encode(zlib.compress(data, 9)).decode("ascii")


def of_text(text: str) -> bytes:
    """What `as_text` wrote."""
    return zlib.decompress(base64.b85decode(text))
