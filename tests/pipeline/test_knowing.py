"""What earlier searches evaluated: the cache, and the trials of other runs."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgenas.artifacts import digest, write_json
from edgenas.errors import ArtifactError, SpecError
from edgenas.evaluation import Contested
from edgenas.pipeline.knowing import CACHE, Cache, warm_start
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import default_space
from edgenas.testing.fakes import tiny_space, write_tiny_run

SPACE = tiny_space()
PARENTS = {"supernet": "aa", "data": "bb", "images": "cc"}


class Evaluate:
    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, arch: Architecture, metrics: Sequence[str]) -> Mapping[str, float]:
        self.calls.append(tuple(metrics))
        return {name: int(arch.digest, 16) % 1000 / 1000 + len(name) for name in metrics}


def test_nothing_is_evaluated_twice(tmp_path: Path) -> None:
    evaluate = Evaluate()
    arch = SPACE.smallest()
    first = Cache(tmp_path / "runs" / CACHE, PARENTS).wrapped(evaluate)(arch)
    assert Cache(tmp_path / "runs" / CACHE, PARENTS).wrapped(evaluate)(arch) == first
    assert len(evaluate.calls) == 1
    Cache(tmp_path / "runs" / CACHE, {**PARENTS, "images": "dd"}).wrapped(evaluate)(arch)
    assert len(evaluate.calls) == 2, "other images, another accuracy"


def test_each_metric_is_an_entry_by_itself(tmp_path: Path) -> None:
    """One more objective evaluates that one alone, and none of the others is lost."""
    arch, evaluate = SPACE.smallest(), Evaluate()

    def asked(parents: Mapping[str, str], *metrics: str) -> Mapping[str, float]:
        return Cache(tmp_path / CACHE, parents).wrapped(evaluate, metrics)(arch)

    both = {**PARENTS, "robustness": "r1"}
    first = asked(PARENTS, "top1")
    found = asked(both, "top1", "robustness")
    assert found == {**first, "robustness": found["robustness"]}
    assert evaluate.calls == [("top1",), ("robustness",)]
    assert asked(both, "robustness", "top1") == found
    assert asked(PARENTS, "top1") == first
    asked({**both, "robustness": "r2"}, "top1", "robustness")  # corrupted in another way
    assert evaluate.calls[2:] == [("robustness",)]
    asked({**both, "images": "dd"}, "top1", "robustness")  # top-1 on other images
    assert evaluate.calls[3:] == [("top1",)]
    asked({**both, "supernet": "zz"}, "top1", "robustness")
    assert evaluate.calls[4:] == [("top1", "robustness")]


def test_contested_images_are_found_once_for_all_searches(tmp_path: Path) -> None:
    path = tmp_path / CACHE
    calls: list[int] = []

    def find() -> Contested:
        calls.append(1)
        return Contested((2, 5), 7, 9)

    assert Cache(path, PARENTS).contested(find) == Contested((2, 5), 7, 9)
    assert Cache(path, PARENTS).contested(find) == Contested((2, 5), 7, 9)
    Cache(path, {**PARENTS, "robustness": "r2"}).contested(find)
    assert len(calls) == 1, "they do not rest on that"
    Cache(path, {**PARENTS, "images": "dd"}).contested(find)
    assert len(calls) == 2
    for text in ("{", "[]", '{"index": [9], "others_right": 7, "n": 9}', '{"index": [1]}'):
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE contested SET found = ?", (text,))
        calls.clear()
        assert Cache(path, PARENTS).contested(find) == Contested((2, 5), 7, 9)
        assert calls, text


def test_a_cache_of_before_there_were_other_metrics_is_read(tmp_path: Path) -> None:
    path, arch, evaluate = tmp_path / CACHE, SPACE.smallest(), Evaluate()
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "CREATE TABLE evaluations "
            "(key TEXT, architecture TEXT, metrics TEXT, PRIMARY KEY (key, architecture))"
        )
        connection.execute(
            "INSERT INTO evaluations VALUES (?, ?, ?)",
            (digest(PARENTS), str(arch), '{"top1": 0.25}'),
        )
    connection.close()
    cached = Cache(path, {**PARENTS, "agreement": "a1"}).wrapped(evaluate, ("top1", "agreement"))
    assert cached(arch)["top1"] == 0.25
    assert evaluate.calls == [("agreement",)]


def test_several_searches_share_it(tmp_path: Path) -> None:
    rng = random.Random(0)
    archs = [SPACE.sample(rng) for _ in range(40)]
    cached = Cache(tmp_path / CACHE, PARENTS).wrapped(Evaluate())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cached, archs * 2))
    evaluate = Evaluate()
    later = Cache(tmp_path / CACHE, PARENTS).wrapped(evaluate)
    assert [later(arch) for arch in archs * 2] == found
    assert evaluate.calls == []


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / CACHE
    path.write_bytes(b"no database, but a text of some length" * 100)
    with pytest.raises(ArtifactError, match=r"delete it|damaged") as caught:
        Cache(path, PARENTS).wrapped(Evaluate())(SPACE.smallest())
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("stored", ["{", "[]", '{"top1": NaN}', '{"top1": "0.9"}', "{}"])
def test_what_is_no_metric_is_evaluated_again(tmp_path: Path, stored: str) -> None:
    path, evaluate = tmp_path / CACHE, Evaluate()
    cached = Cache(path, PARENTS).wrapped(evaluate)
    arch = SPACE.smallest()
    expected = cached(arch)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE evaluations SET metrics = ?", (stored,))
    connection.close()
    assert cached(arch) == expected
    assert len(evaluate.calls) == 2


def earlier_run(
    runs: Path, name: str, parents: Mapping[str, str], n: int = 5, **more: float
) -> None:
    (runs / name).mkdir(parents=True)
    write_tiny_run(runs / name).rename(runs / name / "run.toml")
    rng = random.Random(name)
    trials = [
        {
            "number": i,
            "architecture": str(arch),
            "digest": arch.digest,
            "metrics": {
                "top1": {"value": 0.5 + i / 100, "origin": "supernet"},
                "latency_ms": {"value": 1.0, "origin": "predicted"},
                **{k: {"value": v, "origin": "supernet"} for k, v in more.items()},
            },
        }
        for i, arch in enumerate(SPACE.sample(rng) for _ in range(n))
    ]
    table = {"schema": "edgenas.trials/1", "trials": trials, "parents": dict(parents)}
    write_json(runs / name / "trials.json", table)


def test_the_same_supernet_is_knowledge_and_another_a_hint(tmp_path: Path) -> None:
    earlier_run(tmp_path, "same", PARENTS)
    earlier_run(tmp_path, "other", {**PARENTS, "supernet": "zz"}, n=3)
    told = warm_start(["same", str(tmp_path / "other")], SPACE, PARENTS, runs=tmp_path)
    assert len(told.known) == 5
    assert len(told.prior) == 3
    assert all(set(metrics) == {"top1"} for metrics in told.known.values()), "latency is another's"
    assert len(told.notes) == 2
    assert "known" in told.notes[0]
    assert "hints" in told.notes[1]


def test_what_is_known_is_known_by_metric(tmp_path: Path) -> None:
    there = {**PARENTS, "robustness": "r1"}
    earlier_run(tmp_path, "one", there, robustness=0.4)
    wanted = ("top1", "robustness")
    told = warm_start(["one"], SPACE, there, runs=tmp_path, metrics=wanted)
    assert all(set(metrics) == set(wanted) for metrics in told.known.values())
    assert not told.prior
    other = {**PARENTS, "robustness": "r2"}
    told = warm_start(["one"], SPACE, other, runs=tmp_path, metrics=wanted)
    assert not told.known, "of what is not known whole, all is a hint"
    assert all(set(metrics) == set(wanted) for metrics in told.prior.values())
    assert told.notes[0].endswith("5 trials, hints: robustness not evaluated alike")
    told = warm_start(["one"], SPACE, PARENTS, runs=tmp_path)
    assert all(set(metrics) == {"top1"} for metrics in told.known.values()), "not asked for"
    earlier_run(tmp_path, "bare", PARENTS)
    told = warm_start(["bare"], SPACE, there, runs=tmp_path, metrics=wanted)
    assert not told.known
    assert all(set(metrics) == {"top1"} for metrics in told.prior.values())


def test_runs_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no run 'gone'"):
        warm_start(["gone"], SPACE, PARENTS, runs=tmp_path)
    earlier_run(tmp_path, "here", PARENTS)
    other = default_space(image_size=96, in_channels=3, n_classes=10)
    with pytest.raises(SpecError, match=r"no trial of .* is an architecture of this space"):
        warm_start(["here"], other, PARENTS, runs=tmp_path)
    path = tmp_path / "here" / "trials.json"
    table = json.loads(path.read_text("utf-8"))
    table["trials"][0]["metrics"]["top1"] = 0.9
    path.write_text(json.dumps(table), "utf-8")
    with pytest.raises(ArtifactError, match=r"trials\.json"):
        warm_start(["here"], SPACE, PARENTS, runs=tmp_path)
    path.unlink()
    with pytest.raises(SpecError, match="no finished search"):
        warm_start(["here"], SPACE, PARENTS, runs=tmp_path)
