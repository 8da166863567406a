"""Tables whose truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import pytest

from edgenas.latency import (
    Entry,
    LatencyTable,
    Sample,
    TableDevice,
    fit_cost,
    fit_networks,
)
from edgenas.spaces import OpSpec
from edgenas.spaces.mobile import SMALL

DEVICE = TableDevice(
    name="board-litert-fp32-t1",
    title="A board",
    device_class="cpu",
    chip="chip",
    runtime="litert",
    runtime_version="2.3.0",
    precision="fp32",
    threads=1,
)


def true_ms(op: OpSpec) -> float:
    """A machine: every primitive has a call, MACs and bytes; depthwise is three times as slow."""
    total = 0.004
    for node in op.primitives():
        p = node.op
        slow = 3.0 if p.kind == "conv" and p["g"] > 1 else 1.0
        total += 0.002 + slow * p.macs * 2e-8
        total += (math.prod(p.in_chw) + math.prod(p.out_chw)) * 4e-8
    return total


def entry(ms: float) -> Entry:
    return Entry(ms, ms * 0.99, ms * 1.01, ms * 1.2, 100)


def make_table(
    times: Mapping[OpSpec, float] | None = None,
    *,
    scale: float = 0.8,
    per_part_ms: float = -0.003,
    cost: bool = False,
) -> LatencyTable:
    """A table of SMALL's units, with a fit on 12 networks that follow the truth exactly."""
    times = times or {op: true_ms(op) for op in SMALL.units()}
    rng = random.Random(1)
    samples = []
    for _ in range(12):
        net = SMALL.lower(SMALL.sample(rng))
        total = sum(true_ms(op) for op in net)
        samples.append(Sample(total, len(net), scale * total + per_part_ms * len(net)))
    return LatencyTable(
        device=DEVICE,
        source="measured",
        created="2026-01-02",
        entries={op: entry(ms) for op, ms in times.items()},
        fits=(fit_networks(samples),),
        cost_model=fit_cost(times) if cost else None,
        conditions={"grade": "good", "rounds": 7},
        excluded={"conv cin=1": "it failed"},
    )


@pytest.fixture(scope="session")
def table() -> LatencyTable:
    return make_table()


@pytest.fixture(scope="session")
def costed() -> LatencyTable:
    return make_table(cost=True)


@pytest.fixture(scope="session")
def truth() -> Callable[[OpSpec], float]:
    return true_ms


@pytest.fixture(scope="session")
def tables() -> Callable[..., LatencyTable]:
    return make_table
