"""`targets.toml`, schema `edgenas.targets/1`: what a team ships for, and what must hold there.

    schema = "edgenas.targets/1"
    run = "run.toml"                        # the run file of every target that names none

    [gates]                                 # of every target; its own stand before these
    min_top1 = 0.90

    [target.phone]
    devices = ["rpi4-tflite-fp32"]          # in place of the run file's
    bounds = ["latency_ms <= 1.5"]          # beside or in place of the bounds of its objectives
    formats = ["onnx", "tflite"]            # in place of the run file's
    gates = { max_size_bytes = 900000 }
    measure = true                          # time the front's networks on the devices; default: no

    [target.all]
    devices = ["rpi4-tflite-fp32", "pixel3-tflite-int8-t4"]
    fleet = 1                               # at most so many networks for all of its devices

    [target.board.settings]                 # or a whole run file in place: data, search, ...

A person writes it. Paths are relative to the file that they stand in. With several devices an
objective or a bound on a metric of a device (`latency_ms <= 2`) is meant for each of them;
`latency_ms@DEVICE <= 2` for one. In a fleet it holds for the network that the device runs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import read_toml
from edgenas.errors import SpecError, nearest
from edgenas.fleet import device_bounds
from edgenas.objectives import Objective, check_objectives
from edgenas.pipeline.config import SCHEMA as RUN_SCHEMA
from edgenas.pipeline.config import Format, RunConfig, parse_config, read_config
from edgenas.pipeline.fleets import accuracy_of
from edgenas.pipeline.metrics import COSTLY, OF_DEVICE, OF_NETWORK

TARGETS = Path("targets.toml")
SCHEMA = "edgenas.targets/1"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
"""No dot: folders of runs beside it have one."""


@dataclass(frozen=True, slots=True)
class Gates:
    """Limits that `edgenas ci check` holds every exported file of a target to."""

    min_top1: float | None = None
    """Least top-1 on the test split."""
    max_top1_loss: float = 0.0
    """Most that the best file of a format may lose of top-1 against the lock, beyond noise."""
    max_latency_ms: float | None = None
    """Longest latency by the table, on every device of the target."""
    max_size_bytes: int | None = None
    """Largest file."""
    max_arena_bytes: int | None = None
    """Largest arena of an int8 TFLite file, planned as TFLite-Micro plans it."""
    max_top1_drop: float | None = None
    """Most that a file may lose of top-1 against its network in torch; default: the run file's."""


@dataclass(frozen=True, slots=True)
class Target:
    """One target: the run that makes its networks, what is asked for, and its gates.

    `objectives` name the device of each metric that has one, however many devices there are.
    """

    name: str
    config: RunConfig
    objectives: tuple[Objective, ...]
    gates: Gates
    measure: bool = False
    """Whether the networks of its front are timed on its devices, which must be reached then."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices' names."""
        return self.config.search.devices

    @property
    def trains(self) -> bool:
        """Whether its supernet is trained rather than named."""
        return self.config.supernet.checkpoint is None

    def qualified(self, metric: str) -> str:
        """`metric`, as a run calls it, with the device that it is of."""
        return _qualified(metric, self.devices)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Gates(_Strict):
    min_top1: float | None = Field(None, ge=0, le=1)
    max_top1_loss: float | None = Field(None, ge=0, le=1)
    max_latency_ms: float | None = Field(None, gt=0)
    max_size_bytes: int | None = Field(None, gt=0)
    max_arena_bytes: int | None = Field(None, gt=0)
    max_top1_drop: float | None = Field(None, ge=0, le=1)


class _Target(_Strict):
    run: str | None = Field(None, min_length=1)
    settings: dict[str, Any] | None = None
    devices: list[str] | None = Field(None, min_length=1)
    bounds: list[str] = []
    fleet: int | None = Field(None, ge=1)
    formats: list[Format] | None = Field(None, min_length=1)
    measure: bool | None = None
    gates: _Gates = Field(default_factory=_Gates)


class _File(_Strict):
    schema_: Literal["edgenas.targets/1"] = Field(alias="schema")
    run: str | None = Field(None, min_length=1)
    measure: bool = False
    gates: _Gates = Field(default_factory=_Gates)
    target: dict[str, _Target] = Field(min_length=1)


_SECTIONS: Mapping[str, type[BaseModel]] = {"gates": _Gates, "target": _Target, "": _File}


def read_targets(path: Path) -> tuple[Target, ...]:
    """The targets in `path`, by name.

    Raises:
        SpecError: the file or a run file it names is wrong; what is wrong in it is said at once.
        UsageError: a run file's `name` cannot name a folder.
    """
    if not path.is_file():
        raise SpecError(
            f"cannot read {path}: there is no such file",
            hint='write one: [target.NAME] with run = "run.toml"; the README has an example',
        )
    try:
        file = _File.model_validate(read_toml(path))
    except ValidationError as error:
        raise SpecError(
            "\n".join(f"{path}: {_problem(e)}" for e in error.errors()),
            hint="the keys of a target: run or settings, devices, bounds, fleet, formats, measure, "
            "gates",
        ) from error
    targets = []
    read = functools.cache(read_config)  # most targets share one run file
    for name, wanted in sorted(file.target.items()):
        where = f"{path}: target.{name}"
        if not _NAME.fullmatch(name):
            raise SpecError(
                f"{where}: a target's name has letters, digits, '_' and '-', at most 40, the first "
                "a letter or digit"
            )
        try:
            targets.append(_target(name, wanted, file, path, read))
        except SpecError as error:
            raise SpecError(f"{where}: {error}", hint=error.hint) from error
    return tuple(targets)


