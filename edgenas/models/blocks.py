"""Operators of a file put together again to the blocks that tables hold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgenas.errors import SpecError
from edgenas.models.graph import ModelGraph, Step, fused, readers_of
from edgenas.spaces import OpSpec

_LONGEST = 5  # expand, depthwise, squeeze-excite, project, add


def in_blocks(graph: ModelGraph, known: Callable[[OpSpec], bool]) -> ModelGraph:
    """The graph with every run of operators that is a block which is `known` made one step."""
    readers = readers_of(graph)
    steps: list[Step | None] = list(graph.steps)
    for start in range(len(steps)):
        path = _run(graph, readers, start) if graph.steps[start].op is not None else []
        for n in range(len(path), 1, -1):
            run = [found for i in path[:n] if (found := steps[i]) is not None]
            costing = [step for step in run if step.op is not None]
            if len(run) < n or run[-1].op is None or len(costing) < 2:
                continue
            block = as_block([step.op for step in costing if step.op is not None])
            if block is None or not known(block) or not _closed(graph, run, block):
                continue
            for i in path[:n]:
                steps[i] = None
            kind = "+".join(step.kind for step in costing)
            steps[path[n - 1]] = replace(run[-1], kind=kind, inputs=run[0].inputs, op=block)
            break
    return replace(graph, steps=tuple(step for step in steps if step is not None))


def sums_in_convolutions(graph: ModelGraph) -> ModelGraph:
    """The graph with sums, and a ReLU behind them, in the convolution that gives one of the terms.

    As onnxruntime computes them in float32 (FusedConv with a fourth input), where nothing else
    reads that term. Apply after `in_blocks`: blocks hold their own sum.
    """
    if graph.format != "onnx" or graph.precision != "fp32":
        return graph
    readers = readers_of(graph)
    writers = {t: i for i, step in enumerate(graph.steps) for t in step.outputs}
    steps: list[Step | None] = list(graph.steps)
    for i, total in enumerate(graph.steps):
        if total.op is None or total.op.kind != "add":
            continue
        for term in total.inputs:
            made = writers.get(term, -1)
            conv = steps[made] if made >= 0 else None
            if conv is None or conv.op is None or conv.op.kind not in ("conv", "conv2d"):
                continue
            if conv.op.act != "none" or readers[term] != [i] or term in graph.outputs:
                continue
            rest = tuple(t for t in total.inputs if t != term)
            joined = replace(
                total, kind=f"{conv.kind}+{total.kind}", inputs=(*conv.inputs, *rest), op=conv.op
            )
            steps[made], steps[i] = None, joined
            break
    return fused(replace(graph, steps=tuple(step for step in steps if step is not None)))


def as_block(ops: Sequence[OpSpec]) -> OpSpec | None:
    """The block whose primitives are exactly `ops`, in this order; None where there is none."""
    kinds = [op.kind for op in ops]
    skip = kinds[-1] == "add"
    body = ops[:-1] if skip else ops
    convs = [op for op in body if op.kind == "conv"]
    with contextlib.suppress(SpecError):
        if kinds == ["conv", "pool", "linear"]:
            block = OpSpec.of(
                "head",
                act=ops[0].act,
                cin=ops[0]["cin"],
                hidden=ops[0]["cout"],
                cout=ops[2]["cout"],
                h=ops[0]["h"],
                w=ops[0]["w"],
            )
        elif len(convs) >= 2:
            spatial = next((op for op in convs if op["g"] > 1), convs[0])
            block = OpSpec.of(
                "inverted" if spatial["g"] > 1 else "fused",
                act=spatial.act,
                cin=convs[0]["cin"],
                hidden=convs[-1]["cin"],
                cout=convs[-1]["cout"],
                h=convs[0]["h"],
                w=convs[0]["w"],
                k=spatial["k"],
                s=spatial["s"],
                se=next((op["r"] for op in body if op.kind == "squeeze_excite"), 0),
                skip=int(skip),
            )
        else:
            return None
        if [node.op for node in block.primitives()] == list(ops):
            return block
    return None


def _run(graph: ModelGraph, readers: dict[int, list[int]], start: int) -> list[int]:
    """Steps from `start` on, each of which reads what the one before it wrote, and no other does.

    An addition may be the last: its other input is looked at when the block is known.
    """
    path, costing = [start], 1
    while True:
        outputs = graph.steps[path[-1]].outputs
        if len(outputs) != 1 or outputs[0] in graph.outputs:
            return path
        after = readers.get(outputs[0], [])
        if len(after) != 1 or costing == _LONGEST:
            return path
        step = graph.steps[after[0]]
        path.append(after[0])
        costing += step.op is not None
        if len(step.inputs) != 1:
            return path


def _closed(graph: ModelGraph, run: Sequence[Step], block: OpSpec) -> bool:
    """Whether the run reads nothing but its input; a skip must come from there."""
    inside = {t for step in run for t in step.outputs}
    outside = {graph.source(t) for step in run for t in step.inputs if t not in inside}
    wanted = {graph.source(t) for t in run[0].inputs}
    adds = len(run[-1].inputs) == 2
    return outside == wanted and adds == (block["skip"] == 1 if "skip" in block.integers else False)
