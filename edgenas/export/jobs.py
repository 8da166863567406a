"""Conversions in bulk: unit models and random networks for profiling, and the TFLite process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas import networks
from edgenas.artifacts import derive_seed, digest, replacing, to_json, write_atomic
from edgenas.errors import EdgenasError, ExportError, ResourceError, nearest
from edgenas.events import Event, Report, silent
from edgenas.export import litert, onnx
from edgenas.export.formats import FORMATS, MIXED
from edgenas.processes import environment
from edgenas.spaces import KEY_VERSION, Lowering, Node, OpSpec

FloatArray = npt.NDArray[np.float32]

JOBS_SCHEMA = "edgenas.tflite-jobs/1"

RECIPE = 2
"""Version of what this package does around the converters; part of every cache name."""

CALIBRATION_RUNS = 8
_TIMEOUT_S = 900.0
_TOOLS = {
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "tflite": ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
}


@dataclass(frozen=True, slots=True)
class TfliteJob:
    """One network to convert. `files` names the float32 file (kept if it is there) and any others.

    `weights`: a safetensors file for `networks.build(lowering, norm=False)`; None stands for random
    weights drawn from `seed`. `calibration` is a .npy file of NHWC images; None for random normal.
    """

    name: str
    lowering: Lowering
    files: Mapping[str, Path]
    weights: Path | None = None
    calibration: Path | None = None
    seed: int = 0
    mixed: Mapping[Path, Sequence[str]] = field(default_factory=dict)
    """Files in mixed precision, each with that of every operator of the float32 file."""
    ranges: Path | None = None
    """Where the ranges for those are kept from job to job."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    input_name: str = ""
    output_name: str = ""

    def to_table(self) -> dict[str, object]:
        """The job as the worker's file holds it."""
        return {
            "name": self.name,
            "lowering": write_lowering(self.lowering),
            "files": {name: str(path) for name, path in self.files.items()},
            "weights": None if self.weights is None else str(self.weights),
            "calibration": None if self.calibration is None else str(self.calibration),
            "seed": self.seed,
            "mixed": {str(path): list(names) for path, names in self.mixed.items()},
            "ranges": None if self.ranges is None else str(self.ranges),
            "form": {
                "metadata": dict(self.metadata),
                "labels": list(self.labels),
                "input_name": self.input_name,
                "output_name": self.output_name,
            },
        }


def convert_units(
    ops: Sequence[OpSpec],
    *,
    format: str,  # noqa: A002  # the domain's word
    folder: Path,
    activations: onnx.Activations = "u8",
    report: Report = silent,
) -> dict[str, Path]:
    """One model file a distinct operator or block, with random weights, by the operator's key.

    The files are cached in `folder` by key, format and tool versions; only missing ones are made.
    TFLite units take NHWC, ONNX units NCHW, so that the operator is timed and not a transposition;
    int8 units take and give integers. `activations` is for ONNX int8: u8 for x86, s8 for ARM.

    Raises:
        ExportError: an unknown format, a missing extra, or an operator that cannot be converted.
    """
    lowerings = {
        op.key: Lowering(op.in_chw, (Node(op, (-1,) * op.n_inputs),)) for op in dict.fromkeys(ops)
    }
    return _convert(
        lowerings, "unit", format=format, folder=folder, activations=activations, report=report
    )


def convert_networks(
    lowerings: Mapping[str, Lowering],
    *,
    format: str,  # noqa: A002
    folder: Path,
    seed: int = 0,
    activations: onnx.Activations = "u8",
    report: Report = silent,
) -> dict[str, Path]:
    """One model file a network, with random weights drawn from `seed`, by the given names.

    Cached like `convert_units`. All take NHWC float images, but int8 TFLite, which takes int8.

    Raises:
        ExportError: an unknown format, a missing extra, or a network that cannot be converted.
    """
    return _convert(
        lowerings,
        "network",
        format=format,
        folder=folder,
        seed=seed,
        activations=activations,
        report=report,
    )


def tool_versions(format: str) -> dict[str, str]:  # noqa: A002
    """Versions of the packages that write `format`; "-" for one that is not installed.

    None for a plug-in's: what writes it is not known here.
    """
    found: dict[str, str] = {}
    if format not in FORMATS and format not in MIXED:
        return found
    for name in _TOOLS[format.split("-")[0]]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "-"
    return found


