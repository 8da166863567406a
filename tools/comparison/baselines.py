"""The networks that a user would otherwise take, as lowerings: built, exported, timed like our own.

Adapted to small images in the way that a user would. MobileNets and EfficientNet-Lite are made for
224 pixels and halve them five times. At 28 pixels *fine* ones have stride 1 in the stem and one
downsampling fewer (4x4 before the pooling), *coarse* ones keep the stem and have one downsampling
fewer (2x2): cheaper by a factor of four. ResNet-8 and DS-CNN are as in MLPerf Tiny, the convnet as
in the tutorials; of all of them only the input differs. Every convolution has a BatchNorm, no
network has dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgenas.spaces import Lowering, Node, OpSpec
from edgenas.spaces.ops import Shape, chain, conv
from tools.calibration.architectures import (
    Builder,
    Ops,
    efficientnet_lite_scaled,
    mobilenet_v2,
    mobilenet_v3,
)

FINE, COARSE = (0, 1), (1,)
"""Strides of 2 that are left out, counted from the stem's."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One network to compare with; `n_seeds` says how often it is trained."""

    name: str
    family: str
    lowering: Lowering
    source: str
    n_seeds: int = 1


def baselines(size: int = 28, channels: int = 1, classes: int = 10) -> Mapping[str, Baseline]:
    """All baselines for square images, by name."""
    v2 = "arXiv:1801.04381"
    v3 = "arXiv:1905.02244"
    lite = "EfficientNet-Lite0 (tensorflow/tpu), scaled down after arXiv:1905.11946"
    tiny = "MLPerf Tiny (arXiv:2106.07597)"

    def mobile2(name: str, width: float, without: tuple[int, ...]) -> Baseline:
        ops = mobilenet_v2(width, size, classes, channels, without)
        return Baseline(name, "MobileNetV2", _chained(ops), v2)

    def mobile3(name: str, width: float, without: tuple[int, ...]) -> Baseline:
        ops = mobilenet_v3(
            "small", width, size, classes=classes, channels=channels, without=without
        )
        return Baseline(name, "MobileNetV3-Small", _chained(ops), v3)

    def lite0(name: str, width: float, depth: float) -> Baseline:
        ops = efficientnet_lite_scaled(width, depth, size, classes, channels, COARSE)
        return Baseline(name, "EfficientNet-Lite0", _chained(ops), lite)

    found = (
        mobile2("mobilenet-v2-0.35-coarse", 0.35, COARSE),
        mobile2("mobilenet-v2-0.5-coarse", 0.5, COARSE),
        mobile2("mobilenet-v2-0.25-fine", 0.25, FINE),
        mobile3("mobilenet-v3-small-0.35-fine", 0.35, FINE),
        mobile3("mobilenet-v3-small-0.5-fine", 0.5, FINE),
        mobile3("mobilenet-v3-small-1.0-coarse", 1.0, COARSE),
        Baseline("resnet-8", "ResNet-8", resnet_8((channels, size, size), classes), tiny, 3),
        Baseline("ds-cnn", "DS-CNN", ds_cnn((channels, size, size), classes), tiny, 3),
        lite0("efficientnet-lite0-0.25-coarse", 0.25, 0.5),
        lite0("efficientnet-lite0-0.35-coarse", 0.35, 1.0),
        Baseline(
            "convnet",
            "plain CNN",
            convnet((channels, size, size), classes),
            "Chollet, Deep Learning with Python, and TensorFlow's tutorial on CNNs",
            3,
        ),
        Baseline(
            "vgg-width-8",
            "plain CNN",
            vgg((channels, size, size), classes, width=8),
            "after arXiv:1409.1556: pairs of 3x3 convolutions between max poolings",
        ),
    )
    return {one.name: one for one in found}


