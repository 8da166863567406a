"""What each tool-chain accepts, as data: operators, versions, shapes, and who says so.

Operators have TFLite's names. `SQUEEZE_EXCITE` is none of TFLite's: it stands for the product of a
feature map and one value a channel, which is how a file holds channel attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from edgenas.hardware import DeviceProfile

SQUEEZE_EXCITE = "SQUEEZE_EXCITE"


@dataclass(frozen=True, slots=True)
class Rule:
    """What an operator must keep to; None sets no limit.

    `max_version` is TFLite's version of the operator, `max_kernel` the height and width of the
    (dilated) kernel, `max_stride` that of both directions. `same_scale`: input and output must be
    quantised alike.
    """

    max_version: int | None = None
    max_kernel: int | None = None
    max_stride: int | None = None
    no_activation: bool = False
    same_scale: bool = False


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What takes a model to a device.

    `operators` None: whatever its runtime opens, so that the runtime is asked, not a list.
    `refused` holds operators that are on the list and yet not wanted, each with the reason. What an
    accelerator does not take, its host computes: `least_share` of the operators must be taken, or
    all but `may_leave`, and one that `stops` takes only what comes before the first that it does
    not.
    """

    name: str
    title: str
    precisions: tuple[str, ...]
    operators: Mapping[str, Rule] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    url: str = ""
    date: str = ""
    stops: bool = False
    least_share: float = 1.0
    may_leave: int = 0


def _rules(plain: str, **special: Rule) -> Mapping[str, Rule]:
    return MappingProxyType({**dict.fromkeys(plain.split(), Rule()), **special})


def _versions(**versions: str) -> dict[str, Rule]:
    """Rules with a version alone: `v2="ADD MUL"`."""
    return {
        name: Rule(max_version=int(version[1:]))
        for version, names in versions.items()
        for name in names.split()
    }


_EDGETPU = _rules(
    "ADD DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED L2_NORMALIZATION LOGISTIC MAXIMUM MEAN "
    "MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 RESHAPE "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPACE_TO_DEPTH SPLIT "
    "SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TRANSPOSE UNIDIRECTIONAL_SEQUENCE_LSTM",
    AVERAGE_POOL_2D=Rule(no_activation=True),
    CONCATENATION=Rule(no_activation=True),
    MAX_POOL_2D=Rule(no_activation=True),
    CONV_2D=Rule(max_version=5),  # version 6: google-coral/edgetpu#631
    TRANSPOSE_CONV=Rule(max_version=3),  # version 4: google-coral/edgetpu#845
)

_NNAPI = MappingProxyType(
    {
        **_versions(
            v1="CAST EXPAND_DIMS LEAKY_RELU PRELU RESHAPE SQUEEZE TILE",
            v2="ADD ARG_MAX ARG_MIN BATCH_TO_SPACE_ND DEQUANTIZE EQUAL GATHER GREATER "
            "GREATER_EQUAL AVERAGE_POOL_2D LESS LESS_EQUAL LOGISTIC MAX_POOL_2D MUL NOT_EQUAL PACK "
            "PAD PADV2 QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_N1_TO_1 SELECT SLICE SOFTMAX "
            "SPACE_TO_BATCH_ND SPACE_TO_DEPTH STRIDED_SLICE TANH TOPK_V2 TRANSPOSE "
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
            v3="CONV_2D DEPTHWISE_CONV_2D MAXIMUM MINIMUM RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR "
            "SPLIT SUB TRANSPOSE_CONV",
            v5="FULLY_CONNECTED",
        ),
        "CONCATENATION": Rule(max_version=2, no_activation=True),
        "DEPTH_TO_SPACE": Rule(),
        "HARD_SWISH": Rule(),
        "L2_NORMALIZATION": Rule(max_version=2, no_activation=True),
        "MEAN": Rule(max_version=2, same_scale=True),
    }
)

_VELA = _rules(
    "ABS ADD ARG_MAX AVERAGE_POOL_2D CONCATENATION EXP EXPAND_DIMS FULLY_CONNECTED HARD_SWISH "
    "LEAKY_RELU LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL PACK PAD PRELU QUANTIZE "
    "RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT "
    "SHAPE SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB TANH TRANSPOSE "
    "TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK",
    CONV_2D=Rule(max_kernel=64),
    DEPTHWISE_CONV_2D=Rule(max_kernel=64, max_stride=3),
)

