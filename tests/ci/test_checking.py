"""A regression planted in each gate fails; noise of the size of its interval does not."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import sha256_file, write_manifest
from edgenas.ci import check, read_lock, read_targets
from edgenas.ci.checking import Finding
from edgenas.ci.lock import entry_of, write_lock
from edgenas.cli.main import main
from edgenas.errors import UsageError
from edgenas.export.certificate import sealed
from edgenas.pipeline.shipped import FOLDER
from tests.ci.conftest import BOARD, change, remeasure, told

pytestmark = pytest.mark.long


def failed(name: str = "board", **options: Any) -> list[Finding]:
    judged = next(t for t in check(**options).targets if t.name == name)
    return judged.of("failed")


def certificate() -> Path:
    digest = read_lock(Path("edgenas.lock"))["board"].exported[0]
    return Path("runs/board/models") / digest / "export.json"


@contextlib.contextmanager
def edited() -> Iterator[dict[str, Any]]:
    """The certificate's content, to be changed; its own digest follows."""
    table = json.loads(certificate().read_text("utf-8"))
    yield table
    certificate().write_text(json.dumps(sealed(table)), "utf-8")


def stated(**figures: Any) -> None:
    """Writes other figures into a certificate, by hand."""
    with edited() as table:
        model = table["models"][0]
        model |= {name: value for name, value in figures.items() if name in model}
        evidence = model["verification"]
        evidence |= {name: value for name, value in figures.items() if name in evidence}


def relock() -> None:
    """Seals and locks the run of the board as it is."""
    folder, lock = Path("runs/board").resolve(), Path("edgenas.lock")
    write_manifest(folder)
    entries = read_lock(lock)
    target = read_targets(Path("targets.toml"))[0]
    entry = entry_of(target, folder, entries["board"].facts)
    write_lock(lock, {**entries, "board": entry})


def certified(**evidence: float) -> None:
    """Another verification, which found other figures: certificate, manifest and lock."""
    stated(**evidence)
    relock()


@pytest.fixture
def base(locked: Path) -> Path:
    """The lock as it was, to be compared with."""
    shutil.copy("edgenas.lock", "base.lock")
    return Path("base.lock")


def verification() -> dict[str, float]:
    table = json.loads(certificate().read_text("utf-8"))
    found: dict[str, float] = table["models"][0]["verification"]
    return found


def test_what_was_just_made_passes(locked: Path, capfd: pytest.CaptureFixture[str]) -> None:
    document = told(capfd, "check")
    assert document["schema"] == "edgenas.ci-check/1"
    assert document["passed"] is True
    assert {t["verdict"] for t in document["targets"]} == {"passed"}
    gates = {g["gate"] for t in document["targets"] for g in t["gates"]}
    assert gates == {
        "lock", "files", "certificate", "bound", "latency", "accuracy", "drop", "size",
    }  # fmt: skip


def by_accuracy() -> None:
    v = verification()
    certified(top1=v["top1"] - 3 * math.sqrt(v["top1"] * (1 - v["top1"]) / v["n"]))


def by_latency() -> None:
    remeasure(1.3)


def by_size() -> None:
    change("targets.toml", "max_size_bytes = 100000", "max_size_bytes = 20000")


def by_arena() -> None:
    """An int8 TFLite file beside the others, as if it had been exported with them."""
    shipped = sorted(Path(FOLDER, "calibration").rglob("*.int8.tflite"))[0]
    model = certificate().parent / "model.int8.tflite"
    model.write_bytes(shipped.read_bytes())
    with edited() as table:
        row = dict(table["models"][0], path=model.name, format="tflite-int8", precision="int8")
        row |= {"sha256": sha256_file(model), "size_bytes": model.stat().st_size}
        table["models"].append(row)
    relock()
    change("targets.toml", "max_size_bytes = 100000", "max_arena_bytes = 1000")


def by_drop() -> None:
    certified(top1_drop=0.05, drop_low=0.03, drop_high=0.07)


def by_file() -> None:
    path = certificate().parent / "model.onnx"
    path.write_bytes(path.read_bytes() + b" ")


