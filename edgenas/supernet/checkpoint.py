"""Checkpoints of a training, and the finished supernet: safetensors with a JSON sidecar.

A checkpoint is a weights file named by its step, and `checkpoint.json`, which names that file and
its SHA-256 and is written last. The one before it is kept until the next, so that a damaged file
costs at most one interval.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from edgenas.artifacts import digest, read_json, replacing, sha256_file, write_json
from edgenas.errors import ArtifactError, SpecError
from edgenas.events import Event, Report, silent
from edgenas.networks import Network
from edgenas.spaces.mobile import from_table
from edgenas.supernet.elastic import Supernet

CHECKPOINT_SCHEMA = "edgenas.checkpoint/1"
SUPERNET_SCHEMA = "edgenas.supernet/1"
_STATE = "checkpoint.json"
_PREVIOUS = "checkpoint.previous.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after `step` steps."""

    step: int
    fingerprint: Mapping[str, str]
    log: tuple[dict[str, float], ...]
    losses: tuple[float, ...]
    """Of the steps since the last whole epoch."""
    cpu_s: float
    wall_s: float
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class SupernetInfo:
    """What a supernet's sidecar says of it."""

    data: Mapping[str, Any]
    """Source, digest, classes, mean and std of the data set that it was trained on."""
    recipe: Mapping[str, Any]
    log: tuple[Mapping[str, float], ...]
    digest: str
    """First 12 digits of the SHA-256 over weights and space: its name in other files."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes `checkpoint` to `folder`; the last two are kept.

    Raises:
        ResourceError: disk full or not writable; the older checkpoints are untouched.
    """
    weights = folder / f"step-{checkpoint.step:07d}.safetensors"
    _save_tensors(weights, checkpoint.tensors)
    state = {
        "schema": CHECKPOINT_SCHEMA,
        "step": checkpoint.step,
        "fingerprint": dict(checkpoint.fingerprint),
        "log": list(checkpoint.log),
        "losses": list(checkpoint.losses),
        "cpu_s": checkpoint.cpu_s,
        "wall_s": checkpoint.wall_s,
        "weights": weights.name,
        "sha256": sha256_file(weights),
    }
    current = folder / _STATE
    if current.exists():
        with replacing(folder / _PREVIOUS) as temporary:
            temporary.write_bytes(current.read_bytes())
    write_json(current, state)
    kept = {weights.name, _weights_of(folder / _PREVIOUS)}
    for path in folder.glob("*step-*.safetensors"):  # with a dot: cut off by a kill
        if path.name not in kept:
            path.unlink()


def is_checkpoint(folder: Path) -> bool:
    """Whether a training in `folder` has kept a state to go on from."""
    return any((folder / name).exists() for name in (_STATE, _PREVIOUS))