MICRO_METHODS: Mapping[str, str] = MappingProxyType(
    {
        "ABS": "AddAbs",
        "ADD": "AddAdd",
        "ADD_N": "AddAddN",
        "ARG_MAX": "AddArgMax",
        "ARG_MIN": "AddArgMin",
        "ASSIGN_VARIABLE": "AddAssignVariable",
        "AVERAGE_POOL_2D": "AddAveragePool2D",
        "BATCH_MATMUL": "AddBatchMatMul",
        "BATCH_TO_SPACE_ND": "AddBatchToSpaceNd",
        "BROADCAST_ARGS": "AddBroadcastArgs",
        "BROADCAST_TO": "AddBroadcastTo",
        "CALL_ONCE": "AddCallOnce",
        "CAST": "AddCast",
        "CEIL": "AddCeil",
        "CONCATENATION": "AddConcatenation",
        "CONV_2D": "AddConv2D",
        "COS": "AddCos",
        "CUMSUM": "AddCumSum",
        "DEPTH_TO_SPACE": "AddDepthToSpace",
        "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
        "DEQUANTIZE": "AddDequantize",
        "DIV": "AddDiv",
        "DYNAMIC_UPDATE_SLICE": "AddDynamicUpdateSlice",
        "ELU": "AddElu",
        "EMBEDDING_LOOKUP": "AddEmbeddingLookup",
        "EQUAL": "AddEqual",
        "EXP": "AddExp",
        "EXPAND_DIMS": "AddExpandDims",
        "FILL": "AddFill",
        "FLOOR": "AddFloor",
        "FLOOR_DIV": "AddFloorDiv",
        "FLOOR_MOD": "AddFloorMod",
        "FULLY_CONNECTED": "AddFullyConnected",
        "GATHER": "AddGather",
        "GATHER_ND": "AddGatherNd",
        "GREATER": "AddGreater",
        "GREATER_EQUAL": "AddGreaterEqual",
        "HARD_SWISH": "AddHardSwish",
        "IF": "AddIf",
        "L2_NORMALIZATION": "AddL2Normalization",
        "L2_POOL_2D": "AddL2Pool2D",
        "LEAKY_RELU": "AddLeakyRelu",
        "LESS": "AddLess",
        "LESS_EQUAL": "AddLessEqual",
        "LOG": "AddLog",
        "LOGICAL_AND": "AddLogicalAnd",
        "LOGICAL_NOT": "AddLogicalNot",
        "LOGICAL_OR": "AddLogicalOr",
        "LOGISTIC": "AddLogistic",
        "LOG_SOFTMAX": "AddLogSoftmax",
        "MAXIMUM": "AddMaximum",
        "MAX_POOL_2D": "AddMaxPool2D",
        "MEAN": "AddMean",
        "MINIMUM": "AddMinimum",
        "MIRROR_PAD": "AddMirrorPad",
        "MUL": "AddMul",
        "NEG": "AddNeg",
        "NOT_EQUAL": "AddNotEqual",
        "PACK": "AddPack",
        "PAD": "AddPad",
        "PADV2": "AddPadV2",
        "PRELU": "AddPrelu",
        "QUANTIZE": "AddQuantize",
        "READ_VARIABLE": "AddReadVariable",
        "REDUCE_ALL": "AddReduceAll",
        "REDUCE_MAX": "AddReduceMax",
        "REDUCE_MIN": "AddReduceMin",
        "RELU": "AddRelu",
        "RELU6": "AddRelu6",
        "RESHAPE": "AddReshape",
        "RESIZE_BILINEAR": "AddResizeBilinear",
        "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor",
        "REVERSE_V2": "AddReverseV2",
        "ROUND": "AddRound",
        "RSQRT": "AddRsqrt",
        "SELECT_V2": "AddSelectV2",
        "SHAPE": "AddShape",
        "SIN": "AddSin",
        "SLICE": "AddSlice",
        "SOFTMAX": "AddSoftmax",
        "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd",
        "SPACE_TO_DEPTH": "AddSpaceToDepth",
        "SPLIT": "AddSplit",
        "SPLIT_V": "AddSplitV",
        "SQRT": "AddSqrt",
        "SQUARE": "AddSquare",
        "SQUARED_DIFFERENCE": "AddSquaredDifference",
        "SQUEEZE": "AddSqueeze",
        "STRIDED_SLICE": "AddStridedSlice",
        "SUB": "AddSub",
        "SUM": "AddSum",
        "SVDF": "AddSvdf",
        "TANH": "AddTanh",
        "TRANSPOSE": "AddTranspose",
        "TRANSPOSE_CONV": "AddTransposeConv",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
        "UNPACK": "AddUnpack",
        "VAR_HANDLE": "AddVarHandle",
        "WHILE": "AddWhile",
        "ZEROS_LIKE": "AddZerosLike",
    }
)
"""Operators of TFLite-Micro with the method of its `MicroMutableOpResolver` that adds each."""