def _target(
    name: str, wanted: _Target, file: _File, path: Path, read: Callable[[Path], RunConfig]
) -> Target:
    config = _config(wanted, file, path, read)
    fleet = wanted.fleet or config.search.fleet
    devices = tuple(wanted.devices or config.search.devices)
    if double := sorted({d for d in devices if devices.count(d) > 1}):
        raise SpecError(f"devices: {double[0]!r} stands twice")
    objectives = _bounded(
        _read(config.search.objectives, devices, "objectives"),
        _read(wanted.bounds, devices, "bounds"),
    )
    if fleet is not None:
        device_bounds(objectives, devices)
        accuracy_of(objectives)
    gates = _gates(wanted.gates, file.gates)
    export = config.export
    if wanted.formats is not None:
        export = replace(export, formats=tuple(dict.fromkeys(wanted.formats)))
    if gates.max_top1_drop is not None:
        export = replace(export, max_top1_drop=gates.max_top1_drop)
    told = tuple(str(_as_run_says(objective, devices)) for objective in objectives)
    search = replace(config.search, devices=devices, objectives=told, fleet=fleet)
    config = replace(config, search=search, export=export)
    measure = file.measure if wanted.measure is None else wanted.measure
    return Target(name, config, objectives, gates, measure)


def _config(
    wanted: _Target, file: _File, path: Path, read: Callable[[Path], RunConfig]
) -> RunConfig:
    """The run file or the settings in place that a target rests on."""
    folder = path.resolve().parent
    if wanted.settings is not None:
        if wanted.run is not None:
            raise SpecError("it names a run file and has settings too", hint="keep one of them")
        table = {"schema": RUN_SCHEMA, **wanted.settings}
        if wanted.devices and isinstance(searching := table.get("search", {}), dict):
            table["search"] = {"devices": wanted.devices, **searching}
        return parse_config(table, origin="settings", folder=folder)
    run = wanted.run or file.run
    if run is None:
        raise SpecError("it names no run file", hint='add run = "run.toml", or [.settings]')
    return read(folder / Path(run).expanduser())


def _gates(own: _Gates, common: _Gates) -> Gates:
    return Gates(**{**common.model_dump(exclude_none=True), **own.model_dump(exclude_none=True)})


def _read(texts: Iterable[str], devices: Sequence[str], what: str) -> list[Objective]:
    """Objectives or bounds, each with its device; one on any device becomes one on each."""
    found = []
    for i, text in enumerate(texts, 1):
        try:
            objective = Objective.parse(text)
            known = (*COSTLY, *OF_NETWORK, *OF_DEVICE)
            if objective.metric not in known:
                raise SpecError(f"{text!r}: {nearest(objective.metric, known)}")
            if objective.device is None:
                of_device = objective.metric in OF_DEVICE
                found += [replace(objective, device=d) for d in (devices if of_device else [None])]
                continue
            if objective.metric not in OF_DEVICE or objective.device not in devices:
                raise SpecError(f"{text!r}: no such metric of {', '.join(devices)}")
            found.append(objective)
        except SpecError as error:
            raise SpecError(f"{what}[{i}]: {error}", hint=error.hint) from error
    return found


def _bounded(objectives: Sequence[Objective], bounds: Sequence[Objective]) -> tuple[Objective, ...]:
    """The objectives with these bounds in place of their own, and those on other metrics."""
    found = {objective.name: objective for objective in objectives}
    if len(found) < len(objectives):
        check_objectives(objectives)  # names the one that stands twice
    for i, bound in enumerate(bounds, 1):
        if bound.direction is not None:
            raise SpecError(f"bounds[{i}]: '{bound}' has a direction: that belongs to objectives")
        before = found.get(bound.name, bound)
        found[bound.name] = replace(before, relation=bound.relation, bound=bound.bound)
    check_objectives(found.values())
    return tuple(found.values())


def _as_run_says(objective: Objective, devices: Sequence[str]) -> Objective:
    """As a run file writes it: without the device where there is one only."""
    return replace(objective, device=None) if len(devices) == 1 else objective


def _qualified(metric: str, devices: Sequence[str]) -> str:
    return f"{metric}@{devices[0]}" if metric in OF_DEVICE and len(devices) == 1 else metric


def _problem(error: Any) -> str:
    """One finding of pydantic as `key: what is wrong`, with the nearest known key."""
    where = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        section = "gates" if "gates" in where[:-1] else where[0] if len(where) > 2 else ""
        known = [f.alias or name for name, f in _SECTIONS[section].model_fields.items()]
        return f"{'.'.join(where)}: unknown key; {nearest(where[-1], known)}"
    given = error.get("input")
    shown = "" if isinstance(given, dict | list) else f" (got {given!r})"
    return f"{'.'.join(where)}: {error['msg']}{shown}"
