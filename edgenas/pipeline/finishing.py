"""The stage between choosing and exporting: chosen networks trained further, kept where better.

Each learns from the labels and from a teacher, the largest network of the run's supernet or of
another, starting with the weights that it inherits; where int8 would lose too much, once more with
int8 simulated. The search split judges the new weights, and averages of them and the inherited
ones: what is kept names no fewer of its images rightly than the inherited weights do, in float and
in int8, as far as files are written in them. What came of it: `final_weights`.
"""

from __future__ import annotations

import copy
import functools
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from edgenas.artifacts import derive_seed, digest, read_json, write_json
from edgenas.errors import ArtifactError, DivergedError, SpecError
from edgenas.events import Event, Report, silent
from edgenas.pipeline.config import FinalConfig
from edgenas.pipeline.evaluating import evaluator
from edgenas.pipeline.final_weights import (
    SCHEMA,
    SIDECAR,
    WEIGHTS,
    FinalWeights,
    Verdict,
    final_network,
    final_weights,
    folder_of,
    settings_of,
    writes_float,
    writes_int8,
)
from edgenas.pipeline.teaching import teaching
from edgenas.pipeline.training import seconds_a_step

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgenas.evaluation import SupernetEvaluator
    from edgenas.networks import Network
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture
    from edgenas.supernet import Recipe, Teacher

FINAL = ".final"
"""Folder in a run for final trainings under way, so that a stopped one goes on."""
_PLAN_SCHEMA = "edgenas.final-plan/2"

AVERAGES: Mapping[Verdict, float] = MappingProxyType(
    {"averaged, 0.75 tuned": 0.75, "averaged, 0.5 tuned": 0.5, "averaged, 0.25 tuned": 0.25}
)
"""Averages of tuned and inherited weights that are judged as well: the share of the tuned ones."""


def finish(
    run: Opened, archs: Sequence[Architecture], *, report: Report = silent
) -> tuple[str, ...]:
    """Trains the networks of these architectures further, if the run file has `[final]`.

    A network that was finished before, from the same supernet by the same settings, is not trained
    again; a training that was stopped goes on. Returns a note for each network.

    Raises:
        SpecError: there is no such teacher.
        ResourceError: disk or memory do not suffice.
        Interrupted: stopped; calling this again goes on.
    """
    if run.config.final is None:
        return ()
    stage = FinalTraining(run, run.config.final)
    left_s = math.inf if stage.settings.minutes is None else 60 * stage.settings.minutes
    notes = []
    for k, arch in enumerate(archs):
        found = earlier_weights(run, arch, report)
        if found is None:
            found = stage.finish(arch, later=archs[k + 1 :], left_s=left_s, report=report)
        left_s -= found.seconds
        report(Event("final", message=f"{arch.digest}: {found.told}"))
        notes.append(f"{arch.digest}: {found.told}")
    shutil.rmtree(run.folder / FINAL, ignore_errors=True)
    return tuple(notes)


def earlier_weights(run: Opened, arch: Architecture, report: Report) -> FinalWeights | None:
    """What came of an earlier training, if it is whole."""
    try:
        final_network(run, arch)
        return final_weights(run, arch)
    except ArtifactError as error:
        report(Event("final", message=f"trained again: {error}"))
        return None


@dataclass(frozen=True)
class _Weights:
    """A network with some weights, and which images of the search split it names rightly."""

    name: str
    network: Network
    right: npt.NDArray[np.bool_]
    right_int8: npt.NDArray[np.bool_] | None
    float_counts: bool = True
    """Whether files are written in float; those in int8 count where they are judged."""

    @property
    def n_right(self) -> tuple[int, ...]:
        """How many images, in each precision that counts."""
        counted = (self.right if self.float_counts else None, self.right_int8)
        return tuple(int(right.sum()) for right in counted if right is not None)

    @property
    def int8_drop(self) -> float:
        """Top-1 that int8 loses; 0 where it does not count."""
        if self.right_int8 is None:
            return 0.0
        return float(self.right.mean() - self.right_int8.mean())


