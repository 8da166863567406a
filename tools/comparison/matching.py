"""Which of our networks stands against which baseline, and what it gains: plain arithmetic.

Networks are matched on the search split; accuracies and gains are told of the test split. Speed is
compared within a session, never across: all networks of a runtime are timed interleaved in each.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

OVERHEAD = 5.0
"""Speed is compared between networks that take at least so many times as long as an empty model."""
WANTED_SPEED = 1.5
"""Times as fast, at a baseline's accuracy, that edgenas aims at."""

Gain = Callable[[str, str], Mapping[str, float]]
"""Top-1 of the first network less that of the second on the test split, with an interval."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One network's file in one runtime: accuracy of that file there, and latency by session."""

    name: str
    top1_search: float
    top1_test: float
    sessions_ms: tuple[float, ...]

    @property
    def latency_ms(self) -> float:
        """The median of the sessions."""
        return statistics.median(self.sessions_ms)


def compared(
    baselines: Sequence[Timed],
    own: Sequence[Timed],
    *,
    empty_ms: float,
    gain: Gain,
    others: Sequence[Timed] = (),
) -> dict[str, Any]:
    """Each baseline against our networks in one runtime, and what all of them come to.

    `others` are rows alike, after the baselines, and count in nothing that is summed up.

    `at_accuracy`: the fastest of ours that is at least as accurate and not too short to tell, how
    many times as fast it is (None where all such, or the baseline, are too short), the most that
    could be told there (`tellable`: a faster one would be too short), and its gain;
    `at_test_accuracy`: likewise, had they been matched on the test split, so that one sees what the
    choice of the split decides; `at_latency`: the most accurate of ours that is at least as fast,
    and its gain. Each is None where there is no such network.
    """
    matched = functools.partial(_at_accuracy, empty_ms=empty_ms, gain=gain)
    rows = [
        {
            "baseline": baseline.name,
            "at_accuracy": matched(baseline, own),
            "at_test_accuracy": matched(_by_test(baseline), [_by_test(net) for net in own]),
            "at_latency": _at_latency(baseline, own, gain=gain),
        }
        for baseline in (*baselines, *others)
    ]
    return {"rows": rows, **_summary(rows[: len(baselines)])}


def speeds(baselines: Sequence[Timed], own: Sequence[Timed], *, empty_ms: float) -> dict[str, Any]:
    """How many times as fast ours are at the baselines' accuracies, as `compared` sums it up."""
    return _speeds([_match(baseline, own, empty_ms=empty_ms) for baseline in baselines])


def in_all(
    baselines: Mapping[str, Sequence[Timed]],
    own: Mapping[str, Sequence[Timed]],
    *,
    empty_ms: Mapping[str, float],
) -> list[dict[str, Any]]:
    """For each baseline the one network of ours that is at least as accurate in every runtime.

    Of several such networks it is the one whose least speed over the runtimes is the greatest; None
    where it, or the baseline, is too short to tell in one of them. Baselines that a runtime lacks
    are left out.
    """
    least_ms = [OVERHEAD * empty_ms[name] for name in baselines]

    def long(found: Sequence[Timed]) -> bool:
        return all(net.latency_ms >= ms for net, ms in zip(found, least_ms, strict=True))

    rows = []
    for theirs in _across(baselines):
        least = {
            mine[0].name: min(_speed(a, b)["median"] for a, b in zip(theirs, mine, strict=True))
            for mine in _across(own)
            if long(theirs) and long(mine)
            if all(b.top1_search >= a.top1_search for a, b in zip(theirs, mine, strict=True))
        }
        best = max(least, key=lambda name: least[name]) if least else None
        rows.append(
            {
                "baseline": theirs[0].name,
                "network": best,
                "least_speed": None if best is None else least[best],
            }
        )
    return rows


def _across(networks: Mapping[str, Sequence[Timed]]) -> list[list[Timed]]:
    """Each network that every runtime has, in the runtimes' order."""
    by_name = [{net.name: net for net in found} for found in networks.values()]
    names = [name for name in by_name[0] if all(name in found for found in by_name)]
    return [[found[name] for found in by_name] for name in names]


def _at_accuracy(
    baseline: Timed, own: Sequence[Timed], *, empty_ms: float, gain: Gain
) -> dict[str, Any] | None:
    if (found := _match(baseline, own, empty_ms=empty_ms)) is None:
        return None
    return {**found, "gain": dict(gain(found["network"], baseline.name))}


def _match(baseline: Timed, own: Sequence[Timed], *, empty_ms: float) -> dict[str, Any] | None:
    enough = [net for net in own if net.top1_search >= baseline.top1_search]
    if not enough:
        return None
    least_ms = OVERHEAD * empty_ms
    long = [net for net in enough if net.latency_ms >= least_ms]
    best = min(long or enough, key=lambda net: net.latency_ms)
    told = bool(long) and baseline.latency_ms >= least_ms
    return {
        "network": best.name,
        "speed": _speed(baseline, best) if told else None,
        "tellable": baseline.latency_ms / least_ms,
    }


def _by_test(net: Timed) -> Timed:
    return replace(net, top1_search=net.top1_test)


def _at_latency(baseline: Timed, own: Sequence[Timed], *, gain: Gain) -> dict[str, Any] | None:
    enough = [net for net in own if _speed(baseline, net)["median"] >= 1]
    if not enough:
        return None
    best = max(enough, key=lambda net: net.top1_search)
    return {
        "network": best.name,
        "no_less_accurate": best.top1_search >= baseline.top1_search,
        "gain": dict(gain(best.name, baseline.name)),
    }


def _speed(baseline: Timed, net: Timed) -> dict[str, float]:
    """How many times as fast `net` is as `baseline`, over the sessions."""
    pairs = zip(baseline.sessions_ms, net.sessions_ms, strict=True)
    ratios = [theirs / ours for theirs, ours in pairs]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over all baselines."""
    told = [row["at_accuracy"] for row in rows]
    fast = [one for row in rows if (one := row["at_latency"])]
    return {
        "n": len(rows),
        **_speeds(told),
        "at_test_accuracy": _speeds([row["at_test_accuracy"] for row in rows]),
        "n_no_less_accurate": {
            "search": sum(one["no_less_accurate"] for one in fast),
            "test": sum(one["gain"]["top1"] >= 0 for one in fast),
        },
        "n_matched_on_test": sum(one is not None and one["gain"]["top1"] >= 0 for one in told),
    }


def _speeds(told: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """One that no network of ours is as accurate as counts as a speed of 0."""
    speeds = [
        0.0 if one is None else one["speed"]["median"]
        for one in told
        if one is None or one["speed"] is not None
    ]
    return {
        "n_compared": len(speeds),
        "n_unmatched": sum(one is None for one in told),
        "n_fast_enough": sum(s >= WANTED_SPEED for s in speeds),
        "speed_median": statistics.median(speeds) if speeds else None,
        "speed_least": min(speeds) if speeds else None,
    }
