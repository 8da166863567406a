"""The job that comments, step by step: a first comment, and a text that is not edgenas's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.ci.test_posting import FINE, Hub
from tests.workflows.steps import Runner, Values, read

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("text", "code"), [(FINE, 0), (f"{FINE}@team", 1)])
def test_the_job(tmp_path: Path, text: str, code: int) -> None:
    hub = Hub(tmp_path / "hub")

    def checkout(runner: Runner, given: Values) -> None:
        assert (given["repository"], given["ref"]) == ("team/edgenas", "0" * 40)
        target = runner.workspace / given["path"] / "edgenas" / "ci" / "posting.py"
        target.parent.mkdir(parents=True)
        shutil.copyfile(ROOT / "edgenas" / "ci" / "posting.py", target)

    def download(runner: Runner, given: Values) -> None:
        assert (given["name"], given["run-id"]) == ("edgenas-ci", "12")
        (runner.workspace / given["path"]).mkdir()
        (runner.workspace / given["path"] / "comment.md").write_text(text, "utf-8")

    job = read(ROOT / ".github" / "workflows" / "edgenas-comment.yml")["jobs"]["comment"]
    context = {
        "inputs.edgenas": "team/edgenas",
        "inputs.sha": "0" * 40,
        "inputs.artifact": "edgenas-ci",
        "github.token": "secret",
        "github.repository": "team/models",
        "github.event.workflow_run.id": "12",
        "github.event.workflow_run.event": "pull_request",
        "github.event.workflow_run.head_repository.owner.login": "stranger",
        "github.event.workflow_run.head_branch": '"; touch canary; "',
        "github.event.workflow_run.head_sha": "aa",
    }
    stand_ins = {"actions/checkout": checkout, "actions/download-artifact": download}
    path = f"{hub.folder}{os.pathsep}{os.environ['PATH']}"
    runner = Runner(tmp_path, tmp_path, context, stand_ins, {"PATH": path})
    assert runner.true(job["if"])
    assert runner.run(job["steps"]) == code, runner.printed
    assert bool(hub.written) == (code == 0)
    assert not list(tmp_path.rglob("canary"))
