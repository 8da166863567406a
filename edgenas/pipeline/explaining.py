"""Why a front is as it is: `explanation.json`, which the report reads.

What each choice matters for each objective, what a single change would cost or save in the networks
that are exported, and what the bounds keep out.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed
from edgenas.objectives import Objective
from edgenas.pareto import Candidate, Metric
from edgenas.pipeline.metrics import COSTLY
from edgenas.spaces import Architecture

if TYPE_CHECKING:
    from edgenas.pipeline.metrics import CheapMetrics
    from edgenas.search import FinishedTrial
    from edgenas.search.changes import Change, Estimates

EXPLANATION = "explanation.json"
EXPLANATION_SCHEMA = "edgenas.explanation/1"
DRAWN = 400
"""Random networks that say how much of the space a bound keeps out: to 5 points at worst."""


def explanation(
    cheap: CheapMetrics,
    objectives: Sequence[Objective],
    trials: Sequence[FinishedTrial],
    candidates: Sequence[Candidate],
    chosen: Iterable[Candidate],
    *,
    seed: int,
) -> dict[str, Any]:
    """The contents of `explanation.json` (schema `edgenas.explanation/1`).

    Args:
        cheap: the metrics that are exact for any network of the space.
        objectives: of the search.
        trials: what it tried, also what a cheap bound kept from being evaluated.
        candidates: what is evaluated, here or in an earlier search.
        chosen: the networks whose single changes are told.
        seed: of the random networks.
    """
    from edgenas.search.changes import Estimates
    from edgenas.search.importance import importances

    space = cheap.space
    tried = {t.architecture: t.metrics for t in trials if t.metrics}
    known = {c.architecture: c for c in candidates}
    values = {**tried, **{arch: c.values for arch, c in known.items()}}
    estimates = {}
    for metric in (o.name for o in objectives if o.metric in COSTLY):
        told = {arch: v[metric] for arch, v in values.items() if metric in v}
        estimates[metric] = Estimates.of(space, objectives, cheap, metric, told)
    return {
        "schema": EXPLANATION_SCHEMA,
        "importances": [asdict(found) for found in importances(space, objectives, values)],
        "estimates": [
            {"metric": metric, "n": e.n, "error": e.error, "problem": e.problem}
            for metric, e in estimates.items()
        ],
        "bounds": _bounds(cheap, objectives, list(tried.values()), seed),
        "changes": {
            c.architecture.digest: _changes(cheap, objectives, c, known, estimates) for c in chosen
        },
    }


def _changes(
    cheap: CheapMetrics,
    objectives: Sequence[Objective],
    candidate: Candidate,
    known: Mapping[Architecture, Candidate],
    estimates: Mapping[str, Estimates],
) -> list[dict[str, Any]]:
    """Each single change of a network: its gene, and by metric what it adds."""
    from edgenas.search.changes import single_changes

    arch = candidate.architecture
    changes = list(single_changes(cheap.space, arch))
    guesses = {
        metric: estimate.differences(arch, [c.architecture for c in changes])
        for metric, estimate in estimates.items()
    }
    own, rows = cheap.explain(arch), []
    for i, change in enumerate(changes):
        metrics = dict(cheap.explain(change.architecture))
        told = {n: Metric(m.value - own[n].value, m.origin, n=m.n) for n, m in metrics.items()}
        if change.architecture in known:
            metrics |= known[change.architecture].metrics
            told |= {
                name: Metric(metric.value - candidate.values[name], metric.origin, n=metric.n)
                for name, metric in metrics.items()
                if name in candidate.values and metric.origin == candidate.metrics[name].origin
            }
        told |= {n: found[i] for n, found in guesses.items() if found and n not in told}
        rows.append(_row(change, told, objectives, metrics))
    return rows


def _row(
    change: Change,
    differences: Mapping[str, Metric],
    objectives: Sequence[Objective],
    metrics: Mapping[str, Metric],
) -> dict[str, Any]:
    wanted = {o.name for o in objectives}
    values = {name: metric.value for name, metric in metrics.items()}
    return {
        "gene": change.gene,
        "value": str(change.value),
        "new": str(change.new),
        "digest": change.architecture.digest,
        "differences": {
            name: metric.to_table()
            for name, metric in differences.items()
            if name in wanted or name.startswith("latency_ms")
        },
        "outside": [o.name for o in objectives if o.name in values and not o.feasible(values)],
    }


def _bounds(
    cheap: CheapMetrics,
    objectives: Sequence[Objective],
    tried: Sequence[Mapping[str, float]],
    seed: int,
) -> list[dict[str, Any]]:
    """For each bound, how many trials and how many random networks it keeps out.

    `only`: those that no other bound keeps out. Nothing is drawn for a bound on a costly metric.
    """
    bounds = [o for o in objectives if o.bound is not None]
    rng = random.Random(derive_seed(seed, "bounds"))
    free = [o for o in bounds if o.metric not in COSTLY]
    drawn = [cheap(cheap.space.sample(rng)) for _ in range(DRAWN if free else 0)]
    rows = []
    for bound in bounds:
        row: dict[str, Any] = {"objective": str(bound)}
        for name, networks in (("trials", tried), ("drawn", drawn if bound in free else [])):
            outside = [
                {o.name for o in bounds if o.name in metrics and not o.feasible(metrics)}
                for metrics in networks
            ]
            row[name] = len(networks)
            row[f"{name}_outside"] = sum(bound.name in found for found in outside)
            row[f"{name}_only"] = sum(found == {bound.name} for found in outside)
        rows.append(row)
    return rows
