"""Baselines trained alone: by the supernet's recipe, for as many images as edgenas's networks see.

A training that was stopped goes on. A finished one is exported and verified, and is a file in the
folder of results, with all that is asked of it later: what its files answer, and their sizes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgenas.artifacts import derive_seed, digest, write_json
from edgenas.data import DataSet
from edgenas.evaluation import SupernetEvaluator, top1
from edgenas.events import Report, silent
from edgenas.export.jobs import write_lowering
from edgenas.networks import Network, build, fold
from edgenas.supernet import Recipe, save_weights
from edgenas.supernet.training import Training
from tools.comparison.alone import Alone
from tools.comparison.baselines import Baseline
from tools.comparison.entrants import Finished, Trained, told_of
from tools.comparison.results import kept

SCHEMA = "edgenas.bench-frontier-training/2"
LEARNING_RATES = (0.1, 0.25)
"""Peaks that each baseline is trained with; the search split says which one counts."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    network: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.network}-lr{self.lr:g}-seed{self.seed}"


@dataclass(frozen=True)
class Trainer:
    """What all trainings have in common. `recipe.epochs` is of each; its `peak_lr` is the job's."""

    networks: Mapping[str, Baseline]
    data: DataSet
    recipe: Recipe
    evaluate: SupernetEvaluator
    """Recalibrates BatchNorm and scores, as it does for the supernet's networks."""
    work: Path
    results: Path
    about: Mapping[str, object]
    """What every result names: versions, machine."""
    formats: tuple[str, ...]
    """Of the files whose answers are kept."""
    seed: int
    """Of the images that calibrate int8 files."""

    def jobs(self, name: str) -> list[Job]:
        """The network's trainings: all rates, then further seeds with the better one.

        Which one that is is known only when the first are finished: until then, the first rate.
        """
        first = [Job(name, lr, 0) for lr in LEARNING_RATES]
        best = self.better(name) or first[0]
        return first + [replace(best, seed=k) for k in range(1, self.networks[name].n_seeds)]

    @property
    def all_jobs(self) -> list[Job]:
        """Of all networks."""
        return [job for name in self.networks for job in self.jobs(name)]

    def better(self, name: str) -> Job | None:
        """The job with the better rate on the search split; None until all rates are trained."""
        found = {job: self.result(job) for job in (Job(name, lr, 0) for lr in LEARNING_RATES)}
        known = {job: result["top1"]["search"] for job, result in found.items() if result}
        return max(known, key=lambda job: known[job]) if len(known) == len(found) else None

    def result(self, job: Job) -> dict[str, Any] | None:
        """The job's finished training; None where there is none.

        Raises:
            UsageError: there is one by other settings.
        """
        return kept(self._result_path(job), schema=SCHEMA, settings=self._settings(job))

    def finished(self, job: Job) -> Finished:
        """A job whose result is there."""
        result, baseline = self.result(job), self.networks[job.network]
        assert result is not None  # noqa: S101  # asked for before
        return Finished(job.network, baseline.family, baseline.lowering, result)

    def train(
        self, job: Job, *, stop_after_steps: int | None = None, report: Report = silent
    ) -> dict[str, Any] | None:
        """The job's result, trained now unless it is there; None where it was stopped before.

        Raises:
            SpecError, ResourceError, Interrupted: see `edgenas.supernet.train`.
        """
        if done := self.result(job):
            return done
        folder = self.work / "training" / f"{job.name}-{digest(self._settings(job))}"
        training = self._training(job, folder, report)
        log = training(resume=True, stop_after_steps=stop_after_steps)
        if training.step < training.n_steps:
            return None
        network = training.learner.module
        assert isinstance(network, Network)  # noqa: S101  # for the type only
        network = self.evaluate.recalibrated(network)
        splits = {"search": self.data.search, "test": self.data.test}
        scores = {
            name: top1(self.evaluate.logits(network, images), images.labels)
            for name, images in splits.items()
        }
        baseline = self.networks[job.network]
        folded = fold(network)
        sha256 = save_weights(folder / "weights.safetensors", folded)
        told = told_of(
            Trained(job.name, baseline.family, folded, sha256[:12]),
            self.data,
            self.work / "models",
            formats=self.formats,
            seed=self.seed,
        )
        result = {
            "schema": SCHEMA,
            "network": job.network,
            "family": baseline.family,
            "source": baseline.source,
            "learning_rate": job.lr,
            "seed": job.seed,
            "top1": scores,
            "n": {name: len(images) for name, images in splits.items()},
            "images_seen": training.n_steps * self.recipe.batch,
            "log": log,
            "weights_sha256": sha256,
            "settings": self._settings(job),
            **told,
            **self.about,
        }
        write_json(self._result_path(job), result)
        shutil.rmtree(folder)
        return result

    def cpu_minutes(self, name: str) -> float:
        """What one training of the network takes, by a few steps timed now."""
        with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
            training = self._training(Job(name, LEARNING_RATES[0], 0), Path(folder), silent)
            training(resume=False, stop_after_steps=1)
            before = training.cpu_s
            training(resume=False, stop_after_steps=3)
            return (training.cpu_s - before) / 3 * training.n_steps / 60

    def _training(self, job: Job, folder: Path, report: Report) -> Training:
        recipe, seed = self._recipe(job), derive_seed(job.seed, "baseline", job.network)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build(self.networks[job.network].lowering).train()
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learner = Alone(network, self.data, recipe)
        return Training(learner, self.data, recipe, folder=folder, seed=seed, report=report)

    def _recipe(self, job: Job) -> Recipe:
        return replace(self.recipe, peak_lr=job.lr)

    def _settings(self, job: Job) -> dict[str, Any]:
        """What a result rests on."""
        return {
            "recipe": asdict(replace(self._recipe(job), accumulate=1, checkpoint_every=1)),
            "data": self.data.digest,
            "network": digest(write_lowering(self.networks[job.network].lowering)),
        }

    def _result_path(self, job: Job) -> Path:
        return self.results / f"{job.name}.json"
