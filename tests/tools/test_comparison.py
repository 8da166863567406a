"""The networks that ours are compared with, how they are trained, and how all are matched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgenas.artifacts import read_json, write_json
from edgenas.data import DataSet, load_data
from edgenas.errors import UsageError
from edgenas.evaluation import SupernetEvaluator
from edgenas.networks import build, fold
from edgenas.profiling import QUICK
from edgenas.spaces import Lowering, OpSpec
from edgenas.supernet import Recipe, Supernet
from edgenas.testing.fakes import tiny_space, write_tiny_run
from tools.comparison import baselines as nets
from tools.comparison.entrants import of_results, unpacked
from tools.comparison.matching import Timed, compared, in_all
from tools.comparison.measuring import KEPT, Contest
from tools.comparison.printing import tables
from tools.comparison.training import LEARNING_RATES, Job, Trainer
from tools.comparison.ways import ways

ALL = nets.baselines()
RECIPE = Recipe(epochs=1, batch=64, checkpoint_every=3, mirror=False)


@pytest.mark.parametrize(
    ("network", "macs", "params"),
    [
        # mlcommons/tiny; its parameters with four values for each channel of a BatchNorm
        (nets.resnet_8((3, 32, 32), 10), 12_501_632, 78_666 - 4 * 240),
        (nets.ds_cnn((1, 49, 10), 12), 2_656_768, 24_908 - 4 * 9 * 64),
        # parameters of the two tutorials
        (nets.convnet((1, 28, 28), 10), 2_794_240, 93_322),
        (nets.convnet((3, 32, 32), 10), 4_548_608, 122_570),
    ],
)
def test_networks_have_the_published_macs_and_parameters(
    network: Lowering, macs: int, params: int
) -> None:
    assert (network.macs, network.params) == (macs, params)


@pytest.mark.parametrize("name", ALL)
def test_a_baseline_is_built_as_counted(name: str) -> None:
    network = build(ALL[name].lowering)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    deployed = fold(network)
    assert sum(p.numel() for p in deployed.parameters()) == ALL[name].lowering.params
    images = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        assert torch.allclose(deployed(images), network.eval()(images), atol=1e-4)


def test_fine_networks_end_at_4x4_and_coarse_ones_at_2x2() -> None:
    for name, sides in (("fine", (4, 4)), ("coarse", (2, 2))):
        found = {n: net.lowering for n, net in ALL.items() if n.endswith(name)}
        assert len(found) >= 3
        for lowering in found.values():
            pool = next(op for op in lowering if op.kind == "pool")
            assert pool.in_chw[1:] == sides


@pytest.fixture(scope="module")
def digits() -> DataSet:
    pytest.importorskip("sklearn", reason="the data set digits is in scikit-learn")
    return load_data("digits", seed=0)


def trainer(folder: Path, data: DataSet, recipe: Recipe = RECIPE) -> Trainer:
    evaluate = SupernetEvaluator(Supernet(tiny_space()), data, n_recalibration=256)
    chosen = {"vgg-width-8": replace(ALL["vgg-width-8"], n_seeds=2)}
    work, results = folder / "work", folder / "results"
    return Trainer(chosen, data, recipe, evaluate, work, results, {}, ("onnx",), 0)


@pytest.mark.slow
def test_a_stopped_training_ends_as_an_undisturbed_one(digits: DataSet, tmp_path: Path) -> None:
    job = Job("vgg-width-8", 0.1, 0)
    stopped, whole = trainer(tmp_path / "a", digits), trainer(tmp_path / "b", digits)
    assert stopped.train(job, stop_after_steps=5) is None
    assert stopped.result(job) is None
    found, other = stopped.train(job), whole.train(job)
    assert found is not None
    assert other is not None
    assert found["answers"] == other["answers"]
    assert found["images_seen"] == len(digits.train) // 64 * 64
    assert found["top1"]["search"] > 0.3  # guessing: 0.1
    assert not list((tmp_path / "a" / "work" / "training").iterdir())
    assert set(found["verified"]) == set(found["size_bytes"])
    assert found["verified"]["onnx"]["agreement"] == 1.0
    # what the file answered is kept, and is what the network was scored by
    for split, images in (("search", digits.search), ("test", digits.test)):
        named = unpacked(found["answers"]["onnx"])[split]
        right = float((named == images.labels.numpy()).mean())
        assert right == pytest.approx(found["top1"][split], abs=2e-3)


@pytest.mark.slow
def test_files_to_be_timed_have_the_operators_of_the_trained_ones(
    digits: DataSet, tmp_path: Path
) -> None:
    pytest.importorskip("litert_torch", reason="TFLite export needs the extra tflite")
    from edgenas.models import read_model

    bench = replace(trainer(tmp_path, digits), formats=("onnx", "tflite-int8"))
    job = Job("vgg-width-8", 0.1, 0)
    assert bench.train(job)
    (entrant,) = of_results([bench.finished(job)], bench.formats, tmp_path / "timed")
    for format_, name in (("onnx", "model.onnx"), ("tflite-int8", "model.int8.tflite")):
        (trained,) = (tmp_path / "work" / "models").glob(f"*/{name}")
        timed = entrant.files[format_]
        assert timed.read_bytes() != trained.read_bytes()
        ops = [[op for _, op in read_model(path).units] for path in (timed, trained)]
        assert ops[0] == ops[1]
        assert len(ops[0]) > 8
        asked = replace(entrant, files={format_: trained}, answers={})
        device = SimpleNamespace(name=format_, format=format_)
        for _ in range(2):  # computed, then read
            found = Contest([], [], [], [], digits, tmp_path, QUICK, 1, 0)._answers(asked, device)
            for split in ("search", "test"):
                assert found[split].tolist() == entrant.answers[format_][split].tolist()


@pytest.mark.slow
def test_the_search_split_chooses_the_rate_and_results_of_other_settings_are_kept(
    digits: DataSet, tmp_path: Path
) -> None:
    bench = trainer(tmp_path, digits)
    name = "vgg-width-8"
    assert bench.better(name) is None
    assert [(job.lr, job.seed) for job in bench.jobs(name)] == [
        *((lr, 0) for lr in LEARNING_RATES),
        (LEARNING_RATES[0], 1),
    ]
    for job in bench.jobs(name)[:2]:
        bench.train(job)
    last = tmp_path / "results" / f"{name}-lr{LEARNING_RATES[1]:g}-seed0.json"
    result = json.loads(last.read_text("utf-8"))
    result["top1"] = {"search": 1.0, "test": 0.0}  # the test split is not asked
    last.write_text(json.dumps(result), "utf-8")
    assert bench.better(name) == Job(name, LEARNING_RATES[1], 0)
    assert bench.jobs(name)[-1] == Job(name, LEARNING_RATES[1], 1)
    longer = trainer(tmp_path, digits, replace(RECIPE, epochs=2))
    for call in (longer.result, longer.train):  # nothing is written over
        with pytest.raises(UsageError, match=rf"{name}.*of other settings \(recipe\)") as refused:
            call(Job(name, LEARNING_RATES[1], 0))
        assert "--results" in refused.value.hint
    assert bench.result(Job(name, LEARNING_RATES[1], 0))


@pytest.mark.slow
def test_a_pruned_network_is_rebuilt_from_its_weights_and_kept_as_a_result(
    digits: DataSet, tmp_path: Path
) -> None:
    from edgenas.export.jobs import write_lowering
    from edgenas.pipeline.network_files import network_images
    from edgenas.supernet import save_weights
    from tools.comparison.elsewhere import RESULT, SCHEMA
    from tools.comparison.found import found_elsewhere, is_kept, keep_found
    from tools.comparison.search_fastnas import rebuilt

    whole = ALL["ds-cnn"].lowering.primitive()
    assert rebuilt(whole, build(whole)) == whole
    narrow = [
        node if node.op.kind != "conv2d" else replace(node, op=OpSpec.of(
            "conv2d", act=node.op.act, **{**node.op.integers, "cout": 24}
        ))
        for node in whole.nodes
    ]  # fmt: skip
    first, second = (
        OpSpec.of("conv", act="relu", **{**whole.nodes[i].op.integers, **wanted})
        for i, wanted in ((1, {"cin": 24, "cout": 24, "g": 24}), (2, {"cin": 24}))
    )
    narrow[1:3] = [replace(narrow[1], op=first), replace(narrow[2], op=second)]
    pruned = Lowering(whole.in_chw, tuple(narrow))
    torch.manual_seed(0)
    network = fold(build(pruned))
    assert rebuilt(whole, network) == pruned
    there = tmp_path / "elsewhere" / "fastnas"
    there.mkdir(parents=True)
    result = {
        "schema": SCHEMA,
        "name": "fastnas ds-cnn 50%",
        "family": "FastNAS",
        "lowering": write_lowering(pruned),
        "weights_sha256": save_weights(there / "weights.safetensors", network),
        "cpu_minutes": 3.0,
    }
    write_json(there / RESULT, result)
    formats = ("onnx",)
    assert not is_kept("fastnas", tmp_path, digits, minutes=4.0)
    about = {"machine": {"chip": "A chip"}}
    keep_found(
        "fastnas", there, tmp_path, digits, formats=formats, seed=0, minutes=4.0, about=about
    )
    assert is_kept("fastnas", tmp_path, digits, minutes=4.0)
    with pytest.raises(UsageError, match=r"of other settings \(minutes\)"):
        is_kept("fastnas", tmp_path, digits, minutes=5.0)
    shutil.rmtree(there)
    asked = {"formats": formats, "models": tmp_path / "models"}
    ((found, took),) = found_elsewhere(tmp_path, digits, **asked)
    told = {"cpu_minutes": 3.0, "minutes": 4.0, **about}
    assert took == told | {"weights_sha256": result["weights_sha256"]}
    assert (found.name, found.family) == ("fastnas ds-cnn 50%", "FastNAS")
    assert (found.macs, found.params) == (pruned.macs, pruned.params)
    images = torch.from_numpy(network_images(digits, digits.test, 28)[0]).permute(0, 3, 1, 2)
    with torch.no_grad():
        named = network(images).argmax(1)
    same = torch.from_numpy(found.answers["onnx"]["test"]) == named
    assert same.float().mean() > 0.99
    other = replace(digits, digest="of other images")
    assert found_elsewhere(tmp_path, other, **asked) == []


@pytest.mark.slow
def test_a_network_that_cannot_be_rebuilt_is_kept_as_its_file(
    digits: DataSet, tmp_path: Path
) -> None:
    from edgenas.export.jobs import convert_networks
    from tools.comparison.elsewhere import RESULT, SCHEMA
    from tools.comparison.entrants import answers
    from tools.comparison.found import FILES, found_elsewhere, keep_found

    there = tmp_path / "elsewhere" / "autokeras"
    there.mkdir(parents=True)
    lowering = nets.ds_cnn((1, digits.image_size, digits.image_size), 10)
    for format_, name in FILES.items():
        made = convert_networks({"net": lowering}, format=format_, folder=tmp_path / "made")
        shutil.copyfile(made["net"], there / name)
    content = (there / "model.int8.tflite").read_bytes()
    named = answers(there / "model.int8.tflite", digits, digits.image_size)
    result = {"schema": SCHEMA, "name": "autokeras", "family": "AutoKeras", "params": 7}
    write_json(there / RESULT, {**result, "cpu_minutes": 3.0})
    formats = ("tflite-int8", "onnx")
    about = {"machine": {"chip": "A chip"}}
    keep_found(
        "autokeras", there, tmp_path, digits, formats=formats, seed=0, minutes=4.0, about=about
    )
    kept = read_json(tmp_path / "autokeras.json", schema="edgenas.bench-frontier-found/1")
    assert kept["search"] == {"cpu_minutes": 3.0}
    shutil.rmtree(there.parent)
    ((found, _),) = found_elsewhere(tmp_path, digits, formats=formats, models=tmp_path / "models")
    assert (found.name, found.family, found.params) == ("autokeras", "AutoKeras", 7)
    assert found.macs == lowering.macs
    assert found.files.keys() == {"tflite-int8"}
    assert found.files["tflite-int8"].read_bytes() == content
    assert found.size_bytes.keys() == FILES.keys()
    assert found.answers["tflite-int8"]["test"].tolist() == named["test"].tolist()


def test_what_one_process_is_at_another_leaves(tmp_path: Path) -> None:
    from tools.comparison.claims import claimed

    told: list[str] = []
    held = (
        "import sys; from pathlib import Path; from edgenas.events import silent\n"
        "from tools.comparison.claims import claimed\n"
        "with claimed(Path(sys.argv[1]), 'ds-cnn', report=silent) as mine:\n"
        "    print(mine, flush=True); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    for name, free in (("ds-cnn", False), ("resnet-8", True)):
        with claimed(tmp_path, name, report=lambda e: told.append(e.message)) as mine:
            assert mine is free
    assert told == ["another process is at ds-cnn"]
    other.communicate("")
    with claimed(tmp_path, "ds-cnn", report=lambda e: told.append(e.message)) as mine:
        assert mine


def gain(a: str, b: str) -> Mapping[str, float]:
    return {"top1": 0.01, "low": 0.0, "high": 0.02}


def test_networks_are_matched_on_the_search_split() -> None:
    """By the test split, the second of ours would be the one that is accurate enough."""
    own = [
        Timed("slow", 0.93, 0.90, (4.0, 4.4)),
        Timed("quick", 0.92, 0.93, (1.0, 1.0)),
        Timed("good", 0.94, 0.94, (6.0, 6.0)),
    ]
    theirs = Timed("theirs", 0.925, 0.92, (8.0, 4.4))
    found = compared([theirs], own, empty_ms=0.01, gain=gain)
    (row,) = found["rows"]
    assert row["at_test_accuracy"]["network"] == "quick"
    assert found["at_test_accuracy"]["speed_median"] == pytest.approx(6.2)
    assert found["speed_median"] == 1.5
    assert row["at_accuracy"]["network"] == "slow"
    assert row["at_accuracy"]["speed"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert row["at_latency"] == {
        "network": "good",
        "no_less_accurate": True,
        "gain": {"top1": 0.01, "low": 0.0, "high": 0.02},
    }


def test_what_is_not_reached_counts_against_us() -> None:
    own = [Timed("ours", 0.92, 0.92, (1.0,))]
    theirs = [
        Timed("better", 0.95, 0.95, (9.0,)),
        Timed("faster", 0.91, 0.91, (0.5,)),
        Timed("worse", 0.90, 0.90, (2.0,)),
    ]
    found = compared(theirs, own, empty_ms=0.01, gain=gain)
    better, faster, worse = found["rows"]
    assert better["at_accuracy"] is None
    assert better["at_latency"]["no_less_accurate"] is False
    assert faster["at_accuracy"]["speed"]["median"] == 0.5
    assert faster["at_latency"] is None
    assert worse["at_latency"]["no_less_accurate"] is True
    rest = {key: value for key, value in found.items() if key != "rows"}
    assert rest == {
        "n": 3,
        "n_compared": 3,
        "n_unmatched": 1,
        "n_fast_enough": 1,
        "speed_median": 0.5,
        "speed_least": 0.0,
        "at_test_accuracy": {
            "n_compared": 3,
            "n_unmatched": 1,
            "n_fast_enough": 1,
            "speed_median": 0.5,
            "speed_least": 0.0,
        },
        "n_no_less_accurate": {"search": 1, "test": 2},
        "n_matched_on_test": 2,
    }
    further = compared(theirs[:1], own, empty_ms=0.01, gain=gain, others=theirs[1:])
    assert further["rows"] == found["rows"]
    assert (further["n"], further["n_fast_enough"], further["speed_median"]) == (1, 0, 0.0)


def test_as_fast_is_what_a_session_says_of_both() -> None:
    """The medians of the sessions, each by itself, would say that ours is slower."""
    theirs, ours = (
        Timed("theirs", 0.9, 0.9, (1.0, 2.0, 1.1)),
        Timed("a", 0.9, 0.9, (0.9, 1.8, 1.15)),
    )
    (row,) = compared([theirs], [ours], empty_ms=0.01, gain=gain)["rows"]
    assert row["at_latency"]["network"] == "a"


def test_no_speed_is_told_of_networks_that_are_all_overhead() -> None:
    own, theirs = [Timed("ours", 0.9, 0.9, (0.4,))], [Timed("theirs", 0.9, 0.9, (2.0,))]
    found = compared(theirs, own, empty_ms=0.1, gain=gain)
    assert found["rows"][0]["at_accuracy"]["speed"] is None
    assert (found["n_compared"], found["speed_median"]) == (0, None)
    assert compared(theirs, own, empty_ms=0.08, gain=gain)["n_compared"] == 1
    # of ours, the fastest that is long enough speaks for those that are too short
    longer = Timed("longer", 0.9, 0.9, (0.5,))
    told = compared(theirs, [*own, longer], empty_ms=0.1, gain=gain)["rows"][0]["at_accuracy"]
    assert (told["network"], told["speed"]["median"], told["tellable"]) == ("longer", 4.0, 4.0)
    short = [Timed("short", 0.9, 0.9, (0.4,))]
    told = compared(short, [*own, longer], empty_ms=0.1, gain=gain)["rows"][0]["at_accuracy"]
    assert (told["network"], told["speed"]) == ("longer", None)


def test_one_network_has_to_stand_in_every_runtime() -> None:
    own = {
        "a": [Timed("one", 0.92, 0.9, (1.0,)), Timed("two", 0.92, 0.9, (2.0,))],
        "b": [Timed("one", 0.92, 0.9, (8.0,)), Timed("two", 0.92, 0.9, (2.0,))],
    }
    theirs = {k: [Timed("theirs", 0.91, 0.9, (4.0,))] for k in "ab"}
    empty = {"a": 0.2, "b": 0.2}
    assert in_all(theirs, own, empty_ms=empty) == [
        {"baseline": "theirs", "network": "two", "least_speed": 2.0}
    ]
    own["b"][1] = replace(own["b"][1], top1_search=0.90)  # in one runtime only accurate enough
    assert in_all(theirs, own, empty_ms=empty)[0]["network"] == "one"
    own["b"][0] = replace(own["b"][0], top1_search=0.90)
    assert in_all(theirs, own, empty_ms=empty) == [
        {"baseline": "theirs", "network": None, "least_speed": None}
    ]
    own["b"][1] = replace(own["b"][1], top1_search=0.92)
    assert in_all(theirs, own, empty_ms=empty)[0]["network"] == "two"
    for short in ({"a": 0.2, "b": 0.5}, {"a": 0.9, "b": 0.2}):  # ours in b, theirs in a
        assert in_all(theirs, own, empty_ms=short)[0]["network"] is None


def test_a_search_elsewhere_keeps_the_minutes_it_was_begun_with(root: Path, tmp_path: Path) -> None:
    begun = tmp_path / "work" / "elsewhere" / "fastnas" / "begun.json"
    write_json(begun, {"schema": "edgenas.bench-frontier-begun/1", "minutes": 3.0})
    done = frontier(root, tmp_path, "--elsewhere", "fastnas", "--minutes", "250")
    assert done.returncode == 2
    assert "fastnas was begun with 3 minutes, not 250" in done.stderr
    assert "--work" in done.stderr


DEVICES = ("local-litert-int8-t1", "local-onnxruntime-fp32-t1")


def document() -> dict[str, Any]:
    """As `tools/bench/frontier` writes it, of two networks and one of AutoKeras."""
    timed = {
        "a-1": Timed("a-1", 0.92, 0.921, (1.0, 1.1)),
        "ds-cnn": Timed("ds-cnn", 0.91, 0.911, (2.0, 2.2)),
        "autokeras": Timed("autokeras", 0.93, 0.931, (4.0, 4.4)),
    }
    families = {"a-1": "edgenas", "ds-cnn": "DS-CNN", "autokeras": "AutoKeras"}
    own, theirs, other = ([one] for one in timed.values())
    empty = dict.fromkeys(DEVICES, 0.01)
    return {
        "data": {"name": "fashion-mnist"},
        "epochs": 30,
        "images_seen": 1_647_360,
        "n": {"search": 5000, "test": 10_000},
        "n_sessions": 2,
        "sessions": {d: [{"grade": "good"}, {"grade": "fair"}] for d in DEVICES},
        "machine": {"chip": "A chip", "cores": 2},
        "command": "tools/bench/frontier",
        "supernets": {
            name: {
                "epochs": epochs,
                "teacher": {"digest": "a", "epochs": 46},
                "search": {"evaluated": 432, "machine": {"chip": "Another chip"}},
            }
            for name, epochs in (("a", 26), ("b", 26), ("c", 10))
        },
        "elsewhere": {
            "autokeras": {
                "minutes": 240.0,
                "cpu_minutes": 238.7,
                "threads": 2,
                "n_trials": 9,
                "versions": {"autokeras": "3.0.0"},
            }
        },
        "empty_ms": empty,
        "final_training": {
            "a-1": {"weights": "tuned", "inherited": {"search": 0.918, "test": 0.918}}
        },
        "trainings": {"ds-cnn": {"learning_rate": 0.1, "top1_test": [0.911, 0.912, 0.913]}},
        "networks": [
            {
                "name": name,
                "family": families[name],
                "macs": 10**6,
                "params": 10**5,
                "size_bytes": {"tflite-int8": 10**5},
                "arena_bytes": 50_000 if name == "ds-cnn" else None,
                "runtimes": {
                    device: {
                        "top1_search": one.top1_search,
                        "top1_test": one.top1_test,
                        "latency_ms": one.latency_ms,
                        "sessions": [{"latency_ms": ms} for ms in one.sessions_ms],
                    }
                    for device in DEVICES[: 1 if name == "autokeras" else 2]
                },
            }
            for name, one in timed.items()
        ],
        "comparison": {
            device: compared(theirs, own, empty_ms=0.01, gain=gain, others=others)
            for device, others in zip(DEVICES, (other, []), strict=True)
        },
        "in_all": in_all(
            dict.fromkeys(DEVICES, theirs), dict.fromkeys(DEVICES, own), empty_ms=empty
        ),
    }


def test_the_comparison_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="PNG plots need the extra plots")
    from tools.comparison.plots import write_plots

    page, picture = write_plots(document(), tmp_path, "drawn")
    assert (page, picture) == (tmp_path / "drawn.html", tmp_path / "drawn.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = page.read_text("utf-8")
    for part in ("DS-CNN", "arena in TFLite-Micro, KiB", "local-onnxruntime-fp32-t1", "A chip"):
        assert part in text


def test_the_line_joins_what_none_of_ours_beats() -> None:
    from tools.comparison.plots import front

    ours = [(1.0, 0.90, "a"), (2.0, 0.89, "b"), (3.0, 0.92, "c"), (3.0, 0.91, "d")]
    assert front({"edgenas": ours, "ds-cnn": [(0.5, 0.99, "e")]}) == ([1.0, 3.0], [0.90, 0.92])
    assert front({"ds-cnn": [(0.5, 0.99, "e")]}) == ([], [])


def test_the_comparison_is_printed() -> None:
    networks, litert, onnxruntime = tables(document()).split("\n\n")
    head, ours, theirs, other = networks.splitlines()
    assert re.split("  +", head) == [
        *("network", "MACs", "int8 file", "arena"),
        *("litert-int8: top-1", "ms", "onnxruntime-fp32: top-1", "ms"),
    ]
    assert re.split("  +", ours)[3:] == ["not known", "0.9210", "1.0500", "0.9210", "1.0500"]
    assert re.split("  +", theirs)[:4] == ["ds-cnn", "1.0 M", "98 KiB", "49 KiB"]
    assert re.split("  +", other)[-1] == "no file"
    speed, points = "2.00 (2.00 to 2.00)", "+1.00 (+0.00 to +2.00)"
    told = ["ds-cnn", "1.0 M", "0.9110", speed, points, points, "a-1", "a-1"]
    for one in (litert, onnxruntime):
        assert re.split("  +", one.splitlines()[1]) == told
    assert litert.splitlines()[2].startswith("autokeras")
    assert "none as accurate" in litert.splitlines()[2]
    assert len(onnxruntime.splitlines()) == 2


def test_the_readme_tells_the_comparison(root: Path) -> None:
    text = readme(root).frontier(document())
    points = "+1.00 (+0.00 to +2.00)"
    row = f"| ds-cnn | 1.0 M | 0.9110 | 2.00 (2.00 to 2.00) | {points} | {points} |"
    assert text.count(row) == 2
    for part in (
        "saw 1,647,360 images in 30 epochs, with the better of two learning rates",
        "10 or 26 epochs in the supernet and the rest alone",
        "network of a further supernet of 46 epochs taught them",
        "1 were chosen, from 432 in each supernet, by inherited accuracy and latency on Another",
        "autokeras (239 CPU-minutes of 240, 2 threads, 9 trials, autokeras 3.0.0)",
        "(least and most of 2 sessions, graded fair, good;",
        "ours is at least 1.5 times as fast as 1 of 1, median 2.00, and no less accurate on the "
        "test split, too, than 1 of 1 (matched on the test split instead: 1 of 1, median 2.00)",
        "no slower is no less accurate than 1 of 1 on the search split, 1 on the test split",
        "top-1 in float over seeds: ds-cnn 0.0010 (3 seeds).",
        "by +0.20 points on the search split and +0.30 on the test split",
        "0 of 1 networks kept the weights that they inherited",
        "| all, inherited | 1 of 1 | 2.00 | 2.00 | 1 of 1 | 2.00 | 2.00 |",
    ):
        assert part in text


def test_what_each_way_brought_is_told() -> None:
    """AutoKeras's network, which is another's, counts in none of them."""
    found, less = document(), {"search": 0.905, "test": 0.93}
    found["final_training"]["a-1"]["inherited"] = less
    heads, rows = ways(found)
    assert heads[1::3] == [
        "litert-int8: 1.5 times as fast",
        "onnxruntime-fp32: 1.5 times as fast",
    ]
    assert {row[0]: row[1:4] for row in rows} == {
        "all, inherited": ["0 of 1", "0.00", "0.00"],
        "a, trained further": ["1 of 1", "2.00", "2.00"],
        "b, trained further": ["0 of 1", "0.00", "0.00"],
        "c, trained further": ["0 of 1", "0.00", "0.00"],
        "all, trained further": ["1 of 1", "2.00", "2.00"],
    }
    assert all(row[1:4] == row[4:] for row in rows)
    found["empty_ms"] = dict.fromkeys(DEVICES, 1.0)
    assert ways(found)[1][-1] == ["all, trained further", *["0 of 0", "not known", "not known"] * 2]


def test_the_comparison_says_what_ours_do_not_reach() -> None:
    speed, none = {"median": 1.21, "low": 1.2, "high": 1.23}, {"top1": 0, "low": 0, "high": 0}

    def told(speed: object, tellable: float) -> str:
        found = document()
        row = {"network": "a-1", "speed": speed, "tellable": tellable, "gain": none}
        found["comparison"][DEVICES[1]]["rows"][0] |= {"at_accuracy": row, "at_latency": None}
        return tables(found).splitlines()[-1]

    assert "  too short to tell  " in told(None, 1.0)
    assert "  none as fast  " in told(None, 1.0)
    assert "  1.21 (1.20 to 1.23)  " in told(speed, 1.5)
    assert "  1.21 (1.20 to 1.23); 1.30 at most  " in told(speed, 1.3)
    nearly = {"median": 1.4966, "low": 1.4949, "high": 1.5022}
    assert "  1.497 (1.49 to 1.50)  " in told(nearly, 2.0)


def readme(root: Path) -> Any:
    """The command `tools/readme` as a module."""
    import importlib.util
    from importlib.machinery import SourceFileLoader

    loader = SourceFileLoader("readme_command", str(root / "tools/readme"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def frontier(root: Path, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "tools/bench/frontier"), "--work", "work", "--results",
         "results", *argv],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def test_each_of_several_runs_has_a_supernet_and_a_name_of_its_own(
    root: Path, tmp_path: Path
) -> None:
    shutil.copy(root / "tools/bench/narrow/train.toml", tmp_path / "alone.toml")
    shipped = ("--run", str(root / "edgenas/shipped/supernets/fashion-mnist/train.toml"))
    untrained = frontier(root, tmp_path, *shipped, "--run", "alone.toml", "--plan")
    assert untrained.returncode == 2
    assert "neither beside it nor in runs/fashion-mnist-narrow" in untrained.stderr
    assert "edgenas train" in untrained.stderr
    twice = frontier(root, tmp_path, *shipped, *shipped, "--plan")
    assert twice.returncode == 2
    assert "several runs have one name" in twice.stderr


@pytest.mark.slow
def test_the_whole_comparison(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the digits: trained, searched, exported, timed in both runtimes, matched, drawn."""
    pytest.importorskip("sklearn", reason="the data set digits is in scikit-learn")
    pytest.importorskip("litert_torch", reason="TFLite export needs the extra tflite")
    from edgenas.pipeline import read_config, train
    from edgenas.pipeline.finishing import AVERAGES

    monkeypatch.chdir(tmp_path)
    path = write_tiny_run(tmp_path, device="local-litert-int8-t1")
    # so long that no rounding of weights decides between two digits
    text = path.read_text("utf-8").replace("epochs = 1\n", "epochs = 8\n")
    path.write_text(text, "utf-8")
    train(read_config(path), tmp_path / "runs" / "tiny")
    checkpoint = '[supernet]\ncheckpoint = "runs/tiny/supernet/supernet.safetensors"\n'
    path.write_text(f"{text}\n{checkpoint}", "utf-8")
    options = [
        *("--run", "run.toml", "--network", "vgg-width-8", "--epochs", "9", "--trials", "6"),
        *("--ours", "2", "--sessions", "2", "--settings", "quick", "--plots", "plots"),
    ]
    spent = frontier(root, tmp_path, *options, "--epochs", "8")
    assert spent.returncode == 2
    assert "its supernet saw 8 epochs, of 8 in all" in spent.stderr
    early = frontier(root, tmp_path, *options, "--stage", "measure")
    assert early.returncode == 2
    assert "not trained yet: vgg-width-8" in early.stderr
    done = frontier(root, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results" / "frontier-digits-part.json").read_text("utf-8"))
    assert found["epochs"] == 9
    assert "--network vgg-width-8" in found["command"]
    assert found["supernets"]["tiny"]["epochs"] == 8
    assert found["supernets"]["tiny"]["search"]["trials"] == 6
    assert [set(one) for one in found["sessions"]["local-onnxruntime-fp32-t1"]] == [set(KEPT)] * 2
    assert not (tmp_path / "results" / "frontier-digits.json").exists()
    assert [n["family"] for n in found["networks"]] == ["edgenas", "edgenas", "plain CNN"]
    assert {net["name"] for net in found["networks"][:2]} == set(found["final_training"])
    for told in found["final_training"].values():
        assert told["weights"] in ("kept inherited", "tuned", *AVERAGES)
        assert 0 < told["inherited"]["test"] <= 1
    for network in found["networks"]:
        assert set(network["size_bytes"]) == {
            *("onnx", "onnx-int8", "tflite", "tflite-fp16", "tflite-int8")
        }
        for runtime in network["runtimes"].values():
            assert len(runtime["sessions"]) == 2
            assert runtime["latency_ms"] > 0
    assert set(found["comparison"]) == {"local-litert-int8-t1", "local-onnxruntime-fp32-t1"}
    assert (tmp_path / "plots" / "frontier-digits-part.png").is_file()
    assert "vgg-width-8" in done.stdout
    assert "times as fast" in done.stdout
    again = frontier(root, tmp_path, *options)  # nothing is trained or timed a second time
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "results" / "frontier-digits-part.json").read_text("utf-8"))
    assert repeated == found
    # a final training whose export was stopped is not done again
    name = next(iter(found["final_training"]))
    result = tmp_path / "results" / "frontier" / f"{name}.json"
    told, weights = json.loads(result.read_text("utf-8")), name.removeprefix("tiny-")
    (sidecar,) = tmp_path.glob(f"work/ours/*/models/{weights}/weights.json")
    result.unlink()
    before = sidecar.stat().st_mtime_ns
    searched = frontier(root, tmp_path, *options, "--stage", "search")
    assert searched.returncode == 0, searched.stderr
    assert sidecar.stat().st_mtime_ns == before
    assert json.loads(result.read_text("utf-8")) == told
    # results suffice to measure, on whatever machine
    shutil.rmtree(tmp_path / "work")
    elsewhere = frontier(root, tmp_path, *options, "--stage", "measure")
    assert elsewhere.returncode == 0, elsewhere.stderr
    timed = json.loads((tmp_path / "results" / "frontier-digits-part.json").read_text("utf-8"))
    assert timed["networks"] != found["networks"]
    accuracies = [
        [r[f"top1_{split}"] for net in one["networks"] for r in net["runtimes"].values()]
        for one in (found, timed)
        for split in ("search", "test")
    ]
    assert accuracies[:2] == accuracies[2:]
    # what was trained by other settings is not written over
    longer = frontier(root, tmp_path, *options, "--epochs", "10")
    assert longer.returncode == 2
    assert "vgg-width-8-lr0.1-seed0.json: of other settings (recipe)" in longer.stderr
