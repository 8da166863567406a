"""The example: three targets, five commits, and what the README says CI tells of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgenas.cli.main import main


def build(root: Path, folder: Path, *options: str) -> str:
    command = [sys.executable, str(root / "tools/example/build"), str(folder), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_each_commit_is_one_that_may_be_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "example"
    build(root, folder)
    commits = git(folder, "log", "--reverse", "--format=%H").split()
    assert len(commits) == 5
    build(root, tmp_path / "again")
    assert git(tmp_path / "again", "log", "--reverse", "--format=%H").split() == commits
    monkeypatch.chdir(folder)
    for commit in commits:
        git(folder, "checkout", "--quiet", commit)
        assert main(["ci", "validate"]) == 0
    assert (folder / "latency_tables").is_dir()


def figures_out(text: str) -> str:
    """Accuracies differ a little between machines, and so do fronts."""
    return re.sub(r"\d+(\.\d+)?", "N", text)


@pytest.mark.slow
def test_the_readme_says_what_ci_tells(root: Path, tmp_path: Path) -> None:
    found = json.loads(build(root, tmp_path / "example", "--run", "--json"))
    kept = json.loads((root / "tools/bench/results/ci-example.json").read_text("utf-8"))
    assert [row["codes"] for row in found["commits"]] == [row["codes"] for row in kept["commits"]]
    for row, other in zip(found["commits"], kept["commits"], strict=True):
        assert figures_out(row["plan"]) == figures_out(other["plan"])
    stale = [
        {
            line.split(":")[0]
            for line in row["plan"].splitlines()
            if re.match(r"\w+: (new|stale)", line)
        }
        for row in found["commits"]
    ]
    assert stale == [{"board", "micro", "phone"}, {"phone"}, {"board"}, {"micro"}, set()]
    assert git(tmp_path / "example", "status", "--porcelain") == ""
