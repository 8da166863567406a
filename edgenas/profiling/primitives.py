"""Operators over the shapes of published networks: what a cost model of foreign files rests on.

Shapes are of the MobileNets, EfficientNets, ResNets and the MLPerf Tiny networks, from 7 to 224
pixels a side: thin and wide, early and late. They join a table beside the units of a space.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgenas.spaces import OpSpec, conv

_POINTWISE = (  # pixels a side, channels in, out
    (112, 16, 64), (112, 32, 16), (64, 24, 48), (56, 24, 144), (56, 32, 64), (56, 144, 24),
    (28, 16, 32), (28, 40, 240), (28, 64, 128), (28, 240, 40), (25, 64, 64), (16, 88, 96),
    (14, 32, 32), (14, 80, 480), (14, 112, 672), (14, 256, 256), (14, 480, 112), (8, 96, 96),
    (7, 64, 64), (7, 192, 1152), (7, 320, 1280), (7, 512, 1024), (7, 1152, 320), (3, 256, 256),
    (128, 8, 16), (96, 8, 16), (64, 8, 16), (48, 16, 32), (32, 16, 32), (16, 32, 64), (8, 32, 64),
    (6, 128, 128), (4, 16, 32), (2, 8, 16),
)  # fmt: skip
_DEPTHWISE = (  # pixels, channels, kernel, stride
    (112, 32, 3, 1), (112, 96, 3, 2), (64, 24, 3, 1), (64, 48, 5, 2), (56, 144, 3, 1),
    (56, 144, 5, 2), (48, 16, 3, 1), (32, 48, 5, 1), (28, 32, 3, 1), (28, 240, 3, 2),
    (28, 240, 5, 1), (25, 64, 3, 1), (16, 88, 3, 1), (14, 64, 3, 1), (14, 480, 3, 1),
    (14, 480, 3, 2), (14, 672, 5, 1), (14, 672, 5, 2), (8, 96, 5, 1), (7, 128, 5, 1),
    (7, 1152, 3, 1), (7, 1152, 5, 1), (3, 256, 3, 1),
    (128, 8, 1, 1), (64, 16, 1, 1), (32, 32, 1, 1), (8, 32, 1, 1), (4, 16, 1, 1),
    (128, 24, 3, 1), (96, 8, 3, 2), (64, 8, 3, 1), (48, 16, 3, 2), (16, 32, 3, 1), (6, 128, 3, 1),
    (8, 32, 3, 1), (4, 16, 3, 1), (2, 8, 3, 1),
)  # fmt: skip
_DENSE = (  # pixels, channels in, out, kernel, stride
    (224, 3, 32, 3, 2), (224, 3, 64, 7, 2), (128, 3, 24, 5, 2), (96, 3, 8, 3, 2), (64, 3, 16, 3, 1),
    (112, 16, 16, 3, 1), (56, 32, 32, 3, 1), (56, 64, 64, 3, 1), (32, 16, 16, 3, 1),
    (32, 16, 32, 3, 2), (28, 64, 64, 3, 1), (28, 128, 128, 3, 1), (16, 32, 64, 3, 2),
    (14, 128, 128, 3, 1), (14, 256, 256, 3, 1), (8, 64, 64, 3, 1), (7, 256, 256, 3, 1),
    (32, 16, 32, 5, 1), (14, 64, 64, 5, 1), (256, 3, 8, 3, 2), (256, 3, 24, 3, 2),
    (96, 3, 32, 3, 2), (192, 3, 16, 5, 2), (49, 1, 64, 5, 2), (64, 3, 16, 7, 2),
)  # fmt: skip
_STRIDED = (  # pixels a side, channels in, out; 2x2, stride 2
    (128, 8, 8), (128, 16, 32), (64, 16, 16), (64, 32, 64), (32, 64, 128), (16, 64, 32),
    (16, 96, 96), (8, 64, 16), (4, 32, 8),
)  # fmt: skip
_TRANSPOSED = (  # pixels a side, channels in, out, kernel; stride 2
    (112, 8, 1, 2), (96, 16, 1, 2), (64, 8, 8, 2), (64, 32, 16, 2), (56, 64, 32, 2),
    (32, 24, 24, 2), (28, 128, 64, 2), (16, 96, 48, 2), (14, 256, 128, 2), (56, 32, 21, 4),
    (32, 16, 1, 4), (28, 64, 32, 4), (16, 64, 17, 4), (14, 128, 64, 4), (7, 320, 128, 4),
)  # fmt: skip
_MAPS = ((16, 112), (24, 56), (40, 28), (48, 64), (64, 8), (88, 16), (112, 14), (320, 7), (640, 3))
_POOLED = ((64, 8), (64, 25), (256, 3), (512, 7), (1280, 7))
_LINEAR = ((64, 10), (128, 128), (256, 2), (640, 128), (1024, 1000), (1280, 1000))


def general_primitives() -> list[OpSpec]:
    """About 200 operators of all kinds that edgenas can build alone, without repeats."""
    return list(dict.fromkeys(_all()))


def _all() -> Iterator[OpSpec]:
    for i, (side, cin, cout) in enumerate(_POINTWISE):
        yield conv(cin, cout, side, side, 1, act="none" if i % 2 else "relu6")
        if i % 3 == 0:
            yield conv(cin, cout, side, side, 1, act="hswish")
    for i, (side, c, k, s) in enumerate(_DEPTHWISE):
        yield conv(c, c, side, side, k, s=s, g=c, act="none" if i % 4 == 3 else "relu6")
        if i % 4 == 0:
            yield conv(c, c, side, side, k, s=s, g=c, act="hswish")
    for i, (side, cin, cout, k, s) in enumerate(_DENSE):
        yield conv(cin, cout, side, side, k, s=s, act="none" if i % 3 == 2 else "relu")
    for side, cin, cout in _STRIDED:
        half = side // 2
        yield OpSpec.of(
            "conv2d", act="relu",
            cin=cin, cout=cout, h=side, w=side, kh=2, kw=2, oh=half, ow=half, g=1,
        )  # fmt: skip
    for side, cin, cout, k in _TRANSPOSED:
        out = 2 * side
        yield OpSpec.of("deconv", cin=cin, cout=cout, h=side, w=side, kh=k, kw=k, oh=out, ow=out)
    for c, side in _MAPS:
        yield OpSpec.of("add", c=c, h=side, w=side)
        yield OpSpec.of("activate", act="hswish", c=c, h=side, w=side)
    for c, side in _MAPS[::2]:
        yield OpSpec.of("function", c=c, h=side, w=side)
        yield OpSpec.of("scale", c=c, h=side, w=side)
        yield OpSpec.of("binary", c=c, h=side, w=side)
        yield OpSpec.of("copy", c=c, h=side, w=side)
        half = side // 2
        yield OpSpec.of("pool2d", c=c, h=side, w=side, kh=2, kw=2, oh=half, ow=half)
        yield OpSpec.of("resize", c=c, h=side, w=side, oh=2 * side, ow=2 * side)
    for c, side in _POOLED:
        yield OpSpec.of("pool", c=c, h=side, w=side)
    for cin, cout in _LINEAR:
        yield OpSpec.of("linear", cin=cin, cout=cout)
