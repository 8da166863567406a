"""Whether a process has ended, for tests of what is killed."""

from __future__ import annotations

import time
from pathlib import Path


def outlives(pid: int, patience_s: float) -> bool:
    """Whether process `pid` still runs after `patience_s`; returns as soon as it has ended.

    A zombie that its parent has yet to collect has ended.
    """
    until = time.monotonic() + patience_s
    while _runs(pid):
        if time.monotonic() > until:
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"
