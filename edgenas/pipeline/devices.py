"""What is known of devices and tables, for people: lists, one device, one table, two tables."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.errors import EdgenasError, SpecError, UsageError
from edgenas.hardware import (
    DeviceProfile,
    Found,
    device_names,
    device_toml,
    find,
    load_device,
)
from edgenas.pipeline.provenance import table_facts
from edgenas.targets import toolchain_of

if TYPE_CHECKING:
    from edgenas.latency import LatencyTable

SHOWN_ENTRIES = 20


def list_devices() -> list[dict[str, Any]]:
    """Every known device with where its table came from and its error, as `edgenas.devices/1`.

    A table without a device file stands for a device of its own; where either cannot be read, the
    row's `problem` says why. A local device for which there is
    only a table under its chip's name is *calibrated*: a search rescales that table.
    """
    from edgenas.latency import table_names

    tables = table_names()
    rows = []
    for name in sorted({*device_names(), *tables}):
        row: dict[str, Any] = {
            "name": name,
            "class": None,
            "source": None,
            "date": None,
            "table": None,
            "error_median": None,
            "error_within_10": None,
            "n_validation": None,
            "rough": False,
            "macs_constant_error": None,
            "nearest_device_error": None,
            "nearest_device": None,
        }
        try:
            device = load_device(name) if name in device_names() else None
            if device is not None:
                row["class"] = device.device_class
            table, found = _table_of(name, device, tables)
        except EdgenasError as error:
            rows.append({**row, "problem": str(error)})
            continue
        if table is not None and found is not None:
            facts = table_facts(name, table)
            row |= {"class": table.device.device_class, "table": str(found.path)}
            if found.name == name:
                row |= {key: facts[key] for key in row if key in facts}
            else:  # the chip's: a search on this machine rescales it first
                local = device is not None and device.is_local
                source = "calibrated" if local else facts["source"]
                row |= {"source": source, "date": facts["date"]}
        rows.append(row)
    return rows


def device_file(name: str) -> str:
    """The file of a device in `devices/`, as text; raises as `show_device`."""
    return device_toml(load_device(name))


def show_device(name: str) -> dict[str, Any]:
    """One device: profile, file, what its table rests on.

    Raises:
        UsageError: unknown, with the nearest known one.
    """
    from edgenas.latency import table_names

    device = load_device(name)
    chain = toolchain_of(device)
    listed = None if chain is None or not chain.url else f"{chain.source}: {chain.url}"
    table, found = _table_of(name, device, table_names())
    facts: dict[str, Any] = {
        "name": device.name,
        "title": device.title,
        "class": device.device_class,
        "chip": device.chip,
        "runtime": device.runtime,
        "runtime_version": device.runtime_version,
        "precision": device.precision,
        "threads": device.threads,
        "batch": device.batch,
        "format": device.format,
        "connection": device.connection.kind,
        "file": None if device.path is None else str(device.path),
        "digest": device.digest,
        "ram_bytes": device.ram_bytes,
        "flash_bytes": device.flash_bytes,
        "toolchain": None if chain is None else chain.title,
        "operators": ", ".join(device.operators) or listed,
        "table": None,
    }
    if table is not None and found is not None:
        facts |= {"table": str(found.path), "entries": len(table.entries)}
        facts |= {
            k: v for k, v in table_facts(name, table).items() if k not in ("device", "digest")
        }
        if found.name != name:
            then = "; a search calibrates it" if device.is_local else ""
            facts |= {
                "source": f"{table.source} on this kind of chip{then}",
                "remedy": f"edgenas profile {name} measures the machine itself",
            }
        facts["data"] = table.conditions.get("data")
        facts["not_stated"] = table.conditions.get("not_stated")
        if found.shadows:
            facts["shadows"] = ", ".join(map(str, found.shadows))
    elif device.is_local:
        facts["remedy"] = f"edgenas profile {name} measures it; a search calibrates without"
    return facts


def show_table(name: str) -> tuple[dict[str, Any], str]:
    """A table's facts as JSON values, and as text with its slowest units."""
    table = read_any_table(name)
    slowest = sorted(table.entries, key=lambda op: -table.entries[op].latency_ms)
    facts: dict[str, Any] = {
        **table_facts(table.name, table),
        "title": table.device.title,
        "chip": table.device.chip,
        "runtime": f"{table.device.runtime} {table.device.runtime_version}",
        "precision": table.device.precision,
        "threads": table.device.threads,
        "batch": table.device.batch,
        "file": None if table.path is None else str(table.path),
        "entries": len(table.entries),
        "validated_on": (table.validation or {}).get("kind"),
        "data": table.conditions.get("data"),
        "not_stated": table.conditions.get("not_stated"),
        "latency_of": table.conditions.get("latency_of"),
        "grade": table.conditions.get("grade"),
        "virtualised": table.conditions.get("virtualised"),
        "fits": [
            {
                "granularity": fit.granularity,
                "scale": fit.scale,
                "per_part_ms": fit.per_part_ms,
                "n_networks": fit.n_networks,
                "error_mean": fit.error_mean,
                "error_max": fit.error_max,
            }
            for fit in table.fits
        ],
        "excluded": dict(table.excluded),
    }
    lines = [f"{k}: {v}" for k, v in facts.items() if v not in (None, "", {}) and k != "fits"]
    lines += [
        f"fit ({fit.granularity}s): {fit.scale:.4f} x sum + {fit.per_part_ms:.5f} ms x parts, from "
        f"{fit.n_networks} networks; left out, each is {100 * fit.error_mean:.1f} % off on average"
        for fit in table.fits
    ]
    if slowest:
        lines.append(f"slowest of {len(slowest)} units (p10, p90):")
    for op in slowest[:SHOWN_ENTRIES]:
        e = table.entries[op]
        lines.append(f"  {e.latency_ms:.4f} ms ({e.p10_ms:.4f}, {e.p90_ms:.4f})  {op.key}")
    return facts, "\n".join(lines)


