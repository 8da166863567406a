"""A run folder with invented figures: real architectures, everything else made up."""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import write_atomic, write_json
from edgenas.objectives import Objective
from edgenas.pareto import Candidate, Metric, ParetoFront
from edgenas.report import RunView, load_run
from edgenas.spaces import Architecture
from edgenas.spaces.mobile import MobileSpace, Stage

DEVICES = ("testchip-litert-int8-t1", "testchip-onnxruntime-fp32-t1")
GOALS = ("max top1", "min latency_ms <= 2.0", "min size_bytes")
BOTH = ("inverted", "fused")
SPACE = MobileSpace(
    resolutions=(20, 24, 28),
    stem_width=16,
    stem_stride=1,
    head_width=256,
    in_channels=1,
    stages=(
        Stage(2, widths=(24, 32), depths=(1, 2, 3), expands=(2, 3, 4), kinds=BOTH),
        Stage(2, widths=(40, 64), depths=(1, 2, 3), expands=(2, 3, 4), kinds=BOTH),
        Stage(1, widths=(64, 96), depths=(1, 2, 3), expands=(2, 3, 4)),
        Stage(2, widths=(96, 128), depths=(1, 2, 3), expands=(2, 3, 4)),
    ),
)
FILES = {
    "onnx": ("model.onnx", 4.0, 0.0),
    "onnx-int8": ("model.int8.onnx", 1.15, 0.0013),
    "tflite": ("model.tflite", 4.1, 0.0),
    "tflite-fp16": ("model.fp16.tflite", 2.1, 0.0001),
    "tflite-int8": ("model.int8.tflite", 1.2, 0.0021),
}


def invented(arch: Architecture, rng: random.Random) -> dict[str, Metric]:
    lowering = SPACE.lower(arch)
    latency = lowering.macs / 9e6 + 0.012 * len(lowering)
    top1 = 0.945 - 0.045 * math.exp(-lowering.macs / 4e6) - abs(rng.gauss(0, 0.004))
    return {
        "top1": Metric(round(top1, 4), "supernet", n=5000),
        "latency_ms": Metric(latency, "predicted", latency * 0.95, latency * 1.05),
        "size_bytes": Metric(float(lowering.params), "computed"),
        "macs": Metric(float(lowering.macs), "computed"),
    }


