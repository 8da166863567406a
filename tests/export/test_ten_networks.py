"""Ten networks of the int8-safe space as files: all fit the microcontroller and run on the NPU."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edgenas.artifacts import sha256_file
from edgenas.export.certificate import Certificate, ExportedModel
from edgenas.export.contract import InputContract
from edgenas.export.jobs import convert_networks
from edgenas.export.targets import check_targets
from edgenas.export.tflite import input_quantisation
from edgenas.export.verify import Verification
from edgenas.hardware import load_device_file
from edgenas.spaces import Lowering
from edgenas.spaces.mobile import default_space
from edgenas.spaces.size import size_bytes
from edgenas.targets import MARGIN, check_space, ram_bytes_of

pytestmark = pytest.mark.slow

DEVICES = Path(__file__).parents[2] / "devices"
MCU = load_device_file(DEVICES / "cortex-m-tflm-int8.toml")
NPU = load_device_file(DEVICES / "ethos-u55-128-vela-int8.toml")
N = 10


def fitting(image_size: int, channels: int, n_classes: int) -> dict[str, Lowering]:
    """Those of 2000 random networks within a search's bounds that come nearest to its RAM."""
    space = default_space(image_size=image_size, in_channels=channels, n_classes=n_classes)
    check_space(space, MCU)
    rng = random.Random(0)
    found: dict[str, Lowering] = {}
    for _ in range(2000):
        arch = space.sample(rng)
        net = space.lower(arch)
        flash = size_bytes(net, "tflite-int8")
        if max(ram_bytes_of(net, MCU) / 262144, flash / 524288) <= MARGIN:
            found[arch.digest] = net
    nearest = sorted(found, key=lambda d: -ram_bytes_of(found[d], MCU))
    return {digest: found[digest] for digest in nearest[:N]}


def certificate(path: Path, net: Lowering) -> Certificate:
    c, h, w = net.in_chw
    model = ExportedModel(
        path=path.name,
        format="tflite-int8",
        precision="int8",
        sha256=sha256_file(path),
        size_bytes=path.stat().st_size,
        input=InputContract(
            shape=(1, h, w, c),
            mean=(0.0,) * c,
            std=(1.0,) * c,
            classes=tuple(map(str, range(net.out_chw[0]))),
            resize="bilinear-antialias",
            **input_quantisation(path),
        ),
        verification=Verification(1, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0, 0.0, 0.0, 1.0, 1.0),
        gates=(),
    )
    return Certificate("x", path.stem, net.macs, net.params, (model,))


@pytest.mark.parametrize(("size", "channels", "n_classes"), [(28, 1, 10), (96, 3, 7)])
def test_ten_networks_near_the_limits_hold_them(
    tmp_path: Path, size: int, channels: int, n_classes: int
) -> None:
    pytest.importorskip("tflite_micro", reason="needs the extra edgenas[micro]")
    networks = fitting(size, channels, n_classes)
    assert len(networks) == N
    files = convert_networks(networks, format="tflite-int8", folder=tmp_path)
    rng = np.random.default_rng(0)
    for digest, net in networks.items():
        c, h, w = net.in_chw
        images = rng.standard_normal((8, h, w, c), dtype=np.float32)
        told = certificate(files[digest], net)
        micro, npu = check_targets(tmp_path, told, [MCU, NPU], images=images)
        assert micro.verdict == "passed", micro.reasons
        assert (micro.arena_bytes or 0) <= 262144
        assert (micro.flash_bytes or 0) <= 524288
        assert npu.verdict == "passed", npu.reasons
        assert (npu.on_npu_share or 0) >= 0.95
