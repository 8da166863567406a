"""What came of a network's final training (`finishing`): read, told in words, put into a network.

`models/<digest>/weights.json` says what came of it; `weights.safetensors` beside it holds the
weights, BatchNorm folded, unless the inherited ones were kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import problems_of, read_json
from edgenas.errors import ArtifactError
from edgenas.pipeline.config import FinalConfig
from edgenas.pipeline.teaching import teaching

if TYPE_CHECKING:
    from edgenas.networks import Network
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture

SCHEMA = "edgenas.weights/1"
SIDECAR = "weights.json"
WEIGHTS = "weights.safetensors"

Verdict = Literal[
    "kept inherited",
    "tuned",
    "averaged, 0.75 tuned",
    "averaged, 0.5 tuned",
    "averaged, 0.25 tuned",
    "tuned, quantisation-aware",
]


@dataclass(frozen=True, slots=True)
class FinalWeights:
    """What came of a network's final training. Accuracies are of the search split."""

    architecture: str
    verdict: Verdict
    n: int
    """Images of the search split."""
    top1: Mapping[str, float]
    """By weights: `inherited` and, of what a verdict can say, those that there were."""
    top1_int8: Mapping[str, float]
    """The same in int8, simulated; empty where no file is written in it."""
    won: int
    """Images that the weights that were kept name rightly and the inherited ones do not."""
    lost: int
    """Images of which the reverse is true."""
    epochs: float
    """Passes over the training split, of all of the network's trainings."""
    seconds: float
    settings: Mapping[str, Any]
    """Of the run file's `[final]`, and the seed."""
    parents: Mapping[str, str]
    sha256: str | None
    """Of `weights.safetensors`; None where the inherited weights were kept."""
    diverged: bool = False
    """Whether a training came to nothing, since its loss became NaN."""

    @property
    def digest(self) -> str | None:
        """The name of the weights in other files."""
        return None if self.sha256 is None else self.sha256[:12]

    @property
    def told(self) -> str:
        """One sentence for certificate and report."""
        return "; ".join([self._came_of_it, *self._problems])

    @property
    def _came_of_it(self) -> str:
        from edgenas.export.verify import paired_interval

        if self.sha256 is None and not self.epochs:
            why = "it diverged" if self.diverged else "no time was left for it"
            return f"inherited weights were kept without final training: {why}"
        if self.sha256 is None:
            last = max(self.top1.keys() - {"inherited"})
            return (
                f"inherited weights were kept: {self.epochs:.3g} epochs of final training gave "
                f"{self._gain(last)} on the {self.n} images of the search split"
            )
        how = self.verdict.removeprefix("tuned").removeprefix(", ")
        how = f"fine-tuned ({how})" if how else "fine-tuned"
        low, high = paired_interval(self.won, self.lost, self.n)
        return (
            f"{how}: {self._gain(self.verdict)} over the inherited weights on the search split, "
            f"{self.won} images won and {self.lost} lost of {self.n} (95 % interval "
            f"{100 * low:+.2f} to {100 * high:+.2f}), {self.epochs:.3g} epochs"
        )

    @property
    def _problems(self) -> Iterator[str]:
        if self.diverged:
            yield "a training diverged: lower final.peak_lr"
        if self.top1_int8:
            name = "inherited" if self.sha256 is None else self.verdict
            drop, most = self.top1[name] - self.top1_int8[name], self.settings["max_int8_drop"]
            if drop > most:
                yield (
                    f"in simulated int8 it still loses {_points(drop).lstrip('+')}, more than "
                    f"final.max_int8_drop = {most:g}"
                )

    def _gain(self, name: str) -> str:
        text = _points(self.top1[name] - self.top1["inherited"])
        if self.top1_int8:
            gain = self.top1_int8[name] - self.top1_int8["inherited"]
            text += f" ({_points(gain)} in simulated int8)"
        return text


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    schema_: Literal["edgenas.weights/1"] = Field(alias="schema")
    architecture: str
    verdict: Verdict
    n: int = Field(gt=0)
    top1: dict[str, float]
    top1_int8: dict[str, float]
    won: int = Field(ge=0)
    lost: int = Field(ge=0)
    epochs: float = Field(ge=0)
    seconds: float = Field(ge=0)
    settings: dict[str, Any]
    parents: dict[str, str]
    sha256: str | None = Field(pattern="^[0-9a-f]{64}$")
    diverged: bool = False


def final_weights(run: Opened, arch: Architecture) -> FinalWeights | None:
    """What came of the network's final training; None where the run, as it is now, had none.

    Raises:
        ArtifactError: its file is damaged.
    """
    path = folder_of(run, arch) / SIDECAR
    if run.config.final is None or not path.is_file():
        return None
    try:
        file = _File.model_validate(read_json(path, schema=SCHEMA))
    except ValidationError as error:
        raise ArtifactError(f"{path}: {problems_of(error)}") from error
    found = FinalWeights(**file.model_dump(exclude={"schema_"}))
    kept = found.verdict == "kept inherited"
    trained = found.top1.keys() - {"inherited"}
    known = {"inherited", found.verdict} - {"kept inherited"} <= found.top1.keys()
    if not known or (found.sha256 is None) != kept or (found.epochs and not trained):
        raise ArtifactError(f"{path}: the verdict {found.verdict!r} contradicts the rest")
    if found.top1_int8 and found.top1_int8.keys() != found.top1.keys():
        raise ArtifactError(
            f"{path}: top1_int8 is of {', '.join(found.top1_int8)}, top1 of {', '.join(found.top1)}"
        )
    settings = settings_of(run, run.config.final)
    if run.config.final.teacher is not None and not Path(run.config.final.teacher).exists():
        settings["teacher"] = found.settings.get("teacher")  # needed to train, not to go on
    then = {**asdict(FinalConfig()), "float": True, **found.settings}  # as before these were known
    asked = (str(arch), settings, run.rests_on)
    return found if (found.architecture, then, found.parents) == asked else None


def final_network(run: Opened, arch: Architecture) -> Network | None:
    """The network with its final weights, on the CPU; None where it has inherited ones.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    from edgenas.networks import build
    from edgenas.supernet import load_weights

    found = final_weights(run, arch)
    if found is None or found.sha256 is None:
        return None
    network = build(run.supernet.space.lower(arch), norm=False)
    return load_weights(folder_of(run, arch) / WEIGHTS, network, sha256=found.sha256)


def folder_of(run: Opened, arch: Architecture) -> Path:
    """Where the network's files lie."""
    return run.folder / "models" / arch.digest


def settings_of(run: Opened, settings: FinalConfig) -> dict[str, Any]:
    """What other weights would come of; the teacher by its digest, wherever its file lies."""
    teacher = None
    if settings.teacher is not None and Path(settings.teacher).exists():
        teacher = teaching(settings.teacher, run.data)[1].digest
    return {
        **asdict(settings),
        "teacher": teacher,
        "seed": run.config.seed,
        "recalibration_images": run.config.search.recalibration_images,
        "int8": writes_int8(run),
        "float": writes_float(run),
    }


def writes_int8(run: Opened) -> bool:
    """Whether some of the run's files are in int8 throughout."""
    return any(name.endswith("int8") for name in run.config.export.formats)


def writes_float(run: Opened) -> bool:
    """Whether some are not."""
    return not all(name.endswith("int8") for name in run.config.export.formats)


def _points(share: float) -> str:
    return f"{100 * share:+.2f} points"
