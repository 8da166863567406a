"""The front as a static picture: SVG written by hand, so that no browser is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from edgenas.objectives import Objective
from edgenas.report.model import Evaluated, RunView, undominated
from edgenas.report.numbers import log_ticks, reading, ticks

_WIDTH, _HEIGHT = 820, 500
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 64, 62
STRETCH = 20
"""From how many times the least value of a cost on its axis is logarithmic: the front would lie in
a twentieth of a linear one."""

_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#1d2430}
.bg{fill:#ffffff}.soft{fill:#5b6675}.grid{stroke:#e6e9ee}.axis{stroke:#9aa4b2}
.trial{fill:#9aa4b2;fill-opacity:.45}.bad{fill:none;stroke:#9aa4b2;stroke-opacity:.7}
.line{fill:none;stroke:#1f6feb;stroke-width:1.6}.front{fill:#1f6feb}
.model{fill:#e8590c;stroke:#ffffff;stroke-width:1.5}.bound{stroke:#c92a2a;stroke-dasharray:6 4}
.limit{fill:#c92a2a}.plate{fill:#ffffff;fill-opacity:.8}
@media (prefers-color-scheme:dark){
text{fill:#e6e9ee}.bg{fill:#12161c}.soft{fill:#9aa4b2}.grid{stroke:#262d37}.axis{stroke:#5b6675}
.trial{fill:#7d8896}.bad{stroke:#7d8896}.line{stroke:#6ea8fe}.front{fill:#6ea8fe}
.model{fill:#ff922b;stroke:#12161c}.bound{stroke:#ff8787}.limit{fill:#ff8787}.plate{fill:#12161c}}
"""


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps [low, high] to pixels [start, end]."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, n: int) -> list[float]:
        """About `n` round numbers within."""
        return (log_ticks if self.logarithmic else ticks)(self.low, self.high, n)


def front_svg(view: RunView) -> str:
    """The front over its first pair of objectives, as a self-contained SVG document.

    Dominated candidates are faint (hollow where a bound is missed), the front is joined by a
    line, exported models are diamonds with their values, bounds are dashed. A run with fewer than
    two objectives has none, and the picture says so.
    """
    pairs = view.pairs()
    title = f"{view.name}: Pareto front"
    body = _chart(view, *pairs[0]) if pairs else _empty("two objectives are needed for a front")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>"
        f'<rect class="bg" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>'
        f'<text x="{_LEFT}" y="27" font-size="16" font-weight="600">{escape(title)}</text>'
        f"{body}</svg>\n"
    )


def _empty(text: str) -> str:
    return f'<text class="soft" x="{_LEFT}" y="{_HEIGHT / 2}" font-size="14">{escape(text)}</text>'


def _chart(view: RunView, x: Objective, y: Objective) -> str:
    digests = {c.digest for c in view.front}
    shown = [c for c in (*view.front, *view.trials) if x.name in c.metrics and y.name in c.metrics]
    if not shown:
        return _empty("no candidate has both metrics")
    sx = _scale(x, shown, _LEFT, _WIDTH - _RIGHT)
    sy = _scale(y, shown, _HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(view, x, y, sx, sy), _bounds(x, y, sx, sy)]

    def place(c: Evaluated) -> tuple[float, float]:
        return (
            sx(c.metrics[x.name].value * reading(x.name).scale),
            sy(c.metrics[y.name].value * reading(y.name).scale),
        )

    others = [c for c in view.trials if c.digest not in digests and c in shown]
    for c in others:
        px, py = place(c)
        style = "trial" if c.feasible else "bad"
        parts.append(f'<circle class="{style}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>')
    best = undominated(view.front, x, y)
    path = "L".join("{:.1f} {:.1f}".format(*place(c)) for c in best)
    if len(best) > 1:
        parts.append(f'<path class="line" d="M{path}"/>')
    front = [c for c in view.front if c in shown]
    for c in front:
        px, py = place(c)
        parts.append(f'<circle class="front" cx="{px:.1f}" cy="{py:.1f}" r="4.5"/>')
    models = [c for c in front if c.digest in view.exported]
    for c in models:
        px, py = place(c)
        parts.append(f'<path class="model" d="M{px:.1f} {py - 8:.1f}l8 8l-8 8l-8 -8z"/>')
    parts.append(_labels([(place(c), _caption(c, x, y)) for c in models]))
    missed = sum(not c.feasible for c in others)
    legend = [("trial", f"dominated ({len(others) - missed})")] if len(others) > missed else []
    if missed:
        legend.append(("bad", f"outside a bound ({missed})"))
    legend.append(("front", f"front ({len(view.front)})"))
    if models:
        legend.append(("model", f"exported ({len(models)})"))
    if any(goal.bound is not None for goal in (x, y)):
        legend.append(("bound", "bound"))
    parts.append(_legend(legend))
    return "".join(parts)


def is_logarithmic(goal: Objective, shown: Sequence[Evaluated]) -> bool:
    """Whether its axis is: a cost, some of whose values are a multiple of the least."""
    values = [c.metrics[goal.name].value for c in shown if goal.name in c.metrics]
    if goal.direction != "min" or not values or (goal.bound is not None and goal.bound <= 0):
        return False
    return max(values) > STRETCH * min(values) > 0


