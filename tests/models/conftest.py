"""The networks that ship for calibration: real exported files, with what they were made from."""

import json
from pathlib import Path

import pytest

from edgenas.spaces import Lowering, OpSpec, chain

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
NETWORKS = json.loads((CALIBRATION / "networks.json").read_text("utf-8"))["networks"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `exported` runs on every file, `exported_int8_tflite` on those alone."""
    for name, suffix in (("exported", ""), ("exported_int8_tflite", ".tflite")):
        if name in metafunc.fixturenames:
            files = [
                pytest.param((CALIBRATION / file, _lowering(network)), id=file)
                for network in NETWORKS.values()
                for file in network["files"].values()
                if file.endswith(suffix)
            ]
            metafunc.parametrize(name, files)


def _lowering(network: dict[str, dict[str, list[dict[str, str]]]]) -> Lowering:
    ops = [OpSpec.parse(node["key"]) for node in network["lowering"]["nodes"]]
    return chain(ops[0].in_chw, [(str(i), op) for i, op in enumerate(ops)])
