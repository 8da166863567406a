"""What a report reads of the files of a run folder.

    run.toml                      the run file
    front.json                    edgenas.front/1
    result.json                   edgenas.search-result/1: trials, elapsed_s, optional
                                  stopped_because, gains {"n", "k", "chance"} and fleet {"wanted",
                                  "accuracy", "bounds" {device: [objective]}, "choices" [{"k",
                                  "gap", "assignments" [{"device", "digest", "accuracy", "loss",
                                  "latency_ms"}]}]}, optional measured [{"device", "correction"
                                  {"told"}, "networks" [{"digest", "predicted", "measured",
                                  "place_predicted", "place"}]}], optional models ({digest: what
                                  it was chosen for}; absent: all in models/), exports [{"path",
                                  "format", "sha256", "size_bytes", "verified", "top1", "top1_drop",
                                  "agreement", "predicted_ms", "measured_ms"}]; optional in each:
                                  "n_images", "device", "predicted_origin", "low_ms", "high_ms"
    trials.json                   optional, edgenas.trials/1: {"trials": [{"number", "architecture",
                                  "digest", "metrics", "feasible", "state"}], "reference":
                                  {objective: value}}; `state` "complete" is shown, `reference` is
                                  where the hypervolume is measured from
    provenance.json               optional, edgenas.provenance/1: "tables" [{"device", "source",
                                  "digest", "date", "error_median", "error_within_10",
                                  "n_validation"}]; every other key is a section, shown as it is
    explanation.json              optional, edgenas.explanation/1: what each choice matters, what
                                  the bounds keep out, single changes of the exported networks
    models/<digest>/latency.json  optional, edgenas.model-latency/1: {"latencies": [{"device",
                                  "origin", "latency_ms", "low_ms", "high_ms", "units": [{"name",
                                  "key", "ms", "origin", "inputs"}]}]}; "inputs" may be left out
                                  of a plain chain
    models/<digest>/export.json   edgenas.export/1, the certificate: goes before what result.json
                                  says of the same file

Files may hold more than is read here: a report shows what it knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import problems_of, read_json
from edgenas.errors import ArtifactError

RESULT_SCHEMA = "edgenas.search-result/1"
EXPORT_SCHEMA = "edgenas.export/1"
TRIALS_SCHEMA = "edgenas.trials/1"
LATENCY_SCHEMA = "edgenas.model-latency/1"
PROVENANCE_SCHEMA = "edgenas.provenance/1"
EXPLANATION_SCHEMA = "edgenas.explanation/1"


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


_T = TypeVar("_T", bound=Part)


class Metric(Part):
    value: float
    origin: str = Field(min_length=1)
    low: float | None = None
    high: float | None = None
    n: int | None = None
    rough: bool = False


class Trial(Part):
    number: int
    architecture: str
    digest: str
    metrics: dict[str, Metric]
    feasible: bool = True
    state: str = "complete"


class Trials(Part):
    trials: list[Trial]
    reference: dict[str, float] = {}
    parents: dict[str, str] = {}


class Export(Part):
    path: str
    format: str
    sha256: str
    size_bytes: int
    verified: bool | None
    top1: float | None = None
    top1_drop: float | None = None
    agreement: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    n_images: int | None = None
    device: str | None = None
    predicted_origin: str | None = None
    low_ms: float | None = None
    high_ms: float | None = None


class Stated(Part):
    value_ms: float
    origin: str
    low_ms: float | None = None
    high_ms: float | None = None
    n: int | None = None


class OfClass(Part):
    n: int
    top1: float | None
    top1_drop: float | None


class Verification(Part):
    n: int
    top1: float
    top1_drop: float
    drop_low: float
    drop_high: float
    agreement: float
    max_abs_difference: float | None = None
    split: str
    classes: list[OfClass] = []


class Input(Part):
    classes: list[str] = []


class Gate(Part):
    name: str
    verdict: str
    reason: str


class Alone(Part):
    precision: str
    top1_drop: float
    noise: float
    saved_bytes: int
    saved_ms: float | None = None
    origin: str = ""
    n: int = 0


class MixedUnit(Part):
    name: str
    precision: str
    note: str = ""
    alone: list[Alone] = []


class Mixture(Part):
    precisions: list[str]
    size_bytes: int
    top1: float
    top1_drop: float
    n: int
    latency: Stated | None = None
    chosen: bool = False
    drop_low: float | None = None
    drop_high: float | None = None


class Certified(Part):
    path: str
    format: str
    sha256: str
    size_bytes: int
    verified: bool | None
    verification: Verification
    gates: list[Gate]
    device: str = ""
    predicted_ms: Stated | None = None
    measured_ms: Stated | None = None
    units: list[MixedUnit] = []
    curve: list[Mixture] = []
    input: Input = Input()
    operators: dict[str, dict[str, int]] = {}
    peak_memory_bytes: int | None = None


class Failure(Part):
    format: str
    error: str


class Target(Part):
    device: str
    toolchain: str
    verdict: str
    checked_by: str
    path: str = ""
    operators: int | None = None
    on_npu_share: float | None = None
    cycles: int | None = None
    sram_bytes: int | None = None
    arena_bytes: int | None = None
    flash_bytes: int | None = None
    reasons: list[str] = []


class Images(Part):
    name: str
    digest: str
    seed: int
    image_size: int
    channels: int
    images: dict[str, int]
    licence: str


class Certificate(Part):
    architecture: str
    digest: str
    models: list[Certified]
    failures: list[Failure] = []
    targets: list[Target] = []
    parents: dict[str, str] = {}
    tools: dict[str, str] = {}
    weights: str = ""
    max_mixed_drop: float | None = None
    data: Images | None = None
    licence: str = ""


class Gains(Part):
    n: int
    k: int
    chance: float


class Assignment(Part):
    device: str
    digest: str
    accuracy: float
    loss: float
    latency_ms: Metric


class Choice(Part):
    k: int
    gap: float = 0.0
    assignments: list[Assignment] = Field(min_length=1)


class Fleet(Part):
    wanted: int
    accuracy: str
    bounds: dict[str, list[str]]
    choices: list[Choice] = Field(min_length=1)


class MeasuredNetwork(Part):
    digest: str
    predicted: Metric
    measured: Metric
    place_predicted: int
    place: int


class Correction(Part):
    told: str


class MeasuredDevice(Part):
    device: str
    correction: Correction
    networks: list[MeasuredNetwork]


class Result(Part):
    trials: int | None = None
    measured: list[MeasuredDevice] = []
    fleet: Fleet | None = None
    stopped_because: str = ""
    gains: Gains | None = None
    elapsed_s: float | None = None
    models: dict[str, str] | None = None
    exports: list[Export] = []


class UnitTime(Part):
    name: str = ""
    key: str
    ms: float
    origin: str
    inputs: list[int] | None = None


class Latency(Part):
    device: str
    origin: str
    latency_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    units: list[UnitTime]


class Latencies(Part):
    latencies: list[Latency]


class Table(Part):
    device: str
    source: str
    digest: str = ""
    date: str = ""
    error_median: float | None = None
    error_within_10: float | None = None
    n_validation: int | None = None


class Tables(Part):
    tables: list[Table] = []


class Importance(Part):
    metric: str
    n: int
    top: float
    genes: dict[str, float]
    chance: float
    problem: str = ""


class Estimate(Part):
    metric: str
    n: int
    error: float
    problem: str = ""


class Cut(Part):
    objective: str
    trials: int
    trials_outside: int
    trials_only: int
    drawn: int
    drawn_outside: int
    drawn_only: int


class Change(Part):
    gene: str
    value: str
    new: str
    digest: str
    differences: dict[str, Metric]
    outside: list[str] = []


class Explanation(Part):
    importances: list[Importance] = []
    estimates: list[Estimate] = []
    bounds: list[Cut] = []
    changes: dict[str, list[Change]] = {}


def read(path: Path, schema: str, kind: type[_T]) -> _T | None:
    """The part of `path` that a report shows, or None where there is no such file."""
    if not path.is_file():
        return None
    return valid(path, read_json(path, schema=schema), kind)


def valid(path: Path, value: object, kind: type[_T]) -> _T:
    """The part that `value`, read from `path`, has of what a report shows."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {problems_of(error)}") from error
