"""The drawing of an architecture: a box per unit, taller where more time or work goes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgenas.report.model import Unit
from edgenas.report.numbers import significant
from edgenas.spaces import OpSpec

_BY = "\N{MULTIPLICATION SIGN}"
_BOX, _GAP, _LEAST, _MOST = 66, 18, 74, 168
_LEFT, _TOP, _BELOW = 84, 74, 30


def architecture_svg(
    units: Sequence[Unit], *, weights: Sequence[float], unit: str, title: str
) -> str:
    """An inline SVG of `units` in execution order; heights follow `weights`, printed in `unit`.

    It is styled by the page's classes `arch-*`. Residual connections are arcs over the boxes that
    they bridge, stages are frames with the resolution of their output.
    """
    most = max(weights, default=0.0) or 1.0
    heights = [_LEAST + (_MOST - _LEAST) * max(0.0, w) / most for w in weights]
    middle = _TOP + _MOST / 2
    lefts = [_LEFT + i * (_BOX + _GAP) for i in range(len(units))]
    width = _LEFT + len(units) * (_BOX + _GAP) + 6
    height = _TOP + _MOST + _BELOW
    parts = [
        f'<svg class="arch" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
    ]
    parts += _frames(units, lefts)
    parts += _image(units, middle)
    for i, (node, left, tall) in enumerate(zip(units, lefts, heights, strict=True)):
        top = middle - tall / 2
        tip = f"{node.name}: {node.op.key}; {significant(weights[i])} {unit}"
        start = left - _GAP if i else 51
        parts.append(
            f'<path class="arch-flow" d="M{start:.0f} {middle:.0f}H{left:.0f}"/>'
            f'<g class="arch-unit arch-{_colour(node.op)}"><title>{escape(tip)}</title>'
            f'<rect x="{left}" y="{top:.1f}" width="{_BOX}" height="{tall:.1f}" rx="6"/>'
        )
        for line, (text, style) in enumerate(_lines(node.op)):
            y = middle - 20 + 16 * line
            parts.append(
                f'<text class="{style}" x="{left + _BOX / 2:.0f}" y="{y:.0f}">{escape(text)}</text>'
            )
        parts.append("</g>")
        parts.append(
            f'<text class="arch-weight" x="{left + _BOX / 2:.0f}" y="{_TOP + _MOST + 18}">'
            f"{significant(weights[i])}</text>"
        )
        if "skip" in node.op.integers and node.op["skip"]:
            parts.append(_arc(left - 5, left + _BOX + 5, top - 10, middle))
        parts += [
            _arc(
                (lefts[j] + _BOX + 5) if j >= 0 else 60,
                left - 5,
                min(middle - h / 2 for h in heights[max(j, 0) : i]) - 18,
                middle,
            )
            for j in node.inputs
            if j != i - 1
        ]
    if units:
        parts.append(
            f'<text class="arch-weight arch-left" x="4" y="{_TOP + _MOST + 18}">'
            f"{escape(unit)}</text>"
        )
    parts.append("</svg>")
    return "".join(parts)


def _frames(units: Sequence[Unit], lefts: Sequence[int]) -> list[str]:
    """A frame round the units of each stage (names `s1.1`, `s1.2`), with its output's shape."""
    parts = []
    first = 0
    for i, node in enumerate(units):
        stage = node.name.partition(".")[0]
        following = units[i + 1].name.partition(".")[0] if i + 1 < len(units) else None
        if stage == following:
            continue
        x, end = lefts[first] - 7, lefts[i] + _BOX + 7
        c, h, w = node.op.out_chw
        shape = f"{h}{_BY}{w}" if h * w > 1 else f"{c} logits"
        centre = (x + end) / 2
        parts.append(
            f'<rect class="arch-stage" x="{x}" y="40" width="{end - x}" '
            f'height="{_TOP + _MOST - 32}" rx="9"/>'
            f'<text class="arch-name" x="{centre:.0f}" y="16">{escape(stage)}</text>'
            f'<text class="arch-shape" x="{centre:.0f}" y="32">{shape}</text>'
        )
        first = i + 1
    return parts


def _image(units: Sequence[Unit], middle: float) -> list[str]:
    """The input at the left edge."""
    if not units:
        return []
    c, h, w = units[0].op.in_chw
    return [
        '<text class="arch-name" x="30" y="16">image</text>'
        f'<text class="arch-shape" x="30" y="32">{h}{_BY}{w}{_BY}{c}</text>'
        f'<rect class="arch-image" x="9" y="{middle - 21:.0f}" width="42" height="42" rx="3"/>'
    ]


def _arc(x0: float, x1: float, top: float, middle: float) -> str:
    r = 8
    return (
        f'<path class="arch-skip" d="M{x0:.0f} {middle:.0f}V{top + r:.1f}'
        f"Q{x0:.0f} {top:.1f} {x0 + r:.0f} {top:.1f}H{x1 - r:.0f}"
        f'Q{x1:.0f} {top:.1f} {x1:.0f} {top + r:.1f}V{middle:.0f}"/>'
        f'<circle class="arch-join" cx="{x1:.0f}" cy="{middle:.0f}" r="3"/>'
    )


def _colour(op: OpSpec) -> str:
    return op.kind if op.kind in ("inverted", "fused") else "other"


def _lines(op: OpSpec) -> list[tuple[str, str]]:
    """Kind, kernel and stride, expansion, width: what tells this unit from its neighbours."""
    v = op.integers
    if op.kind in ("inverted", "fused"):
        kind = "MBConv" if op.kind == "inverted" else "fused"
        kernel = f"{v['k']}{_BY}{v['k']}" + (f" /{v['s']}" if v["s"] > 1 else "")
        expand = f"{_BY}{significant(v['hidden'] / v['cin'], 2).removesuffix('.0')}"
        expand += " SE" if v["se"] else ""
        return [
            (kind, "arch-kind"),
            (kernel, ""),
            (f"e{expand}", ""),
            (f"{v['cout']} ch", ""),
        ]
    if op.kind == "conv":
        kernel = f"{v['k']}{_BY}{v['k']}" + (f" /{v['s']}" if v["s"] > 1 else "")
        return [("conv", "arch-kind"), (kernel, ""), (f"{v['cout']} ch", "")]
    if op.kind == "head":
        return [
            ("head", "arch-kind"),
            (f"{v['hidden']} ch", ""),
            ("pool", ""),
            (f"{v['cout']} cls", ""),
        ]
    c, h, w = op.out_chw
    kind = op.kind.replace("squeeze_excite", "SE")
    return [(kind[:9], "arch-kind"), (f"{c} ch", ""), (f"{h}{_BY}{w}", "")]
