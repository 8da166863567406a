"""Published networks as units, and the tables that are fitted to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgenas.hardware import load_device_file
from edgenas.latency import Predictor, read_table
from edgenas.spaces import OpSpec
from edgenas.spaces.mobile import LARGE, default_space
from tools.calibration import architectures as nets
from tools.calibration.sources import PLANS, mobile_network, mobile_precision, note10_block, rows


def counted(ops: tuple[OpSpec, ...]) -> tuple[float, float]:
    return sum(op.macs for op in ops) / 1e6, sum(op.params for op in ops) / 1e6


@pytest.mark.parametrize(
    ("ops", "macs", "params", "within"),
    [
        (nets.mobilenet_v1(1.0, 224), 569, 4.24, 0.01),
        (nets.mobilenet_v1(0.25, 128), 14, 0.47, 0.04),
        (nets.mobilenet_v2(1.0, 224), 300, 3.47, 0.01),
        (nets.mobilenet_v2(1.4, 224), 582, 6.06, 0.01),
        (nets.mobilenet_v2(0.35, 96), 11, 1.66, 0.09),  # 11 is rounded
        (nets.mobilenet_v3("large"), 217, 5.4, 0.02),
        (nets.mobilenet_v3("large", 0.75), 155, 4.0, 0.02),
        (nets.mobilenet_v3("large", minimalistic=True), 209, 3.9, 0.02),
        (nets.mobilenet_v3("small"), 57, 2.5, 0.02),
        (nets.efficientnet_lite(0), 407, 4.7, 0.06),  # published with more than convolutions
        (nets.efficientnet_lite(4), 2640, 13.0, 0.04),
        (nets.efficientnet_edgetpu(1.0, 1.0, 224), 1800, 5.4, 0.02),
        (nets.densenet121(), 2850, 8.0, 0.02),
        (nets.squeezenet(224), 860, 1.25, 0.04),
        (nets.tiny_ic(), 12.5, 0.078, 0.02),
        (nets.tiny_vww(), 7.5, 0.21, 0.04),
        (nets.tiny_ad(), 0.264, 0.267, 0.02),
        (nets.tiny_kws(), 2.66, 0.0225, 0.06),
    ],
)
def test_networks_have_the_published_macs_and_parameters(
    ops: tuple[OpSpec, ...], macs: float, params: float, within: float
) -> None:
    assert counted(ops) == (pytest.approx(macs, rel=within), pytest.approx(params, rel=within))


def test_a_network_has_one_name_in_all_its_spellings() -> None:
    for spelled in (
        "mobilenet-v1-1.0-224-quantized",
        "mobilenet-v1-precision_uint8-1.0-224",
        "mobilenet-v1-1.0-224-non-quantized",
    ):
        found = mobile_network(spelled)
        assert found is not None
        assert found[:2] == ("v1-1-224", "v1-1")
    first = mobile_network("mobilenet-v3-large-minimalistic_224_1.0_uint8")
    second = mobile_network("mobilenet-v3-precision_uint8-large-minimalistic-224")
    assert first == second
    assert mobile_network("efficientnet-int8-lite3") == mobile_network(
        "efficientnet-lite3-quantized"
    )
    assert mobile_network("ssd-mobilenet-v1-fpn") is None
    assert mobile_precision("mobilenet-v1-1.0-224-non-quantized") == "fp32"
    assert mobile_precision("efficientnet-lite3-quantized") == "int8"
    assert mobile_precision("mobilenet-v1-1.0-224") is None


def test_a_note10_block_is_read() -> None:
    (op,) = note10_block(
        "expanded_conv-input:10x10x136-output:5x5x192-expand:408-kernel:5-stride:2-idskip:0-se:1-hs:1"
    )
    assert op.key == (
        "inverted cin=136 hidden=408 cout=192 h=10 w=10 k=5 s=2 se=104 skip=0 act=hswish"
    )
    (stem,) = note10_block("Conv-input:160x160x3-output:80x80x24")
    assert stem.out_chw == (24, 80, 80)
    assert note10_block("Logits-input:1x1x1536-output:1000")[0].macs == 1536 * 1000


def test_once_for_all_networks_have_the_macs_of_the_data(measurements: Path) -> None:
    for row in rows(measurements, "ofa_mobilenetv3_measured_accuracy")[:20]:
        ks, e, d = (tuple(map(int, row[name].split(","))) for name in ("ks", "e", "d"))
        macs, params = counted(nets.once_for_all(ks, e, d, int(row["r"])))
        assert macs == pytest.approx(int(row["macs"]) / 1e6, rel=1e-3)
        assert params == pytest.approx(int(row["params"]) / 1e6, rel=4e-3)


def test_accel_nasbench_networks_have_the_parameters_of_the_data(measurements: Path) -> None:
    """Its MACs count normalisation and activation too: 4 to 14 % more than ours."""
    for row in rows(measurements, "accel_nasbench")[:20]:
        blocks = tuple(
            (
                int(row[f"block{i}_e"]),
                int(row[f"block{i}_k"]),
                int(row[f"block{i}_l"]),
                row[f"block{i}_se"] == "True",
            )
            for i in range(7)
        )
        macs, params = counted(nets.accel_nasbench(blocks))
        assert params == pytest.approx(float(row["params_M"]), rel=6e-3)
        assert 0.85 < macs / float(row["macs_M"]) < 1


def test_the_command_rebuilds_a_table(root: Path, measurements: Path, tmp_path: Path) -> None:
    name = "pixel3-tflite-fp32-t4"
    subprocess.run(
        [sys.executable, "tools/calibrate", name, "--data", str(measurements),
         "--date", "2026-11-24", "--out", str(tmp_path / "latency_tables")],
        cwd=root,
        check=True,
        capture_output=True,
    )  # fmt: skip
    built, shipped = (
        json.loads((folder / "latency_tables" / f"{name}.json").read_text("utf-8"))
        for folder in (tmp_path, root)
    )
    assert built["conditions"] == shipped["conditions"]
    assert built["validation"]["error_median"] == pytest.approx(
        shipped["validation"]["error_median"], abs=0.002
    )


def test_the_command_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "tools/calibrate", "rpi4-tflite-int8", "--data", str(tmp_path)],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 3
    assert "is not there" in run.stderr


@pytest.mark.parametrize("name", sorted(PLANS))
def test_each_published_table_ships_is_honest_and_predicts_the_spaces(
    root: Path, name: str
) -> None:
    table = read_table(root / "latency_tables" / f"{name}.json")
    device = load_device_file(root / "devices" / f"{name}.toml")
    table.check_device(device)
    assert not device.can_be_timed
    assert table.source in ("calibrated", "analytic")
    assert not table.entries
    stated = table.validation
    assert stated is not None
    assert stated["baselines"]["macs_constant"]["error_median"] > 0
    assert {"file", "upstream", "licence", "filter", "n_rows", "n_networks"} <= set(
        table.conditions["data"]
    )
    beaten = [b["error_median"] for b in stated["baselines"].values() if b]
    assert (table.source == "analytic") == all(stated["error_median"] >= b for b in beaten)
    predictor = Predictor(table)
    for size in (28, 96, 224):
        space = default_space(image_size=size, in_channels=3, n_classes=10)
        small, large = (
            predictor.predict(space.lower(arch)) for arch in (space.smallest(), space.largest())
        )
        # A GPU that waits for launches finds few dense blocks faster than many depthwise ones.
        assert 0 < small.latency_ms < large.latency_ms * (2 if device.device_class == "gpu" else 1)
    assert all(predictor.covers(op) for op in LARGE.units()[::50])
