"""Everything edgenas raises on purpose.

Each class has the exit code that the command line ends with, and each error may carry a `hint`:
the next command or edit that mends it.

    EdgenasError                      1
    ├── UsageError (ValueError)       2   what was typed
    ├── SpecError (ValueError)        3   what a file says
    │   ├── ArtifactError             3   a file that a machine wrote: truncated, tampered, too new
    │   ├── DataError                 3   a data set: empty class, corrupt image, wrong shape
    │   ├── DivergedError             3   a training whose loss became infinite or no number
    │   └── MissingUnitsError         3   units that a table neither holds nor can predict
    ├── DeviceError                   4   not there, not trusted, hangs
    │   └── MeasurementError          4   a device answered, but not with a usable timing
    ├── VerificationError             5   a gate was not met
    ├── ResourceError (OSError)       6   disk, memory, permission
    ├── InfeasibleError               7   no architecture meets the bounds
    ├── ExportError                   8   a format that cannot be written here
    └── Interrupted                 130   stopped by the user (143: by SIGTERM); resumable
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class EdgenasError(Exception):
    """What edgenas raises on purpose; `hint` names the next step."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgenasError, ValueError):
    """What was typed makes no sense."""

    exit_code = 2


class SpecError(EdgenasError, ValueError):
    """A file or a value inside it is wrong."""

    exit_code = 3


class ArtifactError(SpecError):
    """A file that edgenas wrote is damaged, tampered with or of another version."""


class DataError(SpecError):
    """A data set cannot be used as it is."""


class DivergedError(SpecError):
    """A training whose loss is no finite number any more."""


class MissingUnitsError(SpecError):
    """Units that a latency table neither holds nor can predict; never counted as 0 ms."""


class DeviceError(EdgenasError):
    """A device cannot be reached, trusted or used."""

    exit_code = 4


class MeasurementError(DeviceError):
    """A device answered without a usable timing."""


class VerificationError(EdgenasError):
    """An exported file or a budget did not pass its gate."""

    exit_code = 5


class ResourceError(EdgenasError, OSError):
    """Disk, memory or permissions do not suffice."""

    exit_code = 6


class InfeasibleError(EdgenasError):
    """No architecture meets the bounds."""

    exit_code = 7


class ExportError(EdgenasError):
    """A format cannot be written, or not here."""

    exit_code = 8


class Interrupted(EdgenasError):
    """Work was stopped by a signal, and can be resumed."""

    exit_code = 130

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 130) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def difference(known: Sequence[str], found: Sequence[str]) -> str:
    """What `found` has otherwise than `known`: `"lacks 'bee' and adds 'ant', 'wasp'"`."""
    told = [
        f"{verb} {', '.join(map(repr, names[:5]))}{', ...' * (len(names) > 5)}"
        for verb, names in (
            ("lacks", [name for name in known if name not in found]),
            ("adds", [name for name in found if name not in known]),
        )
        if names
    ]
    return " and ".join(told) or "has the same in another order"


_NAMED = 16
"""So many known names are worth reading in a message."""


def worst_code(codes: Iterable[int]) -> int:
    """The exit code of several results: a gate that was missed goes before all, then the largest.

    >>> worst_code([0, 8, 4]), worst_code([8, 5]), worst_code([])
    (8, 5, 0)
    """
    found = set(codes)
    missed = VerificationError.exit_code
    return missed if missed in found else max(found, default=0)


def nearest(name: str, known: Iterable[str]) -> str:
    """A phrase that names the known spelling closest to `name`, or some where none is close.

    >>> nearest("kernal", ["kernel", "depth"])
    "did you mean 'kernel'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(names) > _NAMED:
        names[_NAMED:] = [f"and {len(names) - _NAMED} more"]
    return f"known: {', '.join(names)}" if names else "none is known"
