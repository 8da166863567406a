"""The run file, schema `edgenas.run/1`: what to train, search and export, in TOML.

A person writes it; `read_config` turns it into a `RunConfig` or names every problem at once, each
as `file: key: what is wrong`, unknown keys with the nearest known one. Paths inside the file are
relative to its folder. The copy in a run folder (`write_config`) holds absolute paths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from edgenas import plugins
from edgenas.artifacts import read_toml, toml_value, write_atomic
from edgenas.errors import SpecError, UsageError, nearest
from edgenas.export.formats import BUILT_IN, FORMATS, MIXED
from edgenas.spaces.registry import FAMILIES

SCHEMA = "edgenas.run/1"

KNOWN_FORMATS = (*BUILT_IN, *MIXED)
"""Of edgenas itself; `known_formats` has those of plug-ins too."""


def known_formats() -> tuple[str, ...]:
    """Every format that a file can be written in: edgenas' own, then plug-ins' by name."""
    return (*plugins.names("exporters", BUILT_IN), *MIXED)


def _known_format(name: str) -> str:
    # what is installed is read only for a name that is not edgenas' own
    if name not in KNOWN_FORMATS and name not in (known := known_formats()):
        raise ValueError(f"{name!r} is no format; {nearest(name, known)}")
    return name


Format = Annotated[str, AfterValidator(_known_format)]
"""The name of a format, in a file that a user writes."""

SHIPPED = "shipped"
"""The checkpoint's name for the supernet that comes with edgenas for a known data set."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RESERVED = {"con", "prn", "aux", "nul"} | {f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10)}


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where images come from."""

    source: str
    """A known set (`fashion-mnist`, `digits`), a folder with one sub-folder a class, or `.npz`."""
    image_size: int | None = None
    """Height and width in pixels that images of differing size are brought to; default: theirs."""
    download: bool = False
    """Whether a known set may be fetched from the network where its files are missing."""
    licence: str = ""
    """Of the images, for the certificates; that of a known set is known."""


@dataclass(frozen=True, slots=True)
class SupernetConfig:
    """Which supernet is searched."""

    checkpoint: str | None = None
    """`shipped`, or the path of a `.safetensors` file; absent: one is trained into the run."""


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """What is looked for, where it must run, and how long to look."""

    devices: tuple[str, ...]
    """Device names (`edgenas devices`); with several, write `latency_ms@DEVICE`."""
    objectives: tuple[str, ...] = ("max top1", "min latency_ms")
    """Each a metric with what is wanted of it: `max top1`, `min latency_ms <= 2.0`, or a bound
    alone, `size_bytes <= 500000`."""
    strategy: str = "surrogate"
    """Who proposes architectures: `surrogate`, `nsga2`, `nsga3`, `evolution`, `reinforce`,
    `gradient`, `tpe`, `gp` or `random`."""
    trials: int | None = None
    """Stop after so many trials; 200 where neither `trials` nor `minutes` is given. 0: the front is
    that of what `warm_start` and `begin_with` tell."""
    minutes: float | None = None
    """Stop after so long, the first of the two."""
    patience: int | None = None
    """Stop also when so many trials in a row add less than 0.1 % of hypervolume; at the earliest
    after twice as many."""
    images: int | None = None
    """Images of the search split, or unlabelled ones, to be scored; default: all."""
    pilots: int = 16
    """Of these images only those are scored that so many networks, spread over the space, do not
    all name alike; the rest counts as they name it. 0: all are scored, as are 1,000 or fewer."""
    recalibration_images: int = 2000
    """Training images that renew the BatchNorm statistics of each candidate."""
    robustness_images: int = 500
    """Images of the search split that `robustness` is read from, each in 21 corrupted forms."""
    unlabelled: str | None = None
    """Folder of images without labels that `agreement` is read from; default: the search split."""
    fleet: int | None = None
    """At most so many networks for all devices: each device's bounds then hold for what runs on it,
    and the best choice is exported in place of `export.top` networks of the front."""
    warm_start: tuple[str, ...] = ()
    """Earlier runs (names below the folder of runs, or paths) whose trials this search may use."""
    begin_with: tuple[str, ...] = ()
    """Architectures (their lines) that are evaluated before the first trial, bounds permitting."""
    gradient_steps: int = 8
    """Of the strategy `gradient`: gradients a lesson; it takes eight at most."""
    gradient_partial_channels: float = 1.0
    """Of the strategy `gradient`: share of hidden channels that an expansion is judged by."""
    gradient_progressive_depth: bool = False
    """Of the strategy `gradient`: whether deeper stages become possible in the course of a lesson
    only."""
    profile_minutes: float = 10.0
    """Time units that a table of this machine lacks, if it takes at most so long; 0: never."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a supernet is trained, where one is: the settings of `supernet.Recipe`, and where."""

    epochs: int = 24
    """Passes over the training split."""
    batch: int = 128
    """Images a step, over all processes."""
    peak_lr: float = 0.1
    """Largest learning rate."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """`one-cycle` or `cosine`: how the learning rate rises and falls."""
    warmup: float = 0.15
    """Share of the steps before the peak of `one-cycle`."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    weight_decay: float = 2e-4
    """Of convolutions and the classifier."""
    label_smoothing: float = 0.05
    """Of the labels that the largest network sees."""
    n_random: int = 2
    """Random networks a step, beside the largest and the smallest."""
    largest_first: float = 0.0
    """Share of the steps, at the start, that train the largest network alone."""
    augmentation: str = "light"
    """`none`, `light`, `erase` (light, and random rectangles erased) or `strong`."""
    mirror: bool | None = None
    """Whether images may be flipped left to right; default: what the data set says of itself."""
    balance: bool | None = None
    """Whether rare classes weigh more; default: where a class has 1.5 times another's images."""
    accumulate: int = 1
    """Parts that a batch is cut into, to save memory."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` (CUDA where there is one), `cpu` or `cuda`."""


