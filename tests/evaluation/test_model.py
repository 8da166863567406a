"""A model of accuracy: fitted, written, read, refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import read_json
from edgenas.cli.main import main
from edgenas.errors import ArtifactError, EdgenasError, SpecError
from edgenas.evaluation.model import SCHEMA, fit_model, read_model
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import default_space

SPACE = default_space(image_size=28, in_channels=1, n_classes=10)


def truth(arch: Architecture) -> float:
    """Between 0.8 and 0.96: saturating in size, better with fused blocks and 28 pixels together."""
    genes = arch.params
    fused = genes["s1.kind"] == "fused" and genes["r"] == 28
    size = SPACE.lower(arch).macs / 2e7
    return 0.8 + 0.1 * size / (0.2 + size) + 0.02 * fused


@pytest.fixture(scope="module")
def accuracies() -> dict[Architecture, float]:
    rng = random.Random(0)
    return {arch: truth(arch) for arch in (SPACE.sample(rng) for _ in range(400))}


def test_it_predicts_what_it_has_not_seen(
    accuracies: dict[Architecture, float], tmp_path: Path
) -> None:
    model = fit_model(SPACE, accuracies, image_size=28, source="a formula")
    rng = random.Random(99)
    others = [SPACE.sample(rng) for _ in range(200)]
    errors = [abs(model(arch)["top1"] - truth(arch)) for arch in others]
    assert sum(errors) / len(errors) < 0.002
    assert model.facts["n"] == 400
    assert model.facts["error_mean"] == pytest.approx(sum(errors) / len(errors), rel=0.5)
    assert model.facts["spearman"] > 0.97
    model.write(tmp_path / "model.json")
    again = read_model(tmp_path / "model.json")
    assert all(again(arch)["top1"] == pytest.approx(model(arch)["top1"]) for arch in others[:20])
    assert again.space == SPACE
    assert again.facts == model.facts


@pytest.mark.parametrize(
    ("accuracy", "n", "message"), [(0.9, 20, "too few"), (1.0, 60, "does not lie between")]
)
def test_what_cannot_be_fitted(accuracy: float, n: int, message: str) -> None:
    rng = random.Random(1)
    with pytest.raises(SpecError, match=message):
        fit_model(SPACE, {SPACE.sample(rng): accuracy for _ in range(n)}, image_size=28)


def no_terms(table: dict[str, Any]) -> None:
    del table["terms"]


def other_choice(table: dict[str, Any]) -> None:
    table["terms"][0]["when"] = {"s1.width": 17}


def other_link(table: dict[str, Any]) -> None:
    table["link"] = "probit"


def no_number(table: dict[str, Any]) -> None:
    table["intercept"] = "much"


def no_size(table: dict[str, Any]) -> None:
    table["image_size"] = -3


def no_share(table: dict[str, Any]) -> None:
    table |= {"link": "identity", "intercept": 51}


def test_any_sum_of_logits_is_a_share(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_model(path)
    table = read_json(path, schema=SCHEMA)
    for intercept, share in ((-1e6, 0.0), (1e6, 1.0)):
        path.write_text(json.dumps({**table, "intercept": intercept}))
        assert read_model(path)(SPACE.smallest()) == {"top1": share}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_terms, "terms"),
        (other_choice, "s1.width=17 is no choice"),
        (other_link, "'probit' is neither"),
        (no_number, "no accuracy model"),
        (no_size, "image_size -3"),
        (no_share, "is 51.*, not between 0 and 1"),
    ],
)
def test_a_file_that_is_none(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "model.json"
    write_model(path)
    table = read_json(path, schema=SCHEMA)
    damage(table)
    path.write_text(json.dumps(table))
    with pytest.raises(EdgenasError, match=message):
        read_model(path)
    path.write_text("{}")
    with pytest.raises(ArtifactError):
        read_model(path)


def write_model(path: Path) -> None:
    table = {
        "schema": SCHEMA,
        "space": SPACE.to_table(),
        "image_size": 28,
        "link": "logit",
        "intercept": 1.5,
        "terms": [
            {"when": {gene: value}, "add": 0.05 * i**0.8}
            for gene, values in SPACE.genes.items()
            for i, value in enumerate(values)
            if i
        ],
    }
    path.write_text(json.dumps(table))


@pytest.mark.slow
def test_strategies_are_compared_on_a_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "model.json")
    command = ["bench", "search", "--accuracy-model", str(tmp_path / "model.json"), "--json"]
    more = ["--device", "rpi4-tflite-fp32", "--front", "1500", "--budget", "40", "--seeds", "2"]
    assert main([*command, *more, "--quiet"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["relative_to"] == "the front of an evolution with 1500 evaluations"
    assert set(found["rests_on"]) == {"space", "model", "table"}
    means = {row["strategy"]: row["mean"] for row in found["summary"]}
    assert means["surrogate"] > means["random"]
    assert 0.5 < means["surrogate"] < 1.02
    assert main(command) == 2
    assert "--device" in capfd.readouterr().err
