"""Published networks as units of edgenas, so that their latencies can be read.

Families are tables with one builder, from the papers and the reference code: MobileNetV1
(arXiv:1704.04861), V2 (arXiv:1801.04381), V3 (arXiv:1905.02244), EfficientNet-Lite
(tensorflow/tpu), once-for-all (arXiv:1908.09791), the space of Accel-NASBench (arXiv:2404.08005),
EfficientNet-EdgeTPU, ResNet, VGG, and the four networks of MLPerf Tiny. Order and residuals decide
nothing in a cost model but are kept where a network is a plain chain of units. Max pooling and
concatenation are no operators of edgenas: they are left out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from edgenas.spaces.ops import OpSpec, conv

Ops = tuple[OpSpec, ...]


def divisible(value: float, by: int = 8, least: int | None = None) -> int:
    """The nearest multiple, never more than a tenth below, as TensorFlow's models round."""
    new = max(least or by, int(value + by / 2) // by * by)
    return new + by if new < 0.9 * value else new


class Builder:
    """A chain of units; keeps the shape of what the next one reads.

    `without` names strides of 2, counted from 0, that are 1 instead: for images smaller than a
    network was made for.
    """

    def __init__(
        self, c: int, h: int, w: int | None = None, *, without: Sequence[int] = ()
    ) -> None:
        self.c, self.h, self.w = c, h, w or h
        self.ops: list[OpSpec] = []
        self.without, self.n_strides = without, 0

    def stride(self, s: int) -> int:
        """The next convolution's stride where the network has `s`."""
        if s == 1:
            return 1
        self.n_strides += 1
        return 1 if self.n_strides - 1 in self.without else s

    def conv(self, cout: int, k: int, s: int = 1, g: int = 1, act: str = "relu6") -> Builder:
        """Convolution, normalisation, activation."""
        s = self.stride(s)
        self.ops.append(conv(self.c, cout, self.h, self.w, k, s=s, g=g, act=act))
        self.c, self.h, self.w = self.ops[-1].out_chw
        return self

    def block(
        self, cout: int, hidden: int, k: int, s: int = 1, se: int = 0, act: str = "relu6",
        kind: str = "inverted",
    ) -> Builder:  # fmt: skip
        """An inverted residual or a fused block; a skip where the shapes allow it."""
        s = self.stride(s)
        skip = int(s == 1 and self.c == cout)
        self.ops.append(
            OpSpec.of(kind, act=act, cin=self.c, hidden=hidden, cout=cout, h=self.h, w=self.w, k=k,
                      s=s, se=se, skip=skip)
        )  # fmt: skip
        self.c, self.h, self.w = self.ops[-1].out_chw
        return self

    def add(self) -> Builder:
        """The sum of a residual."""
        self.ops.append(OpSpec.of("add", c=self.c, h=self.h, w=self.w))
        return self

    def halve(self) -> Builder:
        """Max pooling: the shape alone."""
        self.h, self.w = -(-self.h // 2), -(-self.w // 2)
        return self

    def pool(self) -> Builder:
        """Global average pooling."""
        self.ops.append(OpSpec.of("pool", c=self.c, h=self.h, w=self.w))
        self.h = self.w = 1
        return self

    def linear(self, cout: int) -> Builder:
        """A dense layer."""
        self.ops.append(OpSpec.of("linear", cin=self.c, cout=cout))
        self.c = cout
        return self

    def done(self) -> Ops:
        """The units so far."""
        return tuple(self.ops)


@functools.cache
def mobilenet_v1(width: float, r: int, classes: int = 1001, channels: int = 3) -> Ops:
    """MobileNetV1; the reference rounds widths down."""
    net = Builder(channels, r).conv(int(32 * width), 3, 2)
    for cout, s in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
                    *[(512, 1)] * 5, (1024, 2), (1024, 1)):  # fmt: skip
        net.conv(net.c, 3, s, net.c).conv(int(cout * width), 1)
    return net.pool().linear(classes).done()


@functools.cache
def mobilenet_v2(
    width: float, r: int, classes: int = 1001, channels: int = 3, without: tuple[int, ...] = ()
) -> Ops:
    """MobileNetV2."""
    net = Builder(channels, r, without=without).conv(divisible(32 * width), 3, 2)
    for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                       (6, 160, 3, 2), (6, 320, 1, 1)):  # fmt: skip
        for i in range(n):
            net.block(divisible(c * width), net.c * t, 3, s if i == 0 else 1)
    return net.conv(max(1280, divisible(1280 * width)), 1).pool().linear(classes).done()


