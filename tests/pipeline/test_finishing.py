"""Final training of chosen networks: kept where better, resumed as if undisturbed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from edgenas.artifacts import sha256_file, write_json, write_manifest
from edgenas.cli.main import main
from edgenas.data import DataSet, Images
from edgenas.errors import ArtifactError, DataError, Interrupted, SpecError
from edgenas.events import Event
from edgenas.export.certificate import read_certificate
from edgenas.networks import Network
from edgenas.pipeline import FinalConfig, read_config
from edgenas.pipeline.final_weights import Verdict, final_network, final_weights
from edgenas.pipeline.finishing import AVERAGES, FINAL, _better, _Weights, finish
from edgenas.pipeline.network_files import extract
from edgenas.pipeline.opening import Opened, open_stages
from edgenas.pipeline.teaching import check_final
from edgenas.supernet import Supernet, Teacher, load_supernet, save_supernet
from edgenas.testing.fakes import tiny_space, write_invented_device, write_tiny_run

pytestmark = pytest.mark.long

SETTINGS = FinalConfig(epochs=2, batch=64, max_int8_drop=1.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A run on the digits with a trained supernet and a `[final]`, and no search yet."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_invented_device(folder, tiny_space())
        path = write_tiny_run(folder, formats='"onnx", "onnx-int8"')
        text = path.read_text("utf-8").replace("epochs = 1", "epochs = 6")
        path.write_text(text.replace("images = 100\n", ""), "utf-8")
        config = replace(read_config(path), final=SETTINGS)
        return open_stages(config, folder / "runs" / "tiny", resume=False)


@pytest.fixture
def run(trained: Opened, tmp_path: Path) -> Opened:
    """The same with a folder of its own."""
    return replace(trained, folder=tmp_path)


def with_final(run: Opened, **settings: Any) -> Opened:
    final = replace(SETTINGS, **settings)
    return replace(run, config=replace(run.config, final=final))


def test_a_tuned_network_is_better_and_its_file_is_what_was_judged(run: Opened) -> None:
    run = with_final(run, epochs=8)  # enough to gain much, whatever this processor's rounding
    arch = run.supernet.space.smallest()
    (note,) = finish(run, [arch])
    found = final_weights(run, arch)
    assert found is not None
    assert found.verdict == "tuned", found
    assert found.top1["tuned"] > found.top1["inherited"] + 0.02
    assert found.top1_int8["tuned"] >= found.top1_int8["inherited"]
    assert (found.won - found.lost) / found.n == pytest.approx(
        found.top1["tuned"] - found.top1["inherited"]
    )
    assert found.epochs == 8
    assert found.parents == run.rests_on
    assert note == f"{arch.digest}: {found.told}"
    assert f"lost of {found.n} (95 % interval +" in note
    assert "), 8 epochs" in note
    folder = run.folder / "models" / arch.digest
    assert found.sha256 == sha256_file(folder / "weights.safetensors")
    assert not (run.folder / FINAL).exists()
    assert top1(extract(run, arch), run.data, run.data.search) == found.top1["tuned"]
    # another split, which no choice has read
    inherited = extract(replace(run, folder=run.folder / "none"), arch)
    assert top1(extract(run, arch), run.data, run.data.test) > top1(
        inherited, run.data, run.data.test
    )


def top1(network: torch.nn.Module, data: DataSet, images: Images) -> float:
    from edgenas.data import prepare

    prepared = prepare(images.pixels, resolution=8, mean=data.mean, std=data.std)
    with torch.inference_mode():
        return float((network(prepared).argmax(1) == images.labels).double().mean())


def test_what_is_not_better_is_not_kept(run: Opened) -> None:
    run = with_final(run, peak_lr=1e-9, epochs=1, quantisation_aware="never")
    arch = run.supernet.space.largest()
    (note,) = finish(run, [arch])
    found = final_weights(run, arch)
    assert found is not None
    assert (found.verdict, found.sha256, found.won, found.lost) == ("kept inherited", None, 0, 0)
    assert "inherited weights were kept: 1 epochs of final training gave +0.00 points" in note
    assert not (run.folder / "models" / arch.digest / "weights.safetensors").exists()
    assert final_network(run, arch) is None
    assert torch.equal(
        extract(run, arch).state_dict()["units.0.0.conv.weight"],
        run.supernet.extract(arch).state_dict()["units.0.0.conv.weight"],
    )


def weights(name: str, right: int, right_int8: int | None) -> _Weights:
    def images(n: int) -> Any:
        return np.arange(100) < n

    int8 = None if right_int8 is None else images(right_int8)
    return _Weights(name, None, images(right), int8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("inherited", "best", "new", "kept"),
    [
        ((90, None), (90, None), (91, None), True),
        ((90, None), (90, None), (90, None), False),  # no better
        ((90, 88), (90, 88), (93, 87), False),  # worse in int8
        ((90, 88), (90, 88), (90, 89), True),
        ((90, 80), (93, 81), (92, 90), True),  # int8 gains more than float loses
        ((90, 80), (93, 81), (89, 95), False),  # worse in float than what was inherited
        ((90, 80), (93, 89), (92, 90), False),  # no better in the sum
    ],
)
def test_which_weights_are_kept(
    inherited: tuple[int, int | None],
    best: tuple[int, int | None],
    new: tuple[int, int | None],
    kept: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    one, two, three = (weights(n, *w) for n, w in zip("abc", (inherited, best, new), strict=True))
    assert _better(three, two, one) is (three if kept else two)


def test_float_counts_where_files_are_written_in_it() -> None:
    one, two = weights("inherited", 95, 80), weights("tuned, quantisation-aware", 90, 90)
    assert _better(two, one, one) is one
    one, two = (replace(w, float_counts=False) for w in (one, two))
    assert _better(two, one, one) is two


def test_what_is_told_of_each_verdict(run: Opened) -> None:
    run = with_final(run, epochs=8)
    arch = run.supernet.space.smallest()
    finish(run, [arch])
    found = final_weights(run, arch)
    assert found is not None
    verdicts: tuple[Verdict, ...] = ("averaged, 0.5 tuned", "tuned, quantisation-aware")
    starts = ("fine-tuned (averaged, 0.5 tuned): +0.00", "fine-tuned (quantisation-aware): +0.00")
    for verdict, start in zip(verdicts, starts, strict=True):
        alike = {"inherited": 0.5, verdict: 0.5}
        told = replace(found, verdict=verdict, top1=alike, top1_int8={}).told
        assert told.startswith(start)


def test_int8_is_trained_where_it_loses_too_much(run: Opened) -> None:
    arch = run.supernet.space.smallest()
    run = with_final(run, max_int8_drop=0.0, epochs=1, quantisation_aware="always")
    finish(run, [arch])
    found = final_weights(run, arch)
    assert found is not None
    assert list(found.top1) == list(found.top1_int8)
    without = {"inherited", "tuned", *AVERAGES}
    assert set(found.top1) == {*without, "tuned, quantisation-aware"}
    borne = with_final(run, max_int8_drop=1.0, epochs=1)
    finish(borne, [arch])
    found = final_weights(borne, arch)
    assert found is not None
    assert set(found.top1) == without, "other settings: trained again"


def test_a_training_that_diverges_leaves_the_inherited_weights(run: Opened) -> None:
    arch = run.supernet.space.smallest()
    run = with_final(run, peak_lr=1e20, epochs=1, quantisation_aware="always")
    (note,) = finish(run, [arch])
    found = final_weights(run, arch)
    assert found is not None
    assert (found.verdict, found.diverged, found.sha256) == ("kept inherited", True, None)
    assert "it diverged" in note
    assert "lower final.peak_lr" in note
    assert final_weights(with_final(run, peak_lr=0.1), arch) is None, "other settings: again"


def test_what_int8_still_loses_is_told(run: Opened) -> None:
    arch = run.supernet.space.smallest()
    run = with_final(run, epochs=1, quantisation_aware="never", max_int8_drop=0.005)
    finish(run, [arch])
    found = final_weights(run, arch)
    assert found is not None
    assert "still loses" not in replace(found, top1_int8=dict(found.top1)).told
    name = "inherited" if found.sha256 is None else found.verdict
    less = {**found.top1_int8, name: found.top1[name] - 0.0312}
    told = replace(found, top1_int8=less).told
    assert "in simulated int8 it still loses 3.12 points, more than final.max_int8_drop" in told
    config = run.config
    assert config.max_top1_drop == 0.005, "exported files are held to it, too"
    assert replace(config, final=None).max_top1_drop == config.export.max_top1_drop == 0.01


class Stopped(Exception):
    """Stands for a kill."""


def stopping_after(n: int, stage: str, error: BaseException) -> Callable[[Event], None]:
    """A report that raises in the middle of the training."""

    def report(event: Event) -> None:
        if event.stage == stage and event.total and event.done == n:
            raise error

    return report


@pytest.mark.parametrize("error", [Stopped(), KeyboardInterrupt()])
def test_stopped_and_resumed_ends_as_undisturbed(
    run: Opened, tmp_path: Path, error: BaseException
) -> None:
    run = with_final(run, epochs=1, quantisation_aware="always")
    archs = [run.supernet.space.smallest(), run.supernet.space.largest()]
    whole = replace(run, folder=tmp_path / "whole")
    finish(whole, archs)
    with pytest.raises((Stopped, Interrupted)):
        finish(run, archs, report=stopping_after(9, "final", error))
    assert list((run.folder / FINAL).iterdir())
    stages: list[str] = []
    finish(run, archs, report=lambda e: stages.append(e.message))
    for arch in archs:
        one, other = final_weights(run, arch), final_weights(whole, arch)
        assert one is not None
        assert other is not None
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    stages.clear()
    finish(run, archs, report=lambda e: stages.append(e.message))
    assert len(stages) == len(archs), "what is finished is not repeated"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, in seconds, of a clock that steps alone move on: 0.1 s each."""
    now = [0.0]

    def tick(*_: object) -> None:
        now[0] += 0.1

    for module in ("edgenas.supernet.training", "edgenas.pipeline.training"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: now[0]))
    hook = register_optimizer_step_post_hook(tick)
    yield now
    hook.remove()


