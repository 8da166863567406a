"""What each way to faster networks brought, from the comparison's document alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.comparison.matching import WANTED_SPEED, Timed, speeds
from tools.comparison.printing import Table, short, times

Networks = Sequence[Mapping[str, Any]]


def ways(document: Mapping[str, Any]) -> Table:
    """Ours as all are inherited, as those of each supernet are trained further, and as all are.

    What inherited weights reach is known in float, and taken for all formats. A speed of 0: none is
    as accurate.
    """
    heads = ["ours"]
    for device in document["comparison"]:
        heads += [f"{short(device)}: {WANTED_SPEED:g} times as fast", "median", "least"]
    rows = []
    for way, own in _entrants(document):
        told = [_speeds(document, device, own) for device in document["comparison"]]
        rows.append([way, *(cell for cells in told for cell in cells)])
    return heads, rows


def _entrants(document: Mapping[str, Any]) -> Iterator[tuple[str, Networks]]:
    """Each way, and our networks with the accuracies that it gives them."""
    inherited = {name: one["inherited"] for name, one in document["final_training"].items()}
    ours = [net for net in document["networks"] if net["name"] in inherited]
    yield "all, inherited", [_as_accurate(net, inherited[net["name"]]) for net in ours]
    for name in document["supernets"]:
        part = [net for net in ours if net["name"].rpartition("-")[0] == name]
        yield f"{name}, trained further", part
    yield "all, trained further", ours


def _as_accurate(network: Mapping[str, Any], top1: Mapping[str, float]) -> Mapping[str, Any]:
    told = {f"top1_{split}": value for split, value in top1.items()}
    runtimes = {device: {**found, **told} for device, found in network["runtimes"].items()}
    return {**network, "runtimes": runtimes}


def _speeds(document: Mapping[str, Any], device: str, own: Networks) -> list[str]:
    theirs = [net for net in document["networks"] if net["name"] in document["trainings"]]
    found = speeds(
        _timed(theirs, device), _timed(own, device), empty_ms=document["empty_ms"][device]
    )
    fast = f"{found['n_fast_enough']} of {found['n_compared']}"
    if found["speed_median"] is None:
        return [fast, "not known", "not known"]
    return [fast, times(found["speed_median"]), times(found["speed_least"])]


def _timed(networks: Networks, device: str) -> list[Timed]:
    told = [(net["name"], net["runtimes"][device]) for net in networks]
    return [
        Timed(
            name,
            found["top1_search"],
            found["top1_test"],
            tuple(one["latency_ms"] for one in found["sessions"]),
        )
        for name, found in told
    ]