def calibration_samples(
    lowering: Lowering, *, seed: int, layout: str = "nhwc"
) -> list[tuple[FloatArray, ...]]:
    """Random normal inputs: enough to give every activation of a random network a sane range."""
    rng = np.random.default_rng(derive_seed(seed, "calibration"))
    c, h, w = lowering.in_chw
    shape = (1, h, w, c) if layout == "nhwc" else (1, c, h, w)
    n = lowering.nodes[0].op.n_inputs if len(lowering) == 1 else 1
    return [
        tuple(rng.standard_normal(shape, dtype=np.float32) for _ in range(n))
        for _ in range(CALIBRATION_RUNS)
    ]


def write_lowering(lowering: Lowering) -> dict[str, object]:
    """`lowering` as JSON values; `read_lowering` is the inverse."""
    nodes = [{"key": n.op.key, "inputs": list(n.inputs), "name": n.name} for n in lowering.nodes]
    return {"in_chw": list(lowering.in_chw), "nodes": nodes}


def read_lowering(table: Mapping[str, Any]) -> Lowering:
    """The lowering that `write_lowering` wrote.

    Raises:
        SpecError: an operator key that does not parse, or units that do not fit together.
    """
    c, h, w = table["in_chw"]
    nodes = tuple(
        Node(OpSpec.parse(n["key"]), tuple(n["inputs"]), n["name"]) for n in table["nodes"]
    )
    return Lowering((c, h, w), nodes)


def _convert(
    lowerings: Mapping[str, Lowering],
    what: str,
    *,
    format: str,  # noqa: A002
    folder: Path,
    seed: int = 0,
    activations: onnx.Activations = "u8",
    report: Report,
) -> dict[str, Path]:
    if format not in FORMATS:
        raise ExportError(f"no unit models in format {format!r}; {nearest(format, FORMATS)}")
    family = format.split("-")[0]
    versions = tool_versions(format)

    def path(lowering: Lowering, variant: str) -> Path:
        identity: list[object] = [what, write_lowering(lowering), seed, variant, versions]
        if variant == "onnx-int8":
            identity.append(activations)
        name = f"{what}-{variant}-{digest([RECIPE, KEY_VERSION, *identity])}.{family}"
        return folder / name

    paths = {name: path(lowering, format) for name, lowering in lowerings.items()}
    missing = {n: lowering for n, lowering in lowerings.items() if not paths[n].is_file()}
    stage = f"convert {what}s to {format}"
    if not missing:
        return paths
    report(Event(stage, 0, len(missing)))
    if family == "tflite":
        jobs = [
            TfliteJob(
                name,
                lowering,
                {"tflite": path(lowering, "tflite"), format: paths[name]},
                seed=seed,
                input_name="image" if what == "network" else "",
                output_name="logits" if what == "network" else "",
            )
            for name, lowering in missing.items()
        ]
        if failures := run_tflite(jobs, stage=stage, report=report):
            name, why = next(iter(failures.items()))
            raise ExportError(f"{len(failures)} of {len(jobs)} {what}s failed; {name}: {why}")
        return paths
    for i, (name, lowering) in enumerate(missing.items(), 1):
        with converter_errors(name):
            _convert_onnx(
                lowering,
                paths[name],
                path(lowering, "onnx"),
                unit=what == "unit",
                int8=format == "onnx-int8",
                seed=seed,
                activations=activations,
            )
        report(Event(stage, i, len(missing), name))
    return paths


def _convert_onnx(
    lowering: Lowering,
    path: Path,
    source: Path,
    *,
    unit: bool,
    int8: bool,
    seed: int,
    activations: onnx.Activations,
) -> None:
    if not source.is_file():
        network = networks.random_network(lowering, seed=seed)
        with replacing(source) as temporary:
            if unit:
                onnx.write_unit(network, temporary)
            else:
                onnx.write_network(network, temporary)
    if int8:
        layout = "nchw" if unit else "nhwc"
        samples = calibration_samples(lowering, seed=seed, layout=layout)
        with replacing(path) as temporary:
            onnx.quantize(source, temporary, samples, activations=activations)
            if unit:
                onnx.open_boundaries(temporary)