@pytest.mark.usefixtures("clock")
def test_the_time_budget_is_shared(run: Opened) -> None:
    archs = [run.supernet.space.smallest(), run.supernet.space.largest()]
    run = with_final(run, epochs=10_000, minutes=0.1, quantisation_aware="never")
    finish(run, archs)
    found = [final_weights(run, arch) for arch in archs]
    assert [f.seconds for f in found if f is not None] == pytest.approx([3, 3], abs=0.11)
    assert all(f is not None and 0.5 < f.epochs < 10 for f in found)


def test_a_slow_teacher_counts_where_it_was_asked_before_only_in_part(
    run: Opened, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second network's first steps cost less, since the teacher has answered for the first."""
    fast = Teacher.__init__

    def think(*_: object) -> None:
        clock[0] += 0.4

    def slow(self: Teacher, network: Network) -> None:
        network.register_forward_pre_hook(think)
        fast(self, network)

    monkeypatch.setattr(Teacher, "__init__", slow)
    archs = [run.supernet.space.smallest(), run.supernet.space.largest()]
    run = with_final(run, epochs=10_000, minutes=0.1, quantisation_aware="never")
    finish(run, archs)
    first, second = (final_weights(run, arch) for arch in archs)
    assert first is not None
    assert second is not None
    assert first.seconds == pytest.approx(3, abs=0.51)
    assert 0 < second.seconds < 3.1


def test_without_time_inherited_weights_are_kept(run: Opened) -> None:
    run = with_final(run, minutes=1e-9)
    arch = run.supernet.space.smallest()
    assert "no time was left" in finish(run, [arch])[0]
    assert final_network(run, arch) is None


def test_a_run_without_final_training_trains_nothing(run: Opened) -> None:
    run = replace(run, config=replace(run.config, final=None))
    assert finish(run, [run.supernet.space.smallest()]) == ()
    assert not list(run.folder.iterdir())


def test_damaged_weights_are_refused_and_trained_again(run: Opened) -> None:
    run = with_final(run, epochs=8)  # enough to gain, whatever this processor's rounding
    arch = run.supernet.space.smallest()
    finish(run, [arch])
    path = run.folder / "models" / arch.digest / "weights.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        extract(run, arch)
    finish(run, [arch])
    assert path.read_bytes() == before
    sidecar = path.with_name("weights.json")
    table = json.loads(sidecar.read_text("utf-8"))
    kept = {"verdict": "kept inherited", "sha256": None}
    for wrong in (
        {"n": 0},
        {"verdict": "kept inherited"},
        {"extra": 1},
        {"sha256": None},
        {**kept, "top1": {"inherited": 0.5}, "top1_int8": {}},
        {"top1_int8": {"inherited": 0.1}},
    ):
        write_json(sidecar, {**table, **wrong})
        with pytest.raises(ArtifactError, match=r"weights\.json"):
            final_weights(run, arch)


def test_weights_of_other_settings_are_not_taken(run: Opened) -> None:
    run = with_final(run, epochs=1)
    arch = run.supernet.space.smallest()
    finish(run, [arch])
    assert final_weights(run, arch) is not None
    assert final_weights(with_final(run, distil=0.1), arch) is None
    other = replace(run, info=replace(run.info, digest="0" * 12))
    assert final_weights(other, arch) is None


def test_weights_from_before_a_setting_was_known_hold_at_its_default(run: Opened) -> None:
    run = with_final(run, epochs=1)
    arch = run.supernet.space.smallest()
    finish(run, [arch])
    path = run.folder / "models" / arch.digest / "weights.json"
    document = json.loads(path.read_text("utf-8"))
    for name in ("float", "distil", "teacher"):
        del document["settings"][name]
    path.write_text(json.dumps(document), "utf-8")
    assert final_weights(run, arch) is not None
    assert final_weights(with_final(run, distil=0.1), arch) is None


def test_another_supernet_may_teach(run: Opened, tmp_path: Path) -> None:
    wider = replace(tiny_space(), head_width=64)
    path, arch = tmp_path / "teacher.safetensors", run.supernet.space.smallest()

    def save(teacher: Supernet) -> None:
        save_supernet(path, teacher, data=run.info.data, recipe=run.info.recipe, log=())

    save(Supernet(wider, seed=1))
    taught = with_final(run, distil=0.9, epochs=1, teacher=str(path))
    alike = with_final(run, distil=0.9, epochs=1)
    finish(taught, [arch])
    found = final_weights(taught, arch)
    assert found is not None
    assert found.settings["teacher"] == load_supernet(path)[1].digest
    assert final_weights(alike, arch) is None
    finish(alike, [arch])
    by_own = final_weights(alike, arch)
    assert by_own is not None
    assert by_own.top1["tuned"] > found.top1["tuned"], "a teacher who has learnt teaches better"
    finish(taught, [arch])
    save(Supernet(wider, seed=2))
    assert final_weights(taught, arch) is None
    save(Supernet(wider, seed=1))
    assert final_weights(taught, arch) == replace(
        found, seconds=final_weights(taught, arch).seconds
    )
    path.unlink()
    assert final_weights(taught, arch) is not None, "what is finished needs no teacher"
    with pytest.raises(SpecError, match=r"final\.teacher: .*teacher\.safetensors"):
        finish(taught, [run.supernet.space.largest()])


def test_what_the_data_cannot_have_is_refused_before_anything_is_trained(
    run: Opened, tmp_path: Path
) -> None:
    def check(**settings: Any) -> None:
        check_final(replace(SETTINGS, **settings), run.data)

    check()
    with pytest.raises(SpecError, match=r"final\.batch: 5000 is more than"):
        check(batch=5000)
    with pytest.raises(SpecError, match="there is no such file"):
        check(teacher=str(tmp_path / "none.safetensors"))
    gone = replace(SETTINGS, teacher=str(tmp_path / "none.safetensors"))
    check_final(gone, run.data, finished=True)
    with pytest.raises(SpecError, match="that is a folder"):
        check(teacher=str(tmp_path))
    path = tmp_path / "other.safetensors"
    known = {**run.info.data, "classes": [*run.data.classes, "eleven"]}
    save_supernet(path, run.supernet, data=known, recipe=run.info.recipe, log=())
    with pytest.raises(DataError, match=r"final\.teacher: .*eleven") as refused:
        check(teacher=str(path))
    assert "same classes" in refused.value.hint
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        check(teacher=str(path))


def test_from_the_run_file_to_certificate_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    path = write_tiny_run(tmp_path, trials=3)
    path.write_text(path.read_text("utf-8") + "\n[final]\nepochs = 3\nbatch = 64\n", "utf-8")
    assert main(["search", "run.toml", "--quiet"]) == 0
    printed = capfd.readouterr().out
    run = tmp_path / "runs" / "tiny"
    (folder,) = (run / "models").iterdir()
    certificate = read_certificate(folder)
    told = json.loads((folder / "weights.json").read_text("utf-8"))
    assert told["verdict"] == "tuned"
    assert certificate.parents["weights"] == told["sha256"][:12]
    assert certificate.weights.startswith("fine-tuned: +")
    assert certificate.weights in printed
    assert "Fine-tuned: +" in (run / "report.html").read_text("utf-8")
    # the certificate's reference is the tuned network, and so it is when it is verified again
    assert certificate.models[0].verification.reference_top1 > told["top1"]["inherited"]
    assert main(["verify", "runs/tiny", "--quiet"]) == 0
    assert main(["export", "tiny", folder.name, "--quiet"]) == 0
    assert read_certificate(folder).parents["weights"] == told["sha256"][:12]
    shutil.copytree(run, tmp_path / "runs" / "other")
    other = tmp_path / "runs" / "other" / "models" / folder.name
    (other / "weights.json").unlink()
    write_manifest(other.parents[1])
    capfd.readouterr()
    assert main(["verify", "runs/other", "--quiet"]) == 3
    assert "exported with the weights" in capfd.readouterr().err
    assert main(["export", "tiny", "smallest", "--quiet"]) == 0
    smallest = read_certificate(run / "models" / tiny_space().smallest().digest)
    assert smallest.weights == "inherited weights: it was not chosen for final training"
