"""Evidence that an exported file is the network it was made from, gathered in its real runtime."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgenas.errors import SpecError, VerificationError
from edgenas.events import Event, Report, silent
from edgenas.export import onnx, tflite
from edgenas.export.formats import Precision
from edgenas.export.runners import FloatArray, Runner, open_model
from edgenas.export.units import UNIT_PRECISIONS, MixedUnit, differing

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MIN_IMAGES = 500
"""With fewer, no gate on accuracy or agreement is ever *passed*."""

MIN_AGREEMENT = 0.999
"""Share of images on which a float file gives the network's class."""

MAX_TOP1_DROP = 0.01

MAX_SCALE_ERROR = 0.03
"""How far from 1 the logit scale of an int8 file may lie.

Four networks of the shipped supernet: 0.999 to 1.000 as exported, 0.925 to 0.944 where ranges were
moving averages of what calibration saw, though top-1 fell by 0.003 at most.
"""

ROUNDING = 0.01
"""Share of the images on which one file may answer otherwise on another machine."""

Z95 = NormalDist().inv_cdf(0.975)
"""Two-sided 95 % point of the normal distribution."""

Verdict = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True, slots=True)
class ClassEvidence:
    """A file on the `n` images of one class: top-1 among them, and by how much less than torch's.

    Both are None where there is no such image.
    """

    n: int
    top1: float | None
    top1_drop: float | None


@dataclass(frozen=True, slots=True)
class Verification:
    """An exported file against the network in torch, on the same images.

    `top1_drop` is the network's top-1 minus the file's; `drop_low` to `drop_high` is its paired
    95 % interval (adjusted Wald, Bonett and Price 2012, Br J Math Stat Psychol 65:416). Differences
    are between logits. `logit_scale` is what the network's logits are to be multiplied by to come
    closest to the file's: below 1 where large values are cut off.
    """

    n: int
    top1: float
    reference_top1: float
    top1_drop: float
    drop_low: float
    drop_high: float
    agreement: float
    n_disagree: int
    max_abs_difference: float
    mean_abs_difference: float
    logit_rms: float
    logit_scale: float
    split: str = "test"
    classes: tuple[ClassEvidence, ...] = ()
    """In the order of the logits."""

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.4f}, drop {self.top1_drop:+.4f} "
            f"[{self.drop_low:+.4f}, {self.drop_high:+.4f}], "
            f"{self.n_disagree} of {self.n} images disagree, "
            f"largest difference {self.max_abs_difference:.2g}"
        )


@dataclass(frozen=True, slots=True)
class Gate:
    """One demand on an exported file, and whether the evidence meets it."""

    name: str
    verdict: Verdict
    reason: str


ON_DEVICE = "device"
"""The gate that a device was itself: it refused the file, and is asked again when in reach."""


def verify_model(
    path: Path,
    *,
    images: FloatArray,
    labels: IntArray,
    reference_logits: FloatArray,
    split: str = "test",
    threads: int = 1,
    report: Report = silent,
) -> Verification:
    """Runs the file over normalised (n, h, w, c) `images` and compares with torch's logits.

    Raises:
        SpecError: no images, numbers that do not fit together, a file that cannot be read.
        VerificationError: the file gives a NaN or an infinity.
    """
    if not len(images) == len(labels) == len(reference_logits) or not len(images):
        raise SpecError(
            f"{path}: {len(images)} images, {len(labels)} labels, "
            f"{len(reference_logits)} reference answers"
        )
    logits = run_model(path, images, threads=threads, report=report)
    return compare(
        logits, reference_logits=reference_logits, labels=labels, split=split, name=str(path)
    )


def compare(
    logits: FloatArray,
    *,
    reference_logits: FloatArray,
    labels: IntArray,
    split: str = "test",
    name: str = "the file",
) -> Verification:
    """The evidence in two sets of (n, classes) logits.

    Raises:
        VerificationError: another number of classes; a NaN or an infinity.
    """
    _check_answers(logits, reference_logits.shape, name)
    answers, reference = logits.argmax(1), reference_logits.argmax(1)
    right, reference_right = answers == labels, reference == labels
    n = len(labels)
    lost = int((reference_right & ~right).sum())
    won = int((right & ~reference_right).sum())
    low, high = paired_interval(lost, won, n)
    n_disagree = int((answers != reference).sum())
    difference = np.abs(logits - reference_logits)
    exact = reference_logits.astype(np.float64)
    power = float(np.mean(np.square(exact)))
    return Verification(
        n=n,
        top1=float(right.mean()),
        reference_top1=float(reference_right.mean()),
        top1_drop=(lost - won) / n,
        drop_low=low,
        drop_high=high,
        agreement=1 - n_disagree / n,
        n_disagree=n_disagree,
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        logit_rms=math.sqrt(power),
        logit_scale=float(np.mean(logits * exact)) / power if power else 1.0,
        split=split,
        classes=tuple(
            _of_class(right[labels == i], reference_right[labels == i])
            for i in range(logits.shape[1])
        ),
    )


