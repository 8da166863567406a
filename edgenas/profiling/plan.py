"""What to measure: which units a table lacks, and which whole networks tell most."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence

from edgenas.artifacts import derive_seed
from edgenas.errors import SpecError
from edgenas.latency import LatencyTable
from edgenas.spaces import Architecture, OpSpec, SearchSpace


def missing_units(units: Iterable[OpSpec], table: LatencyTable | None) -> list[OpSpec]:
    """The units, in their order, that `table` holds neither whole nor as all their primitives."""
    if table is None:
        return list(units)
    return [op for op in units if not table.holds(op)]


def primitives(units: Iterable[OpSpec]) -> list[OpSpec]:
    """The distinct primitives of `units`, in the order in which they first come up."""
    return list(dict.fromkeys(node.op for op in units for node in op.primitives()))


def spread_architectures(
    space: SearchSpace, n: int, *, seed: int, exclude: Collection[Architecture] = ()
) -> list[Architecture]:
    """`n` architectures spread over MACs and depth, from the cheapest to the dearest.

    Out of random ones and the two extremes, the next is always the one furthest, in log MACs and
    number of units, from those already chosen. The same seed gives the same list.

    Raises:
        SpecError: the space has fewer than `n` left.
    """
    taken = set(exclude)
    rng = random.Random(derive_seed(seed, "spread", space.digest))
    pool = [space.smallest(), space.largest()]
    pool += [space.sample(rng) for _ in range(max(160, 10 * n))]
    candidates = [arch for arch in dict.fromkeys(pool) if arch not in taken]
    if len(candidates) < n:
        raise SpecError(
            f"space {space.name}: {n} architectures are wanted, {len(candidates)} found"
        )
    places = []
    for arch in candidates:
        net = space.lower(arch)
        places.append((math.log(net.macs), float(len(net))))
    unit = [max(axis) - min(axis) or 1.0 for axis in zip(*places, strict=True)]
    spots = [tuple(x / u for x, u in zip(p, unit, strict=True)) for p in places]
    chosen = [0]
    away = [math.dist(spot, spots[0]) for spot in spots]
    while len(chosen) < n:
        best = max(range(len(spots)), key=lambda i: (away[i], -i) if i not in chosen else (-1.0, 0))
        chosen.append(best)
        away = [min(d, math.dist(spot, spots[best])) for d, spot in zip(away, spots, strict=True)]
    return sorted((candidates[i] for i in chosen), key=lambda arch: space.lower(arch).macs)


def calibration_networks(
    space: SearchSpace, n: int, *, seed: int, exclude: Collection[Architecture] = ()
) -> list[Architecture]:
    """The networks to time whole for a fit or a calibration: see `spread_architectures`."""
    return spread_architectures(space, n, seed=seed, exclude=exclude)


def anchor_units(table: LatencyTable, n: int) -> list[OpSpec]:
    """`n` units of the table at even steps of its latencies: they show how the machine drifts."""
    ops: Sequence[OpSpec] = sorted(
        table.entries, key=lambda op: (table.entries[op].latency_ms, op.key)
    )
    if len(ops) <= n:
        return list(ops)
    return [ops[(2 * i + 1) * len(ops) // (2 * n)] for i in range(n)]
