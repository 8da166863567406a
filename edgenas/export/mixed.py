"""Files in mixed precision: which units are computed in fewer bits, by what it costs and saves.

1. Each unit alone is put in each lower precision, in a file of its own that runs in its runtime:
   what is lost is the noise that the logits get, what is saved are bytes and, where tables tell,
   milliseconds, both as shares of the float file's. A unit that would be slower, or would save
   nothing, is left out.
2. Greedily, the unit that saves most for the noise that it adds goes next, until none is left;
   noise is taken to add up. At the end of the way those that were left out follow in int8 at once:
   between units in int8, conversions fall away.
   Where tables tell of one lower precision and not of another, a second way has the first alone.
3. Files along these ways, and one all in int8, are run over the images: of those that are no slower
   and no larger than the float file, hold the run's bounds and lose no more top-1 than is borne,
   nor any before them on the way, the one that saves most is chosen. What one loses is bounded from
   above at 90 %; where by that none is borne, the surest of those is taken whose loss itself is.
   One whose latency is known goes before one whose is not.

All images are of the search split. The chosen file is verified on the test split as all others are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Protocol, TypeVar

import numpy as np

from edgenas.errors import ExportError
from edgenas.events import Event, Report, silent
from edgenas.export import onnx, tflite
from edgenas.export.certificate import Latency, MixedPoint
from edgenas.export.choosing import Judge, Limits, Point, left_out, why_left_out
from edgenas.export.jobs import TfliteJob, run_tflite
from edgenas.export.runners import FloatArray, open_model
from edgenas.export.units import (
    Alone,
    MixedUnit,
    Precisions,
    UnitPrecision,
    n_weighted,
    units_of,
)
from edgenas.export.verify import Z95, BoolArray, IntArray, paired_interval
from edgenas.spaces import Lowering, OpSpec

LOWER: Mapping[str, tuple[UnitPrecision, ...]] = {
    "onnx-mixed": ("int8",),
    "tflite-mixed": ("int8", "int4"),
}
"""The precisions below float that a format's runtime computes faster, or stores smaller at no great
cost in time. onnxruntime 1.31 runs convolutions with weights of 4 bits, but in float, and takes
five times as long; its MatMulNBits replaces neither Conv nor Gemm."""
IMAGES = 5000
"""Of the search split, at most, that mixtures are chosen by."""
IMAGES_ALONE = 250
"""Of those, at most, that show what one unit does: noise needs fewer than top-1."""
POINTS = 10
"""Mixtures that are tried, at most."""
MAX_DROP = 0.002
"""Loss of top-1 that a mixture may have: against the float file on the search split, where it is
chosen, and against torch on the test split, where it is verified."""


class Timing(Protocol):
    """What is known of latency in the format's runtime."""

    def unit(self, op: OpSpec, precision: UnitPrecision) -> Latency | None:
        """Latency of a unit within a network; None where no table tells."""

    def points(
        self, lowering: Lowering, files: Mapping[Path, Precisions]
    ) -> Mapping[Path, Latency]:
        """Latency of these files of one network, as far as it is known; all are of one origin."""


class Timings(Protocol):
    """Gives the timing of a format; None where no device of the run runs its files."""

    def __call__(self, format: str) -> Timing | None:  # noqa: A002  # the domain's word
        """The timing of `onnx-mixed` or `tflite-mixed`."""


class Write(Protocol):
    """Writes files of one network, each with these precisions of its units."""

    def __call__(self, files: Mapping[Path, Precisions]) -> None:
        """Writes them all."""


def no_limits(format: str) -> Limits:  # noqa: A002
    """Of a run without bounds."""
    return Limits()


@dataclass(frozen=True)
class Mixing:
    """How mixtures are chosen: by normalised (n, h, w, c) images of the search split."""

    images: FloatArray
    labels: IntArray
    max_drop: float = MAX_DROP
    timings: Timings | None = None
    limits: Callable[[str], Limits] = no_limits
    """By the mixed format."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The chosen precision of each unit, and all points that it was chosen from."""

    units: tuple[MixedUnit, ...]
    curve: tuple[MixedPoint, ...]


