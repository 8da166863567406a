"""An architecture: one point of a search space, canonical and equal by value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from edgenas.errors import SpecError

Choice = int | str


@dataclass(frozen=True, slots=True)
class Architecture:
    """A space's name and the *active* choices, in the space's own order.

    Built by `SearchSpace.architecture`, `sample` or `parse`, so that two settings that give the
    same network are the same value.

    >>> arch = Architecture("tiny/1", (("depth", 1), ("a.kernel", 3)))
    >>> str(arch)
    'tiny/1 depth=1 a.kernel=3'
    """

    space: str
    choices: tuple[tuple[str, Choice], ...]

    def __str__(self) -> str:
        return " ".join([self.space, *(f"{name}={value}" for name, value in self.choices)])

    def __getitem__(self, name: str) -> Choice:
        for key, value in self.choices:
            if key == name:
                return value
        raise KeyError(name)

    @property
    def params(self) -> dict[str, Choice]:
        """The active choices by name."""
        return dict(self.choices)

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the line."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:12]


def split_line(line: str) -> tuple[str, Mapping[str, str]]:
    """The space's name and the choices of an architecture's line, as text.

    Raises:
        SpecError: where the line is empty, or a field is not `name=value` or stands twice.
    """
    space, *fields = line.split() or [""]
    if not space:
        raise SpecError("an architecture's line is empty")
    choices: dict[str, str] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or name in choices:
            raise SpecError(f"architecture {line!r}: cannot read {field!r}")
        choices[name] = value
    return space, choices
