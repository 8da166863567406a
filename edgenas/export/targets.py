"""Exported files held against targets, by a device's own tool where that runs here.

Vela compiles for Ethos-U, TFLite-Micro and OpenVINO run the file; LiteRT and onnxruntime have run
it over the test split before. What has no tool here is checked against the list that its maker
publishes, and the evidence says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgenas.errors import DeviceError, MeasurementError, SpecError
from edgenas.events import Event, Report, silent
from edgenas.export.certificate import REJECTED, Certificate, TargetEvidence
from edgenas.export.runners import FloatArray, LiteRunner, MicroRunner, open_model
from edgenas.export.verify import Verdict
from edgenas.hardware import DeviceProfile, installed_version
from edgenas.hardware.micro import MICRO_BUILD, measure_arena
from edgenas.hardware.vela import accelerator, estimate
from edgenas.models import micro_arena_of_file, read_model
from edgenas.targets import (
    Toolchain,
    misfits,
    offloaded_share,
    operators_of_file,
    plans_ram,
    ram_bytes_of_file,
    toolchain_of,
)

ANSWERS = 32
"""Images on which another runtime's answers are compared."""

MIN_SAME = 0.9
"""Share of them that it must name as the file's own runtime does: kernels round differently, and
what reads a file wrongly agrees by chance alone."""

_SHOWN = 3
_ARENA_SLACK = 64 * 2**10
"""Bytes for TFLite-Micro beyond the arena that it was measured to need."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What one tool says of a file.

    `numbers` are fields of `TargetEvidence`. What is `broken` fails the target, what is `unsure`
    leaves the verdict open, `notes` do neither.
    """

    checked_by: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ram_bytes: int | None = None


def check_targets(
    folder: Path,
    certificate: Certificate,
    targets: Sequence[DeviceProfile],
    *,
    images: FloatArray,
    wanted: Collection[str] = (),
    mixtures: Mapping[str, DeviceProfile] = MappingProxyType({}),
    report: Report = silent,
) -> tuple[TargetEvidence, ...]:
    """Evidence for each device that anything is known of, on each file in `folder` that it runs.

    Those are of its format, and of the formats in mixed precision that `mixtures` has it for.

    `images` are normalised (n, h, w, c); the answers of other runtimes are compared on some, spread
    evenly, since a split may hold one class after the other.
    Nothing is written, and nothing is raised for a file that a device does not take. Devices that
    are `wanted` by name are inconclusive where nothing is known of them.
    """
    spread = np.linspace(0, len(images) - 1, min(ANSWERS, len(images))).round().astype(int)
    asked, found = images[spread], []
    for device in targets:
        chain = toolchain_of(device)
        limits = (device.ram_bytes, device.flash_bytes)
        unknown = chain is None and limits == (None, None) and not device.operators
        if unknown and device.name not in wanted:
            continue
        report(Event("targets", message=f"{certificate.digest} on {device.name}"))
        name = device.runtime if chain is None else chain.name
        formats = {device.format, *(f for f, its in mixtures.items() if its.name == device.name)}
        paths = [
            folder / model.path
            for model in certificate.models
            if model.format in formats and not model.path.endswith(REJECTED)
        ]
        if not paths:
            why = f"no {device.format} file was exported that passed its own gates"
            found.append(TargetEvidence(device.name, name, "inconclusive", "-", reasons=(why,)))
        for path in paths:
            told = _asked(path, device, chain, asked)
            found.append(_evidence(path, device, name, told))
    return tuple(found)


