"""`ci plan`: which stages of which targets are stale, and why, from facts alone.

Facts of today are compared with those of the lock, one by one. What a changed fact makes stale
follows from the table in `stages`, but for some that are looked at more closely:

- A bound that became tighter needs no search where every network of the front meets it (of a fleet,
  those that it is asked of: the best choice is the best among fewer); one that became looser does:
  beyond the old bound nothing was tried.
- An objective or a device that is gone needs none either, nor does a metric evaluated for it alone:
  what is undominated without it was undominated with it.
- A table that was measured again stales nothing where what the lock says of the front's networks
  lies inside its intervals, and they moved by no more than the error that it states, in the median;
  and where no unit of the space became faster by more than twice its interval, against the table
  that the locked run kept: other networks could be on the front now. Without that table it counts.
  All is compared with what was locked, not with the table before, so small steps add up.

A search is never begun from nothing where the accuracies that the last one found still hold: they
are known to the next, which makes a tenth of the trials.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgenas.ci.damage import damage
from edgenas.ci.facts import HERE, Reader
from edgenas.ci.lock import (
    LOCK,
    Entry,
    read_lock,
)
from edgenas.ci.stages import STAGES, Fact, Facts, first_reader, following, stages_of
from edgenas.ci.targets import TARGETS, Target, check_devices, read_targets
from edgenas.errors import (
    EdgenasError,
    MissingUnitsError,
    SpecError,
    UsageError,
    nearest,
)
from edgenas.hardware import load_device
from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.pipeline.config import FinalConfig, TrainConfig

if TYPE_CHECKING:
    from edgenas.latency import LatencyTable
    from edgenas.spaces import SearchSpace

SCHEMA = "edgenas.ci-plan/1"
RUNS = Path("runs")

KNOWN_SHARE = 0.1
"""Of the trials, where the accuracies of the last search still hold."""
HINT_SHARE = 0.5
"""Of the trials, where they are a hint only: another supernet, other images."""

_UNIT_INTERVALS = 2.0
"""Intervals by which a unit may become faster, as noise."""

_OF_METRIC = {"robustness_images": "robustness", "unlabelled": "agreement"}
"""Settings of the evaluation that one metric alone reads: they come and go with it."""

State = Literal["fresh", "stale", "new", "gone"]


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that is not what the lock says: the stage that it makes stale first, and in words.

    `stage` empty: it stales nothing and is told all the same.
    """

    fact: str
    stage: str
    text: str


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What has to be done for one target."""

    name: str
    state: State
    stale: tuple[str, ...] = ()
    """Stages, in order."""
    changes: tuple[Change, ...] = ()
    facts: Facts = field(default_factory=dict)
    target: Target | None = None
    """None where it is no longer in the targets file."""
    entry: Entry | None = None
    """None where it is not in the lock."""
    missing: tuple[str, ...] = ()
    """Results that are not here, or not as the lock says."""

    @property
    def reasons(self) -> dict[str, list[str]]:
        """By stale stage why it is; one that merely follows others says so."""
        found = {}
        for stage in self.stale:
            own = [change.text for change in self.changes if change.stage == stage]
            found[stage] = own or ["new" if self.state == "new" else "follows"]
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What changed and stales nothing."""
        return tuple(change.text for change in self.changes if not change.stage)

    @property
    def begins(self) -> Literal["cold", "hints", "known"]:
        """What the next search may use of the last one."""
        words = {change.fact.split(" ")[0] for change in self.changes if change.stage}
        if self.state == "new" or words & {"seed", "space"}:
            return "cold"
        return "hints" if {"supernet", "evaluate"} & set(self.stale) else "known"

    @property
    def share(self) -> float:
        """How much of the run file's trials the next search makes."""
        words = {change.fact.split(" ")[0] for change in self.changes if change.stage}
        if "search" not in self.stale:
            return 0.0
        if self.begins == "cold" or "search" in words:
            return 1.0
        return HINT_SHARE if self.begins == "hints" else KNOWN_SHARE

    def document(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "target": self.name,
            "state": self.state,
            "stale": [{"stage": s, "reasons": why} for s, why in self.reasons.items()],
            "notes": list(self.notes),
            "begins": self.begins if "search" in self.stale else None,
            "share_of_trials": self.share,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done, target by target, sorted by name."""

    targets: tuple[TargetPlan, ...]

    @property
    def stale(self) -> tuple[TargetPlan, ...]:
        """Those with something to do, the ones that are gone among them."""
        return tuple(target for target in self.targets if target.state != "fresh")

    def document(self) -> dict[str, Any]:
        """As `ci plan --json` prints it (schema `edgenas.ci-plan/1`)."""
        return {
            "schema": SCHEMA,
            "stale": [target.name for target in self.stale],
            "targets": [target.document() for target in self.targets],
        }

    def text(self) -> str:
        """For people: each target, what is stale, and why."""
        lines = []
        for t in self.targets:
            match t.state:
                case "fresh":
                    lines.append(f"{t.name}: nothing stale")
                case "gone":
                    lines.append(f"{t.name}: no longer a target; it goes from the lock")
                case "new":
                    lines.append(f"{t.name}: new: {', '.join(t.stale)}")
                case _:
                    lines.append(f"{t.name}: stale: {', '.join(t.stale)}")
                    lines += [f"  {c.stage}: {c.text}" for c in t.changes if c.stage]
                    lines.append(f"  {_effort(t)}")
            lines += [f"  {note}" for note in t.notes]
        return "\n".join(lines)


def plan(
    targets: Path = TARGETS,
    *,
    lock: Path = LOCK,
    runs: Path = RUNS,
    only: Sequence[str] = (),
    reader: Reader | None = None,
) -> Plan:
    """Compares the targets with the lock. Writes nothing and loads no torch.

    Args:
        targets: the targets file.
        lock: the lock.
        runs: the folder of runs.
        only: these targets alone; default: all, those that only the lock knows among them.
        reader: reads facts; default: a new one.

    Raises:
        UsageError: `only` names no target.
        SpecError: a file is missing or wrong.
    """
    wanted = {target.name: target for target in read_targets(targets)}
    entries = read_lock(lock)
    for name in only:
        if name not in wanted:
            raise UsageError(f"no target {name!r} in {targets}; {nearest(name, wanted)}")
    names = only or sorted({*wanted, *entries})
    reader = reader or Reader(runs)
    found = []
    for name in sorted(set(names)):
        if name not in wanted:
            found.append(TargetPlan(name, "gone", entry=entries[name]))
            continue
        try:
            check_devices(wanted[name])
            found.append(_target_plan(wanted[name], entries.get(name), reader, runs))
        except SpecError as error:
            raise type(error)(f"target {name}: {error}", hint=error.hint) from error
    return Plan(tuple(found))


def _target_plan(target: Target, entry: Entry | None, reader: Reader, runs: Path) -> TargetPlan:
    facts = reader.facts(target, {} if entry is None else entry.facts)
    stages = stages_of(facts)
    if entry is None:
        if reader.checkpoint(target).is_file():  # trained for another target
            stages = tuple(stage for stage in stages if stage != "supernet")
        return TargetPlan(target.name, "new", stages, facts=facts, target=target)
    changes = changes_between(entry, facts, _noise(target, entry, reader, runs / entry.run))
    missing = damage(target, entry, runs)
    changes += [Change("results", "export", problem) for problem in missing]
    stale = following({c.stage for c in changes if c.stage}, stages)
    return TargetPlan(
        target.name,
        "stale" if stale else "fresh",
        stale,
        tuple(changes),
        facts,
        target,
        entry,
        missing,
    )


WithinNoise = Callable[[str], tuple[bool, str]]
"""Of a device's table that is another one: whether that counts for nothing, and by how much."""


def _noise(target: Target, entry: Entry, reader: Reader, folder: Path) -> WithinNoise:
    """Compares what tables say now of a locked front, and of other units, with what they said."""

    def within_noise(device: str) -> tuple[bool, str]:
        check_table(reader.space(target), device)
        now = table_metrics(target, entry, reader, device)
        stated = table_of(device).error_median
        told = [
            (metric, entry.front[digest].metrics[name])
            for digest, metrics in now.items()
            for name, metric in metrics.items()
            if name in entry.front[digest].metrics
        ]
        if not told:
            return False, "the lock has no network to compare it on"
        moves = [abs(metric.value / before - 1) for metric, before in told]
        outside = sum(not _holds(metric, before) for metric, before in told)
        typical = statistics.median(moves)
        text = (
            f"the front moved by {100 * typical:.1f} % in the median, {100 * max(moves):.1f} % at "
            f"most; {outside} of {len(told)} figures were outside its intervals"
        )
        if stated is not None:
            text += f", its stated error is {100 * stated:.1f} %"
        if outside or (stated is not None and typical > stated):
            return False, text
        before = _locked_table(entry, folder, device)
        if before is None:
            return False, f"{text}; the table before is not in {folder} to compare other units with"
        faster = _faster(before, table_of(device), reader.space(target))
        if faster:
            return False, f"{text}; {len(faster)} units became much faster, such as {faster[0]}"
        return True, text

    return within_noise


def _locked_table(entry: Entry, folder: Path, device: str) -> LatencyTable | None:
    """The table that the run in `folder` was made with; None where it is not there whole."""
    from edgenas.latency import read_table
    from edgenas.pipeline.tables import TABLES

    try:
        table = read_table(folder / TABLES / f"{device}.json")
    except EdgenasError:
        return None
    return table if table.digest == entry.digests.get(f"table {device}") else None


def _faster(before: LatencyTable, now: LatencyTable, space: SearchSpace) -> list[str]:
    """Keys of the units that both tables know and that became faster beyond their noise.

    A unit varies more than a network, which is a sum of them: it has twice the interval.
    """
    from edgenas.latency import Predictor

    first, second = Predictor(before), Predictor(now)
    found = []
    for op in space.units():
        if first.covers(op) and second.covers(op):
            was = first.predict_units([("", op)]).latency_ms
            told = second.predict_units([("", op)])
            if was > told.latency_ms + _UNIT_INTERVALS * (told.high_ms - told.latency_ms):
                found.append(op.key)
    return sorted(found)


def _holds(metric: Metric, value: float) -> bool:
    """Whether `value` lies in the metric's interval."""
    low, high = metric.bounds
    return low <= value <= high


def table_of(device: str) -> LatencyTable:
    """The table of the device called `device` as it is now; raises as `table_for`."""
    from edgenas.latency import load_table, table_for

    profile = load_device(device)
    return load_table(device) if profile.is_local else table_for(profile)


def check_table(space: SearchSpace, device: str) -> None:
    """Refuses the table of `device` where some network of `space` cannot be predicted with it.

    Raises:
        SpecError: there is none.
        ArtifactError: it is damaged, or does not hold for the device.
        MissingUnitsError: units that it neither holds nor can predict.
    """
    from edgenas.latency import Predictor

    try:
        table = table_of(device)
    except SpecError as error:
        hint = error.hint or f"restore it from git, or make it again: edgenas profile {device}"
        raise type(error)(str(error), hint=hint) from error
    predictor = Predictor(table)
    missing = [op for op in space.units() if not predictor.covers(op)]
    if missing:
        try:
            predictor.predict_units([(op.key, op) for op in missing])
        except MissingUnitsError as error:
            raise MissingUnitsError(f"{table.path}: {error}", hint=error.hint) from error


def table_metrics(
    target: Target, entry: Entry, reader: Reader, device: str
) -> dict[str, dict[str, Metric]]:
    """What the table of `device`, as it is now, says of each network of the locked front.

    Latency, and energy and memory where the table speaks of them; by the network's digest, then by
    metric.

    Raises:
        SpecError: the space or the table cannot be read, or is another one.
        MissingUnitsError: the table does not know a network's units.
    """
    from edgenas.latency import Predictor
    from edgenas.pipeline.metrics import CheapMetrics

    space = reader.space(target)
    cheap = CheapMetrics(space, (load_device(device),), {device: Predictor(table_of(device))})
    found = {}
    for digest, network in entry.front.items():
        told = cheap.explain(space.parse(network.architecture))
        found[digest] = {
            f"{name}@{device}": metric
            for name, metric in told.items()
            if name in ("latency_ms", "energy_mj", "peak_memory_bytes")
        }
    return found


def changes_between(
    entry: Entry, facts: Facts, within_noise: WithinNoise | None = None
) -> list[Change]:
    """What is not as the lock says, in the order of the stages that it makes stale.

    Without `within_noise` every table that was measured again counts.
    """
    before = entry.facts
    changes = []
    stages = stages_of(facts)
    for fact in sorted({*before, *facts}):
        was, now = before.get(fact), facts.get(fact)
        if was != now and (change := _change(fact, was, now, entry, facts, stages, within_noise)):
            changes.append(change)
    order = ["", *stages]
    return sorted(changes, key=lambda change: (order.index(change.stage), change.fact))


def _change(
    fact: str,
    was: Fact | None,
    now: Fact | None,
    entry: Entry,
    facts: Facts,
    stages: Sequence[str],
    within_noise: WithinNoise | None,
) -> Change | None:
    word, _, name = fact.partition(" ")
    text = _words(fact, was, now)
    match word:
        case "table" if f"device {name}" not in entry.facts or f"device {name}" not in facts:
            return None  # with its device
        case "table" if was is None or now is None:
            return Change(fact, "score", f"{text}, and its device was there")
        case "table" if within_noise is not None and HERE not in (was, now):
            holds, told = within_noise(name)
            if holds:
                told = f"table of {name} measured again, within its noise: {told}"
                return Change(fact, "", told)
            return Change(fact, "score", f"table of {name} measured again: {told}")
        case "device" | "target" | "objective" | "metric" if now is None:
            return Change(fact, "" if word == "metric" else "select", text)
        case "evaluate" if now is None and _went(name, facts):
            return None  # with its metric
        case "bound":
            stage, why = _bound_change(name, was, now, entry)
            return Change(fact, stage, f"{text}: {why}")
        case "train" if "supernet" not in stages:
            return Change(fact, "evaluate", text)
        case "final" if "finish" not in stages:
            return Change(fact, "export", text)
        case "train" | "final" if was is None and now == _DEFAULTS[word].get(name):
            if any(known.startswith(f"{word} ") for known in entry.facts):
                return None  # a setting that edgenas learned since, as it was without it
        case "revision" if now is None and name in STAGES:
            return None  # a stage that there is no more
    first = first_reader(fact, stages)
    if first is None:
        return Change(fact, stages[0], f"{text}: this edgenas knows no such fact")
    return Change(fact, first, text)


_DEFAULTS = {"train": asdict(TrainConfig()), "final": asdict(FinalConfig())}


def _went(setting: str, facts: Facts) -> bool:
    """Whether the only metric that reads `setting` is evaluated no more."""
    return setting in _OF_METRIC and f"metric {_OF_METRIC[setting]}" not in facts


def _words(fact: str, was: Fact | None, now: Fact | None) -> str:
    word, _, name = fact.partition(" ")
    subject = {"metric": f"revision of {name}", "revision": f"revision of {name}"}.get(word, fact)
    if word == "supernet" and was is not None and now is not None:
        return f"supernet retrained: {was} became {now}"
    if was is None or now is None:
        value = now if was is None else was
        told = "" if value is True else f" ({value})"
        return f"{fact} {'added' if was is None else 'removed'}{told}"
    if word == "bound":
        return f"{subject} {was} became {now}"
    return f"{subject}: {was} became {now}"


def _bound_change(metric: str, was: Fact | None, now: Fact | None, entry: Entry) -> tuple[str, str]:
    """The stage that another bound on `metric` makes stale, and why."""
    if now is None:
        return "search", "beyond it nothing was tried"
    bound = Objective.parse(f"{metric} {now}")
    if was is not None and _looser(Objective.parse(f"{metric} {was}"), bound):
        return "search", "beyond the old one nothing was tried"
    of, networks = "front", list(entry.front.values())
    if entry.fleet:
        used = {d for d in entry.fleet.values() if entry.runs(d, bound.device)}
        of, networks = "fleet", [entry.front[digest] for digest in sorted(used)]
    values = [n.metrics[metric] for n in networks if metric in n.metrics]
    if len(values) < len(networks):
        return "search", f"the lock does not say which networks of the {of} meet it"
    missing = sum(not bound.feasible({metric: value}) for value in values)
    if missing:
        return "search", f"{missing} of the {of}'s {len(values)} networks miss it"
    return "select", f"all of the {of}'s {len(values)} networks meet it"


def _looser(before: Objective, after: Objective) -> bool:
    """Whether `after` lets in what `before` kept out."""
    if before.relation != after.relation:
        return True
    sign = 1 if after.relation == "<=" else -1
    return sign * (after.bound or 0.0) > sign * (before.bound or 0.0)


def _effort(t: TargetPlan) -> str:
    """In words, what the stale stages will do."""
    if "search" not in t.stale:
        return "no search: networks are chosen from the known front"
    share = f"{100 * t.share:g} % of the trials"
    match t.begins:
        case "cold":
            return f"search from the start, {share}"
        case "hints":
            return f"the front is evaluated again first, then a search with {share}"
        case _:
            return f"known accuracies are scored anew at no cost, then a search with {share}"
