"""What a report shows, as plain values: `RunView` and its parts.

`load.load_run` builds one from a run folder; the renderers are pure functions of it. A comparison
of two runs is a function of two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgenas.fleet import Fleet
from edgenas.latency import ROUGH_ERROR
from edgenas.objectives import Objective, directed
from edgenas.pareto import Metric, nondominated
from edgenas.spaces import OpSpec


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An architecture that was evaluated, as the `number`-th from 0 on where that is known."""

    architecture: str
    digest: str
    metrics: Mapping[str, Metric]
    number: int | None = None
    feasible: bool = True


@dataclass(frozen=True, slots=True)
class Alone:
    """What a unit costs and saves where it alone is in this precision.

    `noise` is the mean square of what the logits change by, over theirs, on `n` images of the
    search split.
    """

    precision: str
    top1_drop: float
    noise: float
    saved_bytes: int
    saved_ms: float | None
    origin: str
    n: int


@dataclass(frozen=True, slots=True)
class MixedUnit:
    """A unit of a file in mixed precision; `note` says why fewer bits save or serve nothing."""

    name: str
    precision: str
    note: str = ""
    alone: tuple[Alone, ...] = ()


@dataclass(frozen=True, slots=True)
class Mixture:
    """Precisions that such a file was chosen from; top-1 and its drop are of the search split."""

    precisions: tuple[str, ...]
    size_bytes: int
    top1: float
    top1_drop: float
    n: int
    latency: Metric | None
    chosen: bool
    drop_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class MeasuredNetwork:
    """A network's latency predicted and measured; places among all measured, the fastest first."""

    digest: str
    predicted: Metric
    measured: Metric
    place_predicted: int
    place: int


@dataclass(frozen=True, slots=True)
class MeasuredDevice:
    """What was measured on a device, and in one sentence what it says of the device's table."""

    device: str
    told: str
    networks: tuple[MeasuredNetwork, ...]


@dataclass(frozen=True, slots=True)
class OfClass:
    """A file on the `n` images of one class; None where there is none."""

    name: str
    n: int
    top1: float | None
    top1_drop: float | None


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One model file; `path` is relative to the run folder.

    `verified` None: the images do not suffice for a verdict. `problems` are the gates not passed.
    `top1`, its drop (with its 95 % interval), agreement and the largest difference of a logit from
    torch's are over `n_images` of `split`. `operators` counts those that the runtime runs by name
    and type. `peak_memory_bytes` is planned.
    """

    format: str
    path: str
    sha256: str
    size_bytes: int
    verified: bool | None
    top1: float | None = None
    top1_drop: float | None = None
    agreement: float | None = None
    drop_interval: tuple[float, float] | None = None
    n_images: int | None = None
    split: str = ""
    problems: tuple[str, ...] = ()
    predicted_ms: Metric | None = None
    measured_ms: Metric | None = None
    device: str = ""
    units: tuple[MixedUnit, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
    max_difference: float | None = None
    classes: tuple[OfClass, ...] = ()
    operators: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of a network in its place; `inputs` are indices of earlier units, -1 the image."""

    name: str
    op: OpSpec
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnitTime:
    """A unit's share of a network's latency, and whether it was measured or predicted."""

    ms: float
    origin: str


