"""What other projects' searches found, as entrants of the comparison.

Each is a file of results as soon as its search is done. Where a network can be rebuilt, that says
how; of one that comes as files of its own it holds the file that is timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgenas.artifacts import read_json, replacing, write_atomic, write_json
from edgenas.data import DataSet
from edgenas.export.jobs import read_lowering
from edgenas.models import read_model
from edgenas.networks import build
from edgenas.pipeline.network_files import network_images
from edgenas.supernet import load_weights
from tools.comparison.elsewhere import RESULT, SEARCHERS
from tools.comparison.elsewhere import SCHEMA as SEARCHED
from tools.comparison.entrants import (
    Entrant,
    Finished,
    Trained,
    answers,
    as_text,
    of_results,
    of_text,
    packed,
    told_of,
    unpacked,
)
from tools.comparison.results import kept

SCHEMA = "edgenas.bench-frontier-found/1"
FILES: Mapping[str, str] = MappingProxyType(
    {"tflite": "model.tflite", "tflite-int8": "model.int8.tflite"}
)
"""What a search leaves of a network that cannot be rebuilt, by format."""


def keep_found(
    searcher: str,
    folder: Path,
    results: Path,
    data: DataSet,
    *,
    formats: Sequence[str],
    seed: int,
    minutes: float,
    about: Mapping[str, object],
) -> None:
    """Scores the network that a search of so many `minutes` left in `folder`.

    It is exported first, if it can be rebuilt.

    Raises:
        ArtifactError: its files are missing or damaged.
    """
    found = read_json(folder / RESULT, schema=SEARCHED)
    del found["schema"]
    told = {key: found[key] for key in ("name", "family")}
    if "lowering" in found:
        told |= _rebuilt(found, folder, data, formats=formats, seed=seed)
    else:
        told |= _of_files(found, folder, data, formats=formats)
    rest = {key: value for key, value in found.items() if key not in told}
    settings = _settings(data, minutes)
    write_json(
        _path(results, searcher),
        {"schema": SCHEMA, **told, "search": rest, "settings": settings, **about},
    )


def is_kept(searcher: str, results: Path, data: DataSet, *, minutes: float) -> bool:
    """Whether what a search of so many minutes found on this data is a result already.

    Raises:
        UsageError: the result is of other data or minutes.
    """
    settings = _settings(data, minutes)
    return kept(_path(results, searcher), schema=SCHEMA, settings=settings) is not None


def _settings(data: DataSet, minutes: float) -> dict[str, object]:
    return {"data": data.digest, "minutes": minutes}


def _path(results: Path, searcher: str) -> Path:
    return results / f"{searcher}.json"


def _rebuilt(
    found: Mapping[str, Any], folder: Path, data: DataSet, *, formats: Sequence[str], seed: int
) -> dict[str, Any]:
    network = build(read_lowering(found["lowering"]), norm=False)
    sha256 = found["weights_sha256"]
    network = load_weights(folder / "weights.safetensors", network, sha256=sha256)
    one = Trained(found["name"], found["family"], network, sha256[:12])
    told = told_of(one, data, folder / "models", formats=formats, seed=seed)
    return {"lowering": found["lowering"], **told}


def _of_files(
    found: Mapping[str, Any], folder: Path, data: DataSet, *, formats: Sequence[str]
) -> dict[str, Any]:
    """As `told_of`, of TFLite files by another converter; those of `formats` are kept whole."""
    files = {f: folder / name for f, name in FILES.items()}
    asked = {f: path for f, path in files.items() if f in formats}
    return {
        "macs": read_model(files["tflite"]).macs,
        "params": found["params"],
        "size_bytes": {f: path.stat().st_size for f, path in files.items()},
        "answers": {f: packed(answers(path, data, data.image_size)) for f, path in asked.items()},
        "files": {f: as_text(path.read_bytes()) for f, path in asked.items()},
    }


def found_elsewhere(
    results: Path, data: DataSet, *, formats: Sequence[str], models: Path
) -> list[tuple[Entrant, dict[str, Any]]]:
    """Each search's network, where there is one for this data, and what it took.

    Raises:
        ArtifactError: a result is damaged.
    """
    there = []
    for path in (_path(results, searcher) for searcher in SEARCHERS):
        if not path.is_file():
            continue
        found = read_json(path, schema=SCHEMA)
        if found["settings"]["data"] != data.digest:
            continue
        name, family = found["name"], found["family"]
        if "lowering" in found:
            one = Finished(name, family, read_lowering(found["lowering"]), found)
            (entrant,) = of_results([one], formats, models)
        else:
            files = {f: models / path.stem / FILES[f] for f in found["files"]}
            for f, text in found["files"].items():
                write_atomic(files[f], of_text(text))
            entrant = Entrant(
                name,
                family,
                found["macs"],
                found["params"],
                files,
                data.image_size,
                found["size_bytes"],
                {f: unpacked(named) for f, named in found["answers"].items()},
            )
        took = {**found["search"], "minutes": found["settings"]["minutes"]}
        there.append((entrant, took | {"machine": found["machine"]}))
    return there


def write_images(data: DataSet, path: Path) -> None:
    """The training and the search split, as our networks take them, in one file of arrays."""
    arrays = {}
    for name, images in (("train", data.train), ("search", data.search)):
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = network_images(
            data, images, data.image_size
        )
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
