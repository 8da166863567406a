"""Names of spaces, runtimes, transports, data sets, ... to what they stand for.

Each kind has a literal dict of built-ins, `{name: "module:attribute"}`, loaded only when asked
for; installed packages add names through the entry-point group `edgenas.<kind>`. A plug-in adds a
name and never replaces one: two owners of one name are an error, not a matter of order.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from edgenas.errors import SpecError, nearest


def names(kind: str, builtins: Mapping[str, str]) -> tuple[str, ...]:
    """Every name of `kind` ("spaces", "runtimes", ...): the built-ins, then plug-ins by name."""
    return (*builtins, *sorted({p.name for p in _plugins(kind)} - set(builtins)))


def lookup(kind: str, name: str, builtins: Mapping[str, str]) -> object:
    """The object that `name` stands for among the built-ins and plug-ins of `kind`.

    Raises:
        SpecError: no such name (the nearest is named), two owners, or a plug-in that does not load.
    """
    found = [plugin for plugin in _plugins(kind) if plugin.name == name]
    if found and (name in builtins or len(found) > 1):
        owners = ["edgenas"] * (name in builtins) + sorted(_owner(plugin) for plugin in found)
        raise SpecError(
            f"{kind}: {name!r} is claimed by {', '.join(owners)}",
            hint=f"pip uninstall {owners[-1]}",
        )
    if name in builtins:
        module, _, attribute = builtins[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    if found:
        try:
            return found[0].load()
        except (ImportError, AttributeError) as error:
            raise SpecError(
                f"{kind}: {name!r} of the package {_owner(found[0])} does not load: {error}"
            ) from error
    raise SpecError(f"{kind}: no {name!r}; {nearest(name, names(kind, builtins))}")


def attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of `package`: each name is loaded from its module when it is asked for."""

    def found(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return found


@functools.cache  # reading what is installed takes a tenth of a second
def _plugins(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"edgenas.{kind}"))


def _owner(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else plugin.value
