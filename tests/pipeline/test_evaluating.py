"""What a run's evaluator reads, and the digests that say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas.artifacts import derive_seed, digest
from edgenas.data import DataSet, Images, data_set
from edgenas.errors import DataError, SpecError
from edgenas.objectives import parse_objectives
from edgenas.pipeline import evaluating
from edgenas.pipeline.config import DataConfig, RunConfig, SearchConfig
from edgenas.pipeline.evaluating import Evaluator, check_unlabelled, evaluator
from edgenas.pipeline.metrics import COSTLY
from edgenas.supernet import Supernet
from edgenas.testing.fakes import tiny_space

SETTINGS = SearchConfig(("a",), recalibration_images=32, images=30, robustness_images=10)
CONFIG = RunConfig(DataConfig("noise"), SETTINGS, seed=5)


@pytest.fixture(scope="module")
def data() -> DataSet:
    generator = torch.Generator().manual_seed(0)

    def images(n: int) -> Images:
        pixels = torch.randint(256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)
        return Images(pixels, torch.arange(n) % 10)

    splits = {"train": images(300), "search": images(40), "test": images(20)}
    return data_set("noise", tuple("0123456789"), splits)


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    """25 pictures without labels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (tmp_path / "heap").mkdir()
    for i in range(25):
        Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8)).save(
            tmp_path / "heap" / f"{i:02}.png"
        )
    return tmp_path / "heap"


def made(data: DataSet, metrics: tuple[str, ...] = COSTLY, **settings: object) -> Evaluator:
    config = replace(CONFIG, search=replace(SETTINGS, **settings))  # type: ignore[arg-type]
    return evaluator(Supernet(tiny_space()), data, config, metrics)


def test_top1_keeps_the_digest_that_caches_hold(data: DataSet) -> None:
    seed = derive_seed(5, "recalibration")
    expected = {"images": digest([1, 30, 32, seed])}
    assert made(data, ("top1",)).rests_on == expected
    assert made(data).rests_on.items() >= expected.items()


def test_each_digest_changes_with_what_its_metric_rests_on_alone(data: DataSet) -> None:
    before = made(data).rests_on
    assert len(set(before.values())) == 4

    def changed(**settings: object) -> set[str]:
        after = made(data, **settings).rests_on
        return {name for name in before if before[name] != after[name]}

    assert changed() == set()
    assert changed(robustness_images=11) == {"robustness"}
    assert changed(images=20) == {"images", "top1_int8", "agreement"}
    assert changed(recalibration_images=31) == set(before)


def test_sets_are_drawn_by_the_seed_and_counted(data: DataSet, heap: Path) -> None:
    found = made(data)
    counts = {"top1": 30, "top1_int8": 30, "robustness": 10, "agreement": 30}
    assert found.n_images == counts
    assert found.inner.corrupted is not None
    again = made(data).inner.corrupted
    assert again is not None
    assert torch.equal(found.inner.corrupted.pixels, again.pixels)
    assert made(data, robustness_images=9999).n_images["robustness"] == 40
    own = made(data, unlabelled=str(heap))
    assert own.n_images == {**counts, "agreement": 25}
    assert {k for k, v in own.rests_on.items() if v != found.rests_on[k]} == {"agreement"}
    (heap / "00.png").unlink()
    other = made(data, unlabelled=str(heap)).rests_on
    assert other["agreement"] not in (own.rests_on["agreement"], found.rests_on["agreement"])
    few = made(data, unlabelled=str(heap), images=10)
    assert few.n_images["agreement"] == 10


def test_a_folder_is_read_for_agreement_only(data: DataSet, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert made(data, ("top1", "robustness"), unlabelled=gone).inner.unlabelled is None
    with pytest.raises(DataError, match="gone: there is no such folder"):
        made(data, unlabelled=gone)


def test_all_metrics_or_some(data: DataSet) -> None:
    evaluate = made(data)
    arch = tiny_space().smallest()
    found = evaluate(arch)
    assert tuple(found) == COSTLY
    assert evaluate(arch, ("agreement",)) == {"agreement": found["agreement"]}
    assert (found["robustness"] * 10 * 21) % 1 == pytest.approx(0, abs=1e-6)


def test_a_folder_that_nothing_reads_is_refused_before_anything_is_done(heap: Path) -> None:
    config = replace(CONFIG, search=replace(SETTINGS, unlabelled=str(heap)))
    check_unlabelled(config, parse_objectives(["max agreement"]))
    check_unlabelled(config, parse_objectives(["agreement >= 0.9", "min macs"]))
    check_unlabelled(CONFIG, parse_objectives(["max top1"]))
    with pytest.raises(SpecError, match="'agreement' alone, which no objective names"):
        check_unlabelled(config, parse_objectives(["max top1"]))


def test_of_many_images_those_are_scored_that_pilots_do_not_name_alike(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(data)
    assert whole.contested is None
    assert whole.notes == ()
    monkeypatch.setattr(evaluating, "FEW_IMAGES", 20)
    assert made(data, images=20).contested is None, "few images are scored in full"
    assert made(data, pilots=0).rests_on == whole.rests_on
    events: list[str] = []
    config = replace(CONFIG, search=replace(SETTINGS, pilots=4))
    space = tiny_space()
    torch.manual_seed(0)
    supernet = Supernet(space)
    found = evaluator(supernet, data, config, COSTLY, report=lambda e: events.append(e.message))
    changed = {name for name, value in found.rests_on.items() if value != whole.rests_on[name]}
    assert changed == {"images", "top1_int8", "agreement"}
    assert not events, "they are asked only when something is evaluated"
    largest = found(space.largest())
    contested = found.contested
    assert contested is not None
    assert events == ["4 networks on all 30 images"], "once"
    assert found.facts["contested images"] == len(contested.index)
    assert f"of 30 images those {len(contested.index)}" in found.notes[0]
    in_full = found.inner(space.largest(), COSTLY)
    in_full.pop("top1_int8")
    assert in_full == {name: largest[name] for name in in_full}, "a pilot's are exact"
