"""What builds of benchmark_model print, from 2019 to now."""

# ruff: noqa: E501 - recordings

from __future__ import annotations

import pytest

from edgenas.errors import MeasurementError
from edgenas.profiling.benchmark_output import parse_benchmark

OLD = """STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [/data/local/tmp/edgenas/0a.model]
#threads used for CPU inference: [4]
Loaded model /data/local/tmp/edgenas/0a.model
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 10 iterations and at least 0.1 seconds but terminate if exceeding 10 seconds.
count=10 first=3512391 curr=2913402 min=2727568 max=3512391 avg=2.95034e+06 std=209798

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 10 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 2.95034e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
"""
NEW = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [/data/local/tmp/edgenas/0a.model]
INFO: Use xnnpack: [1]
INFO: Loaded model /data/local/tmp/edgenas/0a.model
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 0.012
INFO: Initialized session in 2.318ms.
INFO: Running benchmark for at least 10 iterations and at least 0.1 seconds but terminate if exceeding 10 seconds.
INFO: count=215 first=1873 curr=1409 min=1400 max=1951 avg=1455.28 std=135 p5=1405 median=1412 p95=1875

INFO: Running benchmark for at least 8 iterations and at least 0.042 seconds but terminate if exceeding 10 seconds.
INFO: count=25 first=1411 curr=1409 min=1400 max=1951 avg=1455.28 std=135 p5=1405 median=1412 p95=1875

INFO: Inference timings in us: Init: 2318, First inference: 1873, Warmup (avg): 1455.28, Inference (avg): 1455.28
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=4.5 overall=9.25
"""
STEADY = """count=8 first=13 curr=12 min=12 max=13 avg=12.1 std=0
count=50 curr=12(all same)
Inference timings in us: Init: 310, First inference: 13, Warmup (avg): 12.1, Inference (avg): 12
"""
FAILED = """STARTING!
Graph: [/data/local/tmp/edgenas/0a.model]
ERROR: Could not open '/data/local/tmp/edgenas/0a.model'.
ERROR: Failed to mmap model /data/local/tmp/edgenas/0a.model
ERROR: Benchmarking failed.
"""


def test_an_old_build_has_a_mean_and_says_so() -> None:
    found = parse_benchmark(OLD)
    assert (found.n, found.has_median) == (50, False)
    assert (found.init_ms, found.first_ms) == pytest.approx((17.187, 3512.391))
    assert (found.low_ms, found.middle_ms, found.high_ms) == (2727.568, 2950.34, 3189.954)
    assert found.spread == pytest.approx(109798 / 2.95034e6)


def test_a_new_build_has_quantiles() -> None:
    found = parse_benchmark(NEW)
    assert (found.n, found.has_median) == (25, True)
    assert (found.min_ms, found.low_ms, found.middle_ms, found.high_ms) == (
        1.4,
        1.405,
        1.412,
        1.875,
    )


def test_runs_that_all_took_the_same() -> None:
    found = parse_benchmark(STEADY)
    assert (found.n, found.low_ms, found.middle_ms, found.high_ms) == (50, 0.012, 0.012, 0.012)


def test_carriage_returns_of_an_old_adb_do_no_harm() -> None:
    assert parse_benchmark(NEW.replace("\n", "\r\n")) == parse_benchmark(NEW)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no timings"),
        (FAILED, "Benchmarking failed"),
        (NEW + NEW, "more than once"),
        (NEW.replace("count=25", "count=0"), "cannot be"),
        (NEW.replace("median=1412", "median=0"), "cannot be"),
        (NEW.replace("median=1412", "median=9412"), "cannot be"),
        (NEW.replace("median=1412", "median=nan"), "no statistics"),
        (NEW.replace("avg): 1455.28, Inf", "avg): -nan, Inf"), "no timings"),
        (NEW.replace("Inference (avg): 1455", "Inference (avg): 9455"), "other runs"),
        ("\n".join(NEW.splitlines()[-3:]), "no statistics"),
    ],
)
def test_anything_else_is_an_error(text: str, said: str) -> None:
    with pytest.raises(MeasurementError, match=said) as caught:
        parse_benchmark(text)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("text", [OLD, NEW, STEADY], ids=["old", "new", "steady"])
def test_output_cut_anywhere_gives_the_same_or_an_error(text: str) -> None:
    """Never another number: a cut figure would be the fastest model on the phone."""
    whole = parse_benchmark(text)
    for end in range(len(text)):
        try:
            assert parse_benchmark(text[:end]) == whole
        except MeasurementError:
            continue