def by_bound() -> None:
    change("targets.toml", "latency_ms <= 0.028", "latency_ms <= 0.015")


def by_certificate() -> None:
    certificate().write_text("{}", "utf-8")


def by_parents() -> None:
    with edited() as table:
        table["parents"]["supernet"] += "0"


def by_edit() -> None:
    change(certificate(), '"supernet": "', '"supernet": "0')


PLANTED: dict[str, tuple[Callable[[], None], str, str]] = {
    "accuracy": (by_accuracy, "accuracy", "limit 0"),
    "latency": (by_latency, "latency", "locked 0.0"),
    "size": (by_size, "size", "limit 20000 bytes"),
    "arena": (by_arena, "arena", "limit 1000 bytes"),
    "drop at export": (by_drop, "drop", "limit 0.01"),
    "tampered file": (by_file, "files", "as the lock says"),
    "lock out of date": (by_bound, "lock", "edgenas ci run makes it new"),
    "bound missed": (by_bound, "bound", "<= 0.015"),
    "certificate damaged": (by_certificate, "certificate", "a whole certificate"),
    "certificate of other parents": (by_parents, "certificate", "locked "),
    "certificate edited": (by_edit, "certificate", "a whole certificate"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_regression_fails_and_is_named(
    base: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    plant, gate, limit = PLANTED[case]
    plant()
    found = [finding for finding in failed(base=base) if finding.gate == gate]
    assert found
    assert any(limit in finding.limit for finding in found)
    capfd.readouterr()
    assert main(["ci", "check", "--base", str(base)]) == 5
    shown = capfd.readouterr().out
    assert "board: FAILED" in shown
    assert f"FAILED {found[0]}" in shown
    assert "both: passed" in shown or case in ("latency", "size", "arena")


def noisy_accuracy() -> None:
    v = verification()
    half = 1.96 * math.sqrt(2 * v["top1"] * (1 - v["top1"]) / v["n"])
    certified(top1=v["top1"] - 0.9 * half)


def noisy_latency() -> None:
    remeasure(1.03)


def noisy_drop() -> None:
    certified(top1_drop=0.012, drop_low=-0.008, drop_high=0.032)


@pytest.mark.parametrize("plant", [noisy_accuracy, noisy_latency, noisy_drop])
def test_noise_within_its_interval_does_not_fail(base: Path, plant: Callable[[], None]) -> None:
    plant()
    assert failed(base=base) == []
    assert check(base=base).exit_code == 0


def small_everywhere() -> None:
    stated(size_bytes=5)
    relock()


def cut_off(name: str) -> None:
    Path("runs/board", name).write_text("{", "utf-8")


FORGED: dict[str, tuple[Callable[[], None], str, str]] = {
    "top-1": (lambda: stated(top1=0.932), "files", "top1 0.932 by its certificate, locked"),
    "images": (lambda: stated(n=50000), "files", "n_images 50000 by its certificate, locked"),
    "size": (lambda: stated(size_bytes=5), "files", "size_bytes 5 by its certificate, locke"),
    "less than the lock shows": (
        lambda: stated(top1=round(verification()["top1"] + 0.001, 4)), "files", "was changed",
    ),
    "size in the lock": (
        lambda: in_lock("size_bytes", "5"), "files", "by its certificate, locked 5",
    ),
    "top-1 in the lock": (
        lambda: in_lock("top1", "0.932"), "files", "by its certificate, locked 0.932",
    ),
    "size in both": (small_everywhere, "files", "bytes, 5 by its certificate"),
    "manifest": (lambda: cut_off("manifest.json"), "files", "manifest.json: not valid JSON"),
    "trials": (lambda: cut_off("trials.json"), "files", "trials.json was changed"),
}  # fmt: skip


def in_lock(name: str, value: str) -> None:
    """Another figure of the board's first file, in the lock alone."""
    head, rows = Path("edgenas.lock").read_text("utf-8").split("[target.board.files", 1)
    rows = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value}", rows, count=1)
    Path("edgenas.lock").write_text(f"{head}[target.board.files{rows}", "utf-8")


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_figure_fails_and_is_named(locked: Path, case: str) -> None:
    forge, gate, told = FORGED[case]
    forge()
    found = failed()
    assert [f for f in found if f.gate == gate and told in f.figure], found
    assert check().exit_code == 5


def test_what_another_machine_rounds_otherwise_passes(locked: Path) -> None:
    stated(top1=verification()["top1"] - 0.004)
    write_manifest(Path("runs/board").resolve())
    assert not [f for f in failed() if f.gate == "certificate"]


def test_against_the_lock_of_another_branch(
    locked: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = Path("edgenas.lock").read_text("utf-8")
    base = Path("base.lock")
    base.write_text(text, "utf-8")
    assert failed(base=base) == []
    best = max(read_lock(base)["board"].files.values(), key=lambda file: file.top1).top1
    base.write_text(text.replace(f"top1 = {best!r}", "top1 = 0.99"), "utf-8")
    found = failed(base=base)
    assert {finding.gate for finding in found} == {"accuracy"}
    assert f"top-1 {best:.4f}, the base 0.9900" in str(found[0])
    assert "n = 500" in str(found[0])
    change("targets.toml", "max_size_bytes = 100000", "max_top1_loss = 0.95")
    assert failed(base=base) == [], "so much may be lost"
    base.write_text("", "utf-8")
    assert failed(base=base) == [], "nothing was locked before"
    with pytest.raises(UsageError, match=r"no lock gone\.lock"):
        check(base=Path("gone.lock"))


def test_accuracies_for_another_question_are_not_compared(locked: Path) -> None:
    Path("edgenas.lock").rename("base.lock")
    change("base.lock", "<= 0.028", "<= 0.05")
    Path("edgenas.lock").write_text(
        Path("base.lock").read_text("utf-8").replace("<= 0.05", "<= 0.028"), "utf-8"
    )
    judged = next(t for t in check(base=Path("base.lock")).targets if t.name == "board")
    assert judged.verdict == "inconclusive"
    assert f"bound latency_ms@{BOARD} changed" in str(judged.of("inconclusive")[0])


def test_too_few_images_are_never_passed(locked: Path) -> None:
    certified(n=499)
    judged = next(t for t in check().targets if t.name == "board")
    assert judged.verdict == "inconclusive"
    assert {finding.gate for finding in judged.of("inconclusive")} >= {"accuracy", "drop"}


def test_an_arena_that_no_file_has_is_never_passed(locked: Path) -> None:
    change("targets.toml", "max_size_bytes = 100000", "max_arena_bytes = 100")
    judged = next(t for t in check().targets if t.name == "board")
    (open_,) = judged.of("inconclusive")
    assert str(open_) == (
        "arena: board: nothing to plan an arena of: no tflite-int8 file is exported; "
        "limit 100 bytes"
    )


def test_a_least_accuracy_by_its_interval(locked: Path) -> None:
    top1 = max(f.top1 for f in read_lock(Path("edgenas.lock"))["board"].files.values())
    change("targets.toml", "max_size_bytes = 100000", f"min_top1 = {top1 + 0.005}")
    assert not [f for f in failed() if str(round(top1, 4)) in f.figure]
    change("targets.toml", f"min_top1 = {top1 + 0.005}", f"min_top1 = {min(1.0, top1 + 0.2)}")
    found = failed()
    assert {finding.gate for finding in found} == {"accuracy"}
    assert "n = 500" in found[0].figure


def test_targets_that_the_lock_does_not_know_fail(locked: Path) -> None:
    change("targets.toml", "[target.both]", "[target.pair]")
    found = {t.name: t for t in check().targets}
    assert [f.figure for f in found["pair"].of("failed")] == ["it is not in the lock"]
    assert [f.figure for f in found["both"].of("failed")] == ["it is in the lock and no target"]
    assert found["board"].verdict == "passed"


def test_without_the_runs_every_missing_file_is_named(locked: Path) -> None:
    shutil.rmtree("runs")
    found = failed()
    assert {finding.gate for finding in found} == {"files", "certificate"}
    assert sum("is missing" in finding.figure for finding in found) == 2
