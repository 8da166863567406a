"""Searches for accuracy in int8, under corruption and without labels, on the tiny space."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.cli.main import main
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_invented_device, write_tiny_run

CHECKPOINT = "runs/first/supernet/supernet.safetensors"


def write_run(objectives: list[str], *more: str, trials: int = 6) -> None:
    """`tiny.toml` with these objectives and further lines of [search]."""
    path = write_tiny_run(Path.cwd(), device=INVENTED_DEVICE, trials=trials)
    text = path.read_text("utf-8")
    text = text.replace('["max top1", "min latency_ms"]', json.dumps(objectives))
    text = text.replace("[search]", "\n".join(["[search]", "robustness_images = 40", *more]))
    if Path(CHECKPOINT).is_file():
        text += f'\n[supernet]\ncheckpoint = "{CHECKPOINT}"\n'
    path.rename("tiny.toml").write_text(text, "utf-8")


def searched(capfd: pytest.CaptureFixture[str], name: str, *arguments: str) -> dict[str, Any]:
    capfd.readouterr()
    code = main(["search", "tiny.toml", "--quiet", "--json", "--name", name, *arguments])
    told = capfd.readouterr()
    assert code == 0, told.err
    found: dict[str, Any] = json.loads(told.out)
    return found


def trials(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(f"runs/{name}/trials.json").read_text("utf-8"))[
        "trials"
    ]
    return found


def cached() -> dict[str, int]:
    """How many evaluations of each metric are kept."""
    connection = sqlite3.connect("runs/evaluations.db")
    try:
        rows = [json.loads(row[0]) for row in connection.execute("SELECT metrics FROM evaluations")]
    finally:
        connection.close()
    return {k: sum(k in row for row in rows) for k in {name for row in rows for name in row}}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    return tmp_path


@pytest.mark.slow
def test_all_at_once_then_one_more(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    three = ["max top1_int8", "max robustness >= 0.05", "agreement >= 0.01", "min latency_ms"]
    write_run(three)
    first = searched(capfd, "first")
    for candidate in first["front"]:
        metrics = candidate["metrics"]
        assert metrics["top1_int8"]["origin"] == "simulated"
        assert metrics["robustness"]["origin"] == metrics["agreement"]["origin"] == "supernet"
        assert metrics["robustness"]["n"] == 40
        assert metrics["agreement"]["n"] == metrics["top1_int8"]["n"] == 100
        assert metrics["robustness"]["value"] >= 0.05
        assert all(0 <= metrics[k]["value"] <= 1 for k in ("top1", "top1_int8", "agreement"))
    assert cached() == dict.fromkeys(("top1", "top1_int8", "robustness", "agreement"), 6)
    page = Path("runs/first/report.html").read_text("utf-8")
    assert "top-1 accuracy in int8" in page
    assert "simulated" in page

    # the accuracy alone is known already, and so the same trials are found without an evaluation
    write_run(["max top1", "min latency_ms"])
    before = cached()
    searched(capfd, "top1")
    values = {t["digest"]: t["metrics"]["top1"]["value"] for t in trials("first")}
    shared = [t for t in trials("top1") if t["digest"] in values]
    assert shared
    assert all(t["metrics"]["top1"]["value"] == values[t["digest"]] for t in shared)
    assert all("robustness" not in t["metrics"] for t in trials("top1"))
    new = cached()["top1"] - before["top1"]
    assert new == len(trials("top1")) - len(shared)
    assert {k: v for k, v in cached().items() if k != "top1"} == {
        k: v for k, v in before.items() if k != "top1"
    }

    # a warm start takes what is known of the metrics that this search is for
    write_run(["max robustness", "min latency_ms"])
    warm = searched(capfd, "warm", "--warm-start", "first", "--trials", "2")
    assert len(trials("warm")) >= 6
    assert warm["evaluated"] <= 2
    assert all(set(t["metrics"]) >= {"top1", "robustness"} for t in trials("warm"))
    assert all("top1_int8" not in t["metrics"] for t in trials("warm"))


@pytest.mark.long
def test_without_labels(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The folder's images alone are compared; they need no sub-folders, nor size, nor colour."""
    from PIL import Image

    rng = np.random.default_rng(0)
    heap = work / "heap"
    (heap / "more").mkdir(parents=True)
    for i in range(30):
        size = (int(rng.integers(8, 30)), int(rng.integers(8, 30)))
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert("L" if i % 2 else "RGB")
        image.save((heap / "more" if i % 3 else heap) / f"{i}.png")
    write_run(["max agreement >= 0.1", "min latency_ms"], 'unlabelled = "heap"')
    first = searched(capfd, "first")
    best = max(c["metrics"]["agreement"]["value"] for c in first["front"])
    assert best > 0.3
    for trial in trials("first"):
        agreement = trial["metrics"]["agreement"]
        assert agreement["n"] == 30
        assert (agreement["value"] * 30) % 1 == pytest.approx(0, abs=1e-6)

    # other images are other evaluations, also below the same name
    assert cached()["agreement"] == 6
    (heap / "0.png").unlink()
    searched(capfd, "again")
    assert cached()["agreement"] == 12
    assert cached()["top1"] == 6, "the same networks on the same search split"
    # without the folder, export and verification of the finished run still work
    for path in sorted(heap.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    digest = first["front"][0]["digest"]
    capfd.readouterr()
    assert main(["export", "first", digest, "--format", "onnx", "--quiet"]) == 0
