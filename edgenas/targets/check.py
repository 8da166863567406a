"""Whether a tool-chain takes operators, and whether a network fits into a device's memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgenas.errors import SpecError
from edgenas.hardware import DeviceProfile
from edgenas.models import least_bytes, micro_arena, planned_bytes, read_model, tflite_graph
from edgenas.spaces import Lowering, SearchSpace
from edgenas.targets.operators import Operator, first_operators, operators_of_primitive
from edgenas.targets.toolchains import SQUEEZE_EXCITE, Rule, Toolchain, toolchain_of

MARGIN = 0.98
"""Share of a memory limit that plans may fill: arenas and sizes are planned to about 1 %."""

_REMEDIES = {
    "HARD_SWISH": 'activation = "relu6"',
    "HardSwish": 'activation = "relu6"',
    SQUEEZE_EXCITE: "squeeze_excite = false",
    **dict.fromkeys(("MUL", "Mul", "HardSigmoid"), "squeeze_excite = false"),
    "DEPTHWISE_CONV_2D": 'kinds = ["fused", "plain"]',
}


@dataclass(frozen=True, slots=True)
class Misfit:
    """An operator that a tool-chain does not take: `index` in the network's list, and why."""

    index: int
    operator: Operator
    why: str

    def __str__(self) -> str:
        return f"{self.operator.name} ({self.operator.place}): {self.why}"


def misfits(operators: Sequence[Operator], device: DeviceProfile) -> tuple[Misfit, ...]:
    """Those of `operators` that the device's tool-chain does not take.

    The `operators` of the device's file, if it has any, stand in place of the tool-chain's list,
    and of nothing at all where no tool-chain is known.
    """
    chain = toolchain_of(device)
    if device.operators:
        return tuple(
            Misfit(i, operator, "not among the device's operators")
            for i, operator in enumerate(map(_as_in_files, operators))
            if operator.name not in device.operators
        )
    if chain is None:
        return ()
    found = []
    for i, operator in enumerate(operators):
        if why := _why_not(operator, chain):
            found.append(Misfit(i, operator, why))
    return tuple(found)


def offloaded_share(
    operators: Sequence[Operator], found: Sequence[Misfit], chain: Toolchain
) -> float:
    """Share of `operators` that the accelerator takes where it does not take those `found`.

    >>> from edgenas.targets import TOOLCHAINS
    >>> ops = [Operator("ADD", f"{i}") for i in range(4)]
    >>> lost = [Misfit(1, ops[1], "no")]
    >>> [offloaded_share(ops, lost, TOOLCHAINS[name]) for name in ("edgetpu", "nnapi")]
    [0.25, 0.75]
    """
    if not found:
        return 1.0
    taken = found[0].index if chain.stops else len(operators) - len(found)
    return taken / len(operators)


def plans_ram(device: DeviceProfile) -> bool:
    """Whether `ram_bytes_of` is near what a network takes there; of Vela's it is often far off."""
    chain = toolchain_of(device)
    return chain is None or chain.name != "vela"


def ram_bytes_of(lowering: Lowering, device: DeviceProfile) -> int:
    """RAM that a network takes on a device beside its file, as planned before it is exported.

    TFLite-Micro's whole arena where that runs the model, else the activations as TFLite plans them,
    or their floor in ONNX runtimes.
    """
    int8 = device.precision == "int8"
    if not device.format.startswith("tflite"):
        return lowering.peak_memory_bytes(bytes_per_element=1 if int8 else 4)
    graph = tflite_graph(lowering, dtype="int8" if int8 else "float32")
    chain = toolchain_of(device)
    if chain is not None and chain.name == "tflm":
        return micro_arena(graph).total
    return planned_bytes(graph.lifetimes())


def ram_bytes_of_file(path: Path) -> int:
    """RAM that a model file takes beside itself, counted as `ram_bytes_of` counts it.

    Of a TFLite file that is the activations alone, not TFLite-Micro's arena.
    """
    graph = read_model(path, pads=True)
    return least_bytes(graph) if graph.format == "onnx" else planned_bytes(graph.lifetimes())


def check_space(space: SearchSpace, device: DeviceProfile) -> None:
    """Refuses a space whose operators or precision the device cannot run.

    Raises:
        SpecError: operators that its tool-chain does not take, by name, with the setting of the
            space that leaves them out.
    """
    chain = toolchain_of(device)
    precision = "fp32" if device.precision == "unstated" else device.precision  # as its format
    if chain is not None and precision not in chain.precisions:
        raise SpecError(
            f"{device.name}: {chain.title} takes {' and '.join(chain.precisions)}, "
            f"not {device.precision}",
            hint=f'in its file: precision = "{chain.precisions[0]}"',
        )
    if device.operators or (chain is not None and device.format.startswith("tflite")):
        _check_operators(space, device, chain)


def _check_operators(space: SearchSpace, device: DeviceProfile, chain: Toolchain | None) -> None:
    primitives = {node.op: None for unit in space.units() for node in unit.primitives()}
    planned = [operators_of_primitive(op, device.format) for op in primitives]
    found = Counter(
        (misfit.operator.name, misfit.why)
        for operators in (first_operators(device.format), *planned)
        for misfit in misfits(operators, device)
    )
    if not found:
        return
    told = "; ".join(
        f"{name} ({n} of {len(primitives)} distinct operators): {why}"
        for (name, why), n in sorted(found.items())
    )
    title, source = "it", "its own file"
    if chain is not None and not device.operators:
        title, source = chain.title, f"{chain.source}, {chain.url}, {chain.date}"
    remedies = dict.fromkeys(
        "smaller kernels" if why.startswith("kernel ") else _REMEDIES[name]
        for name, why in sorted(found)
        if why.startswith("kernel ") or name in _REMEDIES
    )
    hint = f"in [space]: {', '.join(remedies)}" if remedies else "another [space]"
    grey = space.lower(space.smallest()).in_chw[0] == 1
    if grey and any(name == "DEPTHWISE_CONV_2D" for name, _ in found):
        hint += "; and images in colour: of grey ones, the first convolution is a depthwise one"
    raise SpecError(
        f"{device.name} cannot run this space: {title} does not take {told} [{source}]", hint=hint
    )


def _as_in_files(operator: Operator) -> Operator:
    return replace(operator, name="MUL") if operator.name == SQUEEZE_EXCITE else operator


def _why_not(operator: Operator, chain: Toolchain) -> str:
    """Why the tool-chain does not take the operator; empty where it does."""
    if chain.operators is None:
        return ""
    if operator.name in chain.refused:
        return chain.refused[operator.name]
    name = _as_in_files(operator).name
    if name not in chain.operators:
        return "not on its list of operators"
    return _broken(chain.operators[name], operator)


def _broken(rule: Rule, operator: Operator) -> str:
    if rule.max_version is not None and (operator.version or 0) > rule.max_version:
        return f"version {operator.version} of the operator; it knows up to {rule.max_version}"
    if rule.max_kernel is not None and max(operator.kernel or (0,)) > rule.max_kernel:
        return f"kernel {_by(operator.kernel)}; at most {rule.max_kernel}"
    if rule.max_stride is not None and max(operator.stride or (0,)) > rule.max_stride:
        return f"stride {_by(operator.stride)}; at most {rule.max_stride}"
    if rule.no_activation and operator.activation:
        return "with an activation inside"
    if rule.same_scale and operator.rescales:
        return "its input and output are quantised differently"
    return ""


def _by(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))
