"""The supernet that ships, on the whole test split, with inherited weights."""

from pathlib import Path

import pytest

from edgenas.artifacts import read_json
from edgenas.data import DataSet, load_data
from edgenas.evaluation import SupernetEvaluator, top1
from edgenas.pipeline.shipped import fashion_mnist_folder, supernet_path
from edgenas.spaces.mobile import default_space
from edgenas.supernet import Supernet, SupernetInfo, load_supernet


@pytest.fixture(scope="module")
def shipped() -> tuple[Supernet, SupernetInfo]:
    return load_supernet(supernet_path("fashion-mnist"))


@pytest.fixture(scope="module")
def data() -> DataSet:
    if fashion_mnist_folder() is None:
        pytest.skip("Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
    return load_data("fashion-mnist", seed=0)


def test_it_is_of_the_default_space_and_within_its_budget(
    shipped: tuple[Supernet, SupernetInfo],
) -> None:
    supernet, info = shipped
    space = default_space(image_size=28, in_channels=1, n_classes=10)
    assert supernet.space == space
    assert (space.activation, space.squeeze_excite) == ("relu6", False)
    assert space.lower(space.largest()).macs >= 8 * space.lower(space.smallest()).macs
    assert info.log[-1]["cpu_minutes"] <= 240
    assert supernet_path("fashion-mnist").stat().st_size < 5e6
    assert (supernet_path("fashion-mnist").parent / "train.toml").is_file()


def test_it_was_trained_on_the_splits_that_a_run_reads(
    shipped: tuple[Supernet, SupernetInfo], data: DataSet
) -> None:
    assert shipped[1].data["digest"] == data.digest


@pytest.mark.long
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_inherited_accuracy_is_the_published_one(
    shipped: tuple[Supernet, SupernetInfo], data: DataSet, root: Path, which: str
) -> None:
    supernet, info = shipped
    results = root / "tools" / "bench" / "results" / "supernet-fashion-mnist.json"
    published = read_json(results, schema="edgenas.bench-supernet/1")
    assert published["training"]["supernet"] == info.digest
    arch = supernet.space.parse(published[which]["architecture"])
    evaluator = SupernetEvaluator(supernet, data)
    found = top1(evaluator.logits(evaluator.network(arch), data.test), data.test.labels)
    assert found == pytest.approx(published[which]["top1"], abs=0.001)
