"""From what a run file says about the space to the space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from edgenas import plugins
from edgenas.errors import SpecError, nearest
from edgenas.spaces.space import SearchSpace

FAMILIES: Mapping[str, str] = MappingProxyType({"mobile/1": "edgenas.spaces.mobile:space_for"})
"""Built-in families; a package adds one through the entry-point group `edgenas.spaces`.

Each is a function `(table, *, image_size, in_channels, n_classes) -> SearchSpace`; an empty table
asks for the family's own choices for such images.
"""

Family = Callable[..., SearchSpace]


def space_from(
    value: str | Mapping[str, Any], *, image_size: int, in_channels: int, n_classes: int
) -> SearchSpace:
    """The space that a run file's `space` names, for images of this size and these classes.

    `value` is a family with its version (`mobile/1`), or a table whose key `family` names it and
    whose other keys replace the family's own choices.

    Raises:
        SpecError: unknown family or key (the nearest is named), ill-typed or impossible value.
    """
    table = {"family": value} if isinstance(value, str) else dict(value)
    family = table.pop("family", None)
    if not isinstance(family, str):
        known = nearest("", plugins.names("spaces", FAMILIES))
        wrong = "is missing" if family is None else f"{family!r} is not text"
        raise SpecError(f"space.family {wrong}; {known}")
    build = cast(Family, plugins.lookup("spaces", family, FAMILIES))
    return build(table, image_size=image_size, in_channels=in_channels, n_classes=n_classes)