def load_checkpoint(
    folder: Path, *, fingerprint: Mapping[str, str], report: Report = silent
) -> Checkpoint | None:
    """The last whole checkpoint in `folder`, or None where there is none at all.

    A damaged one is passed over with a warning event for the one before it.

    Raises:
        ArtifactError: there are checkpoints, but none is whole.
        SpecError: the checkpoint belongs to another space, data set, recipe or seed.
    """
    problems: list[str] = []
    for name in (_STATE, _PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            checkpoint = _read_checkpoint(folder / name)
        except ArtifactError as error:
            problems.append(str(error))
            report(Event("checkpoint", message=f"damaged checkpoint passed over: {error}"))
            continue
        differs = [k for k, v in fingerprint.items() if checkpoint.fingerprint.get(k) != v]
        if differs:
            now = "; ".join(
                f"{k} was {checkpoint.fingerprint.get(k)!r}, is {fingerprint[k]!r}" for k in differs
            )
            raise SpecError(
                f"{folder / name} belongs to another training: {now}",
                hint="train in another folder, or restore the settings",
            )
        return checkpoint
    if problems:
        raise ArtifactError(
            "no whole checkpoint: " + "; ".join(problems),
            hint=f"start anew: delete {folder} and repeat the command without --resume",
        )
    return None


def save_supernet(
    path: Path,
    supernet: Supernet,
    *,
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    log: tuple[Mapping[str, float], ...],
) -> None:
    """Writes the weights to `path` (.safetensors) and what they are to its .json sidecar."""
    _save_tensors(path, {n: p.detach() for n, p in supernet.named_parameters()})
    write_json(
        path.with_suffix(".json"),
        {
            "schema": SUPERNET_SCHEMA,
            "space": supernet.space.to_table(),
            "data": dict(data),
            "recipe": dict(recipe),
            "log": [dict(entry) for entry in log],
            "sha256": sha256_file(path),
        },
    )


def load_supernet(path: Path) -> tuple[Supernet, SupernetInfo]:
    """The supernet in `path` (.safetensors with its .json sidecar).

    Raises:
        SpecError: another suffix.
        ArtifactError: one of the two is damaged, or they do not belong together.
    """
    if path.suffix != ".safetensors":
        raise SpecError(
            f"{path}: not a supernet's weights by its name",
            hint=f"name {path.with_suffix('.safetensors').name}, with its .json beside it",
        )
    sidecar = path.with_suffix(".json")
    state = read_json(sidecar, schema=SUPERNET_SCHEMA)
    tensors = _load_tensors(path, expected=str(state.get("sha256")))
    try:
        table = dict(state["space"])
        channels, classes = table["in_channels"], table["n_classes"]
        supernet = Supernet(from_table(table, in_channels=channels, n_classes=classes))
        info = SupernetInfo(
            data=dict(state["data"]),
            recipe=dict(state["recipe"]),
            log=tuple(state["log"]),
            digest=digest([state["sha256"], supernet.space.digest]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{sidecar}: {error!r}") from error
    own = dict(supernet.named_parameters())
    if set(own) != set(tensors) or any(own[n].shape != t.shape for n, t in tensors.items()):
        raise ArtifactError(f"{path}: these weights are not of the space in {sidecar.name}")
    supernet.load_state_dict(dict(tensors))
    return supernet, info


def save_weights(path: Path, network: nn.Module) -> str:
    """Writes the weights of a plain network to `path` (.safetensors); returns their SHA-256."""
    _save_tensors(path, network.state_dict())
    return sha256_file(path)


def load_weights(path: Path, network: Network, *, sha256: str) -> Network:
    """`network` with the weights in `path` in place of its own, in evaluation mode.

    Raises:
        ArtifactError: missing, changed since `sha256` was noted, or of another network.
    """
    tensors = _load_tensors(path, expected=sha256)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: these weights are of another network") from error
    return network.eval()


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as temporary:
        plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(plain, temporary)


def _load_tensors(path: Path, *, expected: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing")
    if sha256_file(path) != expected:
        raise ArtifactError(f"{path} is damaged: its SHA-256 is not the recorded one")
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error


def _read_checkpoint(path: Path) -> Checkpoint:
    state = read_json(path, schema=CHECKPOINT_SCHEMA)
    try:
        name = str(state["weights"])
        if "/" in name or name.startswith("."):
            raise ArtifactError(f"{path}: {name!r} is no file of this folder")
        return Checkpoint(
            step=int(state["step"]),
            fingerprint=dict(state["fingerprint"]),
            log=tuple(state["log"]),
            losses=tuple(state["losses"]),
            cpu_s=float(state["cpu_s"]),
            wall_s=float(state["wall_s"]),
            tensors=_load_tensors(path.parent / name, expected=str(state["sha256"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path}: {error!r}") from error


def _weights_of(path: Path) -> str:
    with contextlib.suppress(ArtifactError, SpecError, KeyError):
        return str(read_json(path, schema=CHECKPOINT_SCHEMA)["weights"])
    return ""
