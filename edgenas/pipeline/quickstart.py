"""The main job with nothing to set: shipped supernet, this machine, about five minutes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgenas.artifacts import check_manifest
from edgenas.errors import ArtifactError, DataError, ResourceError, SpecError
from edgenas.events import Event, Report, silent
from edgenas.pipeline.config import (
    SHIPPED,
    DataConfig,
    RunConfig,
    SearchConfig,
    SupernetConfig,
    TrainConfig,
)
from edgenas.pipeline.runs import Outcome, read_result
from edgenas.pipeline.searching import search
from edgenas.pipeline.shipped import DEFAULT_SET, supernets

NAME = "quickstart"
DEVICE = "local-litert-int8-t1"
SEARCH_MINUTES = 1.25
"""The search stops after so long, or after 200 trials; scoring its pilots before takes as long on a
slow machine."""


def run_quickstart(
    runs: Path = Path("runs"), *, fresh: bool = False, report: Report = silent
) -> Outcome:
    """Calibrates, searches, exports, verifies and reports into `runs/quickstart`.

    Fashion-MNIST with the shipped supernet; where its files are neither here nor to be had, digits
    with a small supernet trained first. A finished run whose manifest holds is returned as it is,
    a stopped one goes on.

    Raises:
        DataError: neither data set can be had.
    """
    folder = runs / NAME
    if not fresh and (finished := _finished(folder, report)) is not None:
        return finished
    data, note = _choose_data(report)
    config = quickstart_config(data)
    steps = [
        f"data: {note}",
        f"latency: of this machine, {DEVICE}, calibrated from the shipped tables",
        f"search: accuracy against latency and size, at most {SEARCH_MINUTES * 60:.0f} s of trials",
        "export: three networks in five formats, each run over the test split in its runtime",
        f"report: {folder / 'report.html'}",
    ]
    for step in steps:
        report(Event("plan", message=step))
    outcome = search(config, folder, resume=not fresh, fresh=fresh, report=report)
    return replace(outcome, notes=(note, *outcome.notes))


def quickstart_config(data: DataConfig) -> RunConfig:
    """The run file of the quickstart on `data`."""
    searching = SearchConfig(
        devices=(DEVICE,),
        objectives=("max top1", "min latency_ms", "min size_bytes"),
        strategy="surrogate",
        trials=200,
        minutes=SEARCH_MINUTES,
        images=3000,
        recalibration_images=1024,
        profile_minutes=0.0,
    )
    config = RunConfig(data=data, search=searching, name=NAME)
    if data.source == DEFAULT_SET:
        return replace(config, supernet=SupernetConfig(SHIPPED))
    return replace(config, space=small_space(), train=TrainConfig(epochs=6, batch=64, n_random=1))


def small_space() -> dict[str, Any]:
    """A part of the default space for 28 pixels, all of whose units the shipped tables hold."""
    from edgenas.spaces.mobile import SMALL

    stages = [
        asdict(replace(s, depths=s.depths[:2], kernels=s.kernels[:2], widths=s.widths[:2]))
        for s in SMALL.stages
    ]
    table = {"family": SMALL.name, "resolutions": list(SMALL.resolutions[:1]), "stages": stages}
    plain: dict[str, Any] = json.loads(json.dumps(table))  # tuples become lists, as in a file
    return plain


def _choose_data(report: Report) -> tuple[DataConfig, str]:
    """The data set that can be had here, and a sentence about it."""
    from edgenas.data import load_data

    why = "this installation ships no supernet for it"
    if DEFAULT_SET in supernets():
        for download in (False, True):
            try:
                load_data(DEFAULT_SET, seed=0, download=download, report=report)
            except (DataError, ResourceError) as error:
                why = str(error)
                report(Event("data", message=f"{DEFAULT_SET}: {error}"))
            else:
                return DataConfig(DEFAULT_SET, download=download), "Fashion-MNIST, 70,000 images"
    reason = (
        f"Fashion-MNIST is not to be had here ({why}); the same job on scikit-learn's digits, "
        "with a small supernet that is trained first (under 3 minutes)"
    )
    load_data("digits", seed=0, image_size=28, report=report)
    return DataConfig("digits", image_size=28), reason


def _finished(folder: Path, report: Report) -> Outcome | None:
    """The run as an earlier call left it, if it is whole."""
    if not (folder / "result.json").is_file():
        return None
    try:
        check_manifest(folder)
        document = read_result(folder)
    except (ArtifactError, SpecError) as error:
        report(Event("check", message=f"{error}; doing again what is missing"))
        return None
    note = f"{folder} holds a finished run, and all its files are whole; --fresh repeats it"
    failures = tuple(document.get("failures", ()))
    return Outcome(folder, document, failures, (note,), int(document.get("exit_code", 0)))
