"""A phone without Python: the host's rounds, a stand-in for benchmark_model, the same result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import DeviceError, MeasurementError, SpecError
from edgenas.hardware import DeviceProfile, load_device_file
from edgenas.profiling.session import LINES, measure
from edgenas.profiling.settings import Settings
from edgenas.profiling.timings import Measurements
from edgenas.testing import fake_adb

PHONE = "R5CT1"
FAST = Settings(
    rounds=2, extra_rounds=0, seconds=0.1, runs=10, warmup_s=0.01, retries=0, cool_s=0.0
)

# Says what benchmark_model says; the model file holds its median in microseconds, or a command.
TOOL = r"""#!/bin/sh
echo "$*" >>"$0.calls"
for a in "$@"; do case "$a" in --graph=*) graph=${a#--graph=} ;; esac; done
read -r us <"$graph"
echo "INFO: STARTING!"
case "$us" in
fail) echo "ERROR: Failed to apply delegate." >&2; exit 1 ;;
once) if [ ! -e "$0.once" ]; then touch "$0.once"; echo cut; exit 0; fi; us=700 ;;
cut) echo "INFO: count=7 first=1 curr=1 min=1 max=1 av"; exit 0 ;;
hang) exec sleep 300 ;;
esac
tail="avg=$((us + 5)).5 std=7 p5=$((us - 3)) median=$us p95=$((us + 40))"
[ -e "$0.old" ] && tail="avg=$((us + 5)).5 std=7"
line="count=25 first=$((us + 9)) curr=$us min=$((us - 9)) max=$((us + 90)) $tail"
echo "INFO: $line"; echo; echo "INFO: $line"
echo "INFO: Inference timings in us: Init: 2318, First inference: $((us + 9))," \
    "Warmup (avg): $((us + 5)).5, Inference (avg): $((us + 5)).5"
"""

Measure = Callable[..., Measurements]


@pytest.fixture
def device(tmp_path: Path) -> DeviceProfile:
    tool = tmp_path / "benchmark_model_aarch64"
    tool.write_text(TOOL)
    path = tmp_path / "phone-litert-int8-t4.toml"
    path.write_text(
        f"""schema = "edgenas.device/1"
name = "phone-litert-int8-t4"
title = "A phone"
class = "mobile"
chip = "sm8550"
runtime = "litert"
precision = "int8"
threads = 4
affinity = [0, 1]

[connection]
kind = "adb"
serial = "{PHONE}"
benchmark_model = "{tool}"
folder = "{tmp_path / "phone"}"
""",
        "utf-8",
    )
    return load_device_file(path)


@pytest.fixture
def timed(tmp_path: Path, device: DeviceProfile, monkeypatch: pytest.MonkeyPatch) -> Measure:
    def run(times: dict[str, str], **session: Any) -> Measurements:
        settings = session.pop("settings", FAST)
        folder = fake_adb.install(tmp_path / "adb", phones={PHONE: "device"}, **session)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        models = {}
        for name, text in times.items():
            models[name] = tmp_path / f"{name}.tflite"
            models[name].write_text(text + "\n")
        return measure(models, device, workdir=tmp_path / "w", settings=settings)

    return run


def test_the_same_measurements_as_from_an_agent(timed: Measure, tmp_path: Path) -> None:
    found = timed({"a": "1400", "b": "90"})
    assert found.complete
    assert found.latency_ms() == {"a": 1.4, "b": 0.09}
    timing = found.timings["a"]
    assert (timing.p10_ms, timing.p50_ms, timing.p90_ms) == (1.397, 1.4, 1.44)
    assert (timing.n, timing.n_rounds, timing.init_ms, timing.first_ms) == (50, 2, 2.318, 1.409)
    conditions = json.loads(json.dumps(found.conditions))
    assert conditions["tool"].startswith("benchmark_model ")
    assert conditions["runtime_version"].startswith("benchmark_model-")
    assert conditions["statistic"] == ["median, p5, p95"]
    assert conditions["timer_resolution_ns"] == 1000
    assert conditions["before"]["machine"]
    calls = (tmp_path / "phone" / "benchmark_model.calls").read_text()
    assert "--num_threads=4 --use_xnnpack=true --num_runs=5 --min_secs=0.05" in calls


def test_a_second_call_measures_nothing_new(timed: Measure, tmp_path: Path) -> None:
    first = timed({"a": "1400"})
    store = tmp_path / "w" / LINES
    visits = store.read_text().count('"type": "visit"')
    assert timed({"a": "1400"}).timings == first.timings
    assert store.read_text().count('"type": "visit"') == visits == 2


def test_an_old_build_has_a_mean_and_the_table_says_so(timed: Measure, tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "benchmark_model.old").touch()
    found = timed({"a": "1400"}, old=True)
    assert found.latency_ms() == {"a": 1.4055}
    assert found.conditions["statistic"] == ["mean, minimum, maximum"]


def test_a_model_that_fails_is_named_and_output_cut_once_is_asked_for_again(
    timed: Measure,
) -> None:
    found = timed({"a": "fail", "b": "once"})
    assert "status 1: ERROR: Failed to apply delegate." in found.failed["a"]
    assert found.latency_ms() == {"b": 0.7}


def test_output_cut_twice_is_an_error(timed: Measure) -> None:
    with pytest.raises(MeasurementError, match="no timings"):
        timed({"a": "cut"})


@pytest.mark.long
def test_a_tool_that_hangs_is_stopped(timed: Measure, tmp_path: Path) -> None:
    settings = Settings(rounds=2, extra_rounds=0, cool_s=0.0, idle_s=4.0)
    with pytest.raises(DeviceError, match="silent for 4 s") as caught:
        timed({"a": "hang"}, settings=settings)
    assert "resume" in caught.value.hint
    assert '"type": "opening"' in (tmp_path / "w" / LINES).read_text()


def test_the_tool_runs_litert_only(device: DeviceProfile) -> None:
    assert device.path is not None
    text = device.path.read_text().replace('"litert"', '"onnxruntime"')
    device.path.write_text(text)
    with pytest.raises(SpecError, match="benchmark_model runs litert"):
        load_device_file(device.path)