def make_run(
    folder: Path, *, trials: int = 150, models: int = 3, seed: int = 0, space: MobileSpace = SPACE
) -> Path:
    """Writes a run as the pipeline leaves it, but for the model files' contents."""
    rng = random.Random(seed)
    goals = tuple(Objective.parse(text) for text in GOALS)
    seen: dict[Architecture, Candidate] = {}
    rows: list[dict[str, Any]] = []
    for number in range(trials):
        arch = space.sample(rng)
        candidate = seen.setdefault(arch, Candidate(arch, invented(arch, rng)))
        feasible = all(goal.feasible(candidate.values) for goal in goals)
        state = "complete" if number % 50 else "fail"
        rows.append(candidate.to_table() | {"number": number, "feasible": feasible, "state": state})
    complete = [
        c
        for c in seen.values()
        if any(r["digest"] == c.architecture.digest and r["state"] == "complete" for r in rows)
    ]
    front = ParetoFront(
        goals, tuple(complete), {"supernet": "1f0e9d8c7b6a", "data": "0a1b2c3d4e5f"}
    )
    front.write(folder / "front.json")
    write_json(folder / "trials.json", {"schema": "edgenas.trials/1", "trials": rows})
    step = max(1, (len(front) - 1) // max(1, models - 1))
    exports, chosen = [], {}
    for candidate in front.candidates[::step][:models]:
        exports += make_model(folder, candidate, rng, space)
        chosen[candidate.architecture.digest] = "knee"
    result = {
        "schema": "edgenas.search-result/1",
        "run": str(folder),
        "trials": trials,
        "elapsed_s": 147.3,
        "hypervolume": 1.0,
        "front": [c.to_table() for c in front.candidates],
        "models": chosen,
        "exports": exports,
    }
    write_json(folder / "result.json", result)
    write_json(folder / "provenance.json", provenance())
    write_atomic(folder / "run.toml", run_toml())
    return folder


def make_model(
    folder: Path, candidate: Candidate, rng: random.Random, space: MobileSpace
) -> list[dict[str, Any]]:
    arch = candidate.architecture
    home = folder / "models" / arch.digest
    lowering = space.lower(arch)
    total = candidate.values["latency_ms"]
    share = [0.012 + node.op.macs / 9e6 for node in lowering.nodes]
    latencies = [
        {
            "device": device,
            "origin": "predicted" if factor == 1.0 else "calibrated",
            "latency_ms": total * factor,
            "low_ms": total * factor * 0.95,
            "high_ms": total * factor * 1.06,
            "units": [
                {
                    "name": node.name,
                    "key": node.op.key,
                    "ms": ms * factor,
                    "origin": "measured" if i % 4 else "extrapolated",
                    "inputs": list(node.inputs),
                }
                for i, (node, ms) in enumerate(zip(lowering.nodes, share, strict=True))
            ],
        }
        for device, factor in zip(DEVICES, (1.0, 1.7), strict=True)
    ]
    table = {"schema": "edgenas.model-latency/1", "latencies": latencies}
    write_json(home / "latency.json", table)
    exports: list[dict[str, Any]] = []
    models: list[dict[str, Any]] = []
    for kind, (name, weight, drop) in FILES.items():
        content = f"{kind} {arch}".encode()  # not a model: the report never opens it
        write_atomic(home / name, content)
        timed = {"tflite-int8": 1.0, "onnx": 1.7}.get(kind)
        predicted = total * timed if timed else None
        measured = total * timed * rng.uniform(0.97, 1.03) if timed else None
        row = {
            "format": kind,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": int(candidate.values["size_bytes"] * weight),
            "verified": True,
        }
        found = {
            "top1": round(candidate.values["top1"] - drop - 0.001, 4),
            "top1_drop": drop,
            "agreement": 1 - 4 * drop,
        }
        path = f"models/{arch.digest}/{name}"
        timing = {"predicted_ms": predicted, "measured_ms": measured}
        exports.append({"path": path, **row, **found, **timing})
        models.append(
            {
                "path": name,
                **row,
                "precision": "int8",
                "input": {"shape": [1, 28, 28, 1]},
                "verification": {
                    **found,
                    "n": 10000,
                    "drop_low": drop - 0.001,
                    "drop_high": drop + 0.001,
                    "split": "test",
                    "max_abs_difference": 0.5,
                },
                "gates": [{"name": "top1_drop", "verdict": "passed", "reason": "below 0.01"}],
                "device": "",
                "predicted_ms": None,
                "measured_ms": None
                if measured is None
                else {
                    "value_ms": measured,
                    "origin": "measured",
                    "low_ms": measured * 0.99,
                    "high_ms": measured * 1.08,
                    "n": 350,
                },
            }
        )
    certificate = {
        "schema": "edgenas.export/1",
        "architecture": str(arch),
        "digest": arch.digest,
        "macs": lowering.macs,
        "params": lowering.params,
        "models": models,
        "failures": [],
        "parents": {"supernet": "1f0e9d8c7b6a"},
        "tools": {"onnx": "1.23.2"},
        "max_top1_drop": 0.01,
    }
    write_json(home / "export.json", certificate)
    return exports


def provenance() -> dict[str, Any]:
    return {
        "schema": "edgenas.provenance/1",
        "edgenas": "0.1.0",
        "command": ["edgenas", "search", "run.toml"],
        "seed": 0,
        "machine": {"cpu": "Invented CPU", "cores": 2, "virtualised": True, "os": "Linux"},
        "evaluation": {"images": 5000, "BatchNorm images": 2000, "contested images": 472},
        "versions": {"torch": "2.13.0", "optuna": "5.0.0", "onnxruntime": "1.31.1"},
        "data": {"name": "invented", "train": 55000, "search": 5000, "test": 10000},
        "space": {"name": SPACE.name, "digest": SPACE.digest, "size": str(SPACE.size)},
        "tables": [
            {
                "device": DEVICES[0],
                "source": "measured",
                "digest": "abcdef012345",
                "date": "2026-11-22",
                "error_median": 0.021,
                "error_within_10": 0.97,
                "n_validation": 24,
            },
            {
                "device": DEVICES[1],
                "source": "calibrated",
                "digest": "543210fedcba",
                "date": "2026-11-22",
                "error_median": 0.26,
                "error_within_10": 0.3,
                "n_validation": 8,
            },
        ],
    }


def run_toml() -> str:
    return "\n".join(
        [
            'schema = "edgenas.run/1"',
            "seed = 0",
            'space = "mobile/1"',
            "[data]",
            'source = "invented"',
            "[search]",
            f"devices = {json.dumps(DEVICES)}",
            f"objectives = {json.dumps(GOALS)}",
            'strategy = "nsga2"',
            "trials = 150",
            "",
        ]
    )


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "invented figures")