def mix(
    lowering: Lowering,
    source: Path,
    target: Path,
    *,
    format: str,  # noqa: A002
    write: Write,
    mixing: Mixing,
    report: Report = silent,
) -> Mixture:
    """Chooses the precisions of the float file `source`, and writes that mixture to `target`.

    Raises:
        ExportError: every mixture loses more than is borne, or breaks a bound of the run, or the
            units are not known.
    """
    timing = None if mixing.timings is None else mixing.timings(format)
    chooser = _Chooser(lowering, source, target, LOWER[format], write, mixing, timing, report)
    alone = chooser.alone()
    gains = [chooser.gains(row) for row in alone]
    points = chooser.points(_ways(alone, gains, lowering))
    names = [node.name for node in lowering.nodes]
    judge = Judge(points, mixing.max_drop, mixing.limits(format))
    best = judge.best(target.name, left_out(names, alone, gains))
    mixture = Mixture(
        tuple(
            MixedUnit(
                node.name,
                node.op.key,
                best.precisions[i],
                n_weighted(node.op),
                tuple(alone[i]),
                why_left_out(alone[i], gains[i], best.precisions[i]) or judge.why_float(i, best),
            )
            for i, node in enumerate(lowering.nodes)
        ),
        tuple(
            MixedPoint(
                p.precisions,
                p.size_bytes,
                p.top1,
                p.drop,
                len(mixing.labels),
                p.latency,
                chosen=p is best,
                drop_low=p.interval[0],
                drop_high=p.interval[1],
            )
            for p in points
        ),
    )
    best.path.replace(target)
    return mixture


