"""All networks as files in the same formats, scored and timed in the same runtimes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import derive_seed, digest, read_json, sha256_file, write_json
from edgenas.data import DataSet, Images
from edgenas.errors import EdgenasError, MeasurementError
from edgenas.events import Event, Report, silent
from edgenas.export.jobs import convert_networks
from edgenas.export.verify import paired_interval
from edgenas.hardware import DeviceProfile
from edgenas.hardware.micro import measure_arena
from edgenas.profiling.session import measure
from edgenas.profiling.settings import Settings
from edgenas.profiling.timings import Measurements, Timing
from edgenas.spaces import Lowering, OpSpec
from edgenas.spaces.ops import chain
from tools.comparison.entrants import (
    Answers,
    Entrant,
    answers,
    packed,
    unpacked,
)
from tools.comparison.matching import Timed, compared, in_all

EMPTY = "empty model"
ANSWERS = "edgenas.bench-frontier-answers/1"
KEPT = ("grade", "canary_drift_median", "n_contended", "n_repeated", "virtualised")
"""Of the conditions of a session."""


@dataclass(frozen=True)
class Contest:
    """Everybody's files in some runtimes: scored on two splits, timed in several sessions."""

    ours: Sequence[Entrant]
    baselines: Sequence[Entrant]
    others: Sequence[Entrant]
    """Found by other projects' searches: timed and matched like baselines, and told apart."""
    devices: Sequence[DeviceProfile]
    data: DataSet
    work: Path
    settings: Settings
    n_sessions: int
    seed: int
    report: Report = silent

    def document(self) -> dict[str, Any]:
        """What was measured of every network, and how ours stand against the others."""
        sessions = {device.name: self._sessions(device) for device in self.devices}
        timed = {name: [one.timings for one in found] for name, found in sessions.items()}
        own, theirs, others = (
            {device.name: self._rows(device, part, timed[device.name]) for device in self.devices}
            for part in (self.ours, self.baselines, self.others)
        )
        rows = {name: [*own[name], *theirs[name], *others[name]] for name in timed}
        empty_ms = {
            name: statistics.median(session[EMPTY].latency_ms for session in found)
            for name, found in timed.items()
        }
        return {
            "n_sessions": self.n_sessions,
            "sessions": {
                name: [{key: one.conditions[key] for key in KEPT} for one in found]
                for name, found in sessions.items()
            },
            "settings": asdict(self.settings),
            "n": {"search": len(self.data.search), "test": len(self.data.test)},
            "empty_ms": empty_ms,
            "networks": [self._network(entrant, rows, timed) for entrant in self._all],
            "comparison": {
                device.name: compared(
                    theirs[device.name],
                    own[device.name],
                    empty_ms=empty_ms[device.name],
                    gain=lambda a, b, device=device: self._gain(a, b, device),
                    others=others[device.name],
                )
                for device in self.devices
            },
            "in_all": in_all(theirs, own, empty_ms=empty_ms),
        }

    @property
    def _all(self) -> list[Entrant]:
        return [*self.ours, *self.baselines, *self.others]

    def _rows(
        self,
        device: DeviceProfile,
        entrants: Sequence[Entrant],
        sessions: Sequence[Mapping[str, Timing]],
    ) -> list[Timed]:
        return [
            Timed(
                entrant.name,
                self._top1(entrant, device, "search"),
                self._top1(entrant, device, "test"),
                tuple(session[entrant.name].latency_ms for session in sessions),
            )
            for entrant in entrants
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
            "size_bytes": dict(entrant.size_bytes),
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

    def _sessions(self, device: DeviceProfile) -> list[Measurements]:
        """What each session measured, in which all files and the empty model are interleaved.

        Raises:
            MeasurementError: a file could not be timed.
        """
        format_ = device.format
        files = {e.name: e.files[format_] for e in self._all if format_ in e.files}
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
            sessions.append(found)
        return sessions

    def _top1(self, entrant: Entrant, device: DeviceProfile, split: str) -> float:
        return float(self._right(entrant, device, split).mean())

    def _gain(self, first: str, second: str, device: DeviceProfile) -> dict[str, float]:
        """Top-1 of the first less that of the second on the test split; paired 95 % interval."""
        by_name = {entrant.name: entrant for entrant in self._all}
        a, b = (self._right(by_name[name], device, "test") for name in (first, second))
        won, lost = int((a & ~b).sum()), int((b & ~a).sum())
        low, high = paired_interval(won, lost, len(a))
        return {"top1": (won - lost) / len(a), "low": low, "high": high}

    def _right(self, entrant: Entrant, device: DeviceProfile, split: str) -> npt.NDArray[np.bool_]:
        """Of each image of the split, whether the network's file names it rightly."""
        right = self._answers(entrant, device)[split] == self._split(split).labels.numpy()
        return np.asarray(right)

    def _answers(self, entrant: Entrant, device: DeviceProfile) -> Answers:
        """What the network's file names in its runtime; asked once."""
        if device.format in entrant.answers:
            return entrant.answers[device.format]
        path = entrant.files[device.format]
        kept = self.work / "answers" / f"{sha256_file(path)[:12]}-{self.data.digest}.json"
        if kept.is_file():
            return unpacked(read_json(kept, schema=ANSWERS)["answers"])
        self.report(Event("score", message=f"{entrant.name} on {device.name}"))
        found = answers(path, self.data, entrant.resolution)
        write_json(kept, {"schema": ANSWERS, "answers": packed(found)})
        return found

    def _split(self, name: str) -> Images:
        return self.data.search if name == "search" else self.data.test


def _told(timing: Timing) -> dict[str, float]:
    """What is kept of a session's timing."""
    kept = ("latency_ms", "p10_ms", "p90_ms", "n", "spread", "disturbed")
    return {name: getattr(timing, name) for name in kept}


def empty_network(channels: int, size: int) -> Lowering:
    """As little as turns an image into an answer: what a runtime takes for a call by itself."""
    ops = [
        ("pool", OpSpec.of("pool", c=channels, h=size, w=size)),
        ("linear", OpSpec.of("linear", cin=channels, cout=2)),
    ]
    return chain((channels, size, size), ops)
