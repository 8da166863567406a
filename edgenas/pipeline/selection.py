"""Which networks of a front are exported."""

from __future__ import annotations

import math

from edgenas.objectives import directed
from edgenas.pareto import Candidate, ParetoFront
from edgenas.pipeline.metrics import COSTLY


def choose(front: ParetoFront, top: int) -> tuple[tuple[str, Candidate], ...]:
    """Up to `top` candidates, each with why: most accurate, knee, fastest, then spread.

    The knee is the one closest to the ideal point, after each axis was scaled to [0, 1] over the
    front; spread picks, one by one, the candidate farthest from all picked so far.
    """
    if not front.candidates:
        return ()
    axes = directed(front.objectives)
    losses = [[axis.loss(c.values) for axis in axes] for c in front.candidates]
    lows = [min(column) for column in zip(*losses, strict=True)]
    spans = [max(column) - low for column, low in zip(zip(*losses, strict=True), lows, strict=True)]
    scaled = [
        [(x - low) / span if span else 0.0 for x, low, span in zip(row, lows, spans, strict=True)]
        for row in losses
    ]
    everyone = range(len(scaled))

    def best(axis: int) -> int:
        return min(everyone, key=lambda i: (scaled[i][axis], math.hypot(*scaled[i]), i))

    metrics = [axis.metric for axis in axes]
    first = next((metrics.index(name) for name in COSTLY if name in metrics), 0)
    cost = metrics.index("latency_ms") if "latency_ms" in metrics else (len(axes) > 1) + 0
    wanted = [
        (f"best {axes[first].name}", best(first)),
        ("knee", min(everyone, key=lambda i: (math.hypot(*scaled[i]), i))),
        (f"best {axes[cost].name}", best(cost)),
    ]
    chosen: dict[int, str] = {}
    for why, i in wanted:
        chosen.setdefault(i, why)
    while len(chosen) < min(top, len(scaled)):
        rest = [i for i in everyone if i not in chosen]
        far = max(rest, key=lambda i: (min(math.dist(scaled[i], scaled[j]) for j in chosen), -i))
        chosen[far] = "spread"
    return tuple((why, front.candidates[i]) for i, why in list(chosen.items())[:top])
