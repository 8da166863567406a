"""Results as files: a later call finds them, and never writes over those of other settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgenas.artifacts import read_json
from edgenas.errors import UsageError


def kept(path: Path, *, schema: str, settings: Mapping[str, object]) -> dict[str, Any] | None:
    """The result in `path`; None where there is none.

    Raises:
        UsageError: it is of other settings.
        ArtifactError: it is damaged.
    """
    if not path.is_file():
        return None
    found = read_json(path, schema=schema)
    wanted = json.loads(json.dumps(settings))
    if found["settings"] == wanted:
        return found
    keys = wanted.keys() | found["settings"].keys()
    other = sorted(key for key in keys if found["settings"].get(key) != wanted.get(key))
    raise UsageError(
        f"{path}: of other settings ({', '.join(other)}) than this call",
        hint="name another folder with --results: what is there took long",
    )