@dataclass(frozen=True)
class _Chooser:
    lowering: Lowering
    source: Path
    target: Path
    lower: tuple[UnitPrecision, ...]
    write: Write
    mixing: Mixing
    timing: Timing | None
    report: Report

    @property
    def _stage(self) -> str:
        return f"mix {self.target.name}"

    def alone(self) -> list[list[Alone]]:
        """For each unit what each lower precision does where no other unit has one."""
        n = len(self.lowering.nodes)
        few = _spread(range(len(self.mixing.labels)), IMAGES_ALONE)  # they may lie class by class
        images, labels = self.mixing.images[few], self.mixing.labels[few]
        logits = open_model(self.source).run(images)
        files = {
            self._file(f"alone-{i}-{precision}"): _one(n, i, precision)
            for i, node in enumerate(self.lowering.nodes)
            if n_weighted(node.op)
            for precision in self.lower
        }
        self.report(Event(self._stage, message=f"{len(files)} files, each with one unit lowered"))
        self.write(files)
        found: list[list[Alone]] = [[] for _ in range(n)]
        for done, (path, precisions) in enumerate(files.items(), 1):
            (i,) = (k for k, precision in enumerate(precisions) if precision != "fp32")
            changed = open_model(path).run(images)
            saved_ms, origin = self._saved_ms(self.lowering.nodes[i].op, precisions[i])
            found[i].append(
                Alone(
                    precisions[i],
                    float(_right(logits, labels).mean() - _right(changed, labels).mean()),
                    _noise(changed, logits),
                    self.source.stat().st_size - path.stat().st_size,
                    saved_ms,
                    origin,
                    len(labels),
                )
            )
            path.unlink()
            self.report(Event(self._stage, done, len(files), self.lowering.nodes[i].name))
        return found

    def gains(self, row: Sequence[Alone]) -> dict[UnitPrecision, float]:
        """What each precision of a unit saves: shares of the file's bytes and of its latency.

        One that no table tells counts as fast as the one before it; a slower one saves nothing.
        """
        found, saved_ms = {}, None
        for alone in row:
            saved_ms = saved_ms if alone.saved_ms is None else alone.saved_ms
            share = 0.0 if saved_ms is None else saved_ms / self._float_ms
            bytes_share = alone.saved_bytes / self.source.stat().st_size
            found[alone.precision] = 0.0 if share < 0 else bytes_share + share
        return found

    @functools.cached_property
    def _float_ms(self) -> float:
        assert self.timing is not None  # noqa: S101  # a saving is known
        times = (self.timing.unit(node.op, "fp32") for node in self.lowering.nodes)
        return sum(time.value_ms for time in times if time is not None)

    def points(self, ways: Sequence[Sequence[Precisions]]) -> list[Point]:
        """The float file, files along the ways, and the one all in int8: what they are like."""
        n, labels = len(self.lowering.nodes), self.mixing.labels
        tried = [mixture for way in ways for mixture in _spread(way, POINTS // len(ways))]
        mixtures = list(dict.fromkeys([_all(n, "fp32"), *tried, _all(n, "int8")]))
        files = {self._file(f"point-{i}"): p for i, p in enumerate(mixtures) if i}
        self.write(files)
        files = {self.source: mixtures[0], **files}
        latencies: Mapping[Path, Latency] = {}
        if self.timing is not None:
            latencies = self.timing.points(self.lowering, files)
        answers: dict[Path, BoolArray] = {}
        for path in files:
            answers[path] = _right(open_model(path).run(self.mixing.images), labels)
            self.report(Event(self._stage, len(answers), len(files), "mixtures tried"))
        before = answers[self.source]
        drops = {precisions: _drop(before, answers[path]) for path, precisions in files.items()}
        judged = {p: (drop, _at_most(*interval)) for p, (drop, interval) in drops.items()}
        for way in ways:  # noise grows along it: what comes back of top-1 is luck
            worst = 0.0, 0.0
            for p in (p for p in way if p in drops):
                drop, interval = drops[p]
                worst = max(worst[0], drop), max(worst[1], _at_most(*interval))
                judged[p] = max(judged[p][0], worst[0]), max(judged[p][1], worst[1])
        return [
            Point(
                path,
                p,
                path.stat().st_size,
                float(answers[path].mean()),
                *drops[p],
                *judged[p],
                latencies.get(path),
            )
            for path, p in files.items()
        ]

    def _file(self, name: str) -> Path:
        return self.target.with_name(f"{name}{self.target.suffix}")

    def _saved_ms(self, op: OpSpec, precision: UnitPrecision) -> tuple[float | None, str]:
        """What a unit saves, and the weaker word of what it is told from."""
        if self.timing is None:
            return None, ""
        before, after = self.timing.unit(op, "fp32"), self.timing.unit(op, precision)
        if before is None or after is None:
            return None, ""
        origins = {before.origin, after.origin}
        weaker = "extrapolated" if "extrapolated" in origins else before.origin
        return before.value_ms - after.value_ms, weaker


def _all(n: int, precision: UnitPrecision) -> Precisions:
    return tuple(precision for _ in range(n))


def _one(n: int, index: int, precision: UnitPrecision) -> Precisions:
    """`precision` for one of `n` units, float for the others."""
    return tuple(precision if i == index else "fp32" for i in range(n))


def _filled(precisions: Precisions, lowering: Lowering) -> Precisions:
    """The same, but units without weights have the precision of the one before them."""
    found: list[UnitPrecision] = []
    for node, precision in zip(lowering.nodes, precisions, strict=True):
        found.append(precision if n_weighted(node.op) or not found else found[-1])
    return tuple(found)


def _right(logits: FloatArray, labels: IntArray) -> BoolArray:
    right: BoolArray = logits.argmax(1) == labels
    return right


def _noise(changed: FloatArray, logits: FloatArray) -> float:
    """The mean square of the change over that of the logits; of no logits 1 for any change."""
    power = float(np.mean(np.square(logits.astype(np.float64))))
    change = float(np.mean(np.square(changed.astype(np.float64) - logits)))
    return change / power if power else float(change > 0)


def _drop(before: BoolArray, right: BoolArray) -> tuple[float, tuple[float, float]]:
    """What is lost of top-1 against the answers `before`, and its paired 95 % interval."""
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    return (lost - won) / len(right), paired_interval(lost, won, len(right))


def _at_most(low: float, high: float) -> float:
    """What 90 % lie below, of a two-sided 95 % interval."""
    return (low + high) / 2 + _ONE_SIDED * (high - low) / 2


_LEAST_NOISE = 1e-12
_ONE_SIDED = NormalDist().inv_cdf(0.9) / Z95
"""The bound that 90 % lie below, in half widths of the two-sided 95 % interval."""


def _ways(
    alone: Sequence[Sequence[Alone]],
    gains: Sequence[Mapping[UnitPrecision, float]],
    lowering: Lowering,
) -> list[list[Precisions]]:
    """The way through all precisions and, where tables tell of some only, that through those."""
    every = {a.precision for row in alone for a in row}
    told = {a.precision for row in alone for a in row if a.saved_ms is not None}
    of_told = [{p: gain[p] for p in gain if p in told} for gain in gains]
    chosen = [gains] if told in (set(), every) else [of_told, gains]
    return [[_filled(p, lowering) for p in _to_the_end(_way(alone, gain))] for gain in chosen]


def _to_the_end(way: list[Precisions]) -> list[Precisions]:
    """The way with one step more: what is left in float in int8, as the others are or below."""
    if not way or "fp32" not in way[-1]:
        return way
    whole: Precisions = tuple("int8" if name == "fp32" else name for name in way[-1])
    return [*way, whole]


def _way(
    alone: Sequence[Sequence[Alone]], gains: Sequence[Mapping[UnitPrecision, float]]
) -> list[Precisions]:
    """Mixtures from one lowered unit on, each with one step more: what saves most for its noise."""
    noise = [{a.precision: a.noise for a in row} for row in alone]
    now: list[UnitPrecision] = ["fp32"] * len(alone)
    way: list[Precisions] = []
    while True:
        best: tuple[float, int, UnitPrecision] | None = None
        for i, gain in enumerate(gains):
            for precision in gain:
                more = gain[precision] - gain.get(now[i], 0.0)
                if more <= 0:
                    continue
                added = noise[i][precision] - noise[i].get(now[i], 0.0)
                worth = more / max(added, _LEAST_NOISE)
                if best is None or worth > best[0]:
                    best = worth, i, precision
        if best is None:
            return way
        now[best[1]] = best[2]
        way.append(tuple(now))


_Item = TypeVar("_Item")


def _spread(way: Sequence[_Item], n: int) -> list[_Item]:
    """`n` of these, evenly spread, the first and the last among them; all where there are fewer."""
    if len(way) <= n:
        return list(way)
    return [way[round(i * (len(way) - 1) / (n - 1))] for i in range(n)]


@contextlib.contextmanager
def onnx_writer(
    source: Path,
    lowering: Lowering,
    calibration: FloatArray,
    metadata: Mapping[str, str],
    *,
    activations: onnx.Activations = "u8",
) -> Iterator[Write]:
    """Writes mixtures of the ONNX file `source` while the context lasts."""
    names = onnx.node_names(source)
    owners = units_of([kind for _, kind in names], lowering)
    samples = [(image[None],) for image in calibration]
    with onnx.quantiser(source, samples, activations=activations) as quantise:

        def write(files: Mapping[Path, Precisions]) -> None:
            for path, precisions in files.items():
                pairs = zip(names, owners, strict=True)
                quantise(path, but=[name for (name, _), i in pairs if precisions[i] == "fp32"])
                onnx.add_metadata(path, metadata)

        yield write


def tflite_writer(source: Path, job: TfliteJob, ranges: Path) -> Write:
    """Writes mixtures of the TFLite file `source`, as `job` says what is in them otherwise."""
    kinds = [kind for _, kind in tflite.operator_outputs(source)]
    owners = units_of(kinds, job.lowering)

    def write(files: Mapping[Path, Precisions]) -> None:
        mixed = {path: [precisions[i] for i in owners] for path, precisions in files.items()}
        todo = replace(job, files={"tflite": source}, mixed=mixed, ranges=ranges)
        if failures := run_tflite([todo], stage="convert to tflite-mixed"):
            raise ExportError(f"tflite-mixed: {failures[job.name]}")

    return write
