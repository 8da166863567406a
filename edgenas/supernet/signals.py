"""Ctrl-C and SIGTERM while something must be done whole or not at all."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """Ctrl-C and SIGTERM while the block lasts: between `hold` and `release` they wait.

    Elsewhere than in the main thread nothing is changed: Python handles no signals there.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._came: int | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.getsignal(number)
                signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def hold(self) -> None:
        """From here on they wait."""
        self._held = True

    def release(self) -> None:
        """What waited does what it would have done."""
        self._held, came, self._came = False, self._came, None
        if came is not None:
            self._pass_on(came, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._came = number
        else:
            self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        elif handler != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