@pytest.fixture(scope="session")
def view(run_folder: Path) -> RunView:
    return load_run(run_folder)


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs in one space with other seeds; the first has a name that is no HTML."""
    home = tmp_path_factory.mktemp("compared")
    new = make_run(home / "new & <b>", trials=60, models=1, seed=1)
    return new, make_run(home / "old", trials=60, models=1)


@pytest.fixture(scope="session")
def explained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose search told why, as new ones do."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "explained")
    result = json.loads((folder / "result.json").read_text("utf-8"))
    digest = result["exports"][0]["path"].split("/")[1]
    write_json(folder / "explanation.json", explanation(digest))
    result |= {"stopped_because": "150 trials", "gains": {"n": 75, "k": 2, "chance": 0.08}}
    write_json(folder / "result.json", result)
    return folder


@pytest.fixture(scope="session")
def explained(explained_folder: Path) -> RunView:
    return load_run(explained_folder)


def explanation(digest: str) -> dict[str, Any]:
    def change(gene: str, new: str, ms: float, top1: float, *outside: str) -> dict[str, Any]:
        return {
            "gene": gene,
            "value": "2",
            "new": new,
            "digest": "0123456789ab",
            "differences": {
                "latency_ms": {"value": ms, "origin": "predicted"},
                "size_bytes": {"value": 1000.0, "origin": "computed"},
                "top1": {
                    "value": top1,
                    "low": top1 - 0.002,
                    "high": top1 + 0.002,
                    "origin": "estimated",
                    "n": 147,
                },
            },
            "outside": list(outside),
        }

    return {
        "schema": "edgenas.explanation/1",
        "importances": [
            {
                "metric": "top1",
                "n": 147,
                "top": 0.1,
                "genes": {"r": 0.1, "s2.width": 0.6, "s4.4.kernel": 0.3},
                "chance": 0.2,
                "problem": "",
            },
            {"metric": "latency_ms", "n": 9, "top": 0.0, "genes": {}, "chance": 0.0,
             "problem": "9 trials are too few"},
        ],
        "estimates": [{"metric": "top1", "n": 147, "error": 0.0013, "problem": ""}],
        "bounds": [
            {
                "objective": "min latency_ms <= 2.0",
                "trials": 150,
                "trials_outside": 12,
                "trials_only": 12,
                "drawn": 400,
                "drawn_outside": 100,
                "drawn_only": 40,
            }
        ],
        "changes": {
            digest: [
                change("s2.width", "1", -0.25, -0.001),
                change("s2.depth", "3", 0.125, 0.004),
                change("s3.depth", "3", 0.5, 0.005, "latency_ms"),
            ]
        },
    }  # fmt: skip
