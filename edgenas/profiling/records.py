"""What an agent writes, read by the host: which lines are sound records, and of which version.

They come from a device: a checksum that fits says that a line arrived whole, not that it is sound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from edgenas import artifacts
from edgenas.errors import MeasurementError
from edgenas.profiling import agent

SHORTEST_MS = 1e-6
"""No model takes less."""
MAX_LINE = 2**20
"""Characters; longer lines are none of an agent."""


def of_last_version(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that were made with the version of the runtime that the last start tells."""
    starts = [r for r in records if r["type"] == "start"]
    return agent.of_version(records, starts[-1]["runtime_version"]) if starts else list(records)


def finished(records: Sequence[dict[str, Any]], ids: set[str]) -> dict[tuple[str, int], Any]:
    """The visit that counts for each (id, round) of these models."""
    return {place: r for place, r in agent.finished(records).items() if place[0] in ids}


def read_records(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The agent's records among `lines`; what is cut, damaged or of no use is left out.

    It comes from a device: a checksum that fits says that it arrived whole, not that it is sound.
    """
    return [record for record in decoded(lines) if not fault(record)]


def decoded(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The objects of JSON among `lines` that arrived whole, sound or not.

    Raises:
        MeasurementError: one is nested deeper than any agent writes.
    """
    short = (line for line in lines if len(line) <= MAX_LINE)
    try:
        return agent.decode(short)
    except RecursionError:
        raise MeasurementError("the device sent lines that no agent writes") from None


def is_known(record: Mapping[str, Any]) -> bool:
    """Whether an agent writes records of this type."""
    return str(record.get("type")) in _FIELDS


def fault(record: Mapping[str, Any]) -> str:
    """Why a record cannot be used; empty for one that has what its type promises."""
    fields = _FIELDS.get(str(record.get("type")))
    if fields is None:
        return f"its type {record.get('type')!r:.60} is unknown"
    if not isinstance(record.get("nonce"), str):
        return "it belongs to no job"
    for name, fits in fields.items():
        if not fits(record.get(name)):
            return f"{name} is {record.get(name)!r:.60}"
    if record["type"] == "visit" and not (
        record["p10_ms"] <= record["median_ms"] <= record["p90_ms"]
    ):
        times = [record[name] for name in ("p10_ms", "median_ms", "p90_ms")]
        return f"p10_ms, median_ms, p90_ms are {times}, not in this order"
    try:
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # UnicodeEncodeError is one
        return "it holds NaN, an infinity or half a character"
    return ""


def _amount(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= cast(float, value) < 1e9  # NaN is not


def _time(value: object) -> bool:
    return _amount(value) and cast(float, value) >= SHORTEST_MS


def _count(value: object) -> bool:
    return _amount(value) and isinstance(value, int)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _table(value: object) -> bool:
    return isinstance(value, dict)


_FIELDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = MappingProxyType(
    {
        "start": {
            "conditions": _table,
            "runtime_version": _text,
            "agent_sha256": _text,
            "timer_resolution_ns": _count,
        },
        "end": {"conditions": _table},
        "planned": {"key": _text, "name": _text},
        "opening": {"key": _text},
        "opened": {"key": _text},
        "failed": {"key": _text, "reason": _text},
        "model": {"key": _text, "init_ms": _amount, "first_ms": _amount},
        "canary": {"key": _text, "median_ms": _time},
        "void": {"keys": _texts, "round": _count},
        "visit": {
            "key": _text,
            "round": _count,
            "final": _flag,
            "contended": _flag,
            "median_ms": _time,
            "p10_ms": _time,
            "p90_ms": _time,
            "n": _count,
            "spread": _amount,
        },
    }
)
"""What each type of record must hold."""


def read_lines(store: Path) -> list[dict[str, Any]]:
    """The records in a file of them; none where there is no file."""
    if not store.exists():
        return []
    with artifacts.io_errors(store, "read"):
        text = store.read_text("utf-8", errors="replace")
    return read_records(text.splitlines())


def end_line(file: Any) -> None:
    """Ends a line that was cut off, so that the next one is not lost with it."""
    size = file.seek(0, 2)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.write(b"\n")
