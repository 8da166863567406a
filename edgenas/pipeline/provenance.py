"""Where a result comes from, and what a reader must know to read it rightly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import digest

if TYPE_CHECKING:
    from edgenas.latency import LatencyTable
    from edgenas.pipeline.opening import Opened

PROVENANCE_SCHEMA = "edgenas.provenance/1"


def provenance(run: Opened, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of `provenance.json`; `evaluation` says what accuracies were read from."""
    import platform
    from importlib import metadata

    from edgenas import __version__
    from edgenas.hardware import this_chip

    chip = this_chip()
    return {
        "schema": PROVENANCE_SCHEMA,
        "edgenas": __version__,
        "seed": run.config.seed,
        "machine": {
            "chip": chip.title,
            "cpus": chip.n_cpus,
            "virtualised": chip.virtualised,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: metadata.version(name) for name in ("torch", "optuna")},
        "data": {
            "source": run.data.name,
            "digest": run.data.digest,
            "images": f"{len(run.data.train)} train, {len(run.data.search)} search, "
            f"{len(run.data.test)} test",
        },
        "supernet": {
            "checkpoint": run.checkpoint.name,
            "digest": run.info.digest,
            "space": run.supernet.space.digest,
            "recipe": digest(dict(run.info.recipe)),
        },
        "evaluation": dict(evaluation),
        "tables": [table_facts(name, table) for name, table in run.tables.items()],
    }


def table_facts(name: str, table: LatencyTable) -> dict[str, Any]:
    """Where a table came from and how good it is."""
    validation = dict(table.validation or {})
    baselines = validation.get("baselines") or {}
    return {
        "device": name,
        "source": table.source,
        "digest": table.digest,
        "date": table.created[:10],
        "error_median": validation.get("error_median"),
        "error_within_10": validation.get("within_10"),
        "n_validation": validation.get("n"),
        "rough": table.rough,
        "macs_constant_error": (baselines.get("macs_constant") or {}).get("error_median"),
        "nearest_device_error": (baselines.get("nearest_device") or {}).get("error_median"),
        "nearest_device": (baselines.get("nearest_device") or {}).get("device"),
    }


def latency_note(name: str, table: LatencyTable) -> str:
    """What a reader must know of latencies read from this table; empty for a good measured one."""
    elsewhere = table.name != name and table.source == "measured"
    if table.source == "measured" and not table.rough and not elsewhere:
        return ""
    note = f"latency on {name} is {table.source}"
    if elsewhere:
        note += f" on another machine with this chip ({table.name})"
    if table.source == "estimated":
        note += " by the vendor's compiler; how far that is off the chip is not known"
    if "calibrated_from" in table.conditions:
        note += f" from {table.conditions['calibrated_from']}"
    elif "data" in table.conditions:
        note += f" from published figures ({table.conditions['data']['upstream']})"
    if table.error_median is not None and table.rough:
        note += (
            f" and rough: {100 * table.error_median:.0f} % off (median) on what the fit had not "
            "seen; it ranks networks at best"
        )
    return note


def reading_notes(run: Opened) -> tuple[str, ...]:
    """What a reader of the result must know to read it rightly."""
    notes = [note for name, table in run.tables.items() if (note := latency_note(name, table))]
    trained_on = run.info.data.get("digest")
    if trained_on != run.data.digest:
        notes.append(
            f"the supernet was trained on other splits ({trained_on}) than these "
            f"({run.data.digest}): it may have seen images that accuracy is read from; a run file "
            "with the training's seed gives the same splits"
        )
    return tuple(notes)
