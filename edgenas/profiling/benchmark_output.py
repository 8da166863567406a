"""What TFLite's `benchmark_model` prints, as numbers.

Its builds differ: the prefix of a line, and whether p5, median and p95 are there (since 2023).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgenas.errors import MeasurementError

_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_SUMMARY = re.compile(
    rf"Inference timings in us: Init: ({_NUMBER}), First inference: ({_NUMBER}), "
    rf"Warmup \(avg\): ({_NUMBER}), Inference \(avg\): ({_NUMBER})\s*$"
)
_STATISTICS = re.compile(
    rf"count=(?P<n>[0-9]+) first={_NUMBER} curr={_NUMBER} min=(?P<min>{_NUMBER}) "
    rf"max=(?P<max>{_NUMBER}) avg=(?P<mean>{_NUMBER}) std=(?P<std>{_NUMBER})"
    rf"(?: p5=(?P<p5>{_NUMBER}) median=(?P<median>{_NUMBER}) p95=(?P<p95>{_NUMBER}))?\s*$"
)
_ALL_SAME = re.compile(rf"count=([0-9]+) curr=({_NUMBER})(?: ?\(all same\))?\s*$")


@dataclass(frozen=True, slots=True)
class BenchmarkOutput:
    """One call of the tool: creation, first inference, and `n` timed ones.

    Older builds print no quantiles: then `middle_ms` is the mean, `low_ms` and `high_ms` are the
    extremes, and `has_median` is false. Else they are the median, p5 and p95.
    """

    init_ms: float
    first_ms: float
    n: int
    min_ms: float
    low_ms: float
    middle_ms: float
    high_ms: float
    spread: float
    has_median: bool


def parse_benchmark(text: str) -> BenchmarkOutput:
    """The timings of the last, measured series of runs.

    Raises:
        MeasurementError: no summary, no statistics, or figures that contradict one another: the
            tool failed, or its output was cut.
    """
    lines = text.splitlines()
    ends = [i for i, line in enumerate(lines) if _SUMMARY.search(line)]
    if len(ends) != 1:
        what = "no timings" if not ends else "timings more than once"
        raise MeasurementError(f"benchmark_model printed {what}; it ended with: {text[-200:]!r}")
    summary = _SUMMARY.search(lines[ends[0]])
    counts = [line for line in lines[: ends[0]] if "count=" in line]
    found = _STATISTICS.search(counts[-1]) if counts else None
    same = _ALL_SAME.search(counts[-1]) if counts else None
    if summary is None or len(counts) < 2 or (found is None and same is None):
        raise MeasurementError(
            f"benchmark_model printed no statistics of two series: {counts[-2:]!r}"
        )
    if found is not None:
        n = int(found["n"])
        low, high = float(found["min"]), float(found["max"])
        least, mean, std = low, float(found["mean"]), float(found["std"])
        has_median = found["median"] is not None
        middle = float(found["median"]) if has_median else mean
        if has_median:
            low, high = float(found["p5"]), float(found["p95"])
    else:
        assert same is not None  # noqa: S101 - one of the two matched
        n, std, has_median = int(same[1]), 0.0, True
        least = low = middle = high = mean = float(same[2])
    rounded = 1 + 1e-4 * mean  # six digits, and a mean of whole microseconds
    if n < 1 or middle <= 0 or not low - rounded <= middle <= high + rounded:
        raise MeasurementError(f"benchmark_model printed figures that cannot be: {counts[-1]!r}")
    if abs(float(summary[4]) - mean) > rounded:
        raise MeasurementError(
            f"benchmark_model's summary is of other runs than its statistics: {counts[-1]!r}"
        )
    return BenchmarkOutput(
        init_ms=float(summary[1]) / 1000,
        first_ms=float(summary[2]) / 1000,
        n=n,
        min_ms=least / 1000,
        low_ms=min(low, middle) / 1000,
        middle_ms=middle / 1000,
        high_ms=max(high, middle) / 1000,
        spread=std / middle,
        has_median=has_median,
    )
