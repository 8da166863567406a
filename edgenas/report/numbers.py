"""How metrics read in a report: label, unit, scale, and how many digits are worth printing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric as people read it: `value * scale` in `unit`, `decimals` behind the point.

    `decimals` None means three significant digits.
    """

    label: str
    unit: str
    scale: float = 1.0
    decimals: int | None = None
    is_latency: bool = False

    @property
    def axis(self) -> str:
        """The title of an axis: label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        """The value with its unit."""
        return f"{self.bare(value)} {self.unit}".rstrip()

    def difference(self, value: float) -> str:
        """A signed difference of two values with its unit; of percentages in points.

        >>> reading("top1").difference(0.0032), reading("latency_ms").difference(-0.02)
        ('+0.32 points', '-0.0200 ms')
        """
        if self.unit == "%":
            return f"{points(value)} points"
        return f"{'+' if value > 0 else ''}{self.text(value)}"

    def bare(self, value: float) -> str:
        """The value without its unit."""
        scaled = value * self.scale
        return f"{scaled:.{self.decimals}f}" if self.decimals is not None else significant(scaled)


def reading(metric: str) -> Reading:
    """How `metric`, qualified by a device or not, reads.

    >>> reading("top1").text(0.9412)
    '94.12 %'
    >>> reading("latency_ms@pixel4-litert-int8-t4").axis
    'latency on pixel4-litert-int8-t4 (ms)'
    >>> reading("size_bytes").text(812345)
    '793 KiB'
    """
    name, _, device = metric.partition("@")
    where = f" on {device}" if device else ""
    if name in _FRACTIONS:
        return Reading(_FRACTIONS[name] + where, "%", 100.0, 2)
    if name in ("macs", "params"):
        label = "MACs" if name == "macs" else "parameters"
        return Reading(f"{label}{where}", "M", 1e-6)
    for suffix, unit, scale in _SUFFIXES:
        if name.endswith(suffix):
            label = name.removesuffix(suffix).replace("_", " ") or name
            return Reading(label + where, unit, scale, is_latency="latency" in name)
    return Reading(name.replace("_", " ") + where, "")


def significant(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits, without an exponent where that stays readable.

    >>> [significant(v) for v in (0, 0.012345, 1.5, 1234.5, 1.5e-7)]
    ['0', '0.0123', '1.50', '1,234', '1.5e-07']
    """
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 8:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def percent(fraction: float, decimals: int = 2) -> str:
    """A fraction as a percentage.

    >>> percent(0.9412)
    '94.12 %'
    """
    return f"{fraction * 100:.{decimals}f} %"


def points(fraction: float) -> str:
    """A signed difference of two fractions in percentage points, never `-0.00`.

    >>> points(-0.00001), points(0.0032)
    ('0.00', '+0.32')
    """
    text = f"{fraction * 100:+.2f}"
    return "0.00" if float(text) == 0 else text


def ms(value: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{significant(value)} ms"


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds.

    >>> duration(4000), duration(150), duration(3.21)
    ('1 h 6 min', '2 min 30 s', '3.2 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def capital(text: str) -> str:
    """The text with a capital in front; the rest, names included, stays as it is."""
    return text[:1].upper() + text[1:]


def counted(n: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "model"), counted(2, "model")
    ('1 model', '2 models')
    """
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s"


def ticks(low: float, high: float, n: int = 6) -> list[float]:
    """About `n` round numbers that cover [low, high] from inside.

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(1, n - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, n: int = 6) -> list[float]:
    """At most about `n` numbers that cover [low, high] of a logarithmic axis: 1, 2, 5 of a decade.

    >>> log_ticks(0.015, 3.0)
    [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    >>> log_ticks(0.015, 300.0)
    [0.1, 1.0, 10.0, 100.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)

    def within(digits: Sequence[int]) -> list[float]:
        values = (float(f"{m}e{d}") for d in decades for m in digits)
        return [v for v in values if low <= v <= high]

    found = within((1, 2, 5))
    return found if len(found) <= n + 2 else within((1,))


_FRACTIONS = {
    "top1": "top-1 accuracy",
    "top1_int8": "top-1 accuracy in int8",
    "top1_drop": "top-1 drop",
    "agreement": "agreement with the largest",
    "robustness": "robustness",
}
_SUFFIXES = (
    ("_ms", "ms", 1.0),
    ("_bytes", "KiB", 1 / 1024),
    ("_mj", "mJ", 1.0),
    ("_s", "s", 1.0),
)
