from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgenas.data import DataSet
from edgenas.errors import ArtifactError, Interrupted, ResourceError, SpecError, UsageError
from edgenas.evaluation import SupernetEvaluator
from edgenas.events import Event
from edgenas.spaces.mobile import MobileSpace
from edgenas.supernet import Recipe, Supernet, load_supernet, sandwich, save_supernet, train
from edgenas.supernet.checkpoint import load_checkpoint
from edgenas.supernet.training import HardLoss, Sandwich, Training

RECIPE = Recipe(epochs=1, batch=64, n_random=1, mirror=False, checkpoint_every=5, peak_lr=0.05)


def _weights(supernet: Supernet) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in supernet.parameters()])


@pytest.mark.long
def test_training_learns(tiny_space: MobileSpace, digits: DataSet, tmp_path: Path) -> None:
    supernet = Supernet(tiny_space)
    evaluator = SupernetEvaluator(supernet, digits)
    before = evaluator(tiny_space.smallest())["top1"]
    log = train(supernet, digits, replace(RECIPE, epochs=10, peak_lr=0.1), folder=tmp_path)
    assert [entry["epoch"] for entry in log] == list(range(1, 11))
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["cpu_minutes"] > 0
    smallest = evaluator(tiny_space.smallest())["top1"]
    assert smallest > before + 0.2
    assert evaluator(tiny_space.largest())["top1"] > smallest + 0.1


