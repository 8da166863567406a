"""Training a supernet: sandwich rule, in-place distillation, resumable at every checkpoint.

Each step trains the largest network on the labels, and the smallest and some random ones on the
largest one's soft labels (BigNAS, arXiv:2003.11142). What a step draws (images, augmentation,
architectures) is a function of the seed and the step's number, so that a run that was killed and
resumed gives the weights of an undisturbed one. At first the largest network may be trained alone,
as once-for-all does (arXiv:1908.09791): those steps are cheap, and what the others learn from is
good when they begin.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import filelock
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenas.artifacts import derive_seed
from edgenas.data import DataSet, augment, class_weights, keep_memory, policy_for, prepare
from edgenas.errors import (
    DivergedError,
    Interrupted,
    ResourceError,
    SpecError,
    UsageError,
    nearest,
)
from edgenas.events import Event, Report, silent
from edgenas.spaces import Architecture
from edgenas.supernet.checkpoint import (
    Checkpoint,
    is_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from edgenas.supernet.distributed import Workers
from edgenas.supernet.elastic import Supernet
from edgenas.supernet.signals import Signals


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a supernet is trained; every setting may stand in a run file's `[train]`."""

    epochs: int = 24
    """Passes over the train split."""
    batch: int = 128
    """Images a step, over all processes."""
    peak_lr: float = 0.1
    """Largest learning rate; of stochastic gradient descent with Nesterov momentum."""
    schedule: str = "one-cycle"
    """`one-cycle`: linear from a tenth to the peak, then cosine to 0; `cosine`: from the peak."""
    warmup: float = 0.15
    """Share of the steps before the peak of `one-cycle`."""
    momentum: float = 0.9
    weight_decay: float = 2e-4
    """Of convolutions and the classifier; norms and biases have none."""
    label_smoothing: float = 0.05
    """Of the labels that the largest network sees."""
    n_random: int = 2
    """Random architectures a step, beside the largest and the smallest."""
    largest_first: float = 0.0
    """Share of the steps, at the start, that train the largest network alone."""
    augmentation: str = "light"
    """A name of `edgenas.data.POLICIES`."""
    mirror: bool = True
    """Whether augmentation may flip images left to right; not for digits or text."""
    balance: bool = False
    """Whether rare classes weigh more in the loss."""
    accumulate: int = 1
    """Parts that a process cuts its batch into, one after the other, to save memory."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SpecError(f"train.{name}: {getattr(self, name)} must be at least 1")
        shares = ("momentum", "weight_decay", "label_smoothing", "largest_first", "warmup")
        for name in ("peak_lr", *shares):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value >= 1 and name in shares):
                raise SpecError(f"train.{name}: {value} is out of range")
        if self.schedule not in SCHEDULES:
            hint = nearest(self.schedule, SCHEDULES)
            raise SpecError(f"train.schedule: unknown {self.schedule!r}; {hint}")
        if self.n_random < 0:
            raise SpecError(f"train.n_random: {self.n_random} must not be negative")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Recipe:
        """The recipe that a run file's `[train]` describes.

        Raises:
            SpecError: for an unknown key, with the nearest known one, or a value of another type.
        """
        known = {f.name: type(f.default) for f in fields(cls)}
        for key, value in table.items():
            if key not in known:
                raise SpecError(f"train.{key}: unknown key; {nearest(key, known)}")
            fits = type(value) is known[key] or (known[key] is float and type(value) is int)
            if not fits:
                raise SpecError(f"train.{key}: {value!r} is no {known[key].__name__}")
        return cls(**table)

    def n_steps(self, n_images: int) -> int:
        """Steps of all epochs over so many training images."""
        return self.epochs * (n_images // self.batch)

    def learning_rate(self, done: float) -> float:
        """The learning rate after the share `done` of all steps."""
        warmup = self.warmup if self.schedule == "one-cycle" else 0.0
        if done < warmup:
            return self.peak_lr * (0.1 + 0.9 * done / warmup)
        return self.peak_lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


SCHEDULES = ("one-cycle", "cosine")


def sandwich(supernet: Supernet, *, n_random: int, seed: int) -> list[Architecture]:
    """The largest, the smallest and `n_random` random architectures, without repeats."""
    space, rng = supernet.space, random.Random(seed)
    drawn = [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(n_random))]
    return list(dict.fromkeys(drawn))


def train(
    supernet: Supernet,
    data: DataSet,
    recipe: Recipe,
    *,
    folder: Path,
    seed: int = 0,
    resume: bool = False,
    only: Architecture | None = None,
    stop_after_steps: int | None = None,
    report: Report = silent,
) -> list[dict[str, float]]:
    """Trains `supernet` in place and returns its log, one entry an epoch.

    Checkpoints go to `folder`. With `only`, just that architecture is trained, on the labels: a
    network trained alone by the same recipe. Under `torchrun` every process takes its part of each
    batch and gradients are averaged, as `accumulate` averages them in one process.

    Args:
        supernet: moved to no device: train where its weights are.
        data: only the train split is read.
        recipe: what to do.
        folder: for checkpoints and the log; locked while training.
        seed: of everything that is drawn.
        resume: go on from the last checkpoint in `folder`, if there is one.
        only: train this architecture alone.
        stop_after_steps: stop (resumably) after this many steps of this call.
        report: receives an event a step.

    Raises:
        SpecError: the checkpoint belongs to other settings.
        DivergedError: the loss became NaN.
        ResourceError: another process trains in `folder`; memory or disk do not suffice.
        Interrupted: stopped by Ctrl-C; the checkpoint is written.
    """
    run = Training(
        Sandwich(supernet, data, recipe, seed=seed, only=only),
        data,
        recipe,
        folder=folder,
        seed=seed,
        report=report,
    )
    return run(resume=resume, stop_after_steps=stop_after_steps)


class Learner(Protocol):
    """What a training trains, and how."""

    @property
    def module(self) -> nn.Module:
        """What has the weights."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What must be the same for a checkpoint to fit, beside data, recipe and seed."""

    def accumulate(self, pixels: Tensor, labels: Tensor, *, step: int, parts: int) -> float:
        """Adds the gradients of one of a batch's `parts` to the module's; returns the loss."""

    def work(self, steps: range) -> float:
        """How long these steps take, in a unit of the learner's own: for the time that is left."""


