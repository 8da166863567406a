"""One timing at a time on a device, whichever processes of this user want to time on it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

import platformdirs

from edgenas.artifacts import digest, io_errors
from edgenas.events import Event, Report, silent
from edgenas.hardware.transports import LOCAL, Connection

_WHERE = ("host", "port", "serial")
"""The keys of a connection that say which thing it leads to, and not how."""


def place_of(connection: Connection) -> str:
    """Names the thing that is timed: devices of one place disturb each other.

    This machine is one place with all its runtimes and precisions, and so is a board or a phone.
    """
    if connection.kind == LOCAL.kind:
        return f"this machine {platform.node()}"
    where = [pair for pair in connection.options if pair[0] in _WHERE]
    return " ".join([connection.kind, *(f"{k}={v}" for k, v in where or connection.options)])


@contextlib.contextmanager
def held(connection: Connection, *, report: Report = silent) -> Iterator[None]:
    """Keeps other processes of this user from timing at that place.

    While one does, it waits and reports it. The lock is a file in the user's state folder that dies
    with its process. Who holds it may take it again.

    Raises:
        ResourceError: the state folder cannot be written.
    """
    from filelock import FileLock, Timeout

    place = place_of(connection)
    folder = platformdirs.user_state_path("edgenas", appauthor=False) / "devices"
    path = folder / f"{digest(place)}.lock"
    with io_errors(path, "lock"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, is_singleton=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(Event("measure", message=f"waiting: another process times on {place}"))
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
