"""A search against every table that ships, and against three of them at once."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.hardware import load_device
from edgenas.latency import LatencyTable, table_for, table_names
from edgenas.testing.fakes import INVENTED_DEVICE, write_tiny_run

TABLES = Path(__file__).parents[2] / "latency_tables"
NAMES = sorted(path.stem for path in TABLES.glob("*.json"))
FIRST = {load_device(name).device_class: name for name in reversed(NAMES)}.values()
"""The first table of each class; searches against the others are slow tests."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a supernet that one short epoch trained."""
    folder = tmp_path_factory.mktemp("every-table")
    run = write_tiny_run(folder, device=NAMES[0])
    assert main(["train", str(run), "--runs", str(folder / "runs"), "--quiet"]) == 0
    return folder


def searched(
    trained: Path, folder: Path, names: list[str], capfd: pytest.CaptureFixture[str]
) -> dict[str, object]:
    (folder / "runs" / "tiny").mkdir(parents=True)
    shutil.copytree(trained / "runs" / "tiny" / "supernet", folder / "runs" / "tiny" / "supernet")
    run = write_tiny_run(folder, device=names[0], trials=6)
    if len(names) > 1:
        text = run.read_text("utf-8")
        text = text.replace(f'["{names[0]}"]', json.dumps(names))
        goals = ", ".join(f'"min latency_ms@{name}"' for name in names)
        run.write_text(text.replace('"min latency_ms"', goals), "utf-8")
    capfd.readouterr()
    code = main(
        ["search", str(run), "--runs", str(folder / "runs"), "--resume", "--quiet", "--json"]
    )
    told = capfd.readouterr()
    assert code == 0, told.err
    found: dict[str, object] = json.loads(told.out)
    return found


def tables(names: list[str]) -> dict[str, LatencyTable]:
    return {name: table_for(load_device(name)) for name in names}


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [n if n in FIRST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_a_search_reads_the_table(
    trained: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tables([name])[name]
    document = searched(trained, tmp_path, [name], capfd)
    front = document["front"]
    assert isinstance(front, list)
    assert front
    for row in front:
        latency = row["metrics"]["latency_ms"]
        assert latency["low"] <= latency["value"] <= latency["high"]
        assert latency["origin"] in {table.source, "predicted", "extrapolated"}
        assert latency.get("rough", False) == table.rough
    report = (tmp_path / "runs" / "tiny" / "report.md").read_text("utf-8")
    assert name in report
    assert bool(re.search(r"\brough\b", report)) == table.rough


@pytest.mark.long
def test_a_search_reads_three_tables_at_once(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["rpi4-tflite-int8", "galaxy-note10", "nucleo-u575zi-xcubeai-int8-t1"]
    document = searched(trained, tmp_path, names, capfd)
    front = document["front"]
    assert isinstance(front, list)
    assert front
    for row in front:
        assert {f"latency_ms@{name}" for name in names} <= set(row["metrics"])
        assert f"energy_mj@{names[2]}" in row["metrics"]


@pytest.mark.long
def test_twenty_tables_of_six_classes_ship() -> None:
    shipped = tables(NAMES)
    assert len(shipped) >= 20
    assert {t.device.device_class for t in shipped.values()} == {
        "cpu", "mobile", "gpu", "tpu", "npu", "mcu",
    }  # fmt: skip
    assert set(NAMES) <= set(table_names())
    assert INVENTED_DEVICE not in shipped
    for name, table in shipped.items():
        assert table.error_median is not None, name
        baselines = (table.validation or {}).get("baselines")
        if table.source in ("calibrated", "analytic"):
            assert baselines, name
