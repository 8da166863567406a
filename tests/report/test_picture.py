"""The static picture of a front, and the drawing of an architecture: as trees of elements."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.report import RunView, front_svg
from edgenas.report.drawing import architecture_svg
from edgenas.report.model import Evaluated, Unit
from edgenas.spaces import OpSpec
from edgenas.spaces.mobile import SMALL

SVG = "{http://www.w3.org/2000/svg}"


def marks(tree: ET.Element, name: str) -> list[ET.Element]:
    return [e for e in tree.iter() if e.get("class") == name and e.tag != f"{SVG}text"]


def texts(tree: ET.Element) -> list[str]:
    return [e.text or "" for e in tree.iter(f"{SVG}text")]


def test_every_candidate_is_one_mark_inside_the_frame(view: RunView) -> None:
    tree = ET.fromstring(front_svg(view))
    on_front = {c.digest for c in view.front}
    others = [t for t in view.trials if t.digest not in on_front]
    missed = [t for t in others if not t.feasible]
    assert len(marks(tree, "front")) == len(view.front) + 1  # and the legend's
    assert len(marks(tree, "trial")) == len(others) - len(missed) + 1
    assert len(marks(tree, "bad")) == len(missed) + 1
    assert len(marks(tree, "model")) == len(view.models) + 1
    for circle in tree.iter(f"{SVG}circle"):
        assert 84 <= float(circle.get("cx", "0")) <= 796
        assert float(circle.get("cy", "0")) <= 438


def test_axes_are_named_with_unit_origin_and_device(view: RunView) -> None:
    shown = texts(ET.fromstring(front_svg(view)))
    assert "latency (ms), predicted, testchip-litert-int8-t1" in shown
    assert "top-1 accuracy (%), supernet" in shown
    assert "≤ 2.00 ms" in shown
    rough = replace(view, tables=view.tables[::-1])
    assert any(text.endswith(", rough") for text in texts(ET.fromstring(front_svg(rough))))


def test_better_is_up_and_left(view: RunView) -> None:
    goals = tuple(map(Objective.parse, ("max top1", "min latency_ms")))

    def at(digest: str, top1: float, ms: float) -> Evaluated:
        return Evaluated("", digest, {"top1": Metric(top1, "a"), "latency_ms": Metric(ms, "b")})

    few = RunView("r", goals, (at("a", 0.9, 1.0), at("b", 0.95, 2.0)))
    a, b = [c for c in marks(ET.fromstring(front_svg(few)), "front") if c.get("r") == "4.5"]
    assert float(a.get("cx", "0")) < float(b.get("cx", "0"))
    assert float(a.get("cy", "0")) > float(b.get("cy", "0"))


def test_a_bound_far_away_does_not_squeeze_the_points(view: RunView) -> None:
    goals = (view.goals[0], Objective.parse("min latency_ms <= 500"), view.goals[2])
    tree = ET.fromstring(front_svg(replace(view, goals=goals)))
    xs = [float(c.get("cx", "0")) for c in marks(tree, "front") if c.get("r") == "4.5"]
    assert max(xs) - min(xs) > 200
    assert not any("500" in text for text in texts(tree))


def test_a_few_slow_networks_do_not_squeeze_the_front() -> None:
    def drawn(slowest_ms: float, bound: str = "") -> tuple[list[float], list[str]]:
        goals = tuple(map(Objective.parse, ("max top1", f"min latency_ms{bound}")))
        points = []
        for i, ms in enumerate((0.02, 0.04, 0.08, slowest_ms)):
            metrics = {"top1": Metric(0.9 + i / 50, "a"), "latency_ms": Metric(ms, "b")}
            points.append(Evaluated("", str(i), metrics))
        view = RunView("r", goals, tuple(points[:3]), trials=tuple(points))
        tree = ET.fromstring(front_svg(view))
        xs = [float(c.get("cx", "0")) for c in marks(tree, "front") if c.get("r") == "4.5"]
        return xs, texts(tree)

    near, _ = drawn(0.3)
    assert near[2] - near[1] == pytest.approx(2 * (near[1] - near[0]), abs=0.3)
    far, shown = drawn(4.0)
    assert far[2] - far[1] == pytest.approx(far[1] - far[0], abs=0.3)
    assert far[2] - far[0] > 150
    assert {"0.02", "0.2", "2"} <= set(shown)
    assert "≤ 0.0600 ms" in drawn(4.0, " <= 0.06")[1]


def test_one_objective_or_one_point_still_gives_a_picture(view: RunView) -> None:
    assert "two objectives are needed" in front_svg(replace(view, goals=view.goals[:1]))
    ET.fromstring(front_svg(replace(view, front=view.front[:1], trials=())))
    assert "no candidate" in front_svg(replace(view, front=(), trials=()))


def test_captions_do_not_lie_over_each_other(view: RunView) -> None:
    tree = ET.fromstring(front_svg(view))
    boxes = [
        [float(r.get(k, "0")) for k in ("x", "y", "width", "height")] for r in marks(tree, "plate")
    ]
    assert boxes
    for i, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def units_of(which: str) -> list[Unit]:
    space = replace(SMALL, in_channels=1, n_classes=10, squeeze_excite=True)
    arch = space.largest() if which == "largest" else space.smallest()
    return [Unit(n.name, n.op, n.inputs) for n in space.lower(arch).nodes]


TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize("which", ["smallest", "largest"])
def test_the_drawing_shows_each_unit_and_each_skip(which: str) -> None:
    units = units_of(which)
    weights = [unit.op.macs / 1e6 for unit in units]
    tree = ET.fromstring(architecture_svg(units, weights=weights, unit="M MACs", title="<a> & b"))
    boxes = [g for g in tree.iter(f"{SVG}g") if (g.get("class") or "").startswith("arch-unit")]
    assert len(boxes) == len(units)
    skips = sum(unit.op.integers.get("skip", 0) for unit in units)
    assert len(marks(tree, "arch-skip")) == skips
    frames = {unit.name.partition(".")[0] for unit in units}
    assert len(marks(tree, "arch-stage")) == len(frames)
    heights = [float(next(b.iter(f"{SVG}rect")).get("height", "0")) for b in boxes]
    order = sorted(range(len(units)), key=lambda i: weights[i])
    assert [heights[i] for i in order] == sorted(heights)
    for unit, box in zip(units, boxes, strict=True):
        words = texts(box)
        if unit.op.kind == "inverted":
            v = unit.op.integers
            assert words[0] == "MBConv"
            assert words[1].startswith(f"{v['k']}{TIMES}{v['k']}")
            assert words[2].startswith(f"e{TIMES}{v['hidden'] // v['cin']}")
            assert words[2].endswith(" SE")
            assert words[3] == f"{v['cout']} ch"
    size = units[0].op["h"]
    assert f"{size}{TIMES}{size}{TIMES}1" in texts(tree)
    width = float(tree.get("width", "0"))
    right = [float(r.get("x", "0")) + float(r.get("width", "0")) for r in tree.iter(f"{SVG}rect")]
    assert max(right) <= width


def test_the_drawing_joins_units_that_are_no_neighbours() -> None:
    add = OpSpec.of("add", c=8, h=4, w=4)
    op = OpSpec.of("conv", cin=8, cout=8, h=4, w=4, k=3, s=1, g=1)
    units = [Unit("a", op, (-1,)), Unit("b", op, (0,)), Unit("c", add, (0, 1))]
    svg = architecture_svg(units, weights=[1, 2, 0], unit="ms", title="t")
    assert len(marks(ET.fromstring(svg), "arch-skip")) == 1


def test_nothing_to_draw() -> None:
    ET.fromstring(architecture_svg([], weights=[], unit="ms", title="t"))


def test_colours_follow_the_scheme_and_stay_readable(view: RunView) -> None:
    svg = front_svg(view)
    light, _, dark = svg.partition("prefers-color-scheme:dark")
    for name in ("text", "bg", "front", "model"):
        assert re.search(rf"\b{name}\{{[^}}]*fill:#", light)
        assert re.search(rf"\b{name}\{{[^}}]*fill:#", dark)
