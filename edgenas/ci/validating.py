"""`ci validate`: the files that a person or a merge may have broken, read in moments.

Targets, the run files, devices and tables that they name, and the lock. Nothing is compared: what
is stale is no mistake. A table that did not ship with edgenas is checked as one of a stranger's,
and each has to know the units of its target's space, unless the supernet is still to be trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenas.ci.facts import Reader
from edgenas.ci.lock import LOCK, read_lock
from edgenas.ci.planning import RUNS, check_table
from edgenas.ci.targets import TARGETS, Target, check_devices, read_targets
from edgenas.errors import SpecError
from edgenas.pipeline.contributing import check_tables
from edgenas.pipeline.goals import devices_of, targets_of

SCHEMA = "edgenas.ci-validate/1"


def validate(targets: Path = TARGETS, *, lock: Path = LOCK) -> tuple[dict[str, Any], str]:
    """What the files hold, as `edgenas.ci-validate/1` and as text; `passed` says of the tables.

    Raises:
        SpecError: a file is missing or wrong; a device has no table, or one that lacks units.
        ArtifactError: the lock is damaged.
    """
    wanted = read_targets(targets)
    tables: set[Path] = set()
    for target in wanted:
        try:
            tables |= _own_tables(target)
            check_devices(target)
        except SpecError as error:
            raise type(error)(f"target {target.name}: {error}", hint=error.hint) from error
    entries = read_lock(lock)
    checked, text = check_tables(sorted(tables))
    if checked["passed"]:
        for target in wanted:
            _check_units(target, Reader(lock.parent / RUNS))
    document = {
        "schema": SCHEMA,
        "passed": checked["passed"],
        "targets": [target.name for target in wanted],
        "locked": sorted(entries),
        "tables": checked["tables"],
    }
    told = f"{targets}: {len(wanted)} targets\n{lock}: {len(entries)} targets locked"
    return document, f"{told}\n{text}" if text else told


def _check_units(target: Target, reader: Reader) -> None:
    """Refuses tables that lack units of the target's space, where that is known."""
    if not reader.checkpoint(target).is_file():
        return
    for device in devices_of(target.config):
        if not device.is_local:
            try:
                check_table(reader.space(target), device.name)
            except SpecError as error:
                raise type(error)(f"target {target.name}: {error}", hint=error.hint) from error


def _own_tables(target: Target) -> set[Path]:
    """The tables of the target's devices that did not ship with edgenas."""
    from edgenas.latency import table_file

    targets_of(target.config)
    found = [table_file(device) for device in devices_of(target.config) if not device.is_local]
    return {table.path for table in found if table.origin != "shipped"}