_SLOW_BROADCAST = (
    "squeeze-excite multiplies a map by one value a channel, which has no fast kernel there"
)

_ALL = (
    Toolchain("onnxruntime", "onnxruntime on a processor", ("fp32", "int8")),
    Toolchain("openvino", "OpenVINO on an x86 processor", ("fp32", "int8")),
    Toolchain("litert", "LiteRT on a processor, Android's or a board's", ("fp32", "int8")),
    Toolchain(
        "nnapi",
        "Android's NNAPI by TFLite's delegate, feature level of Android 11",
        ("fp32", "int8"),
        operators=_NNAPI,
        refused=MappingProxyType(
            {
                SQUEEZE_EXCITE: "squeeze-excite averages a map into another scale, which NNAPI "
                "leaves to the processor, in each block anew"
            }
        ),
        source="what TFLite's NNAPI delegate accepts at API level 30",
        url="https://github.com/tensorflow/tensorflow/blob/"
        "002e5f47fa2ea99aa910ba83e66240c0cda8ff8a/tensorflow/lite/delegates/nnapi/"
        "nnapi_delegate.cc",
        date="2026-11",
        least_share=0.9,
        may_leave=1,  # the mean at the end, of a small network
    ),
    Toolchain(
        "edgetpu",
        "Coral Edge TPU compiler 16, runtime 14",
        ("int8",),
        operators=_EDGETPU,
        refused=MappingProxyType(
            {
                SQUEEZE_EXCITE: "squeeze-excite is on the list, but Google's own networks for the "
                "Edge TPU leave it out as badly supported (EfficientNet-EdgeTPU, -Lite)"
            }
        ),
        source="published operator list",
        url="https://coral.ai/docs/edgetpu/models-intro/#supported-operations",
        date="2026-11",
        stops=True,
        least_share=0.95,
    ),
    Toolchain(
        "vela",
        "Arm's compiler Vela for Ethos-U",
        ("int8",),
        operators=_VELA,
        source="supported operators of Vela 5.2.0",
        url="https://gitlab.arm.com/artificial-intelligence/ethos-u/ethos-u-vela",
        date="2026-11",
        least_share=0.95,
    ),
    Toolchain(
        "tflm",
        "TensorFlow Lite Micro",
        ("fp32", "int8"),
        operators=MappingProxyType(dict.fromkeys(MICRO_METHODS, Rule())),
        refused=MappingProxyType(
            {
                "HARD_SWISH": "it has a reference kernel only: CMSIS-NN, which makes networks fast "
                "on Cortex-M, has none",
                SQUEEZE_EXCITE: _SLOW_BROADCAST,
            }
        ),
        source="MicroMutableOpResolver and the CMSIS-NN kernels of tflite-micro",
        url="https://github.com/tensorflow/tflite-micro/blob/"
        "90b983c2b3f1480642e040bbd2ddb37b998f3424/tensorflow/lite/micro/"
        "micro_mutable_op_resolver.h",
        date="2026-08-20",
    ),
)

TOOLCHAINS: Mapping[str, Toolchain] = MappingProxyType({chain.name: chain for chain in _ALL})

_OF_RUNTIME = MappingProxyType({**{name: name for name in TOOLCHAINS}, "tflite": "litert"})


def toolchain_of(device: DeviceProfile) -> Toolchain | None:
    """The tool-chain that the device's file names, else that of its runtime; None: none known."""
    name = device.toolchain or _OF_RUNTIME.get(device.runtime)
    return None if name is None else TOOLCHAINS[name]