@dataclass(frozen=True, slots=True)
class DeviceLatency:
    """A network's latency on one device, unit by unit (as many `units` as the network has)."""

    device: str
    origin: str
    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    units: tuple[UnitTime, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A network's `gene` brought from `value` to `new`: what that adds to its metrics.

    A difference's origin says what it rests on; `estimated` ones have an interval. `outside` names
    the bounds that the changed network breaks.
    """

    gene: str
    value: str
    new: str
    digest: str
    differences: Mapping[str, Metric]
    outside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """What was found when a device's tool-chain was asked about one of the files.

    `path` is relative to the run folder, that of the model where there was no file to ask about.
    `verdict` is passed, failed or inconclusive; `reasons` say why, in words.
    """

    device: str
    toolchain: str
    verdict: str
    checked_by: str
    path: str
    operators: int | None = None
    on_npu_share: float | None = None
    cycles: int | None = None
    sram_bytes: int | None = None
    arena_bytes: int | None = None
    flash_bytes: int | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An architecture whose files were written; `why` says what it was chosen for.

    `failures` are formats that could not be written, each with the reason; `weights` says what
    came of a final training. `parents` are the digests that its files rest on, and
    `max_mixed_drop` is what its mixtures may lose.
    """

    architecture: str
    digest: str
    metrics: Mapping[str, Metric]
    files: tuple[ExportedFile, ...]
    units: tuple[Unit, ...] = ()
    latencies: tuple[DeviceLatency, ...] = ()
    why: str = ""
    failures: tuple[tuple[str, str], ...] = ()
    changes: tuple[Change, ...] = ()
    targets: tuple[TargetCheck, ...] = ()
    weights: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    max_mixed_drop: float | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A latency table that the search read. Errors are fractions, on whole networks."""

    device: str
    source: str
    digest: str = ""
    date: str = ""
    error_median: float | None = None
    error_within_10: float | None = None
    n_validation: int | None = None

    @property
    def rough(self) -> bool:
        """Whether its latencies are too far off to choose by a small difference."""
        return self.error_median is not None and self.error_median > ROUGH_ERROR


@dataclass(frozen=True, slots=True)
class Importance:
    """How much each choice matters for the best values of `metric`: `genes` with their shares.

    The greatest comes first. A share above `chance` is more than what no choice at all would show
    in 95 % of searches. It rests on `n` networks, of which the share `top` counts as best.
    A `problem` says why there are no shares.
    """

    metric: str
    n: int
    top: float
    genes: tuple[tuple[str, float], ...]
    chance: float
    problem: str = ""

    @property
    def told(self) -> tuple[str, ...]:
        """The choices that matter more than chance explains."""
        return tuple(gene for gene, share in self.genes if share > self.chance)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the estimates of a costly metric rest on: `n` networks, each missed by about `error`.

    A `problem` says why there are none.
    """

    metric: str
    n: int
    error: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gains:
    """Of the last `n` trials `k` raised the hypervolume; a further one does with <= `chance`."""

    n: int
    k: int
    chance: float


@dataclass(frozen=True, slots=True)
class Cut:
    """What a bound keeps out: of the networks tried, and of random ones of the space.

    `only`: those that no other bound keeps out as well.
    """

    goal: Objective
    trials: int
    trials_outside: int
    trials_only: int
    drawn: int
    drawn_outside: int
    drawn_only: int


@dataclass(frozen=True, slots=True)
class FleetView:
    """The best few networks for all devices, for each number of networks.

    `accuracy` is the metric that they were chosen by, `bounds` are those of each device, `wanted`
    is the number that was asked for.
    """

    wanted: int
    accuracy: str
    bounds: Mapping[str, tuple[Objective, ...]]
    fleets: tuple[Fleet, ...]

    @property
    def fleet(self) -> Fleet:
        """The one that was exported."""
        return next(f for f in reversed(self.fleets) if f.k <= self.wanted)


@dataclass(frozen=True, slots=True)
class RunView:
    """A finished run. `trials` are all candidates evaluated; empty where they were not kept.

    A latency without a device's name is that of the first table.

    `hypervolume` holds (number of the evaluation, hypervolume so far), measured from `reference`
    where that was kept. `provenance` is a list of sections, each a title and its rows. `parents`
    are the digests that the front rests on, `rests_on` those of accuracies, `settings` the run
    file's by dotted names.
    """

    name: str
    goals: tuple[Objective, ...]
    front: tuple[Evaluated, ...]
    trials: tuple[Evaluated, ...] = ()
    models: tuple[ExportedModel, ...] = ()
    tables: tuple[Table, ...] = ()
    hypervolume: tuple[tuple[int, float], ...] = ()
    n_trials: int | None = None
    elapsed_s: float | None = None
    provenance: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()
    notes: tuple[str, ...] = ()
    version: str = ""
    """Of the edgenas that reads the run."""
    made_by: str = ""
    """Of the one that made it."""
    importances: tuple[Importance, ...] = ()
    estimates: tuple[Estimate, ...] = ()
    cuts: tuple[Cut, ...] = ()
    gains: Gains | None = None
    fleet: FleetView | None = None
    measured: tuple[MeasuredDevice, ...] = ()
    stopped_because: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    rests_on: Mapping[str, str] = field(default_factory=dict)
    reference: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The goals that have a direction."""
        return directed(self.goals)

    @property
    def exported(self) -> frozenset[str]:
        """Digests of the exported models."""
        return frozenset(model.digest for model in self.models)

    @property
    def rough_devices(self) -> frozenset[str]:
        """Devices whose table is rough."""
        return frozenset(table.device for table in self.tables if table.rough)

    def rough_metric(self, metric: str) -> bool:
        """Whether `metric` is a latency that rests on a rough table; bare, on the first one."""
        name, _, device = metric.partition("@")
        if not name.startswith("latency") or not self.tables:
            return False
        return (device or self.tables[0].device) in self.rough_devices

    def pairs(self) -> tuple[tuple[Objective, Objective], ...]:
        """Each pair of objectives as (x, y): what costs lies on x, what is won on y."""
        found = []
        goals = self.objectives
        for i, first in enumerate(goals):
            for second in goals[i + 1 :]:
                upright = first.direction == "max" and second.direction != "max"
                found.append((second, first) if upright else (first, second))
        return tuple(found)


def undominated(
    candidates: tuple[Evaluated, ...], x: Objective, y: Objective
) -> tuple[Evaluated, ...]:
    """The candidates that no other one dominates in `x` and `y` alone, in ascending order of `x`.

    Candidates that lack one of the two metrics are left out.
    """
    both = [c for c in candidates if x.name in c.metrics and y.name in c.metrics]
    points = [(c.metrics[x.name].value, c.metrics[y.name].value) for c in both]
    kept = nondominated(points, [x.direction or "min", y.direction or "min"])
    found = [(point, c) for point, c, keep in zip(points, both, kept, strict=True) if keep]
    return tuple(c for _, c in sorted(found, key=lambda pair: pair[0]))
