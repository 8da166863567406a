"""The stage `train`: one supernet for all devices, into a run's folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed, write_json
from edgenas.errors import ResourceError, SpecError, UsageError
from edgenas.events import Event, Report, silent
from edgenas.pipeline.config import DataConfig, RunConfig, write_config
from edgenas.pipeline.goals import targets_of
from edgenas.pipeline.runs import clear, locked

if TYPE_CHECKING:
    from edgenas.data import DataSet
    from edgenas.spaces import Architecture
    from edgenas.spaces.mobile import MobileSpace
    from edgenas.supernet import Recipe, Supernet, SupernetInfo

IMBALANCE = 1.5
"""Images of the most frequent class over the rarest's from which on the loss weighs classes."""
_TRIAL_STEPS = 3


def train(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    report: Report = silent,
) -> dict[str, Any]:
    """Trains the supernet of `config` into `folder/supernet` and returns what it is.

    A finished one is left alone unless `fresh`. Under `torchrun` all processes train together, and
    the first one alone writes. Returned: `checkpoint`, `digest`, `top1` of the
    largest and the smallest network on the search split, `steps`, `cpu_minutes`.

    Raises:
        UsageError: an unfinished training is there, and neither `resume` nor `fresh` is set.
        SpecError: the data, the space or the recipe is wrong; see `supernet.train`. A target cannot
            run the space.
        InfeasibleError: even the smallest network is too large for a target.
        ResourceError: disk or memory do not suffice.
        Interrupted: stopped; `resume` goes on.
    """
    from edgenas.pipeline.targets import check_runnable

    if not _leads():
        data = read_data(config)
        checkpoint = train_supernet(config, folder, data, resume=True)
        return {"checkpoint": str(checkpoint), "top1": {}}
    if resume and fresh:
        raise UsageError("--resume goes on with a training, --fresh begins anew: give one of them")
    with locked(folder):
        data = read_data(config, report=report)
        check_runnable(space_for(config, data), targets_of(config))
        if fresh:  # only now, when nothing more can be refused
            clear(folder)
        write_config(folder / "run.toml", config)
        checkpoint = train_supernet(config, folder, data, resume=resume, report=report)
        return _facts(checkpoint, data, config, report=report)


def _leads() -> bool:
    """Whether this is the only process, or the first of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def supernet_file(folder: Path) -> Path:
    """Where a run keeps the supernet that it trained."""
    return folder / "supernet" / "supernet.safetensors"


def read_data(config: RunConfig, *, report: Report = silent) -> DataSet:
    """The data set that `config` names, in its splits."""
    from edgenas.data import load_data

    source: DataConfig = config.data
    return load_data(
        source.source,
        seed=config.seed,
        image_size=source.image_size,
        download=source.download,
        report=report,
    )


def train_supernet(
    config: RunConfig, folder: Path, data: DataSet, *, resume: bool, report: Report = silent
) -> Path:
    """The checkpoint of the run's own supernet, trained now unless it is there."""
    from edgenas.data import device
    from edgenas.supernet import Supernet, save_supernet
    from edgenas.supernet import train as run_training

    path = supernet_file(folder)
    space = space_for(config, data)
    recipe = recipe_for(config, data)
    if path.is_file() and path.with_suffix(".json").is_file():  # that is written last
        _check_finished(path, space.digest, data, recipe)
        report(Event("train", 1, 1, f"done before: {path}"))
        return path
    if not resume and (path.parent / "checkpoint.json").exists():
        raise UsageError(
            f"{path.parent} holds an unfinished training",
            hint="--resume goes on with it, edgenas train --fresh begins anew",
        )
    where = device(config.train.device)
    seed = derive_seed(config.seed, "supernet")
    supernet = Supernet(space, seed=seed).to(where)
    if "RANK" not in os.environ and not (path.parent / "checkpoint.json").exists():
        _estimate(space, data, recipe, where, path.parent, report=report)
    log = run_training(
        supernet,
        data,
        recipe,
        folder=path.parent,
        seed=seed,
        resume=resume,
        report=report,
    )
    if not _leads():
        return path
    save_supernet(path, supernet, data=data_facts(data), recipe=asdict(recipe), log=tuple(log))
    for stale in [*path.parent.glob("step-*.safetensors"), *path.parent.glob("checkpoint*.json")]:
        stale.unlink()  # the finished supernet takes their place
    write_json(
        path.parent / "training.json", {"schema": "edgenas.training-log/1", "log": list(log)}
    )
    return path


def space_for(config: RunConfig, data: DataSet) -> MobileSpace:
    """The space of the supernet that a run trains for these images.

    Raises:
        SpecError: its table is wrong, or no supernet of its family can be trained.
    """
    from edgenas.spaces.mobile import MobileSpace
    from edgenas.spaces.registry import space_from

    try:
        space = space_from(
            config.space,
            image_size=data.image_size,
            in_channels=data.channels,
            n_classes=len(data.classes),
        )
    except SpecError as error:
        hint = error.hint or "mend `space` in the run file; without it the family's own is taken"
        raise SpecError(str(error), hint=hint) from error
    if not isinstance(space, MobileSpace):
        raise SpecError(f"a supernet of {space.name} cannot be trained: only mobile/1 has one")
    return space


def recipe_for(config: RunConfig, data: DataSet) -> Recipe:
    """The run file's recipe with the data set's own answers where it gives none."""
    from edgenas.supernet import Recipe

    settings = asdict(config.train)
    del settings["device"]
    if settings["mirror"] is None:
        settings["mirror"] = data.mirror
    if settings["balance"] is None:
        settings["balance"] = data.imbalance >= IMBALANCE
    return Recipe(**settings)


