"""Memory plans against the interpreter that really makes them."""

import os
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.export.jobs import convert_networks
from edgenas.models import micro_arena_of_file, read_model
from edgenas.models.memory import micro_arena, planned_bytes, tflite_graph
from edgenas.models.tflite import read_tflite
from edgenas.profiling import plain_stacks, spread_architectures
from edgenas.spaces import Lowering
from edgenas.spaces.mobile import default_space

buffers = st.lists(
    st.tuples(st.integers(1, 500), st.integers(0, 9), st.integers(0, 5)).map(
        lambda b: (b[0], b[1], b[1] + b[2])
    ),
    max_size=12,
)


@given(buffers)
def test_a_plan_holds_what_lives_together(plan: list[tuple[int, int, int]]) -> None:
    total = planned_bytes(plan, alignment=1)
    alive = [sum(n for n, first, last in plan if first <= t <= last) for t in range(16)]
    assert max(alive) <= total <= sum(n for n, _, _ in plan)


def test_disjoint_lives_share_memory() -> None:
    assert planned_bytes([(100, 0, 1), (100, 2, 3), (50, 4, 5)], alignment=1) == 100
    assert planned_bytes([(100, 0, 2), (100, 2, 3)], alignment=1) == 200


def allocations(path: Path) -> dict[str, int]:
    """What the interpreter says that it allocated; it says so on C's stderr."""
    runtime = pytest.importorskip(
        "tflite_micro.python.tflite_micro.runtime", reason="needs the extra edgenas[micro]"
    )
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            runtime.Interpreter.from_file(str(path), arena_size=4 << 20).print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        caught.seek(0)
        text = caught.read().decode()
    return {name: int(n) for name, n in re.findall(r"Arena allocation (\w+) (\d+) bytes", text)}


def test_the_arena_is_that_of_tflite_micro(exported_int8_tflite: tuple[Path, Lowering]) -> None:
    path, net = exported_int8_tflite
    real = allocations(path)
    from_file = micro_arena(read_tflite(path.read_bytes(), path, pads=True))
    assert from_file.activations == real["head"]
    assert from_file.total == pytest.approx(real["total"], rel=0.01)
    assert micro_arena(tflite_graph(net)) == from_file, "planned before the export"


def thirty_networks() -> dict[str, Lowering]:
    """Of two input sizes, with and without squeeze-excite, and stacks of no space."""
    found: dict[str, Lowering] = {}
    for n, size, channels, variant in (
        (12, 28, 1, "int8"), (8, 96, 3, "int8"), (6, 28, 1, "full"),
    ):  # fmt: skip
        space = default_space(
            image_size=size, in_channels=channels, n_classes=10, variant=cast(Any, variant)
        )
        for arch in spread_architectures(space, n, seed=0):
            found[f"{variant} {size} {arch.digest}"] = space.lower(arch)
    small = default_space(image_size=28, in_channels=1, n_classes=10)
    return found | {f"stack {i}": net for i, net in enumerate(plain_stacks(small, 4, seed=0))}


@pytest.mark.slow
def test_the_arena_of_thirty_networks_is_predicted(tmp_path: Path) -> None:
    networks = thirty_networks()
    assert len(networks) == 30
    files = convert_networks(networks, format="tflite-int8", folder=tmp_path)
    errors = {}
    for name, net in networks.items():
        real = allocations(files[name])["total"]
        errors[name] = micro_arena(tflite_graph(net)).total / real - 1
    assert statistics.median(map(abs, errors.values())) <= 0.01
    assert min(errors.values()) > -0.01, min(errors.items(), key=lambda item: item[1])
    assert max(errors.values()) < 0.05, max(errors.items(), key=lambda item: item[1])


@pytest.mark.long
@pytest.mark.parametrize("precision", ["tflite", "tflite-int8"])
def test_squeeze_excite_is_known_again_in_files(precision: str, tmp_path: Path) -> None:
    space = default_space(image_size=28, in_channels=1, n_classes=10, variant="full")
    net = space.lower(space.smallest())
    (path,) = convert_networks({"a": net}, format=precision, folder=tmp_path).values()
    wanted = [op for op in net.primitive() if op.kind == "squeeze_excite"]
    assert wanted
    read = [step.op for step in read_model(path).steps if step.kind == "squeeze-excite"]
    assert read == wanted
    if precision == "tflite-int8":
        error = micro_arena_of_file(path).total / allocations(path)["total"] - 1
        assert -0.01 < error < 0.05
