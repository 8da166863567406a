from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgenas.artifacts import derive_seed
from edgenas.data import DataSet, Images, Unlabelled, load_data, prepare
from edgenas.errors import DataError, SpecError
from edgenas.evaluation import CORRUPTIONS, SEVERITIES, SupernetEvaluator, corrupt, top1
from edgenas.networks import build
from edgenas.spaces.mobile import MobileSpace, Stage
from edgenas.supernet import Supernet, recalibrate

SPACE = MobileSpace(
    resolutions=(8, 12),
    stem_width=4,
    stem_stride=1,
    head_width=16,
    in_channels=1,
    stages=(Stage(2, (4, 8), (1, 2), (3, 5), (2, 3)),),
)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    pytest.importorskip("sklearn", reason="the data set digits is in scikit-learn")
    return load_data("digits", seed=0)


def test_top1_is_the_share_of_right_images() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.5, 0.4]])
    assert top1(logits, torch.tensor([1, 0, 0, 1])) == 0.5


def test_evaluation_is_deterministic_and_a_share_of_the_search_split(digits: DataSet) -> None:
    evaluator = SupernetEvaluator(Supernet(SPACE), digits)
    arch = SPACE.largest()
    first = evaluator(arch)["top1"]
    assert first == evaluator(arch)["top1"]
    assert (first * len(digits.search)) % 1 == pytest.approx(0, abs=1e-6)


def test_only_the_search_split_is_scored_and_only_the_train_split_recalibrates(
    digits: DataSet,
) -> None:
    def blank(images: Images) -> Images:
        return Images(torch.zeros_like(images.pixels), torch.zeros_like(images.labels))

    supernet, arch = Supernet(SPACE), SPACE.smallest()
    evaluator = SupernetEvaluator(supernet, digits)
    network = evaluator.network(arch)
    pixels = prepare(digits.search.pixels, resolution=8, mean=digits.mean, std=digits.std)
    with torch.inference_mode():
        right = network(pixels).argmax(1) == digits.search.labels
    expected = {"top1": pytest.approx(float(right.double().mean()))}
    assert evaluator(arch) == expected
    unlabelled = Images(digits.train.pixels, torch.zeros_like(digits.train.labels))
    others = replace(digits, train=unlabelled, test=blank(digits.test))
    assert SupernetEvaluator(supernet, others)(arch) == expected
    unsearched = replace(digits, search=blank(digits.search), test=blank(digits.test))
    again = dict(SupernetEvaluator(supernet, unsearched).network(arch).named_buffers())
    assert again
    assert all(b.equal(again[name]) for name, b in network.named_buffers())


def test_an_empty_search_split_is_refused(digits: DataSet) -> None:
    with pytest.raises(DataError, match="search split is empty"):
        SupernetEvaluator(
            Supernet(SPACE), replace(digits, search=digits.search.take(torch.arange(0)))
        )


ALL = ("top1", "top1_int8", "robustness", "agreement")


def test_metrics_are_evaluated_together_or_one_by_one(digits: DataSet) -> None:
    evaluator = SupernetEvaluator(Supernet(SPACE), digits)
    together = evaluator(SPACE.smallest(), ALL)
    assert tuple(together) == ALL
    for name in ALL:
        assert evaluator(SPACE.smallest(), (name,)) == {name: together[name]}
        assert 0 <= together[name] <= 1
    again = SupernetEvaluator(Supernet(SPACE), digits)
    assert again(SPACE.smallest(), ALL) == together
    with pytest.raises(SpecError, match="did you mean 'robustness'"):
        evaluator(SPACE.smallest(), ("robust",))


def test_agreement_is_with_the_largest_network_and_reads_no_label(digits: DataSet) -> None:
    supernet = Supernet(SPACE)
    evaluator = SupernetEvaluator(supernet, digits)
    assert evaluator(SPACE.largest(), ("agreement",)) == {"agreement": 1.0}
    found = evaluator(SPACE.smallest(), ("agreement",))
    small, large = (
        evaluator.logits(evaluator.network(arch), digits.search).argmax(1)
        for arch in (SPACE.smallest(), SPACE.largest())
    )
    assert found["agreement"] == pytest.approx(float((small == large).float().mean()))
    wrong = Images(digits.search.pixels, torch.zeros_like(digits.search.labels))
    assert (
        SupernetEvaluator(supernet, replace(digits, search=wrong))(SPACE.smallest(), ("agreement",))
        == found
    )
    elsewhere = SupernetEvaluator(supernet, digits, unlabelled=Unlabelled(digits.test.pixels))
    assert elsewhere(SPACE.smallest(), ("agreement",)) != found
    assert elsewhere(SPACE.smallest()) == evaluator(SPACE.smallest())
    with pytest.raises(DataError, match="no unlabelled images"):
        SupernetEvaluator(supernet, digits, unlabelled=Unlabelled(digits.test.pixels[:0]))


def test_robustness_is_the_mean_over_all_corruptions(digits: DataSet) -> None:
    few = digits.search.take(torch.arange(20))
    evaluator = SupernetEvaluator(Supernet(SPACE), digits, corrupted=few)
    network = evaluator.network(SPACE.largest())
    seed = derive_seed(evaluator.seed, "corruption")
    shares = [
        top1(
            evaluator.logits(
                network, Images(corrupt(few.pixels, name, severity, seed=seed), few.labels)
            ),
            few.labels,
        )
        for name in CORRUPTIONS
        for severity in SEVERITIES
    ]
    assert len(shares) == 21
    found = evaluator(SPACE.largest(), ("robustness",))["robustness"]
    assert found == pytest.approx(sum(shares) / 21)


def test_int8_takes_its_ranges_from_the_calibration_images(digits: DataSet) -> None:
    supernet = Supernet(SPACE)
    dark = Images(digits.train.pixels[:64] // 2, digits.train.labels[:64])
    evaluator = SupernetEvaluator(supernet, digits, calibration=dark)
    network = evaluator.network(SPACE.largest())
    image = evaluator.quantised(network).ranges[0]
    largest = (float(dark.pixels.max()) / 255 - digits.mean[0]) / digits.std[0]
    assert image.high == pytest.approx(largest, rel=1e-5)
    default = SupernetEvaluator(supernet, digits)
    assert default.quantised(network).ranges[0].high > image.high


def test_recalibration_sets_the_statistics_of_the_images() -> None:
    network = build(SPACE.lower(SPACE.smallest()))
    images = 3 + 2 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    recalibrate(network, images.split(16))
    assert not network.training
    stem = network.units[0][0]  # type: ignore[index]  # a unit is a ModuleList
    seen = stem.conv(images)
    torch.testing.assert_close(stem.norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        stem.norm.running_var, seen.var((0, 2, 3)), rtol=0.05, atol=0.05
    )  # a mean of four batches' variances
    with pytest.raises(DataError, match="no images"):
        recalibrate(network, [])