def data_facts(data: DataSet) -> dict[str, Any]:
    """What a supernet's sidecar and a certificate say of the data."""
    return {
        "source": data.name,
        "digest": data.digest,
        "classes": list(data.classes),
        "mean": list(data.mean),
        "std": list(data.std),
        "n_train": len(data.train),
        "n_search": len(data.search),
        "n_test": len(data.test),
    }


def check_fits(info: SupernetInfo, supernet: Supernet, data: DataSet, origin: Path) -> None:
    """Compares a supernet with the data it is to be used on.

    Raises:
        DataError: other channels, classes or normalisation; the difference is named.
    """
    from edgenas.errors import DataError, difference

    space, known = supernet.space, info.data
    problems = []
    if space.in_channels != data.channels:
        problems.append(f"it takes {space.in_channels} channels, the images have {data.channels}")
    classes = list(known.get("classes", data.classes))
    if classes != list(data.classes):
        problems.append(f"of its classes the data {difference(classes, data.classes)}")
    for name, own in (("mean", data.mean), ("std", data.std)):
        trained = known.get(name, own)
        if any(abs(a - b) > 1e-3 for a, b in zip(trained, own, strict=False)):
            problems.append(f"{name} of its pixels was {list(trained)}, is {list(own)}")
    if problems:
        raise DataError(
            f"{origin}: this supernet is not of {data.name}: {'; '.join(problems)}",
            hint="leave [supernet] checkpoint out: one is trained first",
        )


def _check_finished(path: Path, space: str, data: DataSet, recipe: Recipe) -> None:
    """Refuses a finished supernet that the run file's present settings would not give."""
    from edgenas.supernet import load_supernet

    supernet, info = load_supernet(path)
    loose = {"accumulate": 1, "checkpoint_every": 1}
    then = {**asdict(type(recipe)()), **info.recipe, **loose}
    now: Mapping[str, Any] = {**asdict(recipe), **loose}
    changed = [
        f"train.{k} was {then.get(k)!r}, is {v!r}" for k, v in now.items() if then.get(k) != v
    ]
    changed += ["the space changed"] * (supernet.space.digest != space)
    if info.data.get("digest") != data.digest:
        changed.append("the images changed, or the seed that splits them")
    if changed:
        raise SpecError(
            f"{path} was trained with other settings: {'; '.join(changed)}",
            hint="edgenas train --fresh trains anew, --name keeps both",
        )


def _estimate(
    space: Any, data: DataSet, recipe: Recipe, where: Any, folder: Path, *, report: Report
) -> None:
    """Times a few steps on a copy, and says what the training will take before it starts.

    Raises:
        ResourceError: the disk has no room for the checkpoints.
    """
    import shutil

    import psutil  # type: ignore[import-untyped]

    from edgenas.supernet import Supernet
    from edgenas.supernet import train as run_training

    trial = Supernet(space, seed=0).to(where)
    n_params = sum(p.numel() for p in trial.parameters())
    disk_bytes = 3 * 2 * 4 * n_params  # weights and momentum; two checkpoints and one being written
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 2 * disk_bytes:
        raise ResourceError(
            f"{folder}: {free / 2**20:.0f} MiB are free, checkpoints need {disk_bytes / 2**20:.0f}",
            hint="free some disk space, or choose another folder with --runs",
        )
    steps = replace(recipe, checkpoint_every=10**9, largest_first=0.0)

    def seconds_of(only: Architecture | None) -> float:
        with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
            make = partial(run_training, trial, data, steps, folder=Path(name), only=only)
            return seconds_a_step(lambda n: make(stop_after_steps=n))

    alone = recipe.largest_first
    seconds = (1 - alone) * seconds_of(None)
    if alone:
        seconds += alone * seconds_of(space.largest())
    n_steps = recipe.n_steps(len(data.train))
    memory = psutil.Process().memory_info().rss
    report(
        Event(
            "estimate",
            1,
            1,
            f"{n_steps} steps, about {n_steps * seconds / 60:.0f} minutes; "
            f"memory {memory / 2**30:.1f} GiB, disk {disk_bytes / 2**20:.0f} MiB; "
            f"{n_params / 1e6:.1f} M weights, {where}",
        )
    )


def seconds_a_step(train: Callable[[int], object]) -> float:
    """How long a step takes, by a few of them; `train(n)` makes n."""
    train(1)
    started = time.monotonic()
    train(_TRIAL_STEPS)
    return (time.monotonic() - started) / _TRIAL_STEPS


def _facts(path: Path, data: DataSet, config: RunConfig, *, report: Report) -> dict[str, Any]:
    from edgenas.pipeline.evaluating import evaluator
    from edgenas.supernet import load_supernet

    supernet, info = load_supernet(path)
    whole = replace(config, search=replace(config.search, pilots=0))
    evaluate = evaluator(supernet, data, whole)
    top1 = {}
    for name, arch in (
        ("largest", supernet.space.largest()),
        ("smallest", supernet.space.smallest()),
    ):
        report(Event("evaluate", message=f"{name} network"))
        top1[name] = evaluate(arch)["top1"]
    last = info.log[-1] if info.log else {}
    return {
        "checkpoint": str(path),
        "digest": info.digest,
        "space": supernet.space.digest,
        "data": data.digest,
        "top1": top1,
        "steps": last.get("step", 0),
        "cpu_minutes": last.get("cpu_minutes", 0.0),
    }
