"""TFLite-Micro's own word on the arena, from the interpreter where it is installed."""

import importlib.util
from pathlib import Path

import pytest

from edgenas.errors import DeviceError, MeasurementError
from edgenas.hardware import micro
from edgenas.models import micro_arena
from edgenas.models.tflite import read_tflite

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
SMALLEST = min(CALIBRATION.glob("*.int8.tflite"), key=lambda path: path.stat().st_size)
installed = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="needs the extra edgenas[micro]"
)


@installed
def test_the_arena_is_the_smallest_that_the_model_runs_in() -> None:
    found = micro.measure_arena(SMALLEST)
    assert found.total == found.head + found.tail
    planned = micro_arena(read_tflite(SMALLEST.read_bytes(), SMALLEST, pads=True))
    assert found.total == pytest.approx(planned.total, rel=0.02)
    with pytest.raises(MeasurementError, match=r"refuses .* in \d+ bytes"):
        micro._run(SMALLEST, found.total - 64, 60.0)


@installed
def test_what_it_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.tflite"
    path.write_bytes(b"no model at all")
    with pytest.raises(MeasurementError, match=r"no\.tflite"):
        micro.measure_arena(path)


def test_without_it_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceError) as caught:
        micro.measure_arena(SMALLEST)
    assert caught.value.hint == 'pip install "edgenas[micro]"'


@installed
def test_an_interpreter_that_hangs_is_stopped() -> None:
    with pytest.raises(DeviceError, match="did not end within"):
        micro.measure_arena(SMALLEST, timeout_s=0.01)
