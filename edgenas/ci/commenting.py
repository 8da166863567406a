"""`ci comment`: what changed, why, and how the gates judge it, in Markdown.

Two texts: one for the comment on a pull request, at most 60,000 bytes (GitHub takes 65,536
characters), and a longer one for the summary of the job, at most 1,000,000 (of 1 MiB). Both begin
with a table of all targets, the worst first, and then tell of each target as long as there is room;
what is left out is said. The comment has a hidden mark, by which it is found to be replaced.

GitHub shows no SVG inside Markdown, neither in place nor as a data URI. So the tables tell all by
themselves, and the pictures of the fronts are files beside them, to be kept with the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from edgenas.artifacts import read_json, write_atomic
from edgenas.ci.checking import SCHEMA as CHECK_SCHEMA
from edgenas.ci.checking import Judged, check, read_base
from edgenas.ci.lock import LOCK, Entry, Network, read_lock
from edgenas.ci.planning import RUNS, changes_between
from edgenas.ci.targets import TARGETS, Target, read_targets
from edgenas.errors import ArtifactError
from edgenas.objectives import Objective, directed
from edgenas.report.numbers import counted, reading, significant

SCHEMA = "edgenas.ci-comment/1"
MARK = "<!-- edgenas ci -->"
COMMENT_BYTES = 60_000
SUMMARY_BYTES = 1_000_000

_FRONT_ROWS = 15
_LINES = 20
_LONGEST = 300
_LAST_BYTES = 200
"""Kept for the line that says what is left out."""
_WIDTH, _HEIGHT, _EDGE = 420, 260, 40


@dataclass(frozen=True, slots=True)
class Comment:
    """The texts, and by file name the pictures."""

    comment: str
    summary: str
    pictures: Mapping[str, str]
    exit_code: int

    def document(self) -> dict[str, Any]:
        """As `ci comment --json` prints it (schema `edgenas.ci-comment/1`)."""
        return {
            "schema": SCHEMA,
            "comment": self.comment,
            "summary_bytes": len(self.summary.encode()),
            "comment_bytes": len(self.comment.encode()),
            "pictures": sorted(self.pictures),
            "gates_exit_code": self.exit_code,
        }


@dataclass(frozen=True, slots=True)
class _View:
    """One target as it is told of."""

    judged: Judged
    target: Target | None
    before: Entry | None
    now: Entry | None
    changes: tuple[str, ...]

    @property
    def rank(self) -> tuple[int, int, str]:
        """The worst first, then what changed."""
        order = {"failed": 0, "inconclusive": 1, "passed": 2}
        return order[self.judged.verdict], not self.changes, self.judged.name


def comment(
    targets: Path = TARGETS,
    *,
    lock: Path = LOCK,
    runs: Path = RUNS,
    base: Path | None = None,
    committed: Path | None = None,
) -> Comment:
    """What the lock changed against `base`, why, and what the gates say.

    `committed` holds what `ci check --gate lock --json` said before `run`: that the lock which will
    be merged is out of date is told too.

    Raises:
        UsageError: there is no file `base`.
        SpecError: a file is missing or wrong.
    """
    checked = check(targets, lock=lock, runs=runs, base=base)
    wanted = {target.name: target for target in read_targets(targets)}
    now = read_lock(lock)
    before = now if base is None else read_base(base)
    views = [
        _view(judged, wanted.get(judged.name), before.get(judged.name), now.get(judged.name))
        for judged in checked.targets
    ]
    views.sort(key=lambda view: view.rank)
    outdated = () if committed is None else _outdated(committed)
    pictures = {
        f"{view.judged.name}.svg": picture(view.before, view.now, view.target)
        for view in views
        if view.target is not None and view.now is not None and len(_axes(view.target)) > 1
    }
    return Comment(
        markdown(views, outdated, limit=COMMENT_BYTES),
        markdown(views, outdated, limit=SUMMARY_BYTES),
        pictures,
        checked.exit_code,
    )


def write_comment(folder: Path, told: Comment) -> tuple[Path, ...]:
    """Writes `comment.md`, `summary.md` and the pictures into `folder`."""
    texts = {"comment.md": told.comment, "summary.md": told.summary, **told.pictures}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return tuple(folder / name for name in texts)


def markdown(views: Sequence[_View], outdated: Sequence[str] = (), *, limit: int) -> str:
    """The text, of at most `limit` bytes in UTF-8; `outdated` is what the committed lock lacks."""
    failed = sum(view.judged.verdict == "failed" for view in views)
    n = counted(len(views), "target")
    word = f"gates failed for {failed} of {n}" if failed else f"no gate failed, {n}"
    head = f"{MARK}\n## edgenas: {word}\n{_unlinked(_committed(outdated, views))}"
    rows = [_row(view) for view in views]
    table = _table(("target", "gates", "front", "best top-1", "least latency", "why"), rows)
    text = head + "\n" + _within(_unlinked(table), limit // 2, "targets")
    used = len(text.encode())
    parts: list[str] = []
    for view in views:
        part = "\n" + _unlinked(_detail(view))
        used += len(part.encode())
        if used > limit - _LAST_BYTES:
            break
        parts.append(part)
    if left := len(views) - len(parts):
        told = f"for want of room: {counted(left, 'target')}; see `edgenas ci check`"
        parts.append(f"\nNot told in full {told}.\n")
    return text + "".join(parts)


def picture(before: Entry | None, now: Entry | None, target: Target | None) -> str:
    """The fronts before (hollow) and now (full) over the first two axes, as an SVG document."""
    axes = [] if target is None else _axes(target)
    fronts = [_points(entry, axes) for entry in (before, now)]
    every = [point for front in fronts for point in front]
    if len(axes) < 2 or not every:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"/>\n'
    y, x = axes[0], axes[1]
    (left, right), (low, high) = (_span([p[i] for p in every]) for i in (1, 0))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[1] - left) / (right - left)
        up = (point[0] - low) / (high - low)
        return (
            _EDGE + across * (_WIDTH - 2 * _EDGE),
            _HEIGHT - _EDGE - up * (_HEIGHT - 2 * _EDGE),
        )

    dots = []
    for front, style in zip(
        fronts, ('fill="none" stroke="#8a8f98"', 'fill="#1f6feb"'), strict=True
    ):
        dots += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" {style}/>' for px, py in map(place, front)
        ]
    words = (
        (f"{reading(x.name).axis}: {significant(left)} to {significant(right)}", _HEIGHT - 12),
        (f"{reading(y.name).axis}: {significant(low)} to {significant(high)}", 18),
    )
    texts = [
        f'<text x="{_EDGE}" y="{at}" font-family="sans-serif" font-size="12" fill="#57606a">'
        f"{escape(text)}</text>"
        for text, at in words
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}"><title>front before (hollow) and now</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>{"".join(dots)}{"".join(texts)}'
        "</svg>\n"
    )


def _outdated(said: Path) -> tuple[str, ...]:
    """What in the committed lock was not as the facts are, a line each."""
    document = read_json(said, schema=CHECK_SCHEMA)
    try:
        return tuple(
            f"{target['target']}: {found['subject']}: {found['figure']}"
            for target in document["targets"]
            for found in target["gates"]
            if (found["gate"], found["verdict"]) == ("lock", "failed")
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{said}: damaged: {error!r}", hint="edgenas ci check --gate lock --json writes it"
        ) from error


def _committed(outdated: Sequence[str], views: Sequence[_View]) -> str:
    """A paragraph on the committed lock, empty where it was up to date."""
    if not outdated:
        return ""
    still = any(found.gate == "lock" for view in views for found in view.judged.of("failed"))
    do = "`edgenas ci run` makes a new one." if still else "Commit the one in the job's artefact."
    items = _items("out of date", [_cut(line, 120) for line in outdated])
    return "\n".join(["", f"**The committed edgenas.lock is out of date.** {do}", "", *items, ""])


def _view(judged: Judged, target: Target | None, before: Entry | None, now: Entry | None) -> _View:
    changes: tuple[str, ...] = ()
    if now is not None and before is None:
        changes = ("new target",)
    elif now is not None and before is not None and before is not now:
        changes = tuple(change.text for change in changes_between(before, now.facts))
        if not changes and before.digests != now.digests:
            changes = ("made again from the same facts",)
    elif now is None and before is not None:
        changes = ("no longer in the lock",)
    return _View(judged, target, before, now, changes)


def _row(view: _View) -> list[str]:
    verdict = {"failed": "**FAILED**", "inconclusive": "inconclusive", "passed": "passed"}
    name, n = view.judged.verdict, len(view.judged.findings)
    gates = f"{verdict[name]} ({len(view.judged.of('passed'))}/{n})"
    why = "; ".join([str(f) for f in view.judged.of("failed")[:1]] or view.changes[:1])
    more = len(view.judged.of("failed")) + len(view.changes) - 1
    if why and more > 0:
        why = f"{_cut(why, 160)} and {more} more"
    return [
        f"`{view.judged.name}`",
        gates,
        _arrow(_size(view.before), _size(view.now)),
        _arrow(_best(view.before, "top1", max), _best(view.now, "top1", max)),
        _arrow(_best(view.before, "latency_ms", min), _best(view.now, "latency_ms", min)),
        _plain(_cut(why, 200)),
    ]


def _detail(view: _View) -> str:
    lines = [f"### `{view.judged.name}`: {view.judged.verdict}", ""]
    lines += _items("changed", view.changes)
    lines += _items("FAILED", map(str, view.judged.of("failed")))
    lines += _items("inconclusive", map(str, view.judged.of("inconclusive")))
    if view.now is not None and view.now.fleet:
        lines += _items("fleet", [f"{d} runs {n}" for d, n in sorted(view.now.fleet.items())])
    if view.now is not None and view.target is not None:
        lines += ["", "<details><summary>front before and now</summary>", "", _fronts(view), ""]
        lines.append("</details>")
    return "\n".join(lines) + "\n"


def _items(word: str, texts: Iterable[str]) -> list[str]:
    shown = list(texts)
    lines = [f"- {word}: {_plain(_cut(text, _LONGEST))}" for text in shown[:_LINES]]
    more = len(shown) - _LINES
    return lines + ([f"- {word}: {more} more"] if more > 0 else [])


def _fronts(view: _View) -> str:
    """The networks of both fronts by their first axis: kept, gone, new."""
    axes = _axes(view.target) if view.target is not None else []
    networks: dict[str, tuple[str, Network]] = {}
    before = {} if view.before is None else view.before.front
    now = {} if view.now is None else view.now.front
    exported = () if view.now is None else view.now.exported
    for key, network in {**before, **now}.items():
        state = "kept" if key in before and key in now else "new" if key in now else "gone"
        networks[key] = state + (", exported" if key in exported else ""), network
    axis = axes[0].name if axes else "top1"
    ordered = sorted(networks.items(), key=lambda item: -item[1][1].metrics.get(axis, 0.0))
    rows = [
        [f"`{key}`", state, *(_value(network, axis.name) for axis in axes)]
        for key, (state, network) in ordered[:_FRONT_ROWS]
    ]
    heads = [_plain(reading(axis.name).axis) for axis in axes]
    table = _table(("network", "", *heads), rows)
    more = len(ordered) - _FRONT_ROWS
    return table + (f"\n{more} more in the lock." if more > 0 else "")


def _axes(target: Target) -> list[Objective]:
    return list(directed(target.objectives))


def _points(entry: Entry | None, axes: Sequence[Objective]) -> list[tuple[float, float]]:
    if entry is None or len(axes) < 2:
        return []
    first, second = axes[0].name, axes[1].name
    return [
        (n.metrics[first] * reading(first).scale, n.metrics[second] * reading(second).scale)
        for n in entry.front.values()
        if first in n.metrics and second in n.metrics
    ]


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _size(entry: Entry | None) -> str:
    return "" if entry is None else f"{len(entry.front)}"


def _best(entry: Entry | None, metric: str, pick: Any) -> str:
    """The best value on the front of a metric, on its first device."""
    if entry is None or not entry.front:
        return ""
    names = sorted(
        {
            n
            for network in entry.front.values()
            for n in network.metrics
            if n.split("@")[0] == metric
        }
    )
    if not names:
        return ""
    found = [n.metrics[names[0]] for n in entry.front.values() if names[0] in n.metrics]
    return reading(names[0]).text(float(pick(found)))


def _value(network: Network, metric: str) -> str:
    value = network.metrics.get(metric)
    return "" if value is None else reading(metric).text(value)


def _arrow(before: str, now: str) -> str:
    return now if before in ("", now) else f"{before} → {now or 'none'}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _within(table: str, limit: int, what: str) -> str:
    """As many lines of the table as `limit` bytes hold."""
    lines: list[str] = []
    used = 0
    for line in table.splitlines():
        used += len(line.encode()) + 1
        if used > limit:
            more = table.count("\n") - len(lines)
            return "\n".join(lines) + f"\n\n{more} more {what}.\n"
        lines.append(line)
    return table


def _plain(text: str) -> str:
    """`text` as Markdown shows it letter by letter, in a table too; nobody is mentioned by it."""
    quiet = re.sub(r"(?<!\w)@", "@\u200b", " ".join(text.split()))  # a name, which would be called
    plain = quiet.translate(_ESCAPED).replace("://", ":&#47;/")
    return re.sub(r"www\.", "www&#46;", plain, flags=re.IGNORECASE)


_ESCAPED = str.maketrans(
    {letter: f"&#{ord(letter)};" for letter in "&<>|@#"}
    | {letter: f"\\{letter}" for letter in "\\`*_[]~"}
)


def _unlinked(text: str) -> str:
    """`text` in which no name, such as `gh-200-board`, reads as a reference to an issue."""
    return re.sub(r"(?i)\b(GH-)(?=[0-9])", "\\1\u200b", text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
