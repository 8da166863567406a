"""A table of one machine made to speak for another, from a few whole networks timed there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgenas.errors import SpecError
from edgenas.latency.baselines import summary
from edgenas.latency.fit import EARNS, Fit, Granularity, conformal, has_constant
from edgenas.latency.predictor import Predictor
from edgenas.latency.table import LatencyTable, TableDevice
from edgenas.spaces.ops import Lowering

MIN_NETWORKS = 3


def rescale(
    table: LatencyTable,
    measured: Sequence[tuple[Lowering, float]],
    *,
    device: TableDevice,
    created: str,
    conditions: Mapping[str, Any] | None = None,
) -> LatencyTable:
    """`table` for `device`, from whole networks timed there (ms); its source is "calibrated".

    The new latency is scale x the old prediction, or that plus constant x number of parts: the
    constant is kept only if it lowers the leave-one-out error by a tenth, as `fit_networks` keeps
    its third number, and of twice as many networks as are needed. Both go into the fits, and the
    entries stay what they were on the first machine. The validation says how well it does.

    Raises:
        SpecError: fewer than 3 networks, or a time that is none.
        MissingUnitsError: the table cannot predict one of the networks.
    """
    if len(measured) < MIN_NETWORKS:
        raise SpecError(
            f"{len(measured)} networks are too few to calibrate; {MIN_NETWORKS} are needed"
        )
    if bad := [ms for _, ms in measured if not 0 < ms < float("inf")]:
        raise SpecError(f"a measured latency must be positive: {bad[0]}")
    predictor = Predictor(table)
    granularity = _counted(table)
    fit = table.fit(granularity)
    call_ms = fit.call_ms if fit else 0.0
    rows = []
    for net, ms in measured:
        parts = net if granularity == "unit" else net.primitive()
        n_parts = sum(has_constant(op, call_ms=call_ms) for op in parts)
        rows.append((predictor.predict(net).latency_ms, n_parts, ms))
    plain = _held_out(rows, constant=False)
    errors, constant = plain, False
    if len(rows) >= 2 * MIN_NETWORKS:
        both = _held_out(rows, constant=True)
        if sum(both) < EARNS * sum(plain):  # a second number must earn its place
            errors, constant = both, True
    scale, per_part_ms = _solve(rows, constant=constant)
    interval = conformal(errors)
    fits = table.fits or (
        Fit("unit", 1.0, 0.0, len(rows), 0.0, 0.0, interval, plain_sum_error_mean=0.0),
    )
    before = [abs(p / ms - 1) for p, _, ms in rows]
    return replace(
        table,
        device=device,
        source="calibrated",
        created=created,
        fits=tuple(
            replace(
                fit,
                n_networks=len(rows),
                error_mean=sum(errors) / len(errors),
                error_max=max(errors),
                interval=max(interval, fit.interval),
                plain_sum_error_mean=sum(before) / len(before),
            )
            for fit in _slower(fits, scale, per_part_ms, granularity)
        ),
        conditions={
            **(conditions or {}),
            "calibrated_from": table.name,
            "calibrated_from_digest": table.digest,
            "scale": round(scale, 6),
            "per_part_ms": round(per_part_ms, 9),
        },
        validation={
            "kind": "leave-one-out over the calibration networks",
            "n": len(rows),
            **summary(errors),
            "unscaled_error_mean": round(sum(before) / len(before), 5),
        },
        path=None,
    )


def rescaled_like(table: LatencyTable, other: LatencyTable) -> LatencyTable:
    """`table` as `rescale` brought `other` to the same machine, which ran in another precision."""
    how = other.conditions
    also = {"calibrated_from": table.name, "calibrated_like": other.name}
    return replace(
        table,
        source=other.source,
        fits=_slower(table.fits, how["scale"], how["per_part_ms"], _counted(table)),
        conditions={**table.conditions, **also},
        path=None,
    )


def _counted(table: LatencyTable) -> Granularity:
    """What a constant for each part counts."""
    return "unit" if table.fit("unit") or not table.fits else "primitive"


def _slower(
    fits: Sequence[Fit], scale: float, per_part_ms: float, granularity: Granularity
) -> tuple[Fit, ...]:
    """The fits of a machine that takes `scale` times as long, and a constant for each part."""
    return tuple(
        replace(
            fit,
            scale=fit.scale * scale,
            per_part_ms=fit.per_part_ms * scale
            + (per_part_ms if fit.granularity == granularity else 0.0),
            per_network_ms=fit.per_network_ms * scale,
        )
        for fit in fits
    )


_Row = tuple[float, int, float]  # predicted ms, number of parts, measured ms


def _held_out(rows: Sequence[_Row], *, constant: bool) -> list[float]:
    """Relative error of each network under a fit on the others."""
    errors = []
    for i, (predicted, n, ms) in enumerate(rows):
        scale, per_unit = _solve([*rows[:i], *rows[i + 1 :]], constant=constant)
        errors.append(abs((scale * predicted + per_unit * n) / ms - 1))
    return errors


def _solve(rows: Sequence[_Row], *, constant: bool) -> tuple[float, float]:
    import numpy as np

    design = np.array([[p / ms, n / ms] for p, n, ms in rows])
    target = np.ones(len(rows))
    if constant:
        (scale, per_unit), _, rank, _ = np.linalg.lstsq(design, target, rcond=1e-9)
        if rank == 2 and scale > 0:
            return float(scale), float(per_unit)
    column = design[:, 0]
    return float(column @ target / (column @ column)), 0.0
