import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest

from edgenas.errors import SpecError, UsageError
from edgenas.latency.fewshot_bench import (
    canonical_cell,
    cell_macs,
    read_few_shot,
    run_few_shot,
    spearman,
)

CELL = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def table(tmp_path: Path) -> Path:
    """125 networks on two batch sizes of one chip and two other chips, 2 % noise."""
    rng = np.random.default_rng(0)
    lines = ["net,width,a_1_ms,a_32_ms,b_ms,latency_c"]
    for x, y, width in itertools.product(range(5), repeat=3):
        net = [1 + x + y + 0.3 * width, 9 + 5 * x + 4 * y + width, 2 + x + 2 * y, 1 + x * width + y]
        net = [ms * np.exp(0.02 * rng.standard_normal()) for ms in net]
        lines.append(f"op{x}|op{y},{width}," + ",".join(f"{ms:.5f}" for ms in net))
    path = tmp_path / "nets.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def test_every_method_on_every_device(tmp_path: Path) -> None:
    read = read_few_shot(table(tmp_path), architecture=("net", "width"))
    assert read.devices == ("a_1_ms", "a_32_ms", "b_ms", "latency_c")
    assert read.chips == ("a", "a", "b", "c")
    found = run_few_shot(read, [5, 20], draws=2)
    assert found == run_few_shot(read, [5, 20], draws=2)
    methods = {row["method"] for row in found["summary"]}
    assert {"few-shot, chosen", "few-shot, random", "nearest known device"} <= methods
    own = next(
        r for r in found["summary"] if r["samples"] == 20 and r["method"] == "few-shot, chosen"
    )
    assert own["spearman"] > 0.93
    assert 0.6 < own["coverage"] <= 1
    assert all(0 <= row["within_10"] <= 1 for row in found["rows"])
    assert {row["n"] for row in found["rows"]} == {2}


def test_a_device_is_left_out_with_its_chip(tmp_path: Path) -> None:
    """Were the other batch size known, the nearest device would be it; a copy shows it."""
    path = tmp_path / "nets.csv"
    rng = np.random.default_rng(1)
    x, y = rng.uniform(1, 9, 60), rng.uniform(1, 9, 60)
    rows = [f"{a},{2 * a},{b},{b}" for a, b in zip(x, y, strict=True)]
    path.write_text("\n".join(["a_1_ms,a_2_ms,b_ms,c_ms", *rows]))
    grouped = run_few_shot(read_few_shot(path), [5], draws=1, targets=["a_1_ms"])
    apart = run_few_shot(read_few_shot(path, group="$^"), [5], draws=1, targets=["a_1_ms"])
    near = [
        next(r["spearman"] for r in f["rows"] if r["method"] == "nearest known device")
        for f in (grouped, apart)
    ]
    assert near[0] < 0.6
    assert near[1] == 1.0


def test_isomorphic_cells_and_macs() -> None:
    conv, skip, none = "nor_conv_3x3", "skip_connect", "none"
    one = canonical_cell(CELL.format(none, conv, none, none, none, skip))
    assert one == canonical_cell(CELL.format(none, conv, conv, none, skip, skip))
    assert one != canonical_cell(CELL.format(*6 * [conv]))
    assert cell_macs(CELL.format(*6 * [conv])) == pytest.approx(220.12e6, rel=1e-3)
    assert cell_macs(CELL.format(*6 * [none])) == pytest.approx(7.783e6, rel=1e-3)
    ops = (none, skip, "nor_conv_1x1", conv, "avg_pool_3x3")
    found = {canonical_cell(CELL.format(*cell)) for cell in itertools.product(ops, repeat=6)}
    assert len(found) == 6466


def test_ranks_share_ties() -> None:
    up = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(up, up**3) == 1.0
    assert spearman(np.array([1.0, 1.0, 3.0, 2.0]), up) == pytest.approx(3.5 / np.sqrt(4.5 * 5))
    assert spearman(np.ones(4), up) == 0.0


def test_blanks_are_left_out_and_tiny_latencies_raised(tmp_path: Path) -> None:
    path = tmp_path / "nets.csv"
    rows = [f"{1 + i},{2 + i},{3 + i}" for i in range(40)]
    rows[3], rows[7] = ",5,6", "1e-9,9,10"
    path.write_text("\n".join(["a_ms,b_ms,c_ms", *rows]))
    read = read_few_shot(path)
    assert np.isnan(read.latency_ms).sum() == 1
    assert read.clipped == (1, 0, 0)
    assert np.nanmin(read.latency_ms) > 0.1
    found = run_few_shot(read, [5], draws=1)
    assert {row["n_test"] for row in found["rows"]} == {34}


@pytest.mark.parametrize("cell", ["nan", "0", "-1", "fast", "inf"])
def test_latencies_that_are_none(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "nets.csv"
    path.write_text("\n".join(["a_ms,b_ms", *["1,2"] * 30, f"{cell},2"]))
    with pytest.raises(SpecError, match="row 32, a_ms"):
        read_few_shot(path)


@pytest.mark.parametrize("power", ["e300", "e-300"])
def test_a_column_out_of_all_bounds_is_named(tmp_path: Path, power: str) -> None:
    path = tmp_path / "nets.csv"
    path.write_text("\n".join(["a_ms,b_ms", *(f"{1 + i},{1 + i}{power}" for i in range(30))]))
    with pytest.raises(SpecError, match="b_ms holds 1e"):
        read_few_shot(path)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    path = table(tmp_path)
    with pytest.raises(UsageError, match="did you mean 'b_ms'"):
        read_few_shot(path, devices=["a_1_ms", "b_m"])
    with pytest.raises(UsageError, match="no column 'nett'"):
        read_few_shot(path, architecture=["nett"])
    with pytest.raises(UsageError, match="two different chips"):
        read_few_shot(path, devices=["a_1_ms", "a_32_ms"])
    with pytest.raises(UsageError, match="regular expression"):
        read_few_shot(path, group="(")
    read = read_few_shot(path)
    with pytest.raises(UsageError, match="at least 3"):
        run_few_shot(read, [2])
    with pytest.raises(UsageError, match="no device column"):
        run_few_shot(read, [10], targets=["d_ms"])
    with pytest.raises(SpecError, match="too few"):
        run_few_shot(read, [120], draws=1)
    small = tmp_path / "small.csv"
    small.write_text("a_ms,b_ms\n1,2\n")
    with pytest.raises(SpecError, match="too few"):
        read_few_shot(small)


def test_real_measurements(measurements: Path) -> None:
    """The hardest device of NAS-Bench-201 and an easy one: better than every baseline."""
    read = read_few_shot(measurements / "nasbench201.csv.gz", architecture=["arch_str"])
    assert len(read.devices) == 18
    assert len(set(read.chips)) == 10
    assert len(set(read.kinds.tolist())) == 6466
    targets = ["help_pixel3_ms", "help_silver_4210r_ms"]
    found = run_few_shot(read, [10], draws=2, targets=targets)
    assert found["summary"][0]["method"].startswith("few-shot")
    assert found["summary"][0]["spearman"] > 0.93