def right_of(logits: FloatArray, labels: IntArray, *, n_classes: int, name: str) -> BoolArray:
    """For each image whether the (n, classes) logits name its class.

    Raises:
        VerificationError: another number of classes; a NaN or an infinity.
    """
    _check_answers(logits, (len(labels), n_classes), name)
    right: BoolArray = logits.argmax(1) == labels
    return right


def answered_again(recorded: Verification, right: BoolArray, labels: IntArray) -> Verification:
    """The evidence with the file's answers of now, on images of which it was `right` on these.

    The network's answers are those of then, and so is how wide the drop's interval is.
    """
    top1 = float(right.mean())
    off = recorded.top1 - top1
    return replace(
        recorded,
        n=len(right),
        top1=top1,
        top1_drop=recorded.reference_top1 - top1,
        drop_low=recorded.drop_low + off,
        drop_high=recorded.drop_high + off,
        classes=tuple(
            _class_again(found, right[labels == i]) for i, found in enumerate(recorded.classes)
        ),
    )


def _class_again(recorded: ClassEvidence, right: BoolArray) -> ClassEvidence:
    if not len(right) or recorded.top1 is None or recorded.top1_drop is None:
        return ClassEvidence(len(right), None, None)
    top1 = float(right.mean())
    return ClassEvidence(len(right), top1, recorded.top1 + recorded.top1_drop - top1)


def _check_answers(logits: FloatArray, wanted: tuple[int, ...], name: str) -> None:
    if logits.shape != wanted:
        raise VerificationError(
            f"{name} answers {logits.shape[0]} images in {logits.shape[-1]} classes, the network "
            f"{wanted[0]} in {wanted[-1]}: it is another network's"
        )
    if not np.isfinite(logits).all():
        raise VerificationError(f"{name} answers with NaN or infinity")


def _of_class(right: BoolArray, reference_right: BoolArray) -> ClassEvidence:
    if not len(right):
        return ClassEvidence(0, None, None)
    top1 = float(right.mean())
    return ClassEvidence(len(right), top1, float(reference_right.mean()) - top1)


def gates(
    path: Path,
    evidence: Verification,
    *,
    precision: Precision,
    max_top1_drop: float = MAX_TOP1_DROP,
    units: Sequence[MixedUnit] = (),
) -> tuple[Gate, ...]:
    """Every demand on a file of this precision; `units` are those of one in mixed precision.

    A gate on numbers fails when the 95 % interval lies beyond the limit. It passes when the figure
    itself meets the limit on at least `MIN_IMAGES` images; else it is inconclusive.
    """
    found = [drop_gate(evidence, max_top1_drop=max_top1_drop)]
    if precision == "int8":
        found += [integer_gate(path), scale_gate(evidence)]
    elif precision == "mixed":
        found.append(units_gate(path, units))
    else:
        found.append(agreement_gate(evidence))
    return tuple(found)


def drop_gate(evidence: Verification, *, max_top1_drop: float) -> Gate:
    """Whether the file loses at most `max_top1_drop` of top-1."""
    e = evidence
    facts = (
        f"drop {e.top1_drop:+.4f}, 95 % interval [{e.drop_low:+.4f}, {e.drop_high:+.4f}], "
        f"limit {max_top1_drop:g}, n = {e.n}"
    )
    verdict = judged(met=e.top1_drop <= max_top1_drop, excluded=e.drop_low > max_top1_drop, n=e.n)
    return Gate("top1_drop", verdict, facts)


def agreement_gate(evidence: Verification, *, minimum: float = MIN_AGREEMENT) -> Gate:
    """Whether a float file gives the network's own class; the interval is Wilson's."""
    e = evidence
    low, high = wilson(e.n - e.n_disagree, e.n)
    facts = (
        f"{e.n_disagree} of {e.n} images disagree: agreement {e.agreement:.4f}, "
        f"95 % interval [{low:.4f}, {high:.4f}], limit {minimum:g}"
    )
    verdict = judged(met=e.agreement >= minimum, excluded=high < minimum, n=e.n)
    return Gate("agreement", verdict, facts)


def scale_gate(evidence: Verification) -> Gate:
    """Whether an int8 file's ranges hold the network's values, which top-1 alone may not show."""
    e = evidence
    facts = f"logits are {e.logit_scale:.4f} times the network's, limit 1 +- {MAX_SCALE_ERROR:g}"
    met = abs(e.logit_scale - 1) <= MAX_SCALE_ERROR
    return Gate("scale", judged(met=met, excluded=not met, n=e.n), facts)


def integer_gate(path: Path) -> Gate:
    """Whether an int8 file computes in integers, as `check_int8` asks it of its kind."""
    try:
        check_int8(path)
    except VerificationError as error:
        return Gate("int8", "failed", str(error))
    kinds = operators(path)
    if path.suffix == ".tflite":
        return Gate("int8", "passed", f"{len(kinds)} operators, all in integers")
    heavy = sum(name in onnx.WEIGHTED for name, _ in kinds)
    told = f"{heavy} convolutions and matrix products, all in integers"
    return Gate("int8", "passed", f"{told}; {len(kinds)} operators")