def resnet_8(in_chw: Shape, classes: int) -> Lowering:
    """ResNet-8 of MLPerf Tiny: three residual blocks of 16, 32 and 64 channels."""
    nodes: list[Node] = []

    def put(op: OpSpec, *inputs: int) -> int:
        nodes.append(Node(op, inputs, str(len(nodes))))
        return len(nodes) - 1

    c, h, w = in_chw
    x = put(conv(c, 16, h, w, 3, act="relu"), -1)
    for cout, s in ((16, 1), (32, 2), (64, 2)):
        c, h, w = nodes[x].op.out_chw
        first = put(conv(c, cout, h, w, 3, s=s, act="relu"), x)
        _, oh, ow = nodes[first].op.out_chw
        second = put(conv(cout, cout, oh, ow, 3), first)
        beside = x if s == 1 else put(conv(c, cout, h, w, 1, s=s), x)
        x = put(OpSpec.of("add", c=cout, h=oh, w=ow), beside, second)
        x = put(OpSpec.of("activate", act="relu", c=cout, h=oh, w=ow), x)
    c, h, w = nodes[x].op.out_chw
    x = put(OpSpec.of("pool", c=c, h=h, w=w), x)
    put(OpSpec.of("linear", cin=c, cout=classes), x)
    return Lowering(in_chw, tuple(nodes))


def ds_cnn(in_chw: Shape, classes: int) -> Lowering:
    """DS-CNN of MLPerf Tiny: a 10x4 convolution with stride 2, four separable ones of 64."""
    c, h, w = in_chw
    net = Builder(64, -(-h // 2), -(-w // 2))
    stem = OpSpec.of(
        "conv2d", act="relu", cin=c, cout=64, h=h, w=w, kh=10, kw=4, oh=net.h, ow=net.w, g=1
    )
    for _ in range(4):
        net.conv(64, 3, g=64, act="relu").conv(64, 1, act="relu")
    return _chained((stem, *net.pool().linear(classes).done()))


def convnet(in_chw: Shape, classes: int) -> Lowering:
    """The tutorials' CNN: 3x3 convolutions of 32, 64 and 64 without padding, two dense layers.

    A max pooling follows each of the first two. The first dense layer, which reads a whole feature
    map, is a convolution as large as that map.
    """
    ops: list[OpSpec] = []
    c, h, w = in_chw
    for i, cout in enumerate((32, 64, 64)):
        ops.append(_unpadded(c, cout, h, w, 3))
        c, h, w = ops[-1].out_chw
        if i < 2:
            ops.append(_max_pool(c, h, w))
            c, h, w = ops[-1].out_chw
    ops.append(_unpadded(c, 64, h, w, h))
    return _chained((*ops, OpSpec.of("linear", cin=64, cout=classes)))


def vgg(in_chw: Shape, classes: int, *, width: int) -> Lowering:
    """Three pairs of 3x3 convolutions, twice as wide from pair to pair, max pooling between."""
    net = Builder(*in_chw)
    for i in range(3):
        if i:
            net.ops.append(_max_pool(net.c, net.h, net.w))
            _, net.h, net.w = net.ops[-1].out_chw
        net.conv(width << i, 3, act="relu").conv(width << i, 3, act="relu")
    return _chained(net.pool().linear(classes).done())


def _unpadded(cin: int, cout: int, h: int, w: int, k: int) -> OpSpec:
    return OpSpec.of(
        "conv2d", act="relu", cin=cin, cout=cout, h=h, w=w, kh=k, kw=k, oh=h - k + 1,
        ow=w - k + 1, g=1,
    )  # fmt: skip


def _max_pool(c: int, h: int, w: int) -> OpSpec:
    """2x2 with stride 2; an odd last row or column is left out."""
    return OpSpec.of("pool2d", c=c, h=h, w=w, kh=2, kw=2, oh=h // 2, ow=w // 2)


def _chained(ops: Ops) -> Lowering:
    return chain(ops[0].in_chw, [(str(i), op) for i, op in enumerate(ops)])