def _scale(goal: Objective, shown: Sequence[Evaluated], start: float, end: float) -> _Scale:
    factor = reading(goal.name).scale
    values = [c.metrics[goal.name].value * factor for c in shown]
    logarithmic = is_logarithmic(goal, shown)
    to, back = (math.log, math.exp) if logarithmic else (float, float)
    low, high = to(min(values)), to(max(values))
    span = (high - low) or abs(high) * 0.1 or 1.0
    if goal.bound is not None:  # a bound far outside would squeeze the points
        bound = to(goal.bound * factor)
        if low - span / 2 <= bound <= high + span / 2:
            low, high = min(low, bound), max(high, bound)
    return _Scale(back(low - span * 0.05), back(high + span * 0.05), start, end, logarithmic)


def _axes(view: RunView, x: Objective, y: Objective, sx: _Scale, sy: _Scale) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in sx.ticks(8):
        px = sx(value)
        parts.append(
            f'<path class="grid" d="M{px:.1f} {_TOP}V{bottom}"/>'
            f'<text class="soft" x="{px:.1f}" y="{bottom + 19}" font-size="12" '
            f'text-anchor="middle">{value:g}</text>'
        )
    for value in sy.ticks(7):
        py = sy(value)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {py:.1f}H{right}"/>'
            f'<text class="soft" x="{_LEFT - 9}" y="{py + 4:.1f}" font-size="12" '
            f'text-anchor="end">{value:g}</text>'
        )
    parts.append(f'<path class="axis" fill="none" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    centre = (_TOP + bottom) / 2
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 16}" font-size="13" '
        f'text-anchor="middle">{escape(axis_title(view, x))}</text>'
        f'<text transform="translate(22 {centre}) rotate(-90)" font-size="13" '
        f'text-anchor="middle">{escape(axis_title(view, y))}</text>'
    )
    return "".join(parts)


def axis_title(view: RunView, goal: Objective) -> str:
    """Label, unit and the words that say where the values come from."""
    origins = {
        c.metrics[goal.name].origin
        for c in (*view.front, *view.trials)
        if goal.name in c.metrics and c.metrics[goal.name].origin
    }
    title = reading(goal.name).axis
    words = sorted(origins)
    if reading(goal.name).is_latency and "@" not in goal.name and view.tables:
        words.append(view.tables[0].device)
    if view.rough_metric(goal.name):
        words.append("rough")
    return f"{title}, {', '.join(words)}" if words else title


def _bounds(x: Objective, y: Objective, sx: _Scale, sy: _Scale) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for goal, scale in ((x, sx), (y, sy)):
        if goal.bound is None:
            continue
        value = goal.bound * reading(goal.name).scale
        if not scale.low <= value <= scale.high:
            continue
        at = scale(value)
        text = f"{'≤' if goal.relation == '<=' else '≥'} {reading(goal.name).text(goal.bound)}"
        if goal is x:
            anchor = "end" if at > right - 80 else "start"
            shift = -6 if anchor == "end" else 6
            parts.append(
                f'<path class="bound" d="M{at:.1f} {_TOP}V{bottom}"/>'
                f'<text class="limit" x="{at + shift:.1f}" y="{bottom - 8}" font-size="12" '
                f'text-anchor="{anchor}">{escape(text)}</text>'
            )
        else:
            parts.append(
                f'<path class="bound" d="M{_LEFT} {at:.1f}H{right}"/>'
                f'<text class="limit" x="{right - 4}" y="{at - 6:.1f}" font-size="12" '
                f'text-anchor="end">{escape(text)}</text>'
            )
    return "".join(parts)


def _caption(c: Evaluated, x: Objective, y: Objective) -> str:
    values = [(goal, c.metrics[goal.name].value) for goal in (y, x)]
    return ", ".join(reading(goal.name).text(value) for goal, value in values)


def _labels(labels: Sequence[tuple[tuple[float, float], str]]) -> str:
    """Captions beside their points, left out where they would lie over an earlier one."""
    taken: list[tuple[float, float, float, float]] = []
    parts = []
    for (px, py), text in labels:
        wide = 6.6 * len(text) + 6
        # above and to the left of a front lies nothing, where x costs and y is won
        places = ((px - wide - 9, py - 10), (px + 11, py + 18), (px + 11, py - 12))
        for left, base in places:
            box = (left, base - 13, left + wide, base + 5)
            inside = box[0] > _LEFT and box[2] < _WIDTH - 6 and box[3] < _HEIGHT - _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(
                    f'<rect class="plate" x="{left:.1f}" y="{base - 12:.1f}" '
                    f'width="{wide:.1f}" height="16" rx="3"/>'
                    f'<text x="{left + 3:.1f}" y="{base:.1f}" font-size="12">{escape(text)}</text>'
                )
                break
    return "".join(parts)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    parts = []
    left = float(_LEFT)
    for style, text in entries:
        if style == "model":
            mark = f'<path class="model" d="M{left + 6} 41l6 6l-6 6l-6 -6z"/>'
        elif style == "bound":
            mark = f'<path class="bound" d="M{left} 47h16"/>'
            left += 6
        else:
            mark = f'<circle class="{style}" cx="{left + 6}" cy="47" r="4"/>'
        parts.append(
            f'{mark}<text class="soft" x="{left + 16}" y="51" font-size="12">{escape(text)}</text>'
        )
        left += 34 + 6.6 * len(text)
    return "".join(parts)
