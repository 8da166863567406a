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
from edgenas.pipeline.config import KNOWN_FORMATS, Format, RunConfig, parse_config, read_config
from edgenas.pipeline.config import SCHEMA as RUN_SCHEMA
from edgenas.pipeline.fleets import accuracy_of
from edgenas.pipeline.goals import devices_of
from edgenas.pipeline.metrics import COSTLY, OF_DEVICE, OF_NETWORK, check_energy, check_meaning

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
        table = read_toml(path)
    except SpecError as error:
        hint = error.hint or "mend it there; a table or a key stands once"
        raise SpecError(str(error), hint=hint) from error
    try:
        file = _File.model_validate(table)
    except ValidationError as error:
        raise SpecError(
            "\n".join(f"{path}: {_problem(e)}" for e in error.errors()),
            hint="; ".join(dict.fromkeys(_hint(e) for e in error.errors())),
        ) from error
    _check_capitals(file.target, path)
    targets = []
    read = functools.cache(read_config)  # most targets share one run file
    for name, wanted in sorted(file.target.items()):
        where = f"{path}: target.{name}"
        if not _NAME.fullmatch(name):
            raise SpecError(
                f"{where}: a target's name has letters, digits, '_' and '-', at most 40, the first "
                "a letter or digit",
                hint="rename it, such as [target.board-2]",
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
        raise SpecError(f"devices: {double[0]!r} stands twice", hint="leave one of them out")
    objectives = _bounded(
        _read(config.search.objectives, devices, "objectives"),
        _read(wanted.bounds, devices, "bounds"),
    )
    check_meaning(objectives)
    if fleet is not None:
        _check_fleet(objectives, devices)
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


def check_devices(target: Target) -> None:
    """Refuses what the target's devices cannot tell: their energy, or a latency measured on them.

    Raises:
        SpecError: energy of a device whose table tells none, with those whose tables do; a target
            to be measured with no device that edgenas can time; a table that cannot be read.
    """
    devices = devices_of(target.config)
    why = [f"{d.name} cannot be measured: {d.why_unmeasured}" for d in devices if d.why_unmeasured]
    if target.measure and len(why) == len(devices):
        raise SpecError(
            f"measure = true: {'; '.join(why)}",
            hint=f"measure = false in [target.{target.name}]: the table predicts",
        )
    if all(objective.metric != "energy_mj" for objective in target.objectives):
        return
    from edgenas.latency import table_for

    tables = {device.name: table_for(device) for device in devices if not device.is_local}
    asked = [o for o in target.objectives if o.metric != "energy_mj" or o.device in tables]
    check_energy(asked, tables)  # a table of this machine is made by the search


def _check_capitals(names: Iterable[str], path: Path) -> None:
    """Refuses names that are one where a file system ignores capitals: `runs` has links to both."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        if (first := seen.setdefault(name.lower(), name)) != name:
            raise SpecError(
                f"{path}: target.{first} and target.{name} differ in capitals alone",
                hint="rename one of them: on some systems their runs would be one folder",
            )


def _check_fleet(objectives: Sequence[Objective], devices: Sequence[str]) -> None:
    """Raises as `device_bounds` and `accuracy_of`, with what to do about it in the targets."""
    try:
        device_bounds(objectives, devices)
    except SpecError as error:
        bounded = {o.device for o in objectives if o.bound is not None}
        free = [device for device in devices if device not in bounded]
        hint = f'bounds = ["latency_ms@{free[0]} <= NUMBER"] in the target' if free else ""
        if len(devices) < 2:
            hint = 'name them, devices = ["...", "..."], or leave out fleet'
        raise SpecError(str(error), hint=hint) from error
    accuracy_of(objectives)


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
                hint = f"the metrics: {', '.join(sorted(known))}"
                raise SpecError(f"{text!r}: {nearest(objective.metric, known)}", hint=hint)
            if objective.device is None:
                of_device = objective.metric in OF_DEVICE
                found += [replace(objective, device=d) for d in (devices if of_device else [None])]
                continue
            if objective.metric not in OF_DEVICE or objective.device not in devices:
                raise SpecError(
                    f"{text!r}: no such metric of {', '.join(devices)}",
                    hint="after the @ stands one of the target's devices; of a device are "
                    f"{', '.join(sorted(OF_DEVICE))}",
                )
            found.append(objective)
        except SpecError as error:
            raise SpecError(f"{what}[{i}]: {error}", hint=error.hint) from error
    return found


def _bounded(objectives: Sequence[Objective], bounds: Sequence[Objective]) -> tuple[Objective, ...]:
    """The objectives with these bounds in place of their own, and those on other metrics."""
    found = {objective.name: objective for objective in objectives}
    if len(found) < len(objectives):
        check_objectives(objectives)  # names the one that stands twice
    seen: dict[str, Objective] = {}
    for i, bound in enumerate(bounds, 1):
        if bound.direction is not None:
            raise SpecError(
                f"bounds[{i}]: '{bound}' has a direction: that belongs to objectives",
                hint=f"write the bound alone, '{replace(bound, direction=None)}'"
                if bound.bound is not None
                else "write it into the objectives of the run file",
            )
        if (first := seen.setdefault(bound.name, bound)) is not bound:
            raise SpecError(
                f"bounds: {bound.name!r} stands twice: '{first}', '{bound}'",
                hint="keep one of them; a bound on no device by name is meant for each",
            )
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
    return f"{'.'.join(where)}: {error['msg'].removeprefix('Value error, ')}{shown}"


_FRACTION, _BYTES = "a fraction from 0 to 1, such as 0.92", "a whole number of bytes, as 100_000"
_VALUES = {
    "schema": f'the file begins with schema = "{SCHEMA}"',
    "target": 'a target is [target.NAME] with run = "run.toml", or [target.NAME.settings]',
    "run": 'run = "run.toml": the path of a run file, from the folder of the targets',
    "settings": "[target.NAME.settings] has what a run file has",
    "devices": 'devices = ["NAME"]: names as edgenas devices list has them',
    "bounds": 'bounds = ["latency_ms <= 2"]: a list of texts',
    "fleet": "fleet = 1: how many networks at most, 1 or more",
    "formats": f"the formats: {', '.join(KNOWN_FORMATS)}",
    "measure": "measure = true, or false",
    "gates": "gates = { min_top1 = 0.92 }, or [target.NAME.gates]",
    "max_latency_ms": "max_latency_ms is in milliseconds, such as 1.5",
    **dict.fromkeys(("min_top1", "max_top1_loss", "max_top1_drop"), _FRACTION),
    **dict.fromkeys(("max_size_bytes", "max_arena_bytes"), _BYTES),
}
"""What stands under a key."""


def _hint(error: Any) -> str:
    """What to write in place of what pydantic found."""
    where = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        section = "gates" if "gates" in where[:-1] else where[0] if len(where) > 2 else ""
        what = {"gates": "gates", "target": "a target", "": "the file"}[section]
        known = [f.alias or name for name, f in _SECTIONS[section].model_fields.items()]
        return f"the keys of {what}: {', '.join(known)}"
    keys = [part for part in where if part in _VALUES]
    key = keys[-1] if keys else "target"
    return _VALUES[key] if key in _VALUES[key] else f"{key}: {_VALUES[key]}"
