"""Latency of whole networks from a table: the coarsest measured cover, the cost model elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgenas.errors import MissingUnitsError
from edgenas.latency.fit import LEAST_SHARE, Granularity, sum_of_parts
from edgenas.latency.table import LatencyTable
from edgenas.spaces.ops import Lowering, OpSpec

if TYPE_CHECKING:
    from edgenas.spaces import SearchSpace
    from edgenas.spaces.batch import Codes, Values

Origin = Literal["measured", "predicted", "estimated", "calibrated", "analytic", "extrapolated"]
WITHOUT_FIT = 0.5
"""Half-width of the interval where no whole network was ever measured: sums were off by as much."""


EXTRAPOLATED = 2.0
"""Beyond the shapes that a cost model was fitted on, intervals are so many times as wide: a rule,
no measurement."""


@dataclass(frozen=True, slots=True)
class UnitLatency:
    """One unit's share of a network's latency, with its interval; shares add up to the whole.

    `origin` is that of the unit's time: the table's own word (measured, ...), "predicted" by the
    cost model of a measured table, or "extrapolated" by a cost model.
    """

    name: str
    key: str
    latency_ms: float
    low_ms: float
    high_ms: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class LatencyPrediction:
    """Latency of a network, batch 1, with the interval that holds 90 % of such networks.

    `measured_share` of it rests on units of the table. `origin` is "predicted" from a measured
    table, else the table's own word; "extrapolated" where a unit lies outside its fitted shapes.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    measured_share: float
    origin: Origin
    per_unit: tuple[UnitLatency, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """What a device's compiler would plan for a network, in bytes: both are estimates."""

    sram_bytes: float
    flash_bytes: int


@dataclass(frozen=True, slots=True)
class _Cost:
    """What one unit adds to a network: already scaled, with its constant, and its bounds."""

    key: str
    plain_ms: float
    per_network_ms: float
    latency_ms: float
    low_ms: float
    high_ms: float
    origin: Origin
    from_table: bool


class Predictor:
    """Predicts from one table. Costs of units are kept, so that a network is a sum of look-ups."""

    def __init__(self, table: LatencyTable) -> None:
        self.table = table
        self._costs: dict[OpSpec, _Cost | None] = {}

    def covers(self, op: OpSpec) -> bool:
        """Whether the table or its cost model knows `op`."""
        return self._cost(op) is not None

    def measured(self, op: OpSpec) -> bool:
        """Whether the table holds `op`, whole or as all of its primitives."""
        cost = self._cost(op)
        return cost is not None and cost.from_table

    def unit_ms(self, op: OpSpec) -> float:
        """What the unit adds to a network's latency, without what a network pays once.

        Raises:
            MissingUnitsError: it is neither in the table nor covered by a cost model.
        """
        cost = self._cost(op)
        if cost is None:
            raise self._missing([op])
        return cost.latency_ms

    def predict(self, lowering: Lowering) -> LatencyPrediction:
        """Latency of the network.

        Raises:
            MissingUnitsError: units that are neither in the table nor covered by a cost model.
        """
        return self.predict_units([(node.name, node.op) for node in lowering.nodes])

    def predict_units(self, units: Sequence[tuple[str, OpSpec]]) -> LatencyPrediction:
        """Latency of a network of these units, each with its name in the network; at least one.

        Raises:
            MissingUnitsError: units that are neither in the table nor covered by a cost model.
        """
        costs: list[_Cost] = []
        for _, op in units:
            cost = self._cost(op)
            if cost is None:
                raise self._missing([op for _, op in units])
            costs.append(cost)
        total = plain = known = once = 0.0
        origin = self._origin()
        shares: list[tuple[float, float, float]] = []
        for cost in costs:
            total += cost.latency_ms
            plain += cost.plain_ms
            once += cost.per_network_ms * cost.plain_ms
            # a constant that is negative must not make a small part cost less than nothing
            share = max(cost.latency_ms, LEAST_SHARE * cost.plain_ms)
            shares.append((share, min(max(cost.low_ms, 0.0), share), max(cost.high_ms, share)))
            if cost.from_table:
                known += cost.plain_ms
            if cost.origin == "extrapolated":
                origin = "extrapolated"
        whole = max(total + once / plain, LEAST_SHARE * plain)
        # what is paid once is spread over the units
        factor = whole / sum(share for share, _, _ in shares)
        per_unit = tuple(
            UnitLatency(
                name,
                cost.key,
                latency_ms=factor * share,
                low_ms=factor * low,
                high_ms=factor * high,
                origin=cost.origin,
            )
            for (name, _), cost, (share, low, high) in zip(units, costs, shares, strict=True)
        )
        return LatencyPrediction(
            latency_ms=whole,
            # sums are rounded, so that a bound may lie on the wrong side of the whole by a hair
            low_ms=min(whole, sum(unit.low_ms for unit in per_unit)),
            high_ms=max(whole, sum(unit.high_ms for unit in per_unit)),
            measured_share=known / plain,
            origin=origin,
            per_unit=per_unit,
        )

    def memory(self, units: Iterable[OpSpec]) -> Memory | None:
        """The memory of a network of these units; None where the table does not say.

        SRAM is the most that one unit needs, times the factor that whole networks showed; flash is
        the sum.
        """
        stated = self.table.conditions.get("memory")
        entries = [self.table.entries.get(op) for op in units]
        sram = [e.sram_bytes for e in entries if e is not None and e.sram_bytes is not None]
        flash = [e.flash_bytes for e in entries if e is not None and e.flash_bytes is not None]
        if stated is None or not len(sram) == len(flash) == len(entries) > 0:
            return None
        return Memory(float(stated["sram_factor"]) * max(sram), sum(flash))

    def in_batches(self, space: SearchSpace) -> Callable[[Codes], Values]:
        """A function from codes (n, genes) of `space` to the latencies (n) in ms of `predict`.

        Every unit of the space is looked up once, here; a network is then a sum of numbers.

        Raises:
            MissingUnitsError: a unit of the space is neither in the table nor covered.
        """
        from edgenas.spaces.batch import Sums

        def numbers(op: OpSpec) -> tuple[float, float, float]:
            cost = self._cost(op)
            if cost is None:
                raise self._missing(space.units())
            return cost.latency_ms, cost.plain_ms, cost.per_network_ms * cost.plain_ms

        sums = Sums(space, numbers)

        def latency_ms(codes: Codes) -> Values:
            total, plain, once = sums(codes).T
            whole: Values = (total + once / plain).clip(min=LEAST_SHARE * plain)
            return whole

        return latency_ms

    def _origin(self) -> Origin:
        return "predicted" if self.table.source == "measured" else self.table.source

    def _cost(self, op: OpSpec) -> _Cost | None:
        try:
            return self._costs[op]
        except KeyError:
            cost = self._costs[op] = self._find(op)
            return cost

    def _find(self, op: OpSpec) -> _Cost | None:
        """The unit itself; else all its primitives; else the cost model."""
        entries, source = self.table.entries, self.table.source
        if op in entries:
            known = [(op, entries[op].latency_ms)]
            return self._scaled(op, known, self._granularity(op), source)
        parts = [node.op for node in op.primitives()]
        if op.is_block and all(part in entries for part in parts):
            known = [(part, entries[part].latency_ms) for part in parts]
            return self._scaled(op, known, "primitive", source)
        model = self.table.cost_model
        guess = model.unit_ms(op) if model else None
        if model is None or guess is None:
            return None
        origin: Origin = self._origin() if model.covers(op) else "extrapolated"
        wide = EXTRAPOLATED if origin == "extrapolated" else 1.0
        # The cost model speaks of units timed alone, as coarse as those it was fitted on.
        cost = self._scaled(op, [(op, guess)], self._granularity(op), origin)
        return _Cost(
            key=cost.key,
            plain_ms=guess,
            per_network_ms=cost.per_network_ms,
            latency_ms=cost.latency_ms,
            low_ms=cost.latency_ms - wide * (cost.latency_ms - cost.low_ms * model.low),
            high_ms=cost.latency_ms + wide * (cost.high_ms * model.high - cost.latency_ms),
            origin=origin,
            from_table=False,
        )

    def _granularity(self, op: OpSpec) -> Granularity:
        """Blocks are units; so is whatever stands between them, unless only primitives fit."""
        if op.is_block or self.table.fit("unit") is not None:
            return "unit"
        return "primitive"

    def _scaled(
        self,
        op: OpSpec,
        parts: Sequence[tuple[OpSpec, float]],
        granularity: Granularity,
        origin: Origin,
    ) -> _Cost:
        fit = self.table.fit(granularity)
        plain_ms = sum(ms for _, ms in parts)
        if fit is None:
            total, width, once = plain_ms, WITHOUT_FIT, 0.0
        else:
            sum_ms, n_parts = sum_of_parts(parts, call_ms=fit.call_ms, edges=fit.edges)
            once = fit.per_network_ms + fit.scale * fit.call_ms
            total, width = fit.scale * sum_ms + fit.per_part_ms * n_parts, fit.interval
        slack = width * max(total, LEAST_SHARE * plain_ms)
        low_ms, high_ms = total - slack, total + slack
        return _Cost(op.key, plain_ms, once, total, low_ms, high_ms, origin, from_table=True)

    def _missing(self, units: Iterable[OpSpec]) -> MissingUnitsError:
        keys = sorted({op.key for op in units if not self.covers(op)})
        shown = "; ".join(keys[:10]) + (f"; and {len(keys) - 10} more" if len(keys) > 10 else "")
        return MissingUnitsError(
            f"table {self.table.name}: {len(keys)} units are neither measured nor covered by its "
            f"cost model: {shown}",
            hint=f"edgenas profile {self.table.name}",
        )