@dataclass(frozen=True, slots=True)
class FinalConfig:
    """How the chosen networks are trained further before they are exported."""

    epochs: int = 8
    """Passes over the training split, for each network; as many again with int8 simulated."""
    minutes: float | None = None
    """For all networks together; each makes as many steps as its share has room for."""
    peak_lr: float = 0.02
    """Largest learning rate; a tenth of it with int8 simulated."""
    distil: float = 0.5
    """Share of the loss against the teacher's soft labels; the labels have the rest."""
    teacher: str | None = None
    """A supernet's file (.safetensors) whose largest network teaches; default: the run's own."""
    batch: int = 128
    """Images a step."""
    augmentation: Literal["none", "light", "erase", "strong"] | None = None
    """As in `[train]`; default: as the supernet was trained."""
    quantisation_aware: Literal["never", "where needed", "always"] = "where needed"
    """`never`, `always` or `where needed` (int8 loses more than `max_int8_drop`): whether training
    goes on with int8 simulated."""
    max_int8_drop: float = 0.005
    """Loss of top-1 in int8 that is borne on the search split; no file may lose more on the test
    split."""


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Which files are written for the chosen networks, and what they must pass."""

    formats: tuple[str, ...] = FORMATS
    """`onnx`, `onnx-int8`, `tflite`, `tflite-fp16`, `tflite-int8` (the default: all five),
    `onnx-mixed`, `tflite-mixed`."""
    top: int = 3
    """Networks: the most accurate, the knee, the fastest, then spread over the front."""
    targets: tuple[str, ...] = ()
    """More devices that files are held against, beside those of the search. They need no latency
    table; memory that their files state bounds the search as well."""
    max_top1_drop: float = 0.01
    """Largest loss of top-1 of a file against the network in torch, on the test split."""
    max_mixed_drop: float = 0.002
    """Largest loss of top-1 of a file in mixed precision against the float one, on the search
    split, that its units' precisions are chosen by."""
    licence: str = ""
    """Of the exported files, for their certificates."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run file."""

    data: DataConfig
    search: SearchConfig
    seed: int = 0
    """The one root seed; all others are derived from it."""
    space: str | Mapping[str, Any] = "mobile/1"
    """A family, with its default choices for the images' size, or a table of choices."""
    name: str | None = None
    """Name of the run's folder; default: the run file's stem."""
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    final: FinalConfig | None = None
    """None: the chosen networks keep the weights that they inherit."""
    export: ExportConfig = field(default_factory=ExportConfig)

    @property
    def max_trials(self) -> int | None:
        """The budget in trials: 200 where no budget at all is given."""
        if self.search.trials is None and self.search.minutes is None:
            return 200
        return self.search.trials

    @property
    def max_top1_drop(self) -> float:
        """The most top-1 that a file may lose; final training is there to hold its own limit."""
        drops = [self.export.max_top1_drop]
        if self.final is not None:
            drops.append(self.final.max_int8_drop)
        return min(drops)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _distinct(values: list[str]) -> list[str]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} stands twice")
    return values