class Sandwich:
    """Trains the largest network, the smallest and some random ones; or `only` one of them."""

    def __init__(
        self,
        supernet: Supernet,
        data: DataSet,
        recipe: Recipe,
        *,
        seed: int,
        only: Architecture | None,
    ) -> None:
        self.module = supernet
        self.fingerprint = {"space": supernet.space.digest, "only": str(only or "")}
        self._data, self._recipe, self._seed, self._only = data, recipe, seed, only
        self._hard_loss = HardLoss(supernet, data, recipe)
        alone = self._n_steps_alone = round(recipe.largest_first * recipe.n_steps(len(data.train)))
        self._macs_alone = self._macs(range(1))
        self._macs_together = self._macs(range(alone, alone + 8))  # eight speak for all

    def accumulate(self, pixels: Tensor, labels: Tensor, *, step: int, parts: int) -> float:
        """Adds the gradients of all networks; returns the first one's loss."""
        space, data = self.module.space, self._data
        prepared: dict[int, Tensor] = {}
        soft: Tensor | None = None
        first = 0.0
        for arch in self._architectures(step):
            r = space.resolution(arch)
            if r not in prepared:
                prepared[r] = prepare(pixels, resolution=r, mean=data.mean, std=data.std)
            logits = self.module(prepared[r], arch)
            if soft is None:
                loss = self._hard_loss(logits, labels)
                soft = logits.detach().softmax(1)
                first = float(loss.detach())
            else:
                loss = functional.cross_entropy(logits, soft)
            (loss / parts).backward()  # type: ignore[no-untyped-call]  # torch has no types here
        return first

    def work(self, steps: range) -> float:
        """In MACs an image."""
        alone = max(0, min(steps.stop, self._n_steps_alone) - steps.start)
        return alone * self._macs_alone + (len(steps) - alone) * self._macs_together

    def _macs(self, steps: range) -> float:
        """The mean over `steps`."""
        lower = self.module.space.lower
        return sum(lower(arch).macs for s in steps for arch in self._architectures(s)) / len(steps)

    def _architectures(self, step: int) -> list[Architecture]:
        if self._only is not None:
            return [self._only]
        if step < self._n_steps_alone:
            return [self.module.space.largest()]
        seed = derive_seed(self._seed, "train", "architectures", step)
        return sandwich(self.module, n_random=self._recipe.n_random, seed=seed)