@dataclass(frozen=True)
class FinalTraining:
    """Final training in one run; its networks share what their teacher has said."""

    run: Opened
    settings: FinalConfig

    @functools.cached_property
    def evaluate(self) -> SupernetEvaluator:
        """Of the run's supernet."""
        return evaluator(self.run.supernet, self.run.data, self.run.config).inner

    def finish(
        self,
        arch: Architecture,
        *,
        later: Sequence[Architecture] = (),
        left_s: float = math.inf,
        report: Report = silent,
    ) -> FinalWeights:
        """Trains, judges and writes one network, with `later` ones to share `left_s` with.

        Raises:
            SpecError, ResourceError, Interrupted: see the function `finish`.
        """
        from edgenas.networks import averaged, fold
        from edgenas.supernet import save_weights

        inherited = self._judged("inherited", self.evaluate.network(arch))
        tried, best = [inherited], inherited
        seconds, epochs, diverged = 0.0, 0.0, False
        more = self._jobs_each * len(later)

        def train(module: Any, precision: Literal["float", "int8"], share_s: float) -> bool:
            """Whether anything came of it."""
            nonlocal seconds, epochs, diverged
            try:
                done = self._train(module, arch, precision, share_s, later, report)
            except DivergedError:
                diverged = True
                return False
            if done is not None:
                seconds, epochs = seconds + done.seconds, epochs + done.epochs
            return done is not None

        tuned = copy.deepcopy(inherited.network)
        if train(tuned, "float", left_s / (more + self._jobs_each)):
            network = self.evaluate.recalibrated(tuned)
            tried.append(self._judged("tuned", network))
            for name, share in AVERAGES.items():
                between = self.evaluate.recalibrated(averaged(inherited.network, tuned, share))
                tried.append(self._judged(name, between))
            for new in tried[1:]:
                best = _better(new, best, inherited)

        if self._quantises(best):
            int8 = self.evaluate.quantised(best.network)
            if train(int8, "int8", (left_s - seconds) / (more + 1)):
                tried.append(self._judged("tuned, quantisation-aware", int8.network))
                best = _better(tried[-1], best, inherited)

        folder = folder_of(self.run, arch)
        kept = best is inherited
        found = FinalWeights(
            architecture=str(arch),
            verdict="kept inherited" if kept else best.name,  # type: ignore[arg-type]
            n=len(inherited.right),
            top1={w.name: float(w.right.mean()) for w in tried},
            top1_int8={
                w.name: float(w.right_int8.mean()) for w in tried if w.right_int8 is not None
            },
            won=int((best.right & ~inherited.right).sum()),
            lost=int((inherited.right & ~best.right).sum()),
            epochs=round(epochs, 4),
            seconds=round(seconds, 1),
            settings=settings_of(self.run, self.settings),
            parents=self.run.rests_on,
            sha256=None if kept else save_weights(folder / WEIGHTS, fold(best.network)),
            diverged=diverged,
        )
        write_json(folder / SIDECAR, {"schema": SCHEMA, **asdict(found)})
        if kept:
            (folder / WEIGHTS).unlink(missing_ok=True)
        shutil.rmtree(self.run.folder / FINAL / arch.digest, ignore_errors=True)
        return found

    @property
    def _jobs_each(self) -> int:
        """The most trainings that a network can have."""
        return 2 if writes_int8(self.run) and self.settings.quantisation_aware != "never" else 1

    def _quantises(self, weights: _Weights) -> bool:
        match self.settings.quantisation_aware:
            case "never":
                return False
            case "always":
                return writes_int8(self.run)
            case "where needed":
                return weights.int8_drop > self.settings.max_int8_drop

    def _judged(self, name: str, network: Network) -> _Weights:
        images = self.run.data.search
        labels = images.labels.numpy()
        logits = self.evaluate.logits(network, images)
        right = logits.numpy().argmax(1) == labels
        if not writes_int8(self.run):
            return _Weights(name, network, right, None)
        logits = self.evaluate.logits_int8(network, images)
        int8 = logits.numpy().argmax(1) == labels
        return _Weights(name, network, right, int8, float_counts=writes_float(self.run))

    @functools.cached_property
    def _teacher(self) -> Teacher:
        from edgenas.data import device
        from edgenas.supernet import Teacher

        if self.settings.teacher is None:
            return Teacher(self.evaluate.network(self.run.supernet.space.largest()))
        supernet, _ = teaching(self.settings.teacher, self.run.data)
        supernet = supernet.to(device(self.run.config.train.device))
        evaluate = evaluator(supernet, self.run.data, self.run.config).inner
        return Teacher(evaluate.network(supernet.space.largest()))

    @functools.cached_property
    def _recipe(self) -> Recipe:
        """As the supernet was trained, but for what `[final]` says."""
        from edgenas.supernet import Recipe

        settings = self.settings
        trained = Recipe.from_table(self.run.info.recipe)
        return replace(
            trained,
            epochs=settings.epochs,
            batch=settings.batch,
            peak_lr=settings.peak_lr,
            augmentation=settings.augmentation or trained.augmentation,
            mirror=trained.mirror and self.run.data.mirror,
            accumulate=1,
        )

    def _train(
        self,
        module: Any,
        arch: Architecture,
        precision: Literal["float", "int8"],
        share_s: float,
        later: Sequence[Architecture],
        report: Report,
    ) -> _Done | None:
        """Trains `module` for `share_s` seconds at most; None where that is too short for a step.

        How many steps is decided once, by timing some, and kept: a training that was killed and
        resumed ends as an undisturbed one.
        """
        from edgenas.supernet import tune

        recipe, data = self._recipe, self.run.data
        if precision == "int8":
            recipe = replace(recipe, peak_lr=recipe.peak_lr / 10)
        steps_per_epoch = len(data.train) // recipe.batch
        folder = self.run.folder / FINAL / arch.digest / precision

        def train(
            module: Any,
            folder: Path,
            recipe: Recipe,
            n_steps: int,
            *,
            drawn: tuple[str, ...] = ("final",),
            stop_after: int | None = None,
            report: Report = silent,
        ) -> float:
            return tune(
                module,
                data,
                recipe,
                resolution=self.run.supernet.space.resolution(arch),
                teacher=self._teacher,
                distil=self.settings.distil,
                n_steps=n_steps,
                folder=folder,
                seed=derive_seed(self.run.config.seed, *drawn),
                stop_after_steps=stop_after,
                report=report,
            )

        plan = self._read_plan(folder)
        if plan is None:
            with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
                trial, loose = copy.deepcopy(module), replace(recipe, checkpoint_every=10**9)
                # images of its own: what the teacher has said before would take no time
                drawn = ("final trial", arch.digest, precision)
                step_s = seconds_a_step(
                    lambda n: train(
                        trial, Path(name), loose, steps_per_epoch, drawn=drawn, stop_after=n
                    )
                )
            n = recipe.n_steps(len(data.train))
            plan = _Plan(n if math.isinf(share_s) else min(n, int(share_s / step_s)), step_s)
            self._write_plan(folder, plan)
        if plan.n_steps < 1:
            return None
        epochs, own_s = plan.n_steps / steps_per_epoch, plan.n_steps * plan.step_s
        aware = ", quantisation-aware" if precision == "int8" else ""
        message = (
            f"{arch.digest}{aware}: {plan.n_steps} steps, {epochs:.3g} epochs, about "
            f"{own_s / 60:.1f} minutes; {len(later)} more networks"
        )
        report(Event("estimate", 1, 1, message))

        lower = self.run.supernet.space.lower
        later_s = own_s * sum(lower(a).macs for a in later) / lower(arch).macs

        def told(event: Event) -> None:
            """The event with the time of later networks, too: by their MACs."""
            if event.remaining_s is not None:
                left_s = min(event.remaining_s + later_s, self._budget_s)
                event = replace(event, remaining_s=left_s)
            report(event)

        return _Done(train(module, folder, recipe, plan.n_steps, report=told), epochs)

    @property
    def _budget_s(self) -> float:
        return math.inf if self.settings.minutes is None else 60 * self.settings.minutes

    def _read_plan(self, folder: Path) -> _Plan | None:
        """How a training that was begun goes on; what was begun by other settings is deleted."""
        path = folder / "plan.json"
        try:
            state = read_json(path, schema=_PLAN_SCHEMA)
            if state["for"] == self._digest:
                return _Plan(int(state["steps"]), float(state["step_s"]))
        except (ArtifactError, SpecError, KeyError, TypeError, ValueError):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        return None

    def _write_plan(self, folder: Path, plan: _Plan) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {"for": self._digest, "steps": plan.n_steps, "step_s": plan.step_s}
        write_json(folder / "plan.json", {"schema": _PLAN_SCHEMA, **state})

    @property
    def _digest(self) -> str:
        return digest([settings_of(self.run, self.settings), self.run.rests_on])


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many steps a training makes, and how long each takes."""

    n_steps: int
    step_s: float


@dataclass(frozen=True, slots=True)
class _Done:
    """What a training took."""

    seconds: float
    epochs: float


def _better(new: _Weights, best: _Weights, inherited: _Weights) -> _Weights:
    """`new` where it names more images rightly than `best`, and no fewer than `inherited`."""
    no_worse = all(a >= b for a, b in zip(new.n_right, inherited.n_right, strict=True))
    return new if no_worse and sum(new.n_right) > sum(best.n_right) else best
