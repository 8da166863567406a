"""`edgenas devices`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from edgenas.cli.console import Json, output
from edgenas.cli.results import columns

app = typer.Typer(help="Device profiles, and where each one's latency table came from.")


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    """Device profiles, and where each one's latency table came from."""
    if context.invoked_subcommand is None:
        list_devices()


@app.command("list")
def list_devices(json: Json = False) -> None:
    """Every device that can be searched for, with its table's source and error.

    The error is the median of |predicted - measured| / measured over what the table's fit has not
    seen (n whole networks, where there are any); above 20 % a table is rough. Beside it stand the
    errors on the same networks of MACs x constant and of the nearest known device x constant; a
    table that beats neither is analytic. An estimated table's error is against the vendor's
    compiler, not against the chip.
    """
    from edgenas import pipeline

    with output(json=json) as out:
        devices = pipeline.list_devices()
        rows = [
            (
                d["name"],
                d["class"] or "",
                _source(d),
                _percent(d["error_median"]),
                _percent(d["macs_constant_error"]),
                _percent(d["nearest_device_error"]),
                _percent(d["error_within_10"]),
                str(d["n_validation"] or ""),
                d["date"] or "",
            )
            for d in devices
        ]
        heads = (
            "device",
            "class",
            "source",
            "error",
            "MACs x c",
            "nearest",
            "within 10 %",
            "n",
            "date",
        )
        lines = [columns(heads, rows)]
        lines += [f"{d['name']}: {d['problem']}" for d in devices if "problem" in d]
        out.result({"schema": "edgenas.devices/1", "devices": devices}, "\n".join(lines))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A device's name, as `edgenas devices` lists it.")],
    toml: Annotated[
        bool, typer.Option("--toml", help="Print its file, to begin one of your own with.")
    ] = False,
    json: Json = False,
) -> None:
    """One device: its profile, the file it stands in, its table's conditions."""
    from edgenas import pipeline

    with output(json=json) as out:
        facts = pipeline.show_device(name)
        lines = [f"{key}: {value}" for key, value in facts.items() if value not in (None, "")]
        text = pipeline.device_file(name) if toml else "\n".join(lines)
        out.result({"schema": "edgenas.device/1", **facts}, text)


def _source(device: Mapping[str, Any]) -> str:
    if "problem" in device:
        return "unreadable"
    return (device["source"] or "no table") + (", rough" if device["rough"] else "")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