class HardLoss:
    """The loss against the labels, as a recipe wants it: smoothed, rare classes weighed up."""

    def __init__(self, module: nn.Module, data: DataSet, recipe: Recipe) -> None:
        weights = class_weights(data.train.labels, len(data.classes)) if recipe.balance else None
        where = next(module.parameters()).device
        self._weights = None if weights is None else weights.to(where)
        self._smoothing = recipe.label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the images of `logits` (n, classes)."""
        return functional.cross_entropy(
            logits, labels, weight=self._weights, label_smoothing=self._smoothing
        )


class Training:
    """One training: what changes from step to step, and nothing else that outlives it.

    `section` is that of the run file whose settings it follows, and its name in the progress;
    `n_steps` are made, by default all of the recipe's epochs.

    Raises:
        SpecError: a batch is more than the train split.
        UsageError: a batch cannot be cut into as many parts as there are processes.
    """

    def __init__(
        self,
        learner: Learner,
        data: DataSet,
        recipe: Recipe,
        *,
        folder: Path,
        seed: int,
        section: str = "train",
        n_steps: int | None = None,
        report: Report = silent,
    ) -> None:
        self.learner, self.data, self.recipe, self.folder = learner, data, recipe, folder
        self.seed, self.section, self.report = seed, section, report
        self.workers = Workers.from_environment()
        self.device = next(learner.module.parameters()).device
        self.steps_per_epoch = len(data.train) // recipe.batch
        if not self.steps_per_epoch:
            raise SpecError(
                f"{section}.batch: {recipe.batch} is more than the {len(data.train)} training "
                "images"
            )
        if recipe.batch % (self.workers.count * recipe.accumulate):
            raise UsageError(
                f"batch {recipe.batch} cannot be cut into {self.workers.count} processes x "
                f"{recipe.accumulate} parts"
            )
        self.n_steps = n_steps or recipe.n_steps(len(data.train))
        self.policy = policy_for(
            recipe.augmentation, image_size=data.image_size, mirror=recipe.mirror
        )
        parameters = list(learner.module.parameters())
        self.optimizer = torch.optim.SGD(
            [
                {
                    "params": [p for p in parameters if p.dim() > 1],
                    "weight_decay": recipe.weight_decay,
                },
                {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.peak_lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
        self.step = 0
        self.cpu_s = 0.0
        self.wall_s = 0.0
        self.log: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.signals = Signals()

    def __call__(
        self, *, resume: bool, stop_after_steps: int | None = None
    ) -> list[dict[str, float]]:
        """Trains, and returns the log; see `train`."""
        lock = filelock.FileLock(self.folder / f".train-{self.workers.rank}.lock", blocking=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        keep_memory()
        try:
            with lock:
                if resume:
                    self._resume()
                with self.signals:
                    return self._loop(stop_after_steps)
        except filelock.Timeout:
            raise ResourceError(
                f"another process trains in {self.folder}",
                hint="wait for it, or train in another folder",
            ) from None
        finally:
            self.workers.close()

    @property
    def fingerprint(self) -> dict[str, str]:
        """What must be the same for a checkpoint to fit."""
        recipe = asdict(replace(self.recipe, accumulate=1, checkpoint_every=1))
        return {
            **self.learner.fingerprint,
            "data": self.data.digest,
            "recipe": ", ".join(f"{key}={value}" for key, value in recipe.items()),
            "seed": str(self.seed),
        }

    def _loop(self, stop_after_steps: int | None) -> list[dict[str, float]]:
        started, cpu_started = time.monotonic(), _cpu_s()
        first = self.step
        wall_before, cpu_before = self.wall_s, self.cpu_s
        last = self.n_steps
        if stop_after_steps is not None:
            last = min(last, first + stop_after_steps)
        try:
            while self.step < last:
                loss = self._step_or_halve()
                if not math.isfinite(loss):
                    kept = f"; the last good checkpoint is kept in {self.folder}"
                    raise DivergedError(
                        f"the loss became {loss} at step {self.step + 1} of {self.n_steps}"
                        + kept * is_checkpoint(self.folder),
                        hint=f"lower {self.section}.peak_lr",
                    )
                self.losses.append(loss)
                self.step += 1
                self.wall_s = wall_before + time.monotonic() - started
                self.cpu_s = cpu_before + self.workers.sum(_cpu_s() - cpu_started)
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch()
                self.signals.release()
                self._tell(loss, first, time.monotonic() - started)
                if self.step % self.recipe.checkpoint_every == 0 or self.step == last:
                    self._save()
        except KeyboardInterrupt:
            self._save()
            raise Interrupted(
                f"stopped after step {self.step} of {self.n_steps}; weights are in {self.folder}",
                hint="repeat the command with --resume",
            ) from None
        return self.log

    def _resume(self) -> None:
        checkpoint = load_checkpoint(self.folder, fingerprint=self.fingerprint, report=self.report)
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        with torch.no_grad():
            for name, parameter in self.learner.module.named_parameters():
                parameter.copy_(tensors[f"weights.{name}"])
                if f"momentum.{name}" in tensors:
                    buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                    self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.step, self.log = checkpoint.step, list(checkpoint.log)
        self.cpu_s, self.wall_s = checkpoint.cpu_s, checkpoint.wall_s
        self.losses = list(checkpoint.losses)

    def _step_or_halve(self) -> float:
        """One step; where memory runs out, once more in twice as many parts."""
        parts = self.recipe.accumulate
        while True:
            try:
                return self._train_step()
            except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is the latter
                if not _is_out_of_memory(error):
                    raise
                halved = self.recipe.accumulate > parts
                if halved or self.recipe.batch % (2 * parts * self.workers.count):
                    raise ResourceError(
                        f"memory does not suffice for a batch of {self.recipe.batch}",
                        hint=f"lower {self.section}.batch in the run file",
                    ) from error
                self.recipe = replace(self.recipe, accumulate=2 * parts)
                message = f"out of memory: batches in {2 * parts} parts now"
                self.report(Event(self.section, message=message))

    def _train_step(self) -> float:
        step, recipe = self.step, self.recipe
        epoch = step // self.steps_per_epoch
        order = torch.randperm(
            len(self.data.train), generator=_generator(self.seed, "order", epoch)
        )
        start = (step % self.steps_per_epoch) * recipe.batch
        batch = self.data.train.take(order[start : start + recipe.batch])
        pixels = augment(
            batch.pixels, generator=_generator(self.seed, "augment", step), policy=self.policy
        )
        self.optimizer.zero_grad(set_to_none=True)
        n_parts = self.workers.count * recipe.accumulate
        size = recipe.batch // n_parts
        total = 0.0
        for k in range(recipe.accumulate):
            part = slice((self.workers.rank * recipe.accumulate + k) * size, None)
            part = slice(part.start, part.start + size)
            pixels_part = pixels[part].to(self.device)
            labels_part = batch.labels[part].to(self.device)
            total += self.learner.accumulate(
                pixels_part, labels_part, step=step, parts=recipe.accumulate
            )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step / self.n_steps)
        self.workers.average_gradients(self.learner.module)
        self.signals.hold()  # half a step would be done twice
        self.optimizer.step()
        return self.workers.sum(total) / n_parts

    def _tell(self, loss: float, first: int, seconds: float) -> None:
        """Reports; the steps from `first` on took so many seconds."""
        if self.workers.rank == 0:
            done = self.learner.work(range(first, self.step))
            left = self.learner.work(range(self.step, self.n_steps))
            self.report(
                Event(
                    self.section,
                    done=self.step,
                    total=self.n_steps,
                    message=f"loss {loss:.3f}",
                    remaining_s=seconds * left / done,
                )
            )

    def _end_epoch(self) -> None:
        self.log.append(
            {
                "epoch": self.step // self.steps_per_epoch,
                "step": self.step,
                "images": self.step * self.recipe.batch,
                "loss": round(sum(self.losses) / len(self.losses), 5),
                "learning_rate": round(self.recipe.learning_rate(self.step / self.n_steps), 6),
                "cpu_minutes": round(self.cpu_s / 60, 3),
                "wall_minutes": round(self.wall_s / 60, 3),
            }
        )
        self.losses = []

    def _save(self) -> None:
        if self.workers.rank:
            return
        tensors = {f"weights.{n}": p.detach() for n, p in self.learner.module.named_parameters()}
        for name, parameter in self.learner.module.named_parameters():
            buffer = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{name}"] = buffer
        save_checkpoint(
            self.folder,
            Checkpoint(
                step=self.step,
                fingerprint=self.fingerprint,
                log=tuple(self.log),
                losses=tuple(self.losses),
                cpu_s=self.cpu_s,
                wall_s=self.wall_s,
                tensors=tensors,
            ),
        )


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "train", purpose, number))


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )
