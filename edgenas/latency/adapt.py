"""A table for a new device, from a few whole networks timed there and all tables that are known.

`fewshot` says what every network of a pool takes on the new device. Written into a table are the
latencies of units, and a constant for each network, that say the same: sums of what the units take
on known devices and of the cost model's features, with non-negative weights (relative least
squares). So that any network of the space can be predicted, unit by unit.

Errors are of each timed network, predicted by a table made without it. Beside them stand those of
MACs x constant and of the nearest known device x constant.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgenas.errors import MissingUnitsError, SpecError
from edgenas.latency.baselines import baselines, summary
from edgenas.latency.cost import features, fit_cost, non_negative
from edgenas.latency.fewshot import MIN_SAMPLES, FewShot, Floats
from edgenas.latency.fit import Fit, conformal
from edgenas.latency.predictor import Predictor
from edgenas.latency.table import Entry, LatencyTable, TableDevice
from edgenas.spaces.ops import Lowering, OpSpec

MIN_NETWORKS = MIN_SAMPLES + 1
"""Each timed network is predicted once from the others."""
SHOWN_WEIGHT = 0.05
"""Known devices of at least this weight are named in the table."""
_RIDGE = 1e-4


class Adaptation:
    """Known tables and a pool of networks; made before anything is timed.

    Args:
        tables: of known devices; those that cannot predict a network of the pool are left out.
        pool: networks of the space, spread over it.

    Raises:
        SpecError: no table is left.
    """

    def __init__(self, tables: Iterable[LatencyTable], pool: Sequence[Lowering]) -> None:
        self.pool = tuple(pool)
        self.predictors: list[Predictor] = []
        columns: list[list[float]] = []
        for table in tables:
            predictor = Predictor(table)
            try:
                columns.append([predictor.predict(net).latency_ms for net in self.pool])
            except MissingUnitsError:
                continue
            self.predictors.append(predictor)
        if not columns:
            raise SpecError("no known table covers the networks of this space")
        self._known: Floats = np.array(columns).T
        self._groups = sorted({name for net in pool for op in net for name, _ in features(op)})
        terms = np.array([sum(map(self._terms, net)) for net in self.pool])
        self._fewshot = FewShot(
            self._known,
            chips=[p.table.device.chip for p in self.predictors],
            features=[terms[:, len(self.predictors) :]],
        )
        self._design: Floats = np.column_stack([terms, np.ones(len(self.pool))])

    def choose(self, n: int) -> list[int]:
        """The rows of the pool whose latency tells most of a device; see `FewShot.choose`.

        Raises:
            SpecError: fewer than 4, or more than the pool holds.
        """
        if n < MIN_NETWORKS:
            raise SpecError(f"{n} networks are too few to adapt; {MIN_NETWORKS} are needed")
        return self._fewshot.choose(n)

    def table(
        self,
        rows: Sequence[int],
        measured_ms: Sequence[float],
        units: Iterable[OpSpec],
        *,
        device: TableDevice,
        created: str,
        conditions: Mapping[str, Any] | None = None,
    ) -> LatencyTable:
        """The table of `device`, on which these rows of the pool took `measured_ms`.

        It holds each of `units`; its source is "calibrated", or "analytic" where it predicts
        networks left out no better than either baseline.

        Raises:
            SpecError: fewer than 4 networks, or a latency that is none.
        """
        rows, measured = list(rows), np.array(measured_ms, dtype=np.float64)
        if len(rows) < MIN_NETWORKS:
            raise SpecError(f"{len(rows)} networks are too few to adapt; {MIN_NETWORKS} are needed")
        found, half, weights = self._solve(rows, measured)
        errors = self._left_out(rows, measured)
        by_others = baselines(
            np.array([float(self.pool[row].macs) for row in rows]),
            measured,
            {p.table.name: self._known[rows, j] for j, p in enumerate(self.predictors)},
        )
        *per_term, once = found
        entries = {}
        for op in units:
            ms = max(float(np.dot(per_term, self._terms(op))), 1e-9 * float(measured.min()))
            entries[op] = Entry(ms, ms, ms, ms, len(rows))
        inside = np.abs(self._design[rows] @ found / measured - 1)
        names = [p.table.name for p in self.predictors]
        telling = sorted(zip(weights, names, strict=True), reverse=True)
        return LatencyTable(
            device=device,
            source="calibrated" if by_others.beaten_by(errors) else "analytic",
            created=created,
            entries=entries,
            fits=(
                Fit(
                    granularity="unit",
                    scale=1.0,
                    per_part_ms=0.0,
                    n_networks=len(rows),
                    error_mean=statistics.fmean(errors),
                    error_max=max(errors),
                    interval=max(conformal(errors), half),
                    plain_sum_error_mean=float(inside.mean()),
                    per_network_ms=float(once),
                ),
            ),
            cost_model=fit_cost({op: entry.latency_ms for op, entry in entries.items()}),
            conditions={
                **(conditions or {}),
                "calibrated_from": f"{len(rows)} networks and {len(names)} known tables",
                "weights": {n: round(float(w), 3) for w, n in telling if w >= SHOWN_WEIGHT},
            },
            validation={
                "kind": "leave-one-out over the networks timed",
                "n": len(rows),
                **summary(errors),
                "baselines": by_others.to_json(),
            },
        )

    def _solve(self, rows: Sequence[int], measured: Floats) -> tuple[Floats, float, Floats]:
        """Weights of all terms and the constant; median half-width, relative; known's weights."""
        adapted = self._fewshot.adapt(rows, [float(ms) for ms in measured])
        design = self._design / adapted.latency_ms[:, None]
        size = np.linalg.norm(design, axis=0)
        size[size == 0] = 1.0
        scaled = design / size
        gram = scaled.T @ scaled + _RIDGE * np.eye(len(size))
        found: Floats = non_negative(gram, scaled.T @ np.ones(len(design))) / size
        half = (adapted.high_ms - adapted.low_ms) / 2 / adapted.latency_ms
        return found, float(np.median(half)), adapted.weights

    def _left_out(self, rows: Sequence[int], measured: Floats) -> list[float]:
        """Each network's relative error when it is predicted without itself."""
        errors = []
        for i, row in enumerate(rows):
            found, _, _ = self._solve([*rows[:i], *rows[i + 1 :]], np.delete(measured, i))
            errors.append(float(abs(self._design[row] @ found / measured[i] - 1)))
        return errors

    def _terms(self, op: OpSpec) -> Floats:
        """What a unit adds to each column of the design: latency on known devices, features."""
        own = dict(features(op))
        known = [predictor.unit_ms(op) for predictor in self.predictors]
        return np.array([*known, *(own.get(name, 0.0) for name in self._groups)])