def _evidence(path: Path, device: DeviceProfile, toolchain: str, told: _Told) -> TargetEvidence:
    """The tool's word and the device's memory limits together."""
    flash = told.numbers.get("flash_bytes") or path.stat().st_size
    ram, unsure = told.ram_bytes, told.unsure
    if ram is None and device.ram_bytes is not None:
        ram = ram_bytes_of_file(path)
        if not plans_ram(device) and ram > device.ram_bytes:  # only its compiler knows
            unsure = (*unsure, f"{ram:,} bytes of RAM by TFLite's plan: more than the device has")
            ram = None
    over = [
        f"{need:,} bytes of {what}, the device has {limit:,}"
        for what, need, limit in (
            ("RAM", ram, device.ram_bytes),
            ("flash", flash, device.flash_bytes),
        )
        if limit is not None and need is not None and need > limit
    ]
    verdict: Verdict = "passed"
    if unsure:
        verdict = "inconclusive"
    if told.broken or over:
        verdict = "failed"
    return TargetEvidence(
        device=device.name,
        toolchain=toolchain,
        verdict=verdict,
        checked_by=told.checked_by,
        path=path.name,
        **{**told.numbers, "flash_bytes": flash},
        reasons=(*told.broken, *over, *unsure, *told.notes),
    )


def _asked(path: Path, device: DeviceProfile, chain: Toolchain | None, images: FloatArray) -> _Told:
    if chain is None and not device.operators:
        return _Told("-", unsure=(f"what {device.runtime} accepts is not known here",))
    if chain is None:
        return _by_own_list(path, device)
    match chain.name:
        case "vela":
            return _by_vela(path, device, chain)
        case "tflm":
            return _by_micro(path, device, images)
        case "openvino":
            return _by_openvino(path, device, images)
        case "litert" | "onnxruntime":
            return _by_runtime(path, device)
        case _:
            return _by_list(path, device, chain)


def _by_vela(path: Path, device: DeviceProfile, chain: Toolchain) -> _Told:
    """Vela's own report; where Vela is not installed, the list that it publishes."""
    try:
        found = estimate(path, accelerator(device.chip))
    except MeasurementError as error:
        return _Told(_version("vela"), broken=(str(error),))
    except DeviceError as error:  # by the list alone, and nothing that it lets pass is passed
        told = _by_list(path, device, chain)
        return replace(told, unsure=(f"{error}; {error.hint}",))
    n = found.npu_operators + found.cpu_operators
    share, least = found.npu_operators / n, chain.least_share
    own = _not_taken(path, device) if device.operators else ()  # else Vela itself has said it
    few = f"{found.npu_operators} of {n} operators on the NPU, {least:.0%} are wanted"
    return _Told(
        _version("vela"),
        {
            "operators": n,
            "on_npu_share": share,
            "cycles": found.cycles,
            "sram_bytes": found.sram_bytes,
            "flash_bytes": found.flash_bytes,
        },
        broken=(*own, *(() if share >= least else (few,))),
        notes=("cycles, SRAM and flash are the compiler's estimates",),
        ram_bytes=found.sram_bytes,
    )


def _by_micro(path: Path, device: DeviceProfile, images: FloatArray) -> _Told:
    """The interpreter's arena and answers, and what its kernels are not good at."""
    operators = operators_of_file(path)
    broken = _not_taken(path, device)
    numbers: dict[str, Any] = {"operators": len(operators)}
    try:
        arena = measure_arena(path).total
    except MeasurementError as error:
        return _Told(_version("tflm"), numbers, broken=(*broken, str(error)))
    except DeviceError as error:
        planned = micro_arena_of_file(path).total
        return _Told(
            "edgenas' memory plan",
            numbers | {"arena_bytes": planned},
            broken=broken,
            unsure=(f"{error}: the arena is planned; {error.hint}",),
            ram_bytes=planned,
        )
    numbers["arena_bytes"] = arena
    try:
        answers = MicroRunner(path, arena_bytes=arena + _ARENA_SLACK).run(images)
    except SpecError as error:
        return _Told(_version("tflm"), numbers, broken=(*broken, str(error)), ram_bytes=arena)
    expected = LiteRunner(path, reference=True).run(images)
    lost, told = _compared(answers, expected, "LiteRT's reference kernels")
    return _Told(
        _version("tflm"),
        numbers,
        broken=(*broken, *lost),
        notes=(*told, f"the arena is that of {MICRO_BUILD}"),
        ram_bytes=arena,
    )


