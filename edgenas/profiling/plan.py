"""What to measure: which units a table lacks, and which whole networks tell most."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence

from edgenas.artifacts import derive_seed
from edgenas.errors import SpecError, UsageError
from edgenas.latency import LatencyTable
from edgenas.latency.fit import MIN_NETWORKS
from edgenas.spaces import Architecture, Lowering, OpSpec, SearchSpace, chain

_SAMPLES = 400
"""Random architectures that show how often each unit comes up."""


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


def plain_stacks(space: SearchSpace, n: int, *, seed: int) -> list[Lowering]:
    """`n` networks of the space's units that are none of the space: plain stacks, also deep ones.

    Where an architecture of the space has a run of blocks that keep their shape, one of them is
    repeated 1 to 8 times, as in MobileNetV2: a second family, to judge a fit by.
    """
    rng = random.Random(derive_seed(seed, "stacks", space.digest))
    found: list[Lowering] = []
    while len(found) < n:
        net = space.lower(space.sample(rng))
        ops: list[OpSpec] = []
        for keeps, run in itertools.groupby(net, key=lambda op: op.is_block and _keeps_shape(op)):
            blocks = list(run)
            ops += [rng.choice(blocks)] * rng.randint(1, 8) if keeps else blocks
        stack = chain(net.in_chw, [(str(i), op) for i, op in enumerate(ops)])
        if stack not in found:
            found.append(stack)
    return found


def _keeps_shape(op: OpSpec) -> bool:
    return op.in_chw == op.out_chw


def calibration_networks(
    space: SearchSpace, n: int, *, seed: int, exclude: Collection[Architecture] = ()
) -> list[Architecture]:
    """The networks to time whole for a fit or a calibration: see `spread_architectures`."""
    return spread_architectures(space, n, seed=seed, exclude=exclude)


def affordable(
    space: SearchSpace,
    units: Sequence[OpSpec],
    networks: Mapping[str, Lowering],
    n: int,
    *,
    seed: int = 0,
) -> tuple[list[OpSpec], dict[str, Lowering]]:
    """What to time where only `n` models can be: some of `units`, and some of `networks`.

    First at least 8 networks with all their parts that are among `units`, for the fit: those that
    need the fewest further parts. Then the units that take the largest share of the work of random
    architectures. What is left to the cost model matters least.

    Raises:
        UsageError: `n` is too small for 8 networks.
    """
    if len(units) + len(networks) <= n:
        return list(units), dict(networks)
    wanted = set(units)
    parts = {name: wanted & set(net) for name, net in networks.items()}
    chosen: set[OpSpec] = set()
    picked: list[str] = []
    while len(picked) < len(networks):
        left = [name for name in networks if name not in picked]
        name = min(left, key=lambda name: (len(parts[name] - chosen), name))
        needed = len(chosen | parts[name]) + len(picked) + 1
        if len(picked) >= MIN_NETWORKS and needed > n:
            break
        chosen |= parts[name]
        picked.append(name)
    if len(chosen) + len(picked) > n:
        raise UsageError(
            f"{n} models can be timed, but a fit needs {len(picked)} whole networks with all their "
            f"parts, {len(chosen) + len(picked)} models",
            hint="allow more --minutes, or adapt known tables with --models 10",
        )
    rng = random.Random(derive_seed(seed, "share", space.digest))
    work: dict[OpSpec, float] = {}
    for _ in range(_SAMPLES):
        for op in space.lower(space.sample(rng)):
            work[op] = work.get(op, 0.0) + op.macs + math.prod(op.in_chw) + math.prod(op.out_chw)
    ordered = sorted(wanted - chosen, key=lambda op: (-work.get(op, 0.0), op.key))
    chosen |= set(ordered[: n - len(chosen) - len(picked)])
    return [op for op in units if op in chosen], {name: networks[name] for name in sorted(picked)}


def anchor_units(table: LatencyTable, n: int) -> list[OpSpec]:
    """`n` units of the table at even steps of its latencies: they show how the machine drifts."""
    ops: Sequence[OpSpec] = sorted(
        table.entries, key=lambda op: (table.entries[op].latency_ms, op.key)
    )
    if len(ops) <= n:
        return list(ops)
    return [ops[(2 * i + 1) * len(ops) // (2 * n)] for i in range(n)]