def same_gate(recorded: Verification, evidence: Verification) -> Gate:
    """Whether a file answers on the same images as its certificate says it did."""
    off = abs(recorded.top1 - evidence.top1)
    facts = f"top-1 {evidence.top1:.4f}, {recorded.top1:.4f} by its certificate, limit {ROUNDING:g}"
    met = recorded.n == evidence.n and off <= ROUNDING
    if recorded.n != evidence.n:
        facts += f"; {evidence.n} images, {recorded.n} by its certificate"
    pairs = list(zip(recorded.classes, evidence.classes, strict=False))
    if other := [i for i, (then, now) in enumerate(pairs) if then.n != now.n]:
        met = False
        facts += f"; other numbers of images in the classes {other[:5]} than by its certificate"
    moved = sum(abs(then.n * (then.top1 or 0) - now.n * (now.top1 or 0)) for then, now in pairs)
    if moved > ROUNDING * evidence.n:
        met = False
        facts += f"; class by class it answers otherwise on at least {moved:.0f} images"
    return Gate("same", "passed" if met else "failed", facts)


def units_gate(path: Path, units: Sequence[MixedUnit]) -> Gate:
    """Whether a file in mixed precision computes each unit in the one that is stated for it."""
    if differ := differing(path, units):
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        return Gate("units", "failed", "; ".join(differ[:5]) + more)
    counts = Counter(unit.precision for unit in units)
    told = ", ".join(f"{counts[name]} in {name}" for name in UNIT_PRECISIONS if counts[name])
    return Gate("units", "passed", f"{len(units)} units as stated: {told}")


def check_int8(path: Path) -> None:
    """Checks that the file computes in integers.

    TFLite: no tensor is FLOAT32 or FLOAT16, and input and output are INT8. ONNX: every convolution
    and matrix product takes quantised inputs and weights (its input and output stay float).

    Raises:
        VerificationError: naming what is not.
    """
    if path.suffix == ".tflite":
        floats = [name for name, kind in tflite.tensor_types(path).items() if "FLOAT" in kind]
        if floats:
            named = ", ".join(floats[:5])
            raise VerificationError(f"{path.name}: {len(floats)} float tensors ({named})")
        ports = tflite.port_types(path)
        if set(ports) != {"INT8"}:
            raise VerificationError(f"{path.name}: inputs and outputs are {', '.join(ports)}")
        return
    heavy = [(name, kind) for name, kind in operators(path) if name in onnx.WEIGHTED]
    floats = [name for name, kind in heavy if kind != "INT8"]
    if floats or not heavy:
        raise VerificationError(
            f"{path.name}: {len(floats)} of {len(heavy)} convolutions and matrix products "
            f"are computed in float"
        )


def operators(path: Path) -> list[tuple[str, str]]:
    """Each operator of an ONNX or TFLite file with the type that it computes in."""
    return tflite.operators(path) if path.suffix == ".tflite" else onnx.operators(path)


def run_model(
    path: Path, images: FloatArray, *, threads: int = 1, report: Report = silent
) -> FloatArray:
    """The file's logits (n, classes) for normalised (n, h, w, c) `images`, in its runtime.

    Raises:
        SpecError: a file that cannot be read, or not be run.
    """
    return run_opened(open_model(path, threads=threads), images, name=path.name, report=report)


def run_opened(
    runner: Runner, images: FloatArray, *, name: str, report: Report = silent
) -> FloatArray:
    """The logits (n, classes) of an opened file for normalised (n, h, w, c) `images`.

    Raises:
        SpecError: a file that cannot be run.
    """
    stage, step = f"verify {name}", 250
    rows = []
    for start in range(0, len(images), step):
        report(Event(stage, start, len(images)))
        rows.append(runner.run(images[start : start + step]))
    report(Event(stage, len(images), len(images)))
    return np.concatenate(rows)


def judged(*, met: bool, excluded: bool, n: int) -> Verdict:
    """Failed where the interval excludes the limit, passed where the figure meets it on enough."""
    if excluded:
        return "failed"
    return "passed" if met and n >= MIN_IMAGES else "inconclusive"


def paired_interval(lost: int, won: int, n: int) -> tuple[float, float]:
    """The 95 % interval of (lost - won) / n, of n pairs.

    Adjusted Wald: Bonett and Price 2012, Br J Math Stat Psychol 65:416.
    """
    p, q = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return max(-1.0, p - q - half), min(1.0, p - q + half)


def wilson(k: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of k in n (Wilson 1927, J Am Stat Assoc 22:209)."""
    centre = (k + Z95**2 / 2) / (n + Z95**2)
    half = Z95 / (n + Z95**2) * math.sqrt(k * (n - k) / n + Z95**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def worst(found: Sequence[Gate]) -> Verdict:
    """The verdict over several gates: failed before inconclusive before passed."""
    for verdict in ("failed", "inconclusive"):
        if any(gate.verdict == verdict for gate in found):
            return verdict
    return "passed"