def _by_openvino(path: Path, device: DeviceProfile, images: FloatArray) -> _Told:
    """The answers of OpenVINO's CPU plug-in beside those of onnxruntime."""
    operators, broken = len(operators_of_file(path)), _not_taken(path, device)
    if importlib.util.find_spec("openvino") is None:
        hint = 'OpenVINO is not installed; pip install "edgenas[openvino]"'
        return _Told("-", {"operators": operators}, broken, unsure=(hint,))
    import openvino

    try:
        compiled = openvino.Core().compile_model(str(path), "CPU")
        output = compiled.output(0)
        rows = [np.array(compiled(images[i : i + 1])[output]) for i in range(len(images))]
    except RuntimeError as error:
        refused = f"OpenVINO refuses the file: {str(error).strip().splitlines()[-1][-300:]}"
        return _Told(_version("openvino"), {"operators": operators}, broken=(*broken, refused))
    lost, told = _compared(np.concatenate(rows), open_model(path).run(images), "onnxruntime")
    return _Told(_version("openvino"), {"operators": operators}, (*broken, *lost), notes=told)


def _compared(
    answers: FloatArray, expected: FloatArray, whose: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How often two runtimes name the same class: as a fault, or else as a note."""
    same = int((answers.argmax(1) == expected.argmax(1)).sum())
    told = (f"{same} of {len(answers)} answers are those of {whose}",)
    return ((), told) if same >= MIN_SAME * len(answers) else (told, ())


def _by_runtime(path: Path, device: DeviceProfile) -> _Told:
    """A runtime in which the file was verified before; on this machine, wherever the device is."""
    operators = operators_of_file(path)
    broken = _not_taken(path, device)
    runtime = "onnxruntime" if path.suffix == ".onnx" else "litert"
    notes = () if device.is_local else (f"run here in {_version(runtime)}, not on the device",)
    return _Told(_version(runtime), {"operators": len(operators)}, broken, notes=notes)


def _not_taken(path: Path, device: DeviceProfile) -> tuple[str, ...]:
    """The first operators of a file that the device's tool-chain, or own list, does not take."""
    return tuple(str(misfit) for misfit in misfits(operators_of_file(path), device)[:_SHOWN])


def _by_own_list(path: Path, device: DeviceProfile) -> _Told:
    """The operators that the device's file names, which stand in place of every other list."""
    n = len(operators_of_file(path))
    return _Told(
        "the operators of the device's file",
        {"operators": n},
        _not_taken(path, device),
        notes=(f"{device.runtime} itself is not asked",),
    )


def _by_list(path: Path, device: DeviceProfile, chain: Toolchain) -> _Told:
    """The maker's list, if the device has none of its own.

    What an accelerator does not take may be a small share.
    """
    if device.operators:
        return _by_own_list(path, device)
    operators = operators_of_file(path)
    found = misfits(operators, device)
    share = offloaded_share(operators, found, chain)
    named = "; ".join(map(str, found[:_SHOWN])) + ("; ..." if len(found) > _SHOWN else "")
    wanted = f"{share:.1%} of the operators are taken, {chain.least_share:.0%} are wanted"
    told = (f"{wanted}; not: {named}",) if found else ()
    unmet = share < chain.least_share and len(found) > chain.may_leave
    if (precision := read_model(path).precision) not in chain.precisions:
        unmet = True
        told = (f"it takes {' and '.join(chain.precisions)} files, this is {precision}", *told)
    source = f"checked against: {chain.source}, {chain.url}; its own tool is not available here"
    return _Told(
        f"{chain.source}, {chain.date}",
        {"operators": len(operators), "on_npu_share": share},
        broken=told if unmet else (),
        notes=(*(() if unmet else told), source),
    )


def _version(runtime: str) -> str:
    """The runtime with its version here: `vela 5.2.0`."""
    return f"{runtime} {installed_version(runtime) or '(version unknown)'}"
