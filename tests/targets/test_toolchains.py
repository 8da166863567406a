"""The rules as data: names that exist, sources to look up, a tool-chain for each device."""

from pathlib import Path

import pytest

from edgenas.hardware import load_device_file
from edgenas.models.tflite import operator_names
from edgenas.targets import TOOLCHAINS, toolchain_of
from edgenas.targets.toolchains import MICRO_METHODS, SQUEEZE_EXCITE

LISTED = [chain for chain in TOOLCHAINS.values() if chain.operators is not None]


@pytest.mark.parametrize("chain", LISTED, ids=lambda chain: chain.name)
def test_a_list_names_operators_that_exist_and_says_where_it_is_from(chain) -> None:
    known = set(operator_names().values())
    assert set(chain.operators) <= known
    assert set(chain.refused) <= known | {SQUEEZE_EXCITE}
    assert chain.url.startswith("https://")
    assert chain.date >= "2026"
    assert chain.source
    assert 0 < chain.least_share <= 1


@pytest.mark.parametrize("chain", LISTED, ids=lambda chain: chain.name)
def test_every_list_holds_what_the_plain_space_is_made_of(chain) -> None:
    plain = {"ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "PAD"}
    assert plain <= set(chain.operators)
    assert not plain & set(chain.refused)


def test_what_lists_are_known_to_lack() -> None:
    assert "GELU" not in MICRO_METHODS
    assert not {"HARD_SWISH", "GELU", "BATCH_MATMUL"} & set(TOOLCHAINS["edgetpu"].operators or ())
    assert "HARD_SWISH" in (TOOLCHAINS["vela"].operators or ())


def test_a_method_adds_each_operator_of_tflite_micro() -> None:
    assert all(method.startswith("Add") for method in MICRO_METHODS.values())
    assert len(set(MICRO_METHODS.values())) == len(MICRO_METHODS)
    for name, method in MICRO_METHODS.items():
        assert method[3:].lower() == name.replace("_", "").lower()


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("android-litert-int8-t4", "litert"),
        ("android-nnapi-int8", "nnapi"),
        ("coral-usb-edgetpu-int8", "edgetpu"),
        ("cortex-m-tflm-int8", "tflm"),
        ("ethos-u55-128-vela-int8", "vela"),
        ("rpi4-litert-int8-t4", "litert"),
        ("rpi4-onnxruntime-fp32-t4", "onnxruntime"),
        ("rpi4-tflite-int8", "litert"),
        ("x86-openvino-fp32", "openvino"),
        ("v100", None),
    ],
)
def test_shipped_devices_have_a_tool_chain(root: Path, name: str, chain: str | None) -> None:
    found = toolchain_of(load_device_file(root / "devices" / f"{name}.toml"))
    assert (found.name if found else None) == chain
