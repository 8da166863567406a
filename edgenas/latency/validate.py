"""Predicted against measured latency of whole networks, on a machine that drifts.

Units of the table are timed again in the same run, interleaved with the networks. The median of
(now / in the table) over these anchors says how much slower the machine is than it was when the
table was made; predictions are multiplied by it before they are compared. No network decides it.
Each network is timed twice: how far the two lie apart is the noise floor, below which no predictor
can be told from a perfect one.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from edgenas.errors import SpecError
from edgenas.latency.baselines import Baselines, baselines, spearman

REPEAT = 0.05
"""A network whose two timings differ by more than this is measured again."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One network: predicted (drift taken into account), measured twice, relative error."""

    name: str
    predicted_ms: float
    measured_ms: float
    again_ms: float
    error: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Validation:
    """How far predictions are off; shares in [0, 1], errors relative to the measured latency."""

    networks: tuple[Checked, ...]
    drift: float
    n_anchors: int
    error_median: float
    error_mean: float
    error_max: float
    within_5: float
    within_10: float
    noise_median: float
    noise_max: float
    unsteady: int
    """Networks whose last repeat still differed by more than 5 %; they count."""
    spearman: float
    against: str = "anchors timed in the same run"
    """What stood beside the predictions."""
    baselines: Baselines | None = None
    """What MACs x constant and the nearest known device x constant reach on these networks."""

    def to_json(self) -> dict[str, object]:
        """As the `validation` of a table's file."""
        return {
            "kind": f"whole networks unseen by the fit, {self.against}",
            "n": len(self.networks),
            "drift": round(self.drift, 4),
            "n_anchors": self.n_anchors,
            "error_median": round(self.error_median, 5),
            "error_mean": round(self.error_mean, 5),
            "error_max": round(self.error_max, 5),
            "within_5": round(self.within_5, 4),
            "within_10": round(self.within_10, 4),
            "noise_median": round(self.noise_median, 5),
            "noise_max": round(self.noise_max, 5),
            "unsteady": self.unsteady,
            "spearman": round(self.spearman, 4),
            **({} if self.baselines is None else {"baselines": self.baselines.to_json()}),
            "networks": [
                {
                    "name": x.name,
                    "predicted_ms": float(f"{x.predicted_ms:.6g}"),
                    "measured_ms": float(f"{x.measured_ms:.6g}"),
                    "again_ms": float(f"{x.again_ms:.6g}"),
                    "error": round(x.error, 5),
                    "attempts": x.attempts,
                }
                for x in self.networks
            ],
        }


def drift_factor(now_ms: Mapping[str, float], table_ms: Mapping[str, float]) -> float:
    """How much slower the machine is than when the table was made: the anchors' median ratio.

    Raises:
        SpecError: no anchor stands in both.
    """
    ratios = [now_ms[key] / table_ms[key] for key in now_ms if key in table_ms]
    if not ratios:
        raise SpecError("no anchor unit was timed again: drift cannot be told from error")
    return statistics.median(ratios)


def repeat_error(first_ms: float, second_ms: float) -> float:
    """How far two timings of one network differ, relative to the smaller."""
    return abs(first_ms - second_ms) / min(first_ms, second_ms)


def compare(
    predicted_ms: Mapping[str, float],
    measured_ms: Mapping[str, tuple[float, float]],
    *,
    anchors_now_ms: Mapping[str, float],
    anchors_table_ms: Mapping[str, float],
    attempts: Mapping[str, int] | None = None,
    macs: Mapping[str, int] | None = None,
    known_ms: Mapping[str, Mapping[str, float]] | None = None,
) -> Validation:
    """The validation of predictions by networks that were each timed twice.

    A network's latency is the smaller of its two timings: each is itself a minimum over rounds.
    With `macs` of each network, and `known_ms`, by device, of each, the baselines stand beside.

    Raises:
        SpecError: a network was predicted but not measured, or the other way round.
    """
    if not predicted_ms or set(predicted_ms) != set(measured_ms):
        odd = sorted(set(predicted_ms) ^ set(measured_ms))
        raise SpecError(f"predicted and measured networks must be the same; odd: {odd[:5]}")
    drift = drift_factor(anchors_now_ms, anchors_table_ms)
    rows = []
    for name in sorted(predicted_ms):
        first, second = measured_ms[name]
        best, predicted = min(first, second), predicted_ms[name] * drift
        tries = (attempts or {}).get(name, 1)
        rows.append(Checked(name, predicted, first, second, predicted / best - 1, tries))
    errors = [abs(row.error) for row in rows]
    beside = None
    if macs is not None:
        import numpy as np

        names = [row.name for row in rows]
        beside = baselines(
            np.array([float(macs[name]) for name in names]),
            np.array([min(measured_ms[name]) for name in names]),
            {d: np.array([ms[name] for name in names]) for d, ms in (known_ms or {}).items()},
        )
    noise = [repeat_error(row.measured_ms, row.again_ms) for row in rows]
    return Validation(
        networks=tuple(rows),
        drift=drift,
        n_anchors=len(set(anchors_now_ms) & set(anchors_table_ms)),
        error_median=statistics.median(errors),
        error_mean=statistics.fmean(errors),
        error_max=max(errors),
        within_5=sum(e <= 0.05 for e in errors) / len(errors),
        within_10=sum(e <= 0.10 for e in errors) / len(errors),
        noise_median=statistics.median(noise),
        noise_max=max(noise),
        unsteady=sum(n > REPEAT for n in noise),
        spearman=spearman([r.predicted_ms for r in rows], [r.measured_ms for r in rows]),
        baselines=beside,
    )
