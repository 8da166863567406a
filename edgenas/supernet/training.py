"""Training a supernet: sandwich rule, in-place distillation, resumable at every checkpoint.

Each step trains the largest network on the labels, and the smallest and some random ones on the
largest one's soft labels (BigNAS, arXiv:2003.11142). What a step draws (images, augmentation,
architectures) is a function of the seed and the step's number, so that a run that was killed and
resumed gives the weights of an undisturbed one.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor
from torch.nn import functional

from edgenas.artifacts import derive_seed
from edgenas.data import DataSet, augment, class_weights, policy_for, prepare
from edgenas.errors import Interrupted, ResourceError, SpecError, UsageError, nearest
from edgenas.events import Event, Report, silent
from edgenas.spaces import Architecture
from edgenas.supernet.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgenas.supernet.distributed import Workers
from edgenas.supernet.elastic import Supernet


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
        for name in ("peak_lr", "momentum", "weight_decay", "label_smoothing", "warmup"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (value >= 1 and name != "peak_lr"):
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
        SpecError: the loss became NaN, or the checkpoint belongs to other settings.
        ResourceError: another process trains in `folder`; memory or disk do not suffice.
        Interrupted: stopped by Ctrl-C; the checkpoint is written.
    """
    workers = Workers.from_environment()
    lock = filelock.FileLock(folder / f".train-{workers.rank}.lock", blocking=False)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock:
            run = _Run(supernet, data, recipe, folder, seed, only, workers, report)
            if resume:
                run.resume()
            return run.loop(stop_after_steps)
    except filelock.Timeout:
        raise ResourceError(
            f"another process trains in {folder}",
            hint="wait for it, or train in another folder",
        ) from None
    finally:
        workers.close()


class _Run:
    """One training: what changes from step to step, and nothing else that outlives it."""

    def __init__(
        self,
        supernet: Supernet,
        data: DataSet,
        recipe: Recipe,
        folder: Path,
        seed: int,
        only: Architecture | None,
        workers: Workers,
        report: Report,
    ) -> None:
        self.supernet, self.data, self.recipe, self.folder = supernet, data, recipe, folder
        self.seed, self.only, self.workers, self.report = seed, only, workers, report
        self.device = next(supernet.parameters()).device
        self.steps_per_epoch = len(data.train) // recipe.batch
        if not self.steps_per_epoch:
            raise SpecError(
                f"train.batch: {recipe.batch} is more than the {len(data.train)} training images"
            )
        if recipe.batch % (workers.count * recipe.accumulate):
            raise UsageError(
                f"batch {recipe.batch} cannot be cut into {workers.count} processes x "
                f"{recipe.accumulate} parts"
            )
        self.policy = policy_for(
            recipe.augmentation, image_size=data.image_size, mirror=recipe.mirror
        )
        weights = class_weights(data.train.labels, len(data.classes)) if recipe.balance else None
        self.class_weights = None if weights is None else weights.to(self.device)
        decayed = [p for p in supernet.parameters() if p.dim() > 1]
        plain = [p for p in supernet.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
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

    @property
    def n_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def fingerprint(self) -> dict[str, str]:
        """What must be the same for a checkpoint to fit."""
        recipe = asdict(replace(self.recipe, accumulate=1, checkpoint_every=1))
        return {
            "space": self.supernet.space.digest,
            "data": self.data.digest,
            "recipe": ", ".join(f"{key}={value}" for key, value in recipe.items()),
            "seed": str(self.seed),
            "only": str(self.only or ""),
        }

    def loop(self, stop_after_steps: int | None) -> list[dict[str, float]]:
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
                    raise SpecError(
                        f"the loss became {loss} at step {self.step + 1} of {self.n_steps}; the "
                        f"last good checkpoint is kept in {self.folder}",
                        hint="lower train.peak_lr",
                    )
                self.losses.append(loss)
                self.step += 1
                self.wall_s = wall_before + time.monotonic() - started
                self.cpu_s = cpu_before + self.workers.sum(_cpu_s() - cpu_started)
                self._tell(loss, (time.monotonic() - started) / (self.step - first))
                if self.step % self.steps_per_epoch == 0:
                    self._end_epoch()
                if self.step % self.recipe.checkpoint_every == 0 or self.step == last:
                    self._save()
        except KeyboardInterrupt:
            self._save()
            raise Interrupted(
                f"stopped after step {self.step} of {self.n_steps}; weights are in {self.folder}",
                hint="repeat the command with --resume",
            ) from None
        return self.log

    def resume(self) -> None:
        checkpoint = load_checkpoint(self.folder, fingerprint=self.fingerprint, report=self.report)
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        with torch.no_grad():
            for name, parameter in self.supernet.named_parameters():
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
                        hint="lower train.batch in the run file",
                    ) from error
                self.recipe = replace(self.recipe, accumulate=2 * parts)
                message = f"out of memory: batches in {2 * parts} parts now"
                self.report(Event("train", message=message))

    def _train_step(self) -> float:
        step, recipe = self.step, self.recipe
        epoch = step // self.steps_per_epoch
        if self.only is None:
            seed = derive_seed(self.seed, "train", "architectures", step)
            archs = sandwich(self.supernet, n_random=recipe.n_random, seed=seed)
        else:
            archs = [self.only]
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
            total += self._accumulate(archs, pixels_part, labels_part, recipe.accumulate)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(step / self.n_steps)
        self.workers.average_gradients(self.supernet)
        self.optimizer.step()
        return self.workers.sum(total) / n_parts

    def _accumulate(
        self, archs: Sequence[Architecture], pixels: Tensor, labels: Tensor, parts: int
    ) -> float:
        """Adds the gradients of all networks on one part; returns the first network's loss."""
        space, data = self.supernet.space, self.data
        prepared: dict[int, Tensor] = {}
        soft: Tensor | None = None
        first = 0.0
        for arch in archs:
            r = space.resolution(arch)
            if r not in prepared:
                prepared[r] = prepare(pixels, resolution=r, mean=data.mean, std=data.std)
            logits = self.supernet(prepared[r], arch)
            if soft is None:
                loss = functional.cross_entropy(
                    logits,
                    labels,
                    weight=self.class_weights,
                    label_smoothing=self.recipe.label_smoothing,
                )
                soft = logits.detach().softmax(1)
                first = float(loss.detach())
            else:
                loss = functional.cross_entropy(logits, soft)
            (loss / parts).backward()  # type: ignore[no-untyped-call]  # torch has no types here
        return first

    def _tell(self, loss: float, seconds_a_step: float) -> None:
        if self.workers.rank == 0:
            self.report(
                Event(
                    "train",
                    done=self.step,
                    total=self.n_steps,
                    message=f"loss {loss:.3f}",
                    remaining_s=(self.n_steps - self.step) * seconds_a_step,
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
        tensors = {f"weights.{n}": p.detach() for n, p in self.supernet.named_parameters()}
        for name, parameter in self.supernet.named_parameters():
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