@contextlib.contextmanager
def converter_errors(name: str) -> Iterator[None]:
    """Turns whatever a converter raises into `ExportError`, but no interrupt."""
    try:
        yield
    except EdgenasError:
        raise
    except Exception as error:  # torch and onnxruntime raise what they like
        if stopped := _interrupt_behind(error):
            raise stopped from None
        raise ExportError(f"{name}: {type(error).__name__}: {error}") from error


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt that `error` came of: raised inside a library that had an error of its own."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if isinstance(one, KeyboardInterrupt):
            return one
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            left += [one.__cause__, one.__context__]
    return None


class Halt:
    """Ends what `run_tflite` does in another thread, once nobody waits for it any longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self.called = False

    def __call__(self) -> None:
        """Kills the process; no other is started."""
        with self._lock:
            self.called = True
            if self._process is not None:
                self._process.kill()

    def watch(self, process: subprocess.Popen[str]) -> None:
        """`process` is the one to kill from now on."""
        with self._lock:
            self._process = process
            if self.called:
                process.kill()


def run_tflite(
    jobs: Sequence[TfliteJob],
    *,
    stage: str = "convert to tflite",
    halt: Halt | None = None,
    report: Report = silent,
) -> dict[str, str]:
    """Runs the jobs in one process; the names of those that failed, and why.

    If the process dies, the job that it was in is tried once more by itself, and the rest go on in
    a new process. Once `halt` is called, what is left is left.

    Raises:
        ExportError: the extra is missing, or the process cannot even start its first job.
        ResourceError: disk or memory do not suffice for a file.
    """
    litert.require_extra()
    left = {job.name: job for job in jobs}
    failures: dict[str, str] = {}
    suspects: set[str] = set()
    halt = halt or Halt()
    while left and not halt.called:
        done = len(jobs) - len(left)
        together = not suspects  # in which of several a process died is not known
        outcome = _run_process(list(left.values()), done, len(jobs), stage, report, together, halt)
        for name in outcome.done:
            del left[name]
        for name, why in outcome.failed.items():
            del left[name]
            failures[name] = why
        if outcome.died_in is not None:
            job = left.pop(outcome.died_in)
            if job.name in suspects:
                failures[job.name] = outcome.why
            else:
                suspects.add(job.name)
                left = left | {job.name: job}  # again, after the others
        elif left and not halt.called:
            raise ExportError(f"the TFLite converter did not start: {outcome.why}")
    return failures


@dataclass(slots=True)
class _Outcome:
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    died_in: str | None = None
    why: str = ""


def _run_process(
    jobs: Sequence[TfliteJob],
    finished: int,
    total: int,
    stage: str,
    report: Report,
    together: bool,  # noqa: FBT001  # passed on, not called by hand
    halt: Halt,
) -> _Outcome:
    outcome = _Outcome()
    with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
        folder = Path(name)
        todo = folder / "jobs.json"
        tables = [job.to_table() for job in jobs]
        table = {"schema": JOBS_SCHEMA, "together": together, "jobs": tables}
        write_atomic(todo, to_json(table))
        argv = [sys.executable, "-m", "edgenas.export.worker", str(todo)]
        with (folder / "log").open("w+b") as log:
            process = subprocess.Popen(  # noqa: S603  # this interpreter, our own module
                argv, stdout=subprocess.PIPE, stderr=log, env=environment(), text=True
            )
            halt.watch(process)
            timer = threading.Timer(_TIMEOUT_S + 60.0 * len(jobs), process.kill)
            timer.start()
            current: str | None = None
            try:
                for line in process.stdout or ():
                    answer = json.loads(line)
                    match answer["state"]:
                        case "started":
                            current = answer["job"]
                            continue
                        case "done":
                            outcome.done.append(answer["job"])
                        case "no room":
                            raise ResourceError(answer["error"], hint=answer["hint"])
                        case _:
                            outcome.failed[answer["job"]] = answer["error"]
                    current = None
                    n = finished + len(outcome.done) + len(outcome.failed)
                    report(Event(stage, n, total, answer["job"]))
                status = process.wait()
            finally:
                timer.cancel()
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdout:
                    process.stdout.close()
            outcome.died_in = current
            if status:
                log.seek(0)
                tail = log.read()[-600:].decode(errors="replace").strip()
                outcome.why = f"{shlex.join(argv[:3])} ended with status {status}: {tail}"
    return outcome