def test_stopped_and_resumed_is_undisturbed(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    whole, parts = Supernet(tiny_space), Supernet(tiny_space)
    train(whole, digits, RECIPE, folder=tmp_path / "a", seed=5)
    train(parts, digits, RECIPE, folder=tmp_path / "b", seed=5, stop_after_steps=7)
    again = Supernet(tiny_space, seed=99)  # overwritten by the checkpoint
    log = train(again, digits, RECIPE, folder=tmp_path / "b", seed=5, resume=True)
    assert _weights(again).equal(_weights(whole))
    assert len(log) == 1


def test_another_seed_is_another_training(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    a, b = Supernet(tiny_space), Supernet(tiny_space)
    train(a, digits, RECIPE, folder=tmp_path / "a", seed=1, stop_after_steps=2)
    train(b, digits, RECIPE, folder=tmp_path / "b", seed=2, stop_after_steps=2)
    assert not _weights(a).equal(_weights(b))


def test_only_one_architecture_leaves_the_others_weights_alone(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    supernet = Supernet(tiny_space)
    arch = tiny_space.smallest()
    before = dict(supernet.named_parameters())
    before = {name: p.detach().clone() for name, p in before.items()}
    train(supernet, digits, RECIPE, folder=tmp_path, only=arch, stop_after_steps=2)
    changed = {n for n, p in supernet.named_parameters() if not p.detach().equal(before[n])}
    assert changed
    assert not [name for name in changed if "fused" in name or "_2_" in name]


def test_the_largest_is_first_trained_alone(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    n_steps = len(digits.train) // RECIPE.batch
    recipe = replace(RECIPE, largest_first=0.5)
    seen = {}
    for name, only in (("first", None), ("alone", tiny_space.largest())):
        supernet = Supernet(tiny_space)
        settings = {"folder": tmp_path / name, "seed": 2, "only": only, "resume": True}
        n_alone = round(0.5 * n_steps)
        train(supernet, digits, recipe, stop_after_steps=n_alone, **settings)
        half = _weights(supernet)
        train(supernet, digits, recipe, stop_after_steps=1, **settings)
        seen[name] = half, _weights(supernet)
    assert seen["first"][0].equal(seen["alone"][0])
    assert not seen["first"][1].equal(seen["alone"][1])


def test_the_time_left_knows_that_later_steps_take_longer(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))  # a second a look, however many networks a step trains
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    left = {}
    for share in (0.0, 0.5):
        seen: list[Event] = []
        recipe = replace(RECIPE, largest_first=share, n_random=2)
        folder = tmp_path / str(share)
        train(
            Supernet(tiny_space), digits, recipe, folder=folder, stop_after_steps=2,
            report=seen.append,
        )  # fmt: skip
        left[share] = [event.remaining_s for event in seen if event.stage == "train"]
    assert left[0.5][0] > 1.2 * left[0.0][0] > 0


def test_sandwich_has_largest_smallest_and_random(tiny_space: MobileSpace) -> None:
    supernet = Supernet(tiny_space)
    archs = sandwich(supernet, n_random=2, seed=3)
    assert archs[:2] == [tiny_space.largest(), tiny_space.smallest()]
    assert len(archs) == 4
    assert archs == sandwich(supernet, n_random=2, seed=3)
    assert archs != sandwich(supernet, n_random=2, seed=4)


_CHILD = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from edgenas.data import load_data
from edgenas.spaces.mobile import from_table
from edgenas.supernet import Recipe, Supernet, train

torch.set_num_threads(1)
supernet = Supernet(from_table({table!r}, in_channels=1, n_classes=10))
train(
    supernet, load_data("digits", seed=0), {recipe!r}, folder=Path({folder!r}), **{settings!r}
)
"""


def _script(folder: Path, space: MobileSpace, recipe: Recipe, **settings: object) -> str:
    """A script beside `folder` that trains in it, in a process of its own."""
    script = folder.with_suffix(".py")
    script.write_text(
        _CHILD.format(
            root=str(Path(__file__).parents[2]),
            table=space.to_table(),
            recipe=recipe,
            folder=str(folder),
            settings=settings,
        )
    )
    return str(script)


def _run(script: str, *launcher: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, script],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_two_processes_train_like_one_that_accumulates(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    weights = []
    for name, accumulate, launcher in (
        ("one", 2, ()),
        ("two", 1, ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")),
    ):
        recipe = Recipe(epochs=1, batch=64, n_random=1, mirror=False, accumulate=accumulate)
        _run(_script(tmp_path / name, tiny_space, recipe, stop_after_steps=4), *launcher)
        supernet = Supernet(tiny_space)
        train(supernet, digits, recipe, folder=tmp_path / name, resume=True, stop_after_steps=0)
        weights.append(_weights(supernet))
    assert not weights[0].equal(_weights(Supernet(tiny_space)))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-6)


def _last_step(folder: Path) -> int:
    """That of the last checkpoint; 0 before the first."""
    path = folder / "checkpoint.json"
    return int(json.loads(path.read_text())["step"]) if path.exists() else 0


@pytest.mark.long
def test_killed_at_random_moments_and_resumed_is_undisturbed(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    whole = Supernet(tiny_space)
    recipe = Recipe(epochs=2, batch=64, n_random=1, mirror=False, checkpoint_every=3)
    train(whole, digits, recipe, folder=tmp_path / "whole")
    killed = tmp_path / "killed"
    script = _script(killed, tiny_space, recipe, resume=True)
    rng, step = random.Random(0), 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, script])
        while process.poll() is None and _last_step(killed) <= step:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.03))
        assert process.poll() is None, "nothing is left to be killed"
        process.kill()
        process.wait()
        step = _last_step(killed)
        assert (killed / f"step-{step:07d}.safetensors").is_file()
    (killed / ".step-0000001-cut.safetensors").write_bytes(b"killed while it was written")
    resumed, events = Supernet(tiny_space), list[Event]()
    train(resumed, digits, recipe, folder=killed, resume=True, report=events.append)
    assert events[0].done == step + 1
    assert _weights(resumed).equal(_weights(whole))
    leftovers = [p.name for p in killed.glob("*.safetensors")]
    assert len(leftovers) <= 2


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path, stop_after_steps=10)
    newest = max(tmp_path.glob("step-*.safetensors"))
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1  # loads silently without a digest
    newest.write_bytes(data)
    events: list[Event] = []
    resumed = Supernet(tiny_space)
    train(
        resumed,
        digits,
        RECIPE,
        folder=tmp_path,
        resume=True,
        stop_after_steps=0,
        report=events.append,
    )
    assert any("damaged" in event.message for event in events)
    for path in tmp_path.glob("step-*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="no whole checkpoint"):
        train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path, resume=True)


def test_a_checkpoint_of_another_training_is_refused(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path, stop_after_steps=1)
    with pytest.raises(SpecError, match="another training: seed was '0', is '1'"):
        train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path, seed=1, resume=True)


def test_nan_stops_and_keeps_the_last_good_checkpoint(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    supernet = Supernet(tiny_space)
    train(supernet, digits, RECIPE, folder=tmp_path, stop_after_steps=5)
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    broken = replace(digits, mean=(float("nan"),))
    with pytest.raises(
        SpecError, match=r"loss became nan at step 6 .*; the last good checkpoint is kept in"
    ):
        train(supernet, broken, RECIPE, folder=tmp_path, resume=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == kept
    fresh = tmp_path / "fresh"
    with pytest.raises(SpecError, match=r"loss became nan at step 1 of \d+$"):
        train(Supernet(tiny_space), broken, RECIPE, folder=fresh)


def test_ctrl_c_writes_a_checkpoint(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    def interrupt(event: Event) -> None:
        if event.done == 3:
            raise KeyboardInterrupt

    supernet = Supernet(tiny_space)
    with pytest.raises(Interrupted, match="after step 3") as caught:
        train(supernet, digits, RECIPE, folder=tmp_path, report=interrupt)
    assert "--resume" in caught.value.hint
    checkpoint = load_checkpoint(tmp_path, fingerprint={})
    assert checkpoint is not None
    assert checkpoint.step == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_of_a_step_waits_for_its_end(
    number: signal.Signals,
    tiny_space: MobileSpace,
    digits: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    whole, resumed = Supernet(tiny_space), Supernet(tiny_space)
    n = -(-len(digits.train) // RECIPE.batch)  # a little more than an epoch
    log = train(whole, digits, RECIPE, folder=tmp_path / "whole", stop_after_steps=n + 2)
    at = int(log[0]["step"])
    step, steps = torch.optim.SGD.step, []

    def sent(self: torch.optim.SGD) -> None:
        step(self)
        steps.append(1)
        if len(steps) == at:
            signal.raise_signal(number)

    before = signal.signal(number, interrupted)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", sent)
            with pytest.raises(Interrupted, match=f"after step {at}"):
                train(resumed, digits, RECIPE, folder=tmp_path / "cut")
        assert signal.getsignal(number) is interrupted
    finally:
        signal.signal(number, before)
    rest = {"folder": tmp_path / "cut", "resume": True, "stop_after_steps": n + 2 - at}
    again = train(resumed, digits, RECIPE, **rest)
    assert _weights(resumed).equal(_weights(whole))
    assert [row["loss"] for row in again] == [row["loss"] for row in log]


def test_out_of_memory_halves_the_batch_once(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = Supernet.forward

    def limited(self: Supernet, images: torch.Tensor, arch: object) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images, arch)  # type: ignore[arg-type]

    monkeypatch.setattr(Supernet, "forward", limited)
    train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path / "a", stop_after_steps=1)
    assert sizes[0] == 64
    assert set(sizes[1:]) == {32}
    with pytest.raises(ResourceError, match="batch of 256"):
        train(Supernet(tiny_space), digits, replace(RECIPE, batch=256), folder=tmp_path / "b")


def test_two_trainers_in_one_folder_are_refused(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    def second(event: Event) -> None:
        train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path, stop_after_steps=1)

    with pytest.raises(ResourceError, match="another process trains"):
        train(Supernet(tiny_space), digits, RECIPE, folder=tmp_path, report=second)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"epoch": 3}, "train.epoch: unknown key; did you mean 'epochs'?"),
        ({"epochs": "3"}, "train.epochs: '3' is no int"),
        ({"epochs": True}, "train.epochs: True is no int"),
        ({"epochs": 0}, "train.epochs: 0 must be at least 1"),
        ({"peak_lr": float("nan")}, "train.peak_lr: nan is out of range"),
        ({"momentum": 1.0}, "train.momentum: 1.0 is out of range"),
        ({"schedule": "cosin"}, "did you mean 'cosine'?"),
        ({"largest_first": 1.0}, "out of range"),
        ({"n_random": -1}, "must not be negative"),
    ],
)
def test_recipes_are_checked(table: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Recipe.from_table(table)
    assert message in str(caught.value)


def test_batches_must_fit(tiny_space: MobileSpace, digits: DataSet, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="more than the"):
        train(Supernet(tiny_space), digits, replace(RECIPE, batch=5000), folder=tmp_path)
    with pytest.raises(UsageError, match="cannot be cut"):
        train(Supernet(tiny_space), digits, replace(RECIPE, accumulate=3), folder=tmp_path)


def test_learning_rates() -> None:
    one = Recipe(peak_lr=0.2, warmup=0.25)
    assert one.learning_rate(0) == pytest.approx(0.02)
    assert one.learning_rate(0.25) == pytest.approx(0.2)
    assert one.learning_rate(0.625) == pytest.approx(0.1)
    assert one.learning_rate(1) == pytest.approx(0, abs=1e-9)
    assert Recipe(peak_lr=0.2, schedule="cosine").learning_rate(0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("smoothing", "balance"), [(0.0, False), (0.2, False), (0.0, True), (0.2, True)]
)
def test_labels_are_smoothed_and_rare_classes_weigh_more(
    smoothing: float, *, balance: bool, digits: DataSet
) -> None:
    rare = (digits.train.labels == 3).nonzero().flatten()[20:]
    kept = torch.ones(len(digits.train), dtype=torch.bool).index_fill(0, rare, value=False)
    data = replace(digits, train=digits.train.take(kept.nonzero().flatten()))
    counts = data.train.labels.bincount()
    assert counts[3] == 20
    weights = len(data.train) / (10 * counts) if balance else torch.ones(10)
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 0, 1, 3, 9])
    wanted = torch.full((5, 10), smoothing / 10)
    wanted[range(5), labels] += 1 - smoothing
    expected = -(weights * wanted * logits.log_softmax(1)).sum() / weights[labels].sum()
    recipe = replace(RECIPE, label_smoothing=smoothing, balance=balance)
    found = HardLoss(torch.nn.Linear(1, 1), data, recipe)(logits, labels)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_convolutions_and_the_classifier_decay_but_no_norm_and_no_bias(
    tiny_space: MobileSpace, digits: DataSet, tmp_path: Path
) -> None:
    supernet, recipe = Supernet(tiny_space), replace(RECIPE, weight_decay=0.01)
    learner = Sandwich(supernet, digits, recipe, seed=0, only=None)
    training = Training(learner, digits, recipe, folder=tmp_path, seed=0)
    decay = {
        parameter: group["weight_decay"]
        for group in training.optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in supernet.named_parameters():
        decays = name.endswith(("conv.weight", "linear.weight"))
        assert decay.pop(parameter) == (0.01 if decays else 0), name
    assert not decay


def test_supernets_round_trip_and_damage_is_found(tiny_space: MobileSpace, tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    supernet = Supernet(tiny_space, seed=4)
    save_supernet(path, supernet, data={"source": "digits"}, recipe={"epochs": 1}, log=())
    loaded, info = load_supernet(path)
    assert loaded.space == tiny_space
    assert _weights(loaded).equal(_weights(supernet))
    assert info.data == {"source": "digits"}
    with pytest.raises(SpecError, match="by its name") as refused:
        load_supernet(path.with_suffix(".json"))
    assert "supernet.safetensors" in refused.value.hint
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:50], b"", whole[:-3] + b"\x00\x00\x01"):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load_supernet(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_supernet(path)
