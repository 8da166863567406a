"""What other projects' searches found, as entrants of the comparison.

A network that can be rebuilt is a file of results as soon as its search is done. One that comes as
files of its own is scored and timed by them: they are too large to be kept with the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgenas.artifacts import read_json, replacing, write_json
from edgenas.data import DataSet
from edgenas.export.jobs import read_lowering
from edgenas.models import read_model
from edgenas.networks import build
from edgenas.pipeline.network_files import network_images
from edgenas.supernet import load_weights
from tools.comparison.elsewhere import RESULT, SEARCHERS
from tools.comparison.elsewhere import SCHEMA as SEARCHED
from tools.comparison.entrants import Entrant, Finished, Trained, of_results, told_of

SCHEMA = "edgenas.bench-frontier-found/1"


def keep_found(
    searcher: str,
    folder: Path,
    results: Path,
    data: DataSet,
    *,
    formats: Sequence[str],
    seed: int,
    about: Mapping[str, object],
) -> None:
    """Exports and scores the network that a search left in `folder`, if it can be rebuilt.

    Raises:
        ArtifactError: its files are missing or damaged.
    """
    found = read_json(folder / RESULT, schema=SEARCHED)
    if "lowering" not in found:
        return
    network = build(read_lowering(found["lowering"]), norm=False)
    sha256 = found["weights_sha256"]
    network = load_weights(folder / "weights.safetensors", network, sha256=sha256)
    one = Trained(found["name"], found["family"], network, sha256[:12])
    told = told_of(one, data, folder / "models", formats=formats, seed=seed)
    write_json(
        results / f"{searcher}.json",
        {
            "schema": SCHEMA,
            **{key: found.pop(key) for key in ("name", "family", "lowering")},
            **told,
            "search": found,
            "data": data.digest,
            **about,
        },
    )


def found_elsewhere(
    work: Path, results: Path, data: DataSet, *, formats: Sequence[str], models: Path
) -> list[Entrant]:
    """Each search's network, where there is one for this data.

    Raises:
        ArtifactError: a search's files are missing or damaged.
    """
    entrants: list[Entrant] = []
    for searcher in SEARCHERS:
        kept, left = results / f"{searcher}.json", work / searcher / RESULT
        if kept.is_file():
            found = read_json(kept, schema=SCHEMA)
            if found["data"] == data.digest:
                lowering = read_lowering(found["lowering"])
                one = Finished(found["name"], found["family"], lowering, found)
                entrants += of_results([one], formats, models)
        elif left.is_file():
            found = read_json(left, schema=SEARCHED)
            if "lowering" not in found:
                files = {
                    "tflite": left.with_name("model.tflite"),
                    "tflite-int8": left.with_name("model.int8.tflite"),
                }
                entrants.append(
                    Entrant(
                        found["name"],
                        found["family"],
                        read_model(files["tflite"]).macs,
                        found["params"],
                        files,
                        data.image_size,
                        {f: path.stat().st_size for f, path in files.items()},
                    )
                )
    return entrants


def write_images(data: DataSet, path: Path) -> None:
    """The training and the search split, as our networks take them, in one file of arrays."""
    arrays = {}
    for name, images in (("train", data.train), ("search", data.search)):
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = network_images(
            data, images, data.image_size
        )
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
