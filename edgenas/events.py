"""How library code reports progress: events to a function; the command line draws, CI prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a stage. `total` 0 means that the end is not known."""

    stage: str
    done: float = 0.0
    total: float = 0.0
    message: str = ""
    remaining_s: float | None = None


NOTICE = "notice"
"""The stage of what must not be missed: something was done otherwise than one would think."""

Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Drops the event."""