def diff_tables(first: str, second: str) -> tuple[dict[str, Any], str]:
    """What two tables say of the units that both hold: ratios second / first."""
    a, b = read_any_table(first), read_any_table(second)
    shared = sorted(set(a.entries) & set(b.entries), key=lambda op: op.key)
    if not shared:
        raise UsageError(f"{a.name} and {b.name} have no unit in common")
    ratios = {op.key: b.entries[op].latency_ms / a.entries[op].latency_ms for op in shared}
    ordered = sorted(ratios.items(), key=lambda pair: pair[1])
    facts = {
        "first": a.name,
        "second": b.name,
        "shared": len(shared),
        "only_first": sorted(op.key for op in set(a.entries) - set(b.entries)),
        "only_second": sorted(op.key for op in set(b.entries) - set(a.entries)),
        "ratio_median": statistics.median(ratios.values()),
        "ratio_min": ordered[0][1],
        "ratio_max": ordered[-1][1],
        "ratios": ratios,
    }
    lines = [
        f"{b.name} / {a.name}: median {facts['ratio_median']:.3f}, "
        f"{facts['ratio_min']:.3f} to {facts['ratio_max']:.3f} over {len(shared)} shared units",
        f"only in {a.name}: {len(set(a.entries) - set(b.entries))}; "
        f"only in {b.name}: {len(set(b.entries) - set(a.entries))}",
    ]
    picked = ordered if len(ordered) <= 10 else [*ordered[:5], *ordered[-5:]]
    lines += [f"  {ratio:.3f}  {key}" for key, ratio in picked]
    return facts, "\n".join(lines)


def read_any_table(name: str) -> LatencyTable:
    """The table in the file `name`, or that of the device called so.

    Raises:
        UsageError: neither.
        ArtifactError: the file is damaged.
    """
    from edgenas.latency import read_table, table_for

    if name.endswith(".json") or "/" in name:
        return read_table(Path(name))
    found = find("latency_tables", name)
    return read_table(found.path) if found else table_for(load_device(name))


def _table_of(
    name: str, device: DeviceProfile | None, tables: dict[str, Found]
) -> tuple[LatencyTable | None, Found | None]:
    """The table by this name, or for a device the one under its chip's name."""
    from edgenas.latency import read_table, table_file

    found = tables.get(name)
    if found is None and device is not None:
        with contextlib.suppress(SpecError):
            found = table_file(device)
    return (None, None) if found is None else (read_table(found.path), found)
