"""Spaces and files against the rules of tool-chains and the memory of devices."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import SpecError
from edgenas.export import tflite
from edgenas.export.jobs import convert_networks
from edgenas.hardware import DeviceProfile, load_device_file
from edgenas.models import micro_arena
from edgenas.models.tflite import read_tflite
from edgenas.spaces import Lowering
from edgenas.spaces.mobile import SMALL, MobileSpace, Stage, default_space
from edgenas.targets import (
    Operator,
    check_space,
    misfits,
    operators_of_file,
    operators_of_lowering,
    ram_bytes_of,
    ram_bytes_of_file,
)

SHIPPED = Path(__file__).parents[2]
FILES = sorted((SHIPPED / "edgenas" / "shipped" / "calibration").glob("*.int8.tflite"))
FULL = replace(SMALL, activation="hswish", squeeze_excite=True)
NAMES = {
    "edgetpu": "coral-usb-edgetpu-int8",
    "tflm": "cortex-m-tflm-int8",
    "nnapi": "android-nnapi-int8",
    "vela": "ethos-u55-128-vela-int8",
    "litert": "rpi4-litert-int8-t4",
}


def device(chain: str) -> DeviceProfile:
    return load_device_file(SHIPPED / "devices" / f"{NAMES[chain]}.toml")


@pytest.mark.parametrize("chain", NAMES)
def test_the_plain_space_runs_everywhere(chain: str) -> None:
    check_space(SMALL, device(chain))


@pytest.mark.parametrize("chain", ["edgetpu", "tflm"])
def test_hard_swish_and_squeeze_excite_are_refused_by_name(chain: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_space(FULL, device(chain))
    told = str(caught.value)
    assert NAMES[chain] in told
    assert "HARD_SWISH" in told
    assert "SQUEEZE_EXCITE" in told
    assert "https://" in told
    assert caught.value.hint == 'in [space]: activation = "relu6", squeeze_excite = false'
    assert caught.value.exit_code == 3
    for space, name in (
        (replace(SMALL, activation="hswish"), "HARD_SWISH"),
        (replace(SMALL, squeeze_excite=True), "SQUEEZE_EXCITE"),
    ):
        with pytest.raises(SpecError) as caught:
            check_space(space, device(chain))
        other = {"HARD_SWISH": "SQUEEZE_EXCITE", "SQUEEZE_EXCITE": "HARD_SWISH"}[name]
        assert name in str(caught.value)
        assert other not in str(caught.value)


def test_squeeze_excite_is_refused_for_nnapi() -> None:
    with pytest.raises(SpecError, match="NNAPI") as caught:
        check_space(FULL, device("nnapi"))
    assert "HARD_SWISH" not in str(caught.value)
    assert caught.value.hint == "in [space]: squeeze_excite = false"
    check_space(replace(FULL, squeeze_excite=False), device("nnapi"))


@pytest.mark.parametrize("chain", ["vela", "litert"])
def test_others_run_the_full_space(chain: str) -> None:
    check_space(FULL, device(chain))


def test_a_device_may_name_its_own_operators() -> None:
    own = ("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "PAD", "HARD_SWISH")
    for chain in ("tflm", "vela", "litert"):
        board = replace(device(chain), operators=(*own, "MUL"))
        check_space(FULL, board)
        with pytest.raises(SpecError, match=r" MUL .*not among the device's operators") as caught:
            check_space(FULL, replace(board, operators=own))
        assert "SQUEEZE_EXCITE" not in str(caught.value)
        assert caught.value.hint == "in [space]: squeeze_excite = false"
        few = tuple(name for name in own if name != "DEPTHWISE_CONV_2D")
        with pytest.raises(SpecError, match="it does not take DEPTHWISE_CONV_2D") as caught:
            check_space(SMALL, replace(board, operators=few))
        assert caught.value.hint == 'in [space]: kinds = ["fused", "plain"]'


def test_the_first_convolution_of_grey_images_is_a_depthwise_one() -> None:
    own = ("CONV_2D", "FULLY_CONNECTED", "MEAN", "PAD")
    board = replace(device("litert"), operators=own)
    plain = replace(SMALL, stages=tuple(replace(stage, kinds=("plain",)) for stage in SMALL.stages))
    check_space(plain, board)
    with pytest.raises(SpecError, match=r"DEPTHWISE_CONV_2D \(2 of ") as caught:
        check_space(replace(plain, in_channels=1), board)
    assert "images in colour" in caught.value.hint


def test_own_operators_hold_where_no_tool_chain_is_known() -> None:
    board = load_device_file(SHIPPED / "devices" / "nucleo-h7a3zi-xcubeai-int8-t1.toml")
    check_space(FULL, board)
    with pytest.raises(
        SpecError, match=r"int8-t1 cannot run this space: it does not take ADD .*its own file"
    ):
        check_space(FULL, replace(board, operators=("CONV_2D",)))


def test_own_operators_of_onnx_are_held_against_a_space() -> None:
    own = ("Transpose", "Conv", "Add", "ReduceMean", "Gemm", "Clip")
    onnx = replace(device("litert"), runtime="onnxruntime", precision="fp32", operators=own)
    check_space(SMALL, onnx)
    with pytest.raises(SpecError, match="Clip") as caught:
        check_space(SMALL, replace(onnx, operators=own[:-1]))
    check_space(SMALL, replace(onnx, operators=own[:-1], precision="int8"))
    with pytest.raises(SpecError, match="Transpose"):
        check_space(SMALL, replace(onnx, operators=own[1:]))
    with pytest.raises(SpecError, match=r"HardSigmoid .*HardSwish .*Mul .*Relu ") as caught:
        check_space(FULL, onnx)
    assert caught.value.hint == 'in [space]: squeeze_excite = false, activation = "relu6"'


@pytest.mark.parametrize("precision", ["fp32", "unstated"])
def test_a_precision_that_the_tool_chain_lacks_is_refused(precision: str) -> None:
    with pytest.raises(SpecError, match=f"takes int8, not {precision}") as caught:
        check_space(SMALL, replace(device("edgetpu"), precision=precision))
    assert caught.value.hint == 'in its file: precision = "int8"'


@pytest.mark.parametrize(
    ("chain", "operator", "why"),
    [
        ("vela", Operator("DEPTHWISE_CONV_2D", "x", kernel=(65, 3)), "kernel 65x3; at most 64"),
        ("vela", Operator("DEPTHWISE_CONV_2D", "x", stride=(4, 4)), "stride 4x4; at most 3"),
        ("vela", Operator("DEPTHWISE_CONV_2D", "x", kernel=(64, 64), stride=(3, 3)), ""),
        ("vela", Operator("GELU", "x"), "not on its list"),
        ("tflm", Operator("GELU", "x"), "not on its list"),
        ("edgetpu", Operator("CONV_2D", "x", version=6), "version 6 .* up to 5"),
        ("edgetpu", Operator("CONV_2D", "x", version=5), ""),
        ("edgetpu", Operator("MAX_POOL_2D", "x", activation=True), "activation inside"),
        ("nnapi", Operator("MEAN", "x", version=2, rescales=True), "quantised differently"),
        ("nnapi", Operator("MEAN", "x", version=2, rescales=False), ""),
        ("nnapi", Operator("SQUEEZE_EXCITE", "x"), "into another scale"),
        ("nnapi", Operator("HARD_SWISH", "x"), ""),
        ("litert", Operator("GELU", "x"), ""),
    ],
)
def test_rules_on_one_operator(chain: str, operator: Operator, why: str) -> None:
    found = misfits([Operator("ADD", "first"), operator], device(chain))
    if not why:
        assert found == ()
        return
    (misfit,) = found
    assert misfit.index == 1
    assert re.search(why, str(misfit))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_planned_and_stored_operators_are_the_same(path: Path) -> None:
    stored = operators_of_file(path)
    net = lowering_of(path)
    planned = operators_of_lowering(net)
    assert [op.name for op in planned] == [op.name for op in stored]
    shapes = Counter((op.name, op.kernel, op.stride) for op in stored)
    assert Counter((op.name, op.kernel, op.stride) for op in planned) == shapes
    assert all(op.version for op in stored)
    for chain in NAMES:
        assert misfits(planned, device(chain)) == ()


def lowering_of(path: Path) -> Lowering:
    from edgenas.export.jobs import read_lowering

    index = json.loads((path.parent / "networks.json").read_text("utf-8"))
    (found,) = (
        network["lowering"]
        for network in index["networks"].values()
        if path.name in network["files"].values()
    )
    return read_lowering(found)


def test_an_operator_of_a_file_that_is_not_on_the_list_is_found(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = tflite.unpack(FILES[0].read_bytes(), FILES[0])
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.ADD:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.POW
        if code.builtinCode == schema.BuiltinOperator.CONV_2D:
            code.version = 6
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite._pack(model))
    operators = operators_of_file(path)
    lost = {m.operator.name: m.why for m in misfits(operators, device("edgetpu"))}
    assert set(lost) == {"POW", "CONV_2D"}
    assert {m.operator.name for m in misfits(operators, device("tflm"))} == {"POW"}


def test_the_arena_counts_where_tflite_micro_runs() -> None:
    space = default_space(image_size=28, in_channels=1, n_classes=10)
    net = space.lower(space.smallest())
    micro, plain = ram_bytes_of(net, device("tflm")), ram_bytes_of(net, device("litert"))
    assert micro > plain
    path = FILES[0]
    arena = micro_arena(read_tflite(path.read_bytes(), path, pads=True))
    assert ram_bytes_of(lowering_of(path), device("tflm")) == arena.total
    onnx = replace(device("litert"), runtime="onnxruntime", precision="fp32")
    assert ram_bytes_of(net, onnx) == net.peak_memory_bytes(bytes_per_element=4)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_onnx_file_takes_what_was_planned_for_it(path: Path) -> None:
    onnx = replace(device("litert"), runtime="onnxruntime")
    net, path = lowering_of(path), path.with_suffix(".onnx")
    assert ram_bytes_of_file(path) == ram_bytes_of(net, onnx)
    planned = operators_of_lowering(net, "onnx-int8")
    assert [op.name for op in planned] == [op.name for op in operators_of_file(path)]


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Lowering, Path]]:
    """By precision, a network with colour, hard swish and squeeze-excite in a large first stage."""
    space = MobileSpace(
        resolutions=(16,),
        stem_width=16,
        stem_stride=1,
        head_width=16,
        n_classes=4,
        activation="hswish",
        squeeze_excite=True,
        stages=(Stage(1, (16,), (1,), (3,), (1,)), Stage(2, (16,), (2,), (3,), (3,))),
    )
    net = space.lower(space.smallest())
    folder = tmp_path_factory.mktemp("onnx")
    return {
        precision: (net, convert_networks({"net": net}, format=kind, folder=folder)["net"])
        for precision, kind in (("fp32", "onnx"), ("int8", "onnx-int8"))
    }


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_activations_and_conversions_of_onnx_files_take_no_more(onnx_files, precision: str) -> None:
    net, path = onnx_files[precision]
    onnx = replace(device("litert"), runtime="onnxruntime", precision=precision)
    assert ram_bytes_of_file(path) == ram_bytes_of(net, onnx)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_planned_and_stored_operators_of_onnx_are_the_same(onnx_files, precision: str) -> None:
    net, path = onnx_files[precision]
    planned = operators_of_lowering(net, "onnx" if precision == "fp32" else "onnx-int8")
    assert [op.name for op in planned] == [op.name for op in operators_of_file(path)]
