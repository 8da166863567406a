from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from edgenas.data import DataSet
from edgenas.evaluation import SupernetEvaluator
from edgenas.networks import Network
from edgenas.spaces.mobile import MobileSpace
from edgenas.supernet import Recipe, Supernet, Teacher, tune, tuning

RECIPE = Recipe(batch=64, mirror=False, checkpoint_every=5, peak_lr=0.02)
N_STEPS = 4


class Tuned:
    """Trains networks of one supernet; counts what their teacher is asked."""

    def __init__(self, space: MobileSpace, data: DataSet, folder: Path) -> None:
        self.space, self.data, self.folder = space, data, folder
        self.evaluate = SupernetEvaluator(Supernet(space), data)
        self.asked = 0

    def teacher(self) -> Teacher:
        network = self.evaluate.network(self.space.largest())
        network.register_forward_hook(lambda *_: setattr(self, "asked", self.asked + 1))
        return Teacher(network)

    def __call__(self, network: Network, teacher: Teacher, *, seed: int = 0) -> torch.Tensor:
        module = copy.deepcopy(network)
        tune(
            module,
            self.data,
            RECIPE,
            resolution=network.lowering.in_chw[1],
            teacher=teacher,
            distil=0.5,
            n_steps=N_STEPS,
            folder=self.folder / f"{len(list(self.folder.iterdir()))}",
            seed=seed,
        )
        return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


@pytest.fixture
def tuned(tiny_space: MobileSpace, digits: DataSet, tmp_path: Path) -> Tuned:
    return Tuned(tiny_space, digits, tmp_path)


def test_what_a_teacher_said_of_a_step_is_kept_for_the_next_network(tuned: Tuned) -> None:
    small, large = (
        tuned.evaluate.network(arch) for arch in (tuned.space.smallest(), tuned.space.largest())
    )
    alone = tuned(small, tuned.teacher())
    teacher = tuned.teacher()
    tuned.asked = 0
    tuned(large, teacher)
    assert tuned.asked == N_STEPS
    assert tuned(small, teacher).equal(alone)
    assert tuned.asked == N_STEPS


def test_other_images_are_asked_anew(tuned: Tuned) -> None:
    small, teacher = tuned.evaluate.network(tuned.space.smallest()), tuned.teacher()
    first, other = tuned(small, teacher), tuned(small, teacher, seed=1)
    assert tuned.asked == 2 * N_STEPS
    assert not other.equal(first)


def test_what_has_no_room_is_asked_anew(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    labels_of_a_step = 4 * RECIPE.batch * len(tuned.data.classes)
    monkeypatch.setattr(tuning, "MOST_KEPT_BYTES", 3 * labels_of_a_step)
    small, teacher = tuned.evaluate.network(tuned.space.smallest()), tuned.teacher()
    first = tuned(small, teacher)
    assert tuned(small, teacher).equal(first)
    assert tuned.asked == N_STEPS + 1


def test_what_is_kept_lies_together_and_does_not_split_the_memory_of_others(tuned: Tuned) -> None:
    teacher = tuned.teacher()
    r = teacher.resolution
    said = [torch.rand(4, 1, r, r) for _ in range(3)]
    first = [teacher.soft_labels(k, lambda k=k: said[k]).clone() for k in range(3)]
    kept = [teacher.soft_labels(k, lambda: said[0]) for k in range(3)]
    assert all(a.equal(b) for a, b in zip(first, kept, strict=True))
    assert len({labels.untyped_storage().data_ptr() for labels in kept}) == 1