_Names = Annotated[list[str], AfterValidator(_distinct)]


class _Data(_Strict):
    source: str = Field(min_length=1)
    image_size: int | None = Field(None, ge=8, le=1024)
    download: bool = False
    licence: str = ""


class _Supernet(_Strict):
    checkpoint: str | None = Field(None, min_length=1)


class _Search(_Strict):
    devices: _Names = Field(min_length=1)
    objectives: _Names = Field(default=["max top1", "min latency_ms"], min_length=1)
    strategy: str = "surrogate"
    trials: int | None = Field(None, ge=0)
    minutes: float | None = Field(None, gt=0)
    patience: int | None = Field(None, ge=1)
    images: int | None = Field(None, ge=1)
    pilots: int = Field(16, ge=0)
    recalibration_images: int = Field(2000, ge=1)
    robustness_images: int = Field(500, ge=1)
    unlabelled: str | None = Field(None, min_length=1)
    fleet: int | None = Field(None, ge=1)
    warm_start: _Names = []
    begin_with: _Names = []
    gradient_steps: int = Field(8, ge=1)
    gradient_partial_channels: float = Field(1.0, gt=0, le=1)
    gradient_progressive_depth: bool = False
    profile_minutes: float = Field(10.0, ge=0)


class _Train(_Strict):
    epochs: int = Field(24, ge=1)
    batch: int = Field(128, ge=2)
    peak_lr: float = Field(0.1, gt=0)
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    warmup: float = Field(0.15, ge=0, lt=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(2e-4, ge=0, lt=1)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    n_random: int = Field(2, ge=0)
    largest_first: float = Field(0.0, ge=0, lt=1)
    augmentation: str = "light"
    mirror: bool | None = None
    balance: bool | None = None
    accumulate: int = Field(1, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class _Final(_Strict):
    epochs: int = Field(8, ge=1)
    minutes: float | None = Field(None, gt=0)
    peak_lr: float = Field(0.02, gt=0)
    distil: float = Field(0.5, ge=0, le=1)
    teacher: str | None = Field(None, min_length=1)
    batch: int = Field(128, ge=2)
    augmentation: Literal["none", "light", "erase", "strong"] | None = None
    quantisation_aware: Literal["never", "where needed", "always"] = "where needed"
    max_int8_drop: float = Field(0.005, ge=0, le=1)


class _Export(_Strict):
    formats: Annotated[list[Format], AfterValidator(_distinct)] = Field(
        default=list(FORMATS), min_length=1
    )
    top: int = Field(3, ge=1)
    targets: list[str] = []
    max_top1_drop: float = Field(0.01, ge=0, le=1)
    max_mixed_drop: float = Field(0.002, ge=0, le=1)
    licence: str = ""


class _Run(_Strict):
    schema_: Literal["edgenas.run/1"] = Field(alias="schema")
    name: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    space: str | dict[str, Any] = "mobile/1"
    data: _Data
    supernet: _Supernet = Field(default_factory=_Supernet)
    search: _Search
    train: _Train = Field(default_factory=_Train)
    final: _Final | None = None
    export: _Export = Field(default_factory=_Export)

    @field_validator("space")
    @classmethod
    def _family(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        family = value if isinstance(value, str) else value.get("family")
        if family is None:
            raise ValueError('family is missing, as in family = "mobile/1"')
        if family not in (known := plugins.names("spaces", FAMILIES)):
            raise ValueError(f"unknown space {family!r}; {nearest(str(family), known)}")
        return value


_SECTIONS: Mapping[str, type[BaseModel]] = {
    "": _Run,
    "data": _Data,
    "supernet": _Supernet,
    "search": _Search,
    "train": _Train,
    "final": _Final,
    "export": _Export,
}
BUILT_IN_SETS = ("fashion-mnist", "digits")


def read_config(path: Path) -> RunConfig:
    """The run that the file describes; paths in it are made absolute, from the file's folder.

    Raises:
        SpecError: not TOML, unknown or missing keys, wrong values; all of them in one message.
        UsageError: where its `name` cannot name a folder.
    """
    if path.is_dir():
        raise SpecError(f"cannot read {path}: it is a folder", hint=f"name a file: {path}/run.toml")
    if not path.exists():
        raise SpecError(
            f"cannot read {path}: there is no such file", hint="edgenas init FOLDER writes one"
        )
    return parse_config(read_toml(path), origin=str(path), folder=path.resolve().parent)


def parse_config(table: Mapping[str, Any], *, origin: str, folder: Path) -> RunConfig:
    """The run that the contents of a run file describe; paths in it start from `folder`.

    Raises as `read_config`; messages begin with `origin`.
    """
    try:
        run = _Run.model_validate(table)
    except ValidationError as error:
        problems = "\n".join(f"{origin}: {_problem(e)}" for e in error.errors())
        raise SpecError(problems, hint="a valid one to start from: edgenas init FOLDER") from error
    return _absolute(from_table(run.model_dump(exclude={"schema_"})), folder)


def from_table(table: Mapping[str, Any]) -> RunConfig:
    """The value that a checked table holds; what `write_config` writes."""
    search, export = dict(table["search"]), dict(table.get("export", {}))
    for section, keys in (
        (search, ("devices", "objectives", "warm_start", "begin_with")),
        (export, ("formats", "targets")),
    ):
        section.update({key: tuple(section[key]) for key in keys if key in section})
    name = table.get("name")
    return RunConfig(
        data=DataConfig(**table["data"]),
        search=SearchConfig(**search),
        seed=table.get("seed", 0),
        space=table.get("space", "mobile/1"),
        name=None if name is None else run_name(name),
        supernet=SupernetConfig(**table.get("supernet", {})),
        train=TrainConfig(**table.get("train", {})),
        final=None if table.get("final") is None else FinalConfig(**table["final"]),
        export=ExportConfig(**export),
    )


def write_config(path: Path, config: RunConfig) -> None:
    """Writes the run file that `read_config` reads back as `config`, every setting spelt out."""
    values = asdict(config)
    scalars = {key: values[key] for key in ("name", "seed", "space")}
    lines = [f'schema = "{SCHEMA}"']
    space = scalars.pop("space")
    lines += [f"{key} = {toml_value(value)}" for key, value in scalars.items() if value is not None]
    lines.append(f"space = {toml_value(space)}")
    for section in ("data", "supernet", "search", "train", "final", "export"):
        if values[section] is None:
            continue
        lines += ["", f"[{section}]"]
        lines += [f"{k} = {toml_value(v)}" for k, v in values[section].items() if v is not None]
    write_atomic(path, "\n".join(lines) + "\n")


def run_name(text: str) -> str:
    """`text`, if it can name a run's folder on any system.

    Raises:
        UsageError: for `..`, separators, reserved words, leading dots or dashes, other characters.
    """
    if not _NAME.match(text) or ".." in text or text.split(".")[0].lower() in _RESERVED:
        raise UsageError(
            f"run name {text!r} cannot be used: letters, digits, '.', '_' and '-', at most 64, "
            "the first a letter or digit, and no name that a system reserves",
            hint="choose one with --name, such as --name photos-1",
        )
    return text


def _problem(error: Any) -> str:
    """One finding of pydantic as `key: what is wrong`, with the nearest known key or value."""
    where = [part for part in error["loc"] if part != "str" and "dict[" not in str(part)]
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where).lstrip(".")
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            section = _SECTIONS.get(".".join(map(str, where[:-1])), _Run)
            known = [f.alias or name for name, f in section.model_fields.items()]
            return f"{key}: unknown key; {nearest(str(where[-1]), known)}"
        case "missing":
            return f'{key}: missing; {key} = "{SCHEMA}"' if key == "schema" else f"{key}: missing"
        case "literal_error" if key == "schema":
            return f"schema: {given!r}; {SCHEMA!r} is expected"
        case _:
            shown = "" if isinstance(given, dict | list) else f" (got {given!r})"
            return f"{key}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    """`config` with paths taken from `folder`; a bare word that names nothing there is kept."""
    source, checkpoint = config.data.source, config.supernet.checkpoint
    if source not in BUILT_IN_SETS:
        candidate = folder / Path(source).expanduser()
        if candidate.exists() or "/" in source or source.endswith(".npz"):
            config = replace(config, data=replace(config.data, source=str(candidate)))
    if checkpoint is not None and checkpoint != SHIPPED:
        path = folder / Path(checkpoint).expanduser()
        config = replace(config, supernet=SupernetConfig(str(path)))
    if config.final is not None and config.final.teacher is not None:
        path = folder / Path(config.final.teacher).expanduser()
        config = replace(config, final=replace(config.final, teacher=str(path)))
    if config.search.unlabelled is not None:
        path = folder / Path(config.search.unlabelled).expanduser()
        config = replace(config, search=replace(config.search, unlabelled=str(path)))
    return config
