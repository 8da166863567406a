"""Vela's estimates, from Vela itself where it is installed."""

import csv
import importlib.util
import tempfile
from pathlib import Path

import pytest

from edgenas.errors import MeasurementError, ResourceError, UsageError
from edgenas.hardware import vela

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
installed = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="needs the extra edgenas[micro]"
)


@installed
@pytest.mark.parametrize("chip", vela.ACCELERATORS)
def test_an_exported_network_runs_whole_on_the_npu(chip: str) -> None:
    path = min(CALIBRATION.glob("*.tflite"), key=lambda p: p.stat().st_size)
    found = vela.estimate(path, vela.accelerator(chip))
    assert found.cpu_operators == 0
    assert found.npu_operators > 20
    assert found.latency_ms == pytest.approx(1000 * found.cycles / found.clock_hz)
    assert 0.01 < found.latency_ms < 100
    assert found.sram_bytes > 1000


@installed
def test_what_vela_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.tflite"
    path.write_bytes(b"no model at all")
    with pytest.raises(MeasurementError, match=r"no\.tflite"):
        vela.estimate(path, vela.accelerator("ethos-u55-128"))


@installed
def test_a_full_disk_is_no_fault_of_the_model(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = min(CALIBRATION.glob("*.tflite"), key=lambda p: p.stat().st_size)
    (small_disk / "rest").write_bytes(b"x" * 56 * 1024)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(ResourceError, match="No space left") as caught:
        vela.estimate(path, vela.accelerator("ethos-u55-128"))
    assert caught.value.hint


def test_an_unknown_chip_gets_the_nearest_known() -> None:
    with pytest.raises(UsageError, match="ethos-u55-128"):
        vela.accelerator("ethos-u55-12")


@pytest.mark.parametrize("missing", ["cycles_total", "core_clock"])
def test_a_report_that_lacks_a_figure_is_no_estimate(tmp_path: Path, missing: str) -> None:
    row = {"cycles_total": "10", "core_clock": "5e8", "sram_memory_used": "1.5"}
    row |= {f"{k}_memory_used": "0" for k in ("dram", "on_chip_flash", "off_chip_flash")}
    report = tmp_path / "net_summary.csv"

    def written(values: dict[str, str]) -> Path:
        with report.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(values))
            writer.writeheader()
            writer.writerow(values)
        return report

    said = "CPU operators = 1 (9%)\nNPU operators = 10 (91%)\n"
    found = vela._read(written(row), said, Path("net"))
    assert (found.latency_ms, found.cpu_operators, found.sram_bytes) == (2e-5, 1, 1536)
    del row[missing]
    with pytest.raises(MeasurementError, match="cannot be read"):
        vela._read(written(row), said, Path("net"))
