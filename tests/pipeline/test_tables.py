"""Which table a search reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import DeviceError, MissingUnitsError, SpecError
from edgenas.hardware import DeviceProfile, load_device, user_folder
from edgenas.latency import LatencyTable, read_table, table_for, write_table
from edgenas.pipeline import tables
from edgenas.pipeline.tables import (
    activations_on,
    profile_seconds,
    shipped_networks,
    tables_for,
)
from edgenas.profiling import Run
from edgenas.spaces.mobile import MobileSpace, Stage, default_space
from edgenas.testing.fakes import (
    INVENTED_DEVICE,
    invented_table,
    tiny_space,
)

LOCAL = "local-onnxruntime-fp32-t1"
PLAIN = Stage(2, (8,), (1,), (3,), (1,), ("plain",))


def test_a_resumed_run_reads_the_table_that_it_read_before(folder: Path) -> None:
    device = load_device(INVENTED_DEVICE)
    first = tables_for([device], tiny_space(), folder / "run")[INVENTED_DEVICE]
    path = folder / "latency_tables" / f"{INVENTED_DEVICE}.json"
    table = read_table(path)
    slower = {op: replace(e, n=e.n + 1) for op, e in table.entries.items()}
    write_table(replace(table, entries=slower), path)
    again = tables_for([device], tiny_space(), folder / "run")[INVENTED_DEVICE]
    assert again.digest == first.digest
    anew = tables_for([device], tiny_space(), folder / "other")[INVENTED_DEVICE]
    assert anew.digest != first.digest


@pytest.mark.parametrize(
    ("name", "activations"),
    [("rpi4-onnxruntime-fp32-t4", "s8"), ("amd-epyc-f25m1-avx2-onnxruntime-int8-t1", "u8")],
)
def test_int8_activations_are_those_of_the_chip(name: str, activations: str) -> None:
    assert activations_on(load_device(name)) == activations


def test_a_device_elsewhere_needs_its_table(folder: Path) -> None:
    (folder / "latency_tables" / f"{INVENTED_DEVICE}.json").unlink()
    with pytest.raises(SpecError, match="no latency table") as caught:
        tables_for([load_device(INVENTED_DEVICE)], tiny_space(), folder / "run")
    assert caught.value.hint.startswith(f"edgenas profile {INVENTED_DEVICE}; ")


def test_units_that_nothing_covers_are_named(folder: Path) -> None:
    space = replace(tiny_space(), head_width=40)
    with pytest.raises(MissingUnitsError, match="head cin=16 hidden=40"):
        tables_for([load_device(INVENTED_DEVICE)], space, folder / "run")


def test_this_machine_with_a_table_of_its_own(folder: Path) -> None:
    device = load_device(LOCAL)
    table = invented_table(device, tiny_space())
    write_table(table, folder / "latency_tables" / f"{LOCAL}.json")
    assert tables_for([device], tiny_space(), folder / "run")[LOCAL].source == "measured"


def test_a_table_of_the_machine_for_another_space_is_no_base(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of plain convolutions alone; the cost model knows no depthwise ones either."""
    monkeypatch.setattr(tables, "calibrate_here", lambda device, table, space, *, run: table)
    other = default_space(image_size=28, in_channels=1, n_classes=10)
    device, only_plain = load_device(LOCAL), replace(tiny_space(), stages=(PLAIN,))
    write_table(invented_table(device, only_plain), folder / "latency_tables" / f"{LOCAL}.json")
    found = tables_for([device], other, folder / "run", profile_minutes=0.01)[LOCAL]
    assert found.device.name != LOCAL
    assert found.device.runtime == device.runtime
    alike = tables_for([device], only_plain, folder / "other", profile_minutes=0.01)[LOCAL]
    assert alike.device.name == LOCAL


def test_a_table_of_the_machine_with_few_of_the_units_gives_way_to_one_that_has_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its cost model would extrapolate the others."""
    monkeypatch.setattr(tables, "calibrate_here", lambda device, table, space, *, run: table)
    wanted = default_space(image_size=28, in_channels=1, n_classes=10)
    device, mine = load_device(LOCAL), folder / "latency_tables" / f"{LOCAL}.json"
    shipped = table_for(load_device("amd-epyc-f25m17-avx512vnni-onnxruntime-fp32-t1"))
    whole = replace(invented_table(device, wanted), cost_model=shipped.cost_model)

    def base(share: float) -> str:
        entries = list(whole.entries.items())[: round(share * len(whole.entries))]
        write_table(replace(whole, entries=dict(entries)), mine)
        found = tables_for([device], wanted, folder / f"run-{share}", profile_minutes=0.01)
        return found[LOCAL].device.name

    assert base(0.9) == LOCAL
    assert base(0.1) != LOCAL


def test_units_that_no_table_knows_are_timed_where_the_time_is_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are the user's from then on; a second search times those alone that are still missing."""
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    calls: list[LatencyTable | None] = []

    def timed(
        device: DeviceProfile, space: MobileSpace, *, earlier: LatencyTable | None, run: Run
    ) -> LatencyTable:
        calls.append(earlier)
        return invented_table(device, space)

    monkeypatch.setattr(tables, "profile_here", timed)
    monkeypatch.setattr(tables, "calibrate_here", lambda device, table, space, *, run: table)
    device, space = load_device(LOCAL), tiny_space()
    enough = profile_seconds(list(space.units()), device) / 60
    mine = user_folder("latency_tables") / f"{LOCAL}.json"

    def search(run: str, space: MobileSpace, minutes: float) -> LatencyTable:
        return tables_for([device], space, folder / run, profile_minutes=minutes)[LOCAL]

    assert search("short", space, enough - 0.01).name != LOCAL, "another's, calibrated"
    assert calls == []
    assert not mine.exists()
    found = search("first", space, enough + 0.01)
    assert calls == [None]
    assert mine.is_relative_to(folder)
    assert read_table(mine).digest == found.digest
    assert search("second", space, enough + 0.01).digest == found.digest
    assert calls == [None], "nothing is timed twice"
    wider = replace(space, head_width=40)
    assert set(search("wider", wider, enough - 0.01).entries) == set(wider.units())
    assert [t.digest for t in calls[1:] if t is not None] == [found.digest]


def test_this_machine_without_anything_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenas.latency.nearest_table", lambda device, units: None)
    with pytest.raises(DeviceError, match="minutes") as caught:
        tables_for([load_device(LOCAL)], tiny_space(), folder / "run", profile_minutes=0.01)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["onnx-int8", "tflite-int8"])
def test_networks_ship_for_calibration(name: str) -> None:
    networks = shipped_networks(name)
    units = set(default_space(image_size=28, in_channels=1, n_classes=10).units())
    assert len(networks) >= 6
    for lowering, path in networks.values():
        assert set(lowering) <= units, "made for another space: run tools/make-calibration"
        assert path.is_file()
