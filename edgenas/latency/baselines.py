"""What a table must beat to be called calibrated: MACs x constant, the nearest device x constant.

Both constants, and which known device is the nearest, come from networks other than those that are
predicted, as the table's own errors do.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Values = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Baselines:
    """|predicted / measured - 1| of each network, in their order.

    `nearest` names the device chosen most often; None where no other has the networks.
    """

    macs_errors: tuple[float, ...]
    nearest_errors: tuple[float, ...] | None
    nearest: str | None

    def beaten_by(self, errors: Sequence[float]) -> bool:
        """Whether a method with these errors is better than one of them, by the median."""
        others = [self.macs_errors] + ([self.nearest_errors] if self.nearest_errors else [])
        own = statistics.median(errors)
        return any(own < statistics.median(other) for other in others)

    def to_json(self) -> dict[str, Any]:
        """As the `baselines` of a table's validation."""
        nearest = None
        if self.nearest_errors is not None:
            nearest = {"device": self.nearest, **summary(self.nearest_errors)}
        return {"macs_constant": summary(self.macs_errors), "nearest_device": nearest}


def baselines(
    macs: Values,
    measured_ms: Values,
    others: Mapping[str, Values],
    folds: Iterable[Mask] | None = None,
) -> Baselines:
    """The baselines' errors on networks left out.

    Args:
        macs: of each of n networks.
        measured_ms: their latencies (n) on the device in question.
        others: their latencies (n) on known devices, by name.
        folds: masks (n) of what is left out together; default: each network by itself.
    """
    import numpy as np

    n = len(measured_ms)
    macs_errors, nearest_errors = np.zeros(n), np.zeros(n)
    picked: list[str] = []
    for held in np.eye(n, dtype=bool) if folds is None else folds:
        kept = ~held
        constant = np.median(measured_ms[kept] / np.maximum(macs[kept], 1.0))
        macs_errors[held] = abs(constant * macs[held] / measured_ms[held] - 1)
        if others:
            name, factor = _nearest(others, measured_ms, kept)
            picked.append(name)
            nearest_errors[held] = abs(factor * others[name][held] / measured_ms[held] - 1)
    return Baselines(
        tuple(map(float, macs_errors)),
        tuple(map(float, nearest_errors)) if picked else None,
        max(sorted(set(picked)), key=picked.count) if picked else None,
    )


def summary(errors: Sequence[float]) -> dict[str, float]:
    """Median, mean, largest of relative errors, the share within 10 %: as in a table's file."""
    return {
        "error_median": round(statistics.median(errors), 5),
        "error_mean": round(statistics.fmean(errors), 5),
        "error_max": round(max(errors), 5),
        "within_10": round(sum(e <= 0.1 for e in errors) / len(errors), 4),
    }


def spearman(xs: Sequence[float] | Values, ys: Sequence[float] | Values) -> float:
    """Spearman's rank correlation, ties shared; 0 where one of the two orders nothing."""
    import numpy as np
    from scipy.stats import rankdata

    a, b = rankdata(xs), rankdata(ys)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def _nearest(others: Mapping[str, Values], measured_ms: Values, kept: Mask) -> tuple[str, float]:
    """The device that says most about the networks kept, with its factor."""
    import numpy as np

    best: tuple[float, str, float] | None = None
    for name, values in sorted(others.items()):
        factor = float(np.median(measured_ms[kept] / values[kept]))
        error = float(np.median(abs(factor * values[kept] / measured_ms[kept] - 1)))
        if best is None or error < best[0]:
            best = error, name, factor
    assert best is not None  # noqa: S101 - others is not empty
    return best[1], best[2]
