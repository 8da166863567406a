"""Which mixture of precisions is chosen, and in words why a unit stays in float."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.errors import ExportError
from edgenas.export.certificate import Latency
from edgenas.export.units import Alone, Precisions, UnitPrecision
from edgenas.targets import ram_bytes_of_file


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run bounds of its files on the device that runs the mixture."""

    size_bytes: float = math.inf
    latency_ms: float = math.inf
    peak_memory_bytes: float = math.inf

    def told(self) -> str:
        """The bounds in words; empty without any."""
        bounds = []
        if self.size_bytes < math.inf:
            bounds.append(f"{self.size_bytes:,.0f} bytes")
        if self.peak_memory_bytes < math.inf:
            bounds.append(f"{self.peak_memory_bytes:,.0f} bytes of memory")
        if self.latency_ms < math.inf:
            bounds.append(f"{self.latency_ms:g} ms")
        return " and ".join(bounds)


@dataclass(frozen=True)
class Point:
    """A mixture that was tried."""

    path: Path
    precisions: Precisions
    size_bytes: int
    top1: float
    drop: float
    """Of top-1, against the float file."""
    interval: tuple[float, float]
    """Of the drop: 95 %, paired."""
    judged_drop: float
    """The drop, or a greater one before it on the way."""
    may_lose: float
    """What it loses at most, at 90 %, or a greater such bound before it on the way."""
    latency: Latency | None


@dataclass(frozen=True)
class Judge:
    """Chooses among mixtures; the first point is the float file."""

    points: Sequence[Point]
    max_drop: float
    limits: Limits

    def best(self, name: str, left_out: str) -> Point:
        """Of the mixtures that may be chosen, the one that saves most.

        Those whose latency is known go first: the others may be slower than the float file.

        Raises:
            ExportError: there is none; with what the units are that were `left_out`.
        """
        mixtures = self.points[1:]
        saving = [p for p in mixtures if self._saves(p)]
        bounded = [p for p in saving if self._within(p)]
        if surely := [p for p in bounded if p.may_lose <= self.max_drop]:
            return max(surely, key=self._saved)
        if borne := [p for p in bounded if p.judged_drop <= self.max_drop]:
            return min(borne, key=lambda p: (p.may_lose, *(-x for x in self._saved(p))))
        if not saving:
            why = f"none of {len(mixtures)} mixtures is smaller than the float file and as fast"
            hint = "leave the format out: the runtime gains nothing by it"
        elif not bounded:
            why = f"none of {len(saving)} mixtures that save something holds {self.limits.told()}"
            hint = "raise the bound in [search] objectives, or leave the format out"
        else:
            why = (
                f"none of {len(bounded)} mixtures that save something loses at most "
                f"{self.max_drop:g} of top-1 on the search split; the least is "
                f"{min(p.judged_drop for p in bounded):.4f}"
            )
            hint = "raise [export] max_mixed_drop, or leave the format out"
        raise ExportError(f"{name}: {why}{left_out}", hint=hint)

    def why_float(self, unit: int, best: Point) -> str:
        """Why a unit that a lower precision would gain something stays in float in the best."""
        if best.precisions[unit] != "fp32":
            return ""
        others = [p for p in self.points if p.precisions[unit] != "fp32"]
        able = [p for p in others if self._saves(p)]
        if not able:
            return "mixtures that lower it are slower or larger than the float file"
        able = [p for p in able if self._within(p)]
        if not able:
            return f"no mixture that lowers it holds {self.limits.told()}"
        if (least := min(p.may_lose for p in able)) > self.max_drop:
            return f"mixtures that lower it may lose {least:.4f} of top-1, or more"
        return "mixtures that lower it save less than the chosen one"

    def _saved(self, point: Point) -> tuple[bool, float]:
        """Whether both are timed; the share of the float file's bytes, and then of its latency."""
        whole, share = self.points[0], 1 - point.size_bytes / self.points[0].size_bytes
        if whole.latency is None or point.latency is None:
            return False, share
        return True, share + 1 - point.latency.value_ms / whole.latency.value_ms

    def _saves(self, point: Point) -> bool:
        """Whether it is no larger and, as far as that is known, no slower than the float file."""
        whole = self.points[0]
        slower = whole.latency and point.latency and point.latency.value_ms > whole.latency.value_ms
        return not slower and point.size_bytes <= whole.size_bytes and self._saved(point)[1] > 0

    def _within(self, point: Point) -> bool:
        limits = self.limits
        if point.size_bytes > limits.size_bytes:
            return False
        if point.latency is not None and point.latency.value_ms > limits.latency_ms:
            return False
        limit = limits.peak_memory_bytes
        return limit == math.inf or ram_bytes_of_file(point.path) <= limit


def why_left_out(
    alone: Sequence[Alone], gains: Mapping[UnitPrecision, float], chosen: UnitPrecision
) -> str:
    """Why a unit does not go on the way; empty where a lower precision saves something."""
    if not alone:
        return "it has no weights: it is computed as the unit before it"
    if any(gain > 0 for gain in gains.values()):
        return ""
    slower = any(a.saved_ms is not None and a.saved_ms < 0 for a in alone)
    why = f"alone in fewer bits it would be {'slower' if slower else 'no smaller'}"
    return why if chosen == "fp32" else f"{why}; it follows the units around it"


def left_out(
    names: Sequence[str],
    alone: Sequence[Sequence[Alone]],
    gains: Sequence[Mapping[UnitPrecision, float]],
) -> str:
    """The units that go on no way, for a message; empty where there are none."""
    rows = zip(names, alone, gains, strict=True)
    found = [name for name, row, gain in rows if row and not any(g > 0 for g in gain.values())]
    return f"; slower or no smaller alone: {', '.join(found)}" if found else ""