# kernel, expansion, channels, squeeze-excite, hard-swish, stride (arXiv:1905.02244, tables 1, 2)
_V3 = {
    "large": (
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
        (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1),
        (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
        (5, 960, 160, 1, 1, 1),
    ),
    "small": (
        (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
        (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
        (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1),
    ),
}  # fmt: skip


@functools.cache
def mobilenet_v3(
    size: str, width: float = 1.0, r: int = 224, *, minimalistic: bool = False, classes: int = 1001,
    channels: int = 3, without: tuple[int, ...] = (),
) -> Ops:  # fmt: skip
    """MobileNetV3, `size` large or small; minimalistic: 3x3, ReLU, no squeeze-excite."""
    hard = "relu" if minimalistic else "hswish"
    net = Builder(channels, r, without=without).conv(divisible(16 * width), 3, 2, act=hard)
    before = 16  # channels that the row reads at width 1
    for k, e, c, se, hs, s in _V3[size]:
        hidden = divisible(net.c * e / before)
        squeeze = divisible(hidden / 4) if se and not minimalistic else 0
        kernel = 3 if minimalistic else k
        net.block(divisible(c * width), hidden, kernel, s, squeeze, hard if hs else "relu")
        before = c
    net.conv(divisible(net.c * 6), 1, act=hard).pool()
    head = 1280 if size == "large" else 1024
    net.conv(max(head, divisible(head * width)), 1, act=hard)
    return net.linear(classes).done()


_LITE = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
         (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip
_LITES = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300))


@functools.cache
def efficientnet_lite(number: int, classes: int = 1000) -> Ops:
    """EfficientNet-Lite 0 to 4."""
    return efficientnet_lite_scaled(*_LITES[number], classes)


@functools.cache
def efficientnet_lite_scaled(
    width: float, depth: float, r: int, classes: int, channels: int = 3,
    without: tuple[int, ...] = (),
) -> Ops:  # fmt: skip
    """EfficientNet-Lite of any width and depth; stem and last convolution are never scaled."""
    net = Builder(channels, r, without=without).conv(32, 3, 2)
    for i, (t, c, n, s, k) in enumerate(_LITE):
        repeats = n if i in (0, len(_LITE) - 1) else math.ceil(n * depth)
        for j in range(repeats):
            net.block(divisible(c * width), net.c * t, k, s if j == 0 else 1)
    return net.conv(1280, 1).pool().linear(classes).done()


# kernel, expansion, channels, stride, repeats, kind (EfficientNet-EdgeTPU, tensorflow/tpu)
_EDGETPU = ((3, 4, 24, 1, 1, "fused"), (3, 8, 32, 2, 2, "fused"), (3, 8, 48, 2, 4, "fused"),
            (5, 8, 96, 2, 5, "inverted"), (5, 8, 144, 1, 4, "inverted"),
            (5, 8, 192, 2, 2, "inverted"))  # fmt: skip


@functools.cache
def efficientnet_edgetpu(width: float, depth: float, r: int) -> Ops:
    """EfficientNet-EdgeTPU: fused blocks, then inverted residuals with ReLU."""
    net = Builder(3, r).conv(divisible(32 * width), 3, 2, act="relu")
    for k, t, c, s, n, kind in _EDGETPU:
        for j in range(math.ceil(n * depth)):
            net.block(divisible(c * width), net.c * t if kind != "fused" or t != 4 else 24 * t, k,
                      s if j == 0 else 1, act="relu", kind=kind)  # fmt: skip
    return net.conv(divisible(1280 * width), 1, act="relu").pool().linear(1001).done()


_OFA_STRIDES = (2, 2, 2, 1, 2)
_OFA_SE = (False, True, False, True, True)
_OFA_HARD = (False, False, True, True, True)
_OFA_WIDTHS = (16, 16, 24, 40, 80, 112, 160, 960, 1280)


@functools.cache
def once_for_all(
    ks: tuple[int, ...], e: tuple[int, ...], d: tuple[int, ...], r: int, width: float = 1.0
) -> Ops:
    """Stages of up to 4 blocks; `ks` and `e` hold 4 slots a stage, of which `d` are used."""
    w = [divisible(c * width) for c in _OFA_WIDTHS]
    net = Builder(3, r).conv(w[0], 3, 2, act="hswish")
    net.block(w[1], net.c, 3, act="relu")
    for i in range(5):
        act = "hswish" if _OFA_HARD[i] else "relu"
        for j in range(d[i]):
            hidden = divisible(net.c * e[4 * i + j])
            squeeze = divisible(hidden / 4) if _OFA_SE[i] else 0
            stride = _OFA_STRIDES[i] if j == 0 else 1
            net.block(w[i + 2], hidden, ks[4 * i + j], stride, squeeze, act)
    net.conv(w[7], 1, act="hswish").pool().conv(w[8], 1, act="hswish")
    return net.linear(1000).done()


_ACCEL = ((16, 1), (24, 2), (40, 2), (80, 2), (112, 1), (192, 2), (320, 1))


@functools.cache
def accel_nasbench(blocks: tuple[tuple[int, int, int, bool], ...]) -> Ops:
    """MnasNet-like at 224 pixels: expansion, kernel, layers, squeeze-excite of seven blocks."""
    net = Builder(3, 224).conv(32, 3, 2, act="relu")
    for (t, k, n, se), (c, s) in zip(blocks, _ACCEL, strict=True):
        for j in range(n):
            squeeze = max(1, net.c // 4) if se else 0
            net.block(c, net.c * t, k, s if j == 0 else 1, squeeze, act="relu")
    return net.conv(1280, 1, act="relu").pool().linear(1000).done()


@functools.cache
def resnet(layers: Sequence[int], r: int) -> Ops:
    """ResNet with bottlenecks; the stride in the 3x3."""
    net = Builder(3, r).conv(64, 7, 2, act="relu").halve()
    for stage, n in enumerate(layers):
        for j in range(n):
            s = 2 if stage and j == 0 else 1
            mid, cin, h, w = 64 << stage, net.c, net.h, net.w
            net.conv(mid, 1, act="relu").conv(mid, 3, s, act="relu").conv(4 * mid, 1, act="none")
            if j == 0:
                net.ops.append(conv(cin, 4 * mid, h, w, 1, s=s))
            net.add()
    return net.pool().linear(1001).done()


def squeezenet(r: int) -> Ops:
    """SqueezeNet 1.0 (arXiv:1602.07360)."""
    net = Builder(3, r).conv(96, 7, 2, act="relu").halve()
    fires = (
        (16, 64),
        (16, 64),
        (32, 128),
        None,
        (32, 128),
        (48, 192),
        (48, 192),
        (64, 256),
        None,
        (64, 256),
    )
    for fire in fires:
        if fire is None:
            net.halve()
            continue
        squeeze, expand = fire
        net.conv(squeeze, 1, act="relu")
        net.ops.append(conv(squeeze, expand, net.h, net.w, 1, act="relu"))
        net.ops.append(conv(squeeze, expand, net.h, net.w, 3, act="relu"))
        net.c = 2 * expand
    return net.conv(1000, 1, act="relu").pool().done()


def inception_v1(r: int = 224) -> Ops:
    """GoogLeNet (arXiv:1409.4842, table 1)."""
    net = Builder(3, r).conv(64, 7, 2, act="relu").halve().conv(64, 1, act="relu")
    net.conv(192, 3, act="relu").halve()
    rows = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), None,
            (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64), (256, 160, 320, 32, 128, 128), None,
            (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))  # fmt: skip
    for row in rows:
        if row is None:
            net.halve()
            continue
        a, b, bb, c, cc, p = row
        for cin, cout, k in ((net.c, a, 1), (net.c, b, 1), (b, bb, 3), (net.c, c, 1), (c, cc, 3),
                             (net.c, p, 1)):  # fmt: skip
            net.ops.append(conv(cin, cout, net.h, net.w, k, act="relu"))
        net.c = a + bb + cc + p
    return net.pool().linear(1001).done()


def densenet121(r: int = 224) -> Ops:
    """DenseNet-121 (arXiv:1608.06993)."""
    net = Builder(3, r).conv(64, 7, 2, act="relu").halve()
    for i, n in enumerate((6, 12, 24, 16)):
        for _ in range(n):
            net.ops.append(conv(net.c, 128, net.h, net.w, 1, act="relu"))
            net.ops.append(conv(128, 32, net.h, net.w, 3, act="relu"))
            net.c += 32
        if i < 3:
            net.conv(net.c // 2, 1, act="relu").halve()
    return net.pool().linear(1000).done()


# The four networks of MLPerf Tiny (arXiv:2106.07597, mlcommons/tiny benchmark/training)
def tiny_ic() -> Ops:
    """ResNet-8 for CIFAR-10."""
    net = Builder(3, 32).conv(16, 3, act="relu")
    for i, c in enumerate((16, 32, 64)):
        s, cin, h, w = 1 + (i > 0), net.c, net.h, net.w
        net.conv(c, 3, s, act="relu").conv(c, 3, act="none")
        if i:
            net.ops.append(conv(cin, c, h, w, 1, s=s))
        net.add()
    return net.pool().linear(10).done()


def tiny_kws() -> Ops:
    """DS-CNN: a 10x4 convolution (as the nearest square: 6x6 has 36 of its 40 taps) and 4 pairs."""
    net = Builder(1, 49, 10)
    net.ops.append(conv(1, 64, 49, 10, 6, s=2, act="relu"))
    net.c, net.h, net.w = 64, 25, 5
    for _ in range(4):
        net.conv(64, 3, 1, 64, act="relu").conv(64, 1, act="relu")
    return net.pool().linear(12).done()


def tiny_vww() -> Ops:
    """MobileNetV1 0.25 at 96 pixels, two classes."""
    return mobilenet_v1(0.25, 96, 2)


def tiny_ad() -> Ops:
    """The autoencoder: ten dense layers, 640-128x4-8-128x4-640."""
    net = Builder(640, 1)
    for cout in (128, 128, 128, 128, 8, 128, 128, 128, 128, 640):
        net.linear(cout)
    return net.done()
