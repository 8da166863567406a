"""Where devices and tables are looked for: shipped, the user's data folder, the working folder.

A command that is given a file with what it needs beside it adds the file's folder (`also_in`). The
later one wins. What it hides is named in `Found.shadows`, so that no output leaves it unsaid.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from edgenas.errors import UsageError

Kind = Literal["devices", "latency_tables"]
Origin = Literal["shipped", "user", "working"]

_ALSO = "EDGENAS_ALSO_IN"
"""In the environment, so that processes that are started look there too."""
_SUFFIX: dict[Kind, str] = {"devices": ".toml", "latency_tables": ".json"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


@dataclass(frozen=True, slots=True)
class Found:
    """A file by the name of its device, and the files of the same name that it hides."""

    name: str
    path: Path
    origin: Origin
    shadows: tuple[Path, ...] = ()


def check_name(name: str, *, what: str = "device") -> str:
    """`name`, where it can safely be a file's name and an argument on every system.

    Raises:
        UsageError: for separators, `..`, a leading `-` or `.`, capitals, reserved words, length.
    """
    if not _NAME.fullmatch(name) or ".." in name or name.endswith("."):
        raise UsageError(
            f"{what} name {name!r}: small letters, digits, '-', '_' and single '.' are allowed, "
            "at most 120, starting with a letter or digit",
            hint="edgenas devices list" if what == "device" else "",
        )
    if _RESERVED.fullmatch(name):
        raise UsageError(f"{what} name {name!r} is reserved by an operating system")
    return name


def user_folder(kind: Kind) -> Path:
    """The user's own folder of this kind; it need not exist."""
    return platformdirs.user_data_path("edgenas", appauthor=False) / kind


def shipped_folder(kind: Kind) -> Path:
    """The folder of this kind that came with edgenas: inside the wheel, or beside the sources."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


def search_folders(kind: Kind) -> tuple[tuple[Origin, Path], ...]:
    """Origin and folder in ascending priority; a folder that is two of them stands once."""
    shipped = shipped_folder(kind)
    result: list[tuple[Origin, Path]] = [("shipped", shipped), ("user", user_folder(kind))]
    seen = {shipped.resolve()}
    for place in (Path.cwd(), *map(Path, filter(None, [os.environ.get(_ALSO)]))):
        working = place / kind
        if working.resolve() not in seen:
            seen.add(working.resolve())
            result.append(("working", working))
    return tuple(result)


@contextlib.contextmanager
def also_in(folder: Path) -> Iterator[None]:
    """`devices` and `latency_tables` in `folder` win meanwhile, also in processes started here."""
    before = os.environ.get(_ALSO)
    os.environ[_ALSO] = str(folder.resolve())
    try:
        yield
    finally:
        del os.environ[_ALSO]
        if before is not None:
            os.environ[_ALSO] = before


def listing(kind: Kind) -> dict[str, Found]:
    """All files of this kind by name, sorted; names that `check_name` refuses are left out."""
    found: dict[str, Found] = {}
    for origin, folder in search_folders(kind):
        if not folder.is_dir():
            continue
        for path in sorted(folder.glob(f"*{_SUFFIX[kind]}")):
            name = path.name.removesuffix(_SUFFIX[kind])
            if not _NAME.fullmatch(name):
                continue
            hidden = found.get(name)
            shadows = (*hidden.shadows, hidden.path) if hidden else ()
            found[name] = Found(name, path, origin, shadows)
    return dict(sorted(found.items()))


def find(kind: Kind, name: str) -> Found | None:
    """The file of this kind called `name` that wins, or None.

    Raises:
        UsageError: where `name` cannot be the name of one.
    """
    check_name(name)
    return listing(kind).get(name)
