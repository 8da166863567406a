"""All networks as files in the same formats, scored and timed in the same runtimes."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import derive_seed, digest, read_json, replacing, sha256_file
from edgenas.data import RESIZE, DataSet, Images
from edgenas.errors import EdgenasError, ExportError, MeasurementError, SpecError
from edgenas.events import Event, Report, silent
from edgenas.export.certificate import Certificate, recheck
from edgenas.export.certified import ExportRequest, export_networks
from edgenas.export.contract import InputContract
from edgenas.export.jobs import convert_networks, read_lowering, write_lowering
from edgenas.export.runners import open_model
from edgenas.export.verify import compare
from edgenas.hardware import DeviceProfile
from edgenas.hardware.micro import measure_arena
from edgenas.models import read_model
from edgenas.networks import Network, build
from edgenas.pipeline import FinalConfig, RunConfig
from edgenas.pipeline.config import FORMATS, ExportConfig, SearchConfig
from edgenas.pipeline.evaluating import calibration_images
from edgenas.pipeline.exporting import network_images
from edgenas.pipeline.runs import RESULT_SCHEMA
from edgenas.profiling.session import Settings, Timing, measure
from edgenas.spaces import Lowering, OpSpec
from edgenas.spaces.ops import chain
from edgenas.supernet import load_weights
from tools.comparison.elsewhere import RESULT
from tools.comparison.elsewhere import SCHEMA as ELSEWHERE
from tools.comparison.matching import Timed, compared, in_all
from tools.comparison.training import Job, Trainer

FloatArray = npt.NDArray[np.float32]

EDGENAS = "edgenas"
"""The family of our own networks."""
EMPTY = "empty model"
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
        return cls(name, family, found.macs, found.params, files, resolution)


def our_run(
    start: RunConfig, devices: Sequence[str], *, final: FinalConfig, networks: int, trials: int
) -> RunConfig:
    """The run that finds and finishes edgenas's own networks, with the supernet of `start`.

    It searches for accuracy and for the latency of each device.
    """
    objectives = ("max top1", *(f"min latency_ms@{name}" for name in devices))
    return replace(
        start,
        name=EDGENAS,
        search=SearchConfig(tuple(devices), objectives, trials=trials),
        final=final,
        export=ExportConfig(top=networks, max_top1_drop=ANY_DROP),
    )


def our_entrants(folder: Path) -> list[Entrant]:
    """The networks that the finished run in `folder` exported.

    Raises:
        SpecError: it is not finished, or a file was changed.
    """
    document = read_json(folder / "result.json", schema=RESULT_SCHEMA)
    places = dict.fromkeys((folder / row["path"]).parent for row in document["exports"])
    return [
        Entrant.certified(f"{EDGENAS} {place.name}", EDGENAS, place, recheck(place))
        for place in places
    ]


@dataclass(frozen=True)
class Trained:
    """A network trained by somebody else than our pipeline; `weights` names them."""

    name: str
    family: str
    network: Network
    weights: str


def trained_baseline(trainer: Trainer, job: Job) -> Trained:
    """The network of a finished job.

    Raises:
        ArtifactError: its weights are missing or damaged.
    """
    network, result = trainer.network(job), trainer.result(job)
    assert result is not None  # noqa: S101  # its weights were just read
    family = trainer.networks[job.network].family
    return Trained(job.network, family, network, result["weights_sha256"][:12])


def found_elsewhere(folder: Path, size: int) -> Trained | Entrant:
    """What another project's search left in `folder`: a network, or its files for `size` pixels.

    Raises:
        ArtifactError: its files are missing or damaged.
    """
    result = read_json(folder / RESULT, schema=ELSEWHERE)
    if "lowering" not in result:
        files = {"tflite": folder / "model.tflite", "tflite-int8": folder / "model.int8.tflite"}
        macs = read_model(files["tflite"]).macs
        return Entrant(result["name"], result["family"], macs, result["params"], files, size)
    network = build(read_lowering(result["lowering"]), norm=False)
    sha256 = result["weights_sha256"]
    network = load_weights(folder / "weights.safetensors", network, sha256=sha256)
    return Trained(result["name"], result["family"], network, sha256[:12])


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


def _is_exported(folder: Path, parents: Mapping[str, str]) -> bool:
    try:
        return dict(recheck(folder).parents) == dict(parents)
    except SpecError:  # not there, or damaged
        return False


@dataclass(frozen=True)
class Contest:
    """Everybody's files in some runtimes: scored on two splits, timed in several sessions."""

    entrants: Sequence[Entrant]
    devices: Sequence[DeviceProfile]
    data: DataSet
    work: Path
    settings: Settings
    n_sessions: int
    seed: int
    report: Report = silent

    def document(self) -> dict[str, Any]:
        """What was measured of every network, and how ours stand against the others."""
        timed = {device.name: self._sessions(device) for device in self.devices}
        rows = {device.name: self._rows(device, timed[device.name]) for device in self.devices}
        ours = {entrant.name for entrant in self.entrants if entrant.family == EDGENAS}
        own = {name: [row for row in found if row.name in ours] for name, found in rows.items()}
        theirs = {
            name: [row for row in found if row.name not in ours] for name, found in rows.items()
        }
        empty_ms = {
            name: statistics.median(session[EMPTY].latency_ms for session in sessions)
            for name, sessions in timed.items()
        }
        return {
            "n_sessions": self.n_sessions,
            "settings": asdict(self.settings),
            "n": {"search": len(self.data.search), "test": len(self.data.test)},
            "empty_ms": empty_ms,
            "networks": [self._network(entrant, rows, timed) for entrant in self.entrants],
            "comparison": {
                device.name: compared(
                    theirs[device.name],
                    own[device.name],
                    empty_ms=empty_ms[device.name],
                    gain=lambda a, b, device=device: self._gain(a, b, device),
                )
                for device in self.devices
            },
            "in_all": in_all(theirs, own),
        }

    def _rows(self, device: DeviceProfile, sessions: Sequence[Mapping[str, Timing]]) -> list[Timed]:
        return [
            Timed(
                entrant.name,
                self._top1(entrant, device, "search"),
                self._top1(entrant, device, "test"),
                tuple(session[entrant.name].latency_ms for session in sessions),
            )
            for entrant in self.entrants
            if device.format in entrant.files
        ]

    def _network(
        self,
        entrant: Entrant,
        rows: Mapping[str, Sequence[Timed]],
        timed: Mapping[str, Sequence[Mapping[str, Timing]]],
    ) -> dict[str, Any]:
        int8 = entrant.files["tflite-int8"]
        arena: dict[str, Any]
        try:
            arena = {"arena_bytes": measure_arena(int8).total}
        except EdgenasError as error:
            arena = {"arena_bytes": None, "no_arena": str(error).replace(str(int8), int8.name)}
        return {
            "name": entrant.name,
            "family": entrant.family,
            "macs": entrant.macs,
            "params": entrant.params,
            "size_bytes": {f: path.stat().st_size for f, path in entrant.files.items()},
            **arena,
            "runtimes": {
                name: {
                    "top1_search": row.top1_search,
                    "top1_test": row.top1_test,
                    "latency_ms": row.latency_ms,
                    "sessions": [_told(session[entrant.name]) for session in timed[name]],
                }
                for name, found in rows.items()
                for row in found
                if row.name == entrant.name
            },
        }

    def _sessions(self, device: DeviceProfile) -> list[Mapping[str, Timing]]:
        """The timings of each session, in which all files and the empty model are interleaved.

        Raises:
            MeasurementError: a file could not be timed.
        """
        format_ = device.format
        files = {e.name: e.files[format_] for e in self.entrants if format_ in e.files}
        files |= convert_networks(
            {EMPTY: empty_network(self.data.channels, self.data.image_size)},
            format=format_,
            folder=self.work / "models",
        )
        field = digest([sha256_file(path) for path in files.values()])
        sessions = []
        for k in range(self.n_sessions):
            found = measure(
                files,
                device,
                workdir=self.work / "sessions" / f"{device.name}-{field}-{k}",
                settings=self.settings,
                seed=derive_seed(self.seed, "session", k),
                report=self.report,
            )
            if found.failed:
                raise MeasurementError(f"{device.name}: {dict(found.failed)}")
            sessions.append(found.timings)
        return sessions

    def _top1(self, entrant: Entrant, device: DeviceProfile, split: str) -> float:
        answers = self._answers(entrant, device)[split]
        return float((answers.argmax(1) == self._split(split).labels.numpy()).mean())

    def _gain(self, first: str, second: str, device: DeviceProfile) -> dict[str, float]:
        """Top-1 of the first less that of the second on the test split; paired 95 % interval."""
        by_name = {entrant.name: entrant for entrant in self.entrants}
        a, b = by_name[first], by_name[second]
        found = compare(
            self._answers(a, device)["test"],
            reference_logits=self._answers(b, device)["test"],
            labels=self._split("test").labels.numpy(),
        )
        return {
            "top1": -found.top1_drop,
            "low": -found.drop_high,
            "high": -found.drop_low,
        }

    def _answers(self, entrant: Entrant, device: DeviceProfile) -> dict[str, FloatArray]:
        """Logits (n, classes) of the network's file in its runtime, by split; computed once."""
        path = entrant.files[device.format]
        kept = self.work / "answers" / f"{sha256_file(path)[:12]}-{self.data.digest}.npz"
        if kept.is_file():
            with np.load(kept) as found:
                return {split: found[split] for split in ("search", "test")}
        self.report(Event("score", message=f"{entrant.name} on {device.name}"))
        model = open_model(path)
        answers = {}
        for split in ("search", "test"):
            images, _ = network_images(self.data, self._split(split), entrant.resolution)
            answers[split] = model.run(images)
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.savez(file, **answers)
        return answers

    def _split(self, name: str) -> Images:
        return self.data.search if name == "search" else self.data.test


def _told(timing: Timing) -> dict[str, float]:
    """What is kept of a session's timing."""
    kept = ("latency_ms", "p10_ms", "p90_ms", "n", "spread", "disturbed")
    return {name: getattr(timing, name) for name in kept}


def write_images(data: DataSet, path: Path) -> None:
    """The training and the search split, as our networks take them, in one file of arrays."""
    arrays = {}
    for name, images in (("train", data.train), ("search", data.search)):
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = network_images(
            data, images, data.image_size
        )
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def empty_network(channels: int, size: int) -> Lowering:
    """As little as turns an image into an answer: what a runtime takes for a call by itself."""
    ops = [
        ("pool", OpSpec.of("pool", c=channels, h=size, w=size)),
        ("linear", OpSpec.of("linear", cin=channels, cout=2)),
    ]
    return chain((channels, size, size), ops)
