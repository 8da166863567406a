"""What a search is after, as text: `max top1`, `min latency_ms <= 12.5`, `size_bytes <= 262144`.

An objective names a metric, optionally of one device (`latency_ms@pixel4-litert-int8-t4`), and says
in which direction it is to go, how far it may go, or both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgenas.errors import SpecError, nearest

Direction = Literal["max", "min"]
Relation = Literal["<=", ">="]

_GRAMMAR = "[max|min] METRIC[@DEVICE] [<=|>= NUMBER]"
_METRIC = re.compile(r"[a-z][a-z0-9_]*")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN = re.compile(r"[<>=!]+|[^\s<>=!]+")


@dataclass(frozen=True, slots=True)
class Objective:
    """One metric with a direction, a bound, or both.

    A bound stands on the side that the direction flees: `min latency_ms <= 12.5`,
    `max top1 >= 0.9`. The other side (`min latency_ms >= 3`) would keep out only the best
    networks; it is taken for a slip and refused. A bound alone may stand on either side.

    >>> Objective.parse("min latency_ms@pixel4 <= 12.5").violation({"latency_ms@pixel4": 25.0})
    1.0

    Raises:
        SpecError: neither direction nor bound; a bound that is not finite or on the wrong side.
    """

    metric: str
    device: str | None = None
    direction: Direction | None = None
    relation: Relation | None = None
    bound: float | None = None

    def __post_init__(self) -> None:
        if not _METRIC.fullmatch(self.metric):
            raise SpecError(f"{self.metric!r} is not a metric's name (lower case, digits, _)")
        if self.device is not None and not _DEVICE.fullmatch(self.device):
            raise SpecError(f"{self.device!r} is not a device's name")
        if (self.relation is None) != (self.bound is None):
            raise SpecError(f"objective on {self.name!r}: relation and bound go together")
        if self.direction is None and self.bound is None:
            raise SpecError(
                f"objective {self.name!r} has neither a direction nor a bound",
                hint=f"write 'max {self.name}', 'min {self.name}' or '{self.name} <= NUMBER'",
            )
        if self.direction not in (None, "max", "min") or self.relation not in (None, "<=", ">="):
            raise SpecError(f"objective on {self.name!r}: {self.direction!r} {self.relation!r}")
        if self.bound is not None and not math.isfinite(self.bound):
            raise SpecError(f"objective on {self.name!r}: bound {self.bound} is not finite")
        if (self.direction, self.relation) in (("min", ">="), ("max", "<=")):
            right = "<=" if self.direction == "min" else ">="
            raise SpecError(
                f"objective '{self}': this bound keeps out only the best values",
                hint=f"write '{self.direction} {self.name} {right} ...', or the bound alone",
            )

    @classmethod
    def parse(cls, text: str, *, known: Collection[str] | None = None) -> Objective:
        """The objective that `text` spells; `str` is the inverse.

        Args:
            text: `[max|min] METRIC[@DEVICE] [<=|>= NUMBER]`.
            known: the metrics' names (with `@DEVICE` where that is needed) that may stand here.

        Raises:
            SpecError: with the column of what cannot be read, and the nearest known spelling.
        """
        tokens = [(m.group(), m.start() + 1) for m in _TOKEN.finditer(text)]
        if not tokens:
            raise SpecError(f"objective {text!r} is empty", hint=f"write {_GRAMMAR}")
        direction: Direction | None = None
        word, column = tokens[0]
        if len(tokens) > 1 and not _is_relation(tokens[1][0]):
            if word not in ("max", "min"):
                raise _unreadable(text, column, word, nearest(word[:3].lower(), ["max", "min"]))
            direction = "max" if word == "max" else "min"
            tokens = tokens[1:]
        name, column = tokens[0]
        metric, at, device = name.partition("@")
        if metric in ("max", "min") or not _METRIC.fullmatch(metric):
            raise _unreadable(text, column, name, "a metric is expected here")
        if at and not _DEVICE.fullmatch(device):
            raise _unreadable(text, column + len(metric) + 1, device, "a device is expected here")
        if known is not None and name not in known:
            raise _unreadable(text, column, name, _suggest(metric, name, known))
        relation, bound = _bound(text, tokens[1:])
        try:
            return cls(metric, device or None, direction, relation, bound)
        except SpecError as error:
            raise SpecError(f"objective {text!r}, column 1: {error}", hint=error.hint) from None

    def __str__(self) -> str:
        parts = [self.direction, self.name, self.relation]
        if self.bound is not None:
            parts.append(_spell(self.bound))
        return " ".join(part for part in parts if part)

    @property
    def name(self) -> str:
        """The metric with its device, as it stands in a mapping of metrics."""
        return f"{self.metric}@{self.device}" if self.device else self.metric

    def value(self, metrics: Mapping[str, float]) -> float:
        """This objective's metric.

        Raises:
            SpecError: where it is missing or not finite.
        """
        if self.name not in metrics:
            raise SpecError(f"metric {self.name!r} is missing; {nearest(self.name, metrics)}")
        value = metrics[self.name]
        if not math.isfinite(value):
            raise SpecError(f"metric {self.name!r} is {value}, not a finite number")
        return value

    def loss(self, metrics: Mapping[str, float]) -> float:
        """This objective's metric with the sign that makes less better; 0 for a bound alone."""
        if self.direction is None:
            return 0.0
        value = self.value(metrics)
        return -value if self.direction == "max" else value

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far the bound is exceeded, as a share of |bound|; <= 0 is feasible.

        The share makes bounds in different units comparable. A bound of 0 counts as it is, and no
        bound gives 0.
        """
        if self.bound is None:
            return 0.0
        excess = self.value(metrics) - self.bound
        return (excess if self.relation == "<=" else -excess) / (abs(self.bound) or 1.0)

    def feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether the bound holds."""
        return self.violation(metrics) <= 0

    def relaxed_to(self, value: float) -> str:
        """The bound that `value` just meets, to four digits: `latency_ms <= 2.013`."""
        step = 10.0 ** (math.floor(math.log10(abs(value))) - 3) if value else 1.0
        steps = math.ceil(value / step) if self.relation == "<=" else math.floor(value / step)
        return f"{self.name} {self.relation} {steps * step:.10g}"


