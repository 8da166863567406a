"""What `edgenas devices` says of tables: never more than they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.hardware import device_toml, load_device, on_this_chip
from edgenas.latency import named, write_table
from edgenas.pipeline.devices import list_devices, show_device
from edgenas.testing.fakes import (
    INVENTED_DEVICE,
    invented_table,
    tiny_space,
)

LOCAL = "local-onnxruntime-fp32-t1"


def rows() -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in list_devices()}


def test_a_table_of_its_own_is_what_it_says(folder: Path) -> None:
    table = invented_table(load_device(LOCAL), tiny_space())
    write_table(
        replace(table, validation={"error_median": 0.03, "n": 24, "within_10": 0.96}),
        folder / "latency_tables" / f"{LOCAL}.json",
    )
    found = rows()
    assert found[LOCAL]["source"] == "measured"
    assert found[LOCAL]["error_median"] == 0.03
    assert found[INVENTED_DEVICE]["source"] == "measured"
    assert found[INVENTED_DEVICE]["error_median"] is None


def test_the_chips_table_is_not_measured_on_this_machine(folder: Path) -> None:
    device = load_device(LOCAL)
    name = on_this_chip(device)
    table = named(invented_table(device, tiny_space()), name)
    write_table(
        replace(table, validation={"error_median": 0.03}),
        folder / "latency_tables" / f"{name}.json",
    )
    found = rows()
    assert found[name]["source"] == "measured"
    assert found[LOCAL]["source"] == "calibrated"
    assert found[LOCAL]["error_median"] is None
    shown = show_device(LOCAL)
    assert "a search calibrates it" in shown["source"]
    assert f"edgenas profile {LOCAL}" in shown["remedy"]


def test_a_connected_machine_of_a_known_chip_says_whose_table_it_is(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = "amd-epyc-f25m1-avx2-litert-int8-t1"
    text = device_toml(load_device(known)).replace(known, "my-box-litert-int8-t1")
    text += '\n[connection]\nkind = "ssh"\nhost = "my-box"\n'
    (folder / "devices" / "my-box-litert-int8-t1.toml").write_text(text, "utf-8")
    assert rows()["my-box-litert-int8-t1"]["source"] == "measured"
    assert "a search calibrates" not in show_device("my-box-litert-int8-t1")["source"]
    assert main(["predict", "my-box-litert-int8-t1", "largest"]) == 0
    assert f"is measured on another machine with this chip ({known})" in capfd.readouterr().out


def test_a_damaged_table_is_named_and_hides_nothing_else(folder: Path) -> None:
    path = folder / "latency_tables" / f"{INVENTED_DEVICE}.json"
    path.write_text(path.read_text("utf-8")[:200], "utf-8")
    found = rows()
    assert str(path.name) in str(found[INVENTED_DEVICE]["problem"])
    assert found["rpi4-tflite-int8"]["source"] == "calibrated"


def test_what_cannot_be_read_is_listed_with_its_problem(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "devices" / "broken.toml").write_text("name = [", "utf-8")
    (folder / "latency_tables" / f"{INVENTED_DEVICE}.json").write_text("{", "utf-8")
    assert main(["devices", "list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["broken", "unreadable"] for line in lines)
    assert any(line.startswith("broken: ") and "broken.toml" in line for line in lines)
    assert any(line.split()[:3] == [INVENTED_DEVICE, "cpu", "unreadable"] for line in lines)
    assert sum(line.startswith(f"{INVENTED_DEVICE}: ") for line in lines) == 1
    assert any(line.startswith("rpi4-tflite-int8 ") for line in lines)
