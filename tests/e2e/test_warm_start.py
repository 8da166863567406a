"""A second search on the same supernet: nothing is evaluated twice, and what is known is used."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edgenas.cli.main import main
from edgenas.evaluation import Contested
from edgenas.pipeline import evaluating
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_invented_device, write_tiny_run


def searched(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capfd.readouterr()
    code = main(["search", "tiny.toml", "--quiet", "--json", *arguments])
    told = capfd.readouterr()
    assert code == 0, told.err
    found: dict[str, Any] = json.loads(told.out)
    return found


@pytest.mark.slow
def test_accuracies_are_kept_for_the_next_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    write_tiny_run(tmp_path, device=INVENTED_DEVICE, trials=12).rename("tiny.toml")
    first = searched(capfd, "--name", "first")
    checkpoint = tmp_path / "runs" / "first" / "supernet" / "supernet.safetensors"
    text = Path("tiny.toml").read_text("utf-8")
    Path("tiny.toml").write_text(f'{text}\n[supernet]\ncheckpoint = "{checkpoint}"\n', "utf-8")

    def count() -> int:
        connection = sqlite3.connect("runs/evaluations.db")
        try:
            return int(connection.execute("SELECT COUNT(*) FROM evaluations").fetchone()[0])
        finally:
            connection.close()

    assert count() == first["evaluated"]
    again = searched(capfd, "--name", "again")
    assert count() == first["evaluated"], "the same seed asks for the same networks"
    assert again["front"] == first["front"]
    warm = searched(capfd, "--name", "warm", "--warm-start", "first", "--trials", "4")
    assert warm["evaluated"] <= 4
    assert warm["hypervolume"] >= first["hypervolume"] * (1 - 1e-9)
    tried = json.loads(Path("runs/warm/trials.json").read_text("utf-8"))["trials"]
    assert len(tried) > 4
    assert main(["search", "tiny.toml", "--name", "x", "--warm-start", "none", "--quiet"]) == 3
    assert "no run 'none'" in capfd.readouterr().err


@pytest.mark.long
def test_pilots_are_asked_before_the_minutes_of_the_search_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluating, "FEW_IMAGES", 20)
    write_invented_device(tmp_path, tiny_space())
    write_tiny_run(tmp_path, device=INVENTED_DEVICE, trials=2).rename("tiny.toml")
    had_study: list[bool] = []
    ask = evaluating.Evaluator._contested

    def asked(self: evaluating.Evaluator) -> Contested:
        had_study.append(Path("runs/first/study.db").exists())
        return ask(self)

    monkeypatch.setattr(evaluating.Evaluator, "_contested", asked)
    searched(capfd, "--name", "first")
    assert Path("runs/first/study.db").exists()
    assert had_study == [False], "once, and a study that does not exist counts no time"


@pytest.mark.long
def test_networks_to_begin_with_are_evaluated_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    path = write_tiny_run(tmp_path, device=INVENTED_DEVICE, trials=3).rename("tiny.toml")
    text = path.read_text("utf-8")
    lines = [str(tiny_space().largest()), str(tiny_space().smallest())]
    smallest = '"min latency_ms <= 0.013"'
    text = text.replace('"min latency_ms"', smallest).replace(
        "trials = 3", f"trials = 3\nbegin_with = {json.dumps(lines)}"
    )
    path.write_text(text, "utf-8")
    found = searched(capfd)
    assert found["trials"] == 3
    trials = json.loads(Path("runs/tiny/trials.json").read_text("utf-8"))["trials"]
    assert trials[0]["digest"] == tiny_space().smallest().digest
    assert tiny_space().largest().digest not in {t["digest"] for t in trials}, (
        "the bound forbids it"
    )
    path.write_text(text.replace("s1.depth", "s9.depth"), "utf-8")
    assert main(["search", "tiny.toml", "--name", "other", "--quiet"]) == 3
    assert "search.begin_with: " in capfd.readouterr().err