def parse_objectives(
    texts: Iterable[str], *, known: Collection[str] | None = None
) -> tuple[Objective, ...]:
    """The objectives of one search, in the order given.

    Raises:
        SpecError: one cannot be read, a metric stands twice, or none has a direction.
    """
    objectives: list[Objective] = []
    for i, text in enumerate(texts, 1):
        try:
            objective = Objective.parse(text, known=known)
        except SpecError as error:
            raise SpecError(f"objectives[{i}]: {error}", hint=error.hint) from None
        objectives.append(objective)
    check_objectives(objectives)
    return tuple(objectives)


def check_objectives(objectives: Iterable[Objective]) -> None:
    """Raises `SpecError` where a metric stands twice, or no objective has a direction."""
    seen: dict[str, Objective] = {}
    for i, objective in enumerate(objectives, 1):
        if (first := seen.get(objective.name)) is not None:
            raise SpecError(
                f"objectives[{i}]: {objective.name!r} stands twice: '{first}', '{objective}'",
                hint=f"write one objective, such as 'min {objective.name} <= NUMBER'",
            )
        seen[objective.name] = objective
    if not any(objective.direction for objective in seen.values()):
        raise SpecError(
            "objectives: none has a direction, so there is nothing to search for",
            hint="add one such as 'max top1'",
        )


def directed(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Those that have a direction: the axes of the front."""
    return tuple(objective for objective in objectives if objective.direction)


def total_violation(objectives: Iterable[Objective], metrics: Mapping[str, float]) -> float:
    """The violated bounds' violations added up; 0 is feasible.

    Bounds whose metric is not in `metrics` do not count, so that cheap ones are told first.
    """
    return sum(max(0.0, o.violation(metrics)) for o in objectives if o.name in metrics)


def _bound(text: str, tokens: list[tuple[str, int]]) -> tuple[Relation | None, float | None]:
    if not tokens:
        return None, None
    word, column = tokens[0]
    if word not in ("<=", ">="):
        raise _unreadable(text, column, word, "'<=' or '>=' is expected here")
    if len(tokens) < 2:
        raise _unreadable(text, len(text) + 1, "", f"a number is expected after {word!r}")
    number, at = tokens[1]
    try:
        bound = float(number)
    except ValueError:
        raise _unreadable(text, at, number, "a number without a unit is expected here") from None
    if not math.isfinite(bound):
        raise _unreadable(text, at, number, "a bound must be finite")
    if len(tokens) > 2:
        raise _unreadable(text, tokens[2][1], tokens[2][0], "nothing may follow the bound")
    return ("<=" if word == "<=" else ">="), bound


def _is_relation(word: str) -> bool:
    return word[0] in "<>=!"


def _unreadable(text: str, column: int, word: str, advice: str) -> SpecError:
    what = f"{word!r}: " if word else ""
    return SpecError(
        f"objective {text!r}, column {column}: {what}{advice}", hint=f"write {_GRAMMAR}"
    )


def _suggest(metric: str, name: str, known: Collection[str]) -> str:
    """Advice for a metric that is not known, above all where only the device is missing."""
    qualified = sorted(other for other in known if other.partition("@")[0] == metric)
    if qualified and "@" not in name:
        return f"say of which device: {', '.join(qualified)}"
    return nearest(name, qualified or known)


def _spell(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
