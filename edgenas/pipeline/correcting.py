"""What was measured of a run's networks, and what that says of its tables.

`measured.json` in the run's folder keeps what `edgenas measure` found; what a search's measuring
workers found stands in its study, and so does the former once a search has read it.

Latencies that were measured stand in place of predicted ones. Those of the other networks are
predicted by the run's table, brought to the measured ones by a scale (and a constant for each part,
where there are many), for this run alone and only where that predicts networks left out better. The
table itself stays as it is, in the run as elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import problems_of, read_json, write_json
from edgenas.errors import ArtifactError, SpecError
from edgenas.pareto import Candidate, Metric
from edgenas.pipeline.metrics import at_device

if TYPE_CHECKING:
    from edgenas.hardware import DeviceProfile
    from edgenas.latency import LatencyTable
    from edgenas.pipeline.opening import Opened
    from edgenas.search.problem import Correct
    from edgenas.spaces import Architecture, SearchSpace

MEASURED = "measured.json"
SCHEMA = "edgenas.measured/1"

Told = dict[tuple[str, "Architecture"], Metric | str]
"""By metric and architecture what was measured, or why it cannot be."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What `n` measured networks say of the table of a device.

    Errors are relative: of the table's predictions, and of each network predicted by the table
    corrected without it. Where that is no better, or `n` is below 3, the table is taken as it is:
    `applied` is false, and `scale` and `per_part_ms` say nothing.
    """

    n: int
    applied: bool = False
    scale: float = 1.0
    per_part_ms: float = 0.0
    error_before: float | None = None
    error_after: float | None = None

    @property
    def told(self) -> str:
        """One sentence for report and command line."""
        if self.error_before is None or self.error_after is None:
            return f"{self.n} networks measured, too few to correct the table"
        before, after = 100 * self.error_before, 100 * self.error_after
        if not self.applied:
            return (
                f"the table is kept: off by {before:.1f} % on {self.n} measured networks, by "
                f"{after:.1f} % on each corrected without it"
            )
        per_part = f" + {1000 * self.per_part_ms:.2f} us a part" if self.per_part_ms else ""
        return (
            f"networks that were not measured are predicted by the table x {self.scale:.3f}"
            f"{per_part}: off by {after:.1f} % on {self.n} measured networks, each left out; the "
            f"table alone by {before:.1f} %"
        )


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """A network's latency as the table predicts it and as it was measured.

    Places are those among all measured networks, the fastest first.
    """

    architecture: str
    digest: str
    predicted: Metric
    measured: Metric
    place_predicted: int
    place: int


@dataclass(frozen=True, slots=True)
class MeasuredDevice:
    """All of one device; its `networks` stand in their measured order."""

    device: str
    metric: str
    correction: Correction
    networks: tuple[MeasuredNetwork, ...]

    def to_table(self) -> dict[str, Any]:
        """As it stands in JSON files."""
        networks = [
            {**asdict(n), "predicted": n.predicted.to_table(), "measured": n.measured.to_table()}
            for n in self.networks
        ]
        return {
            "device": self.device,
            "metric": self.metric,
            "correction": {**asdict(self.correction), "told": self.correction.told},
            "networks": networks,
        }


def corrected(
    run: Opened, candidates: Sequence[Candidate]
) -> tuple[Opened, tuple[MeasuredDevice, ...]]:
    """The run with its tables corrected by the measured ones of `candidates`, and how."""
    from edgenas.latency import Predictor

    predictors, told = dict(run.cheap.predictors), []
    for device in run.devices:
        metric = at_device("latency_ms", device, run.devices)
        measured = {
            c.architecture: c.metrics[metric]
            for c in candidates
            if c.metrics[metric].origin == "measured"
        }
        if not measured:
            continue
        correction, table = _correction(run, device, measured)
        told.append(_device(run, device, metric, measured, correction))
        if table is not None:
            predictors[device.name] = Predictor(table)
    return replace(run, cheap=replace(run.cheap, predictors=predictors)), tuple(told)


def correcting(run: Opened) -> Correct:
    """For a search that measures: the latencies of other networks as `corrected` will have them."""
    from edgenas.latency import Predictor

    devices = {at_device("latency_ms", device, run.devices): device for device in run.devices}
    lower = run.supernet.space.lower

    def correct(
        metric: str, measured: Mapping[Architecture, Metric]
    ) -> Callable[[Architecture], float] | None:
        device = devices.get(metric)
        table = None if device is None else _correction(run, device, measured)[1]
        if table is None:
            return None
        predictor = Predictor(table)
        return functools.cache(lambda arch: predictor.predict(lower(arch)).latency_ms)

    return correct


def _correction(
    run: Opened, device: DeviceProfile, measured: Mapping[Architecture, Metric]
) -> tuple[Correction, LatencyTable | None]:
    from edgenas.latency.calibrate import MIN_NETWORKS, rescale

    table = run.cheap.predictors[device.name].table
    if len(measured) < MIN_NETWORKS:
        return Correction(len(measured)), None
    space = run.supernet.space
    found = rescale(
        table,
        [(space.lower(arch), metric.value) for arch, metric in measured.items()],
        device=table.device,
        created=table.created,
        conditions=table.conditions,
    )
    told, how = found.validation or {}, found.conditions
    before, after = float(told["unscaled_error_mean"]), float(told["error_mean"])
    applied = after < before
    correction = Correction(
        len(measured), applied, float(how["scale"]), float(how["per_part_ms"]), before, after
    )
    return correction, found if applied else None


def _device(
    run: Opened,
    device: DeviceProfile,
    metric: str,
    measured: Mapping[Architecture, Metric],
    correction: Correction,
) -> MeasuredDevice:
    predicted = {arch: run.cheap.explain(arch)[metric] for arch in measured}

    def places(metrics: Mapping[Architecture, Metric]) -> dict[Architecture, int]:
        ordered = sorted(metrics, key=lambda arch: (metrics[arch].value, arch.digest))
        return {arch: place for place, arch in enumerate(ordered, 1)}

    before, after = places(predicted), places(measured)
    networks = (
        MeasuredNetwork(
            str(arch), arch.digest, predicted[arch], measured[arch], before[arch], after[arch]
        )
        for arch in sorted(after, key=lambda arch: after[arch])
    )
    return MeasuredDevice(device.name, metric, correction, tuple(networks))


def write_told(path: Path, told: Told) -> None:
    """Writes what was measured so far."""
    rows = []
    for metric, arch in sorted(told, key=lambda key: (key[0], str(key[1]))):
        found = told[metric, arch]
        value = {"error": found} if isinstance(found, str) else {"value": found.to_table()}
        rows.append({"metric": metric, "architecture": str(arch), **value})
    write_json(path, {"schema": SCHEMA, "told": rows})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Metric(_Strict):
    value: float = Field(gt=0)
    origin: Literal["measured"]
    low: float | None = None
    high: float | None = None
    n: int | None = None


class _Told(_Strict):
    metric: str
    architecture: str
    value: _Metric | None = None
    error: str | None = None


class _File(_Strict):
    schema_: Literal["edgenas.measured/1"] = Field(alias="schema")
    told: list[_Told]


def read_told(path: Path, space: SearchSpace) -> Told:
    """What the file says was measured; nothing where there is none.

    Raises:
        ArtifactError: it is damaged, or of another space.
    """
    if not path.is_file():
        return {}
    try:
        file = _File.model_validate(read_json(path, schema=SCHEMA))
        return {
            (row.metric, space.parse(row.architecture)): row.error or "no reason is given"
            if row.value is None
            else Metric(**row.value.model_dump())
            for row in file.told
        }
    except ValidationError as error:
        raise ArtifactError(f"{path}: {problems_of(error)}") from error
    except SpecError as error:
        raise ArtifactError(f"{path}: {error}") from error
