"""The shipped CI files: schemas, security, and what a review would look for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.steps import Runner, read

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
FILES = {
    ".github/actions/edgenas/action.yml": "vendor.github-actions",
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".github/workflows/edgenas.yml": "vendor.github-workflows",
    ".github/workflows/edgenas-comment.yml": "vendor.github-workflows",
    ".gitlab/edgenas.gitlab-ci.yml": "vendor.gitlab-ci",
}
WORKFLOWS = sorted(path.name for path in (GITHUB / "workflows").iterdir())


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (pip install 'edgenas[test]')")
    return found


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "runs" in document:
        found: list[dict[str, Any]] = document["runs"]["steps"]
        return found
    return [step for job in document["jobs"].values() for step in job["steps"]]


def test_all_files_are_listed() -> None:
    here = [*GITHUB.rglob("*.yml"), *GITHUB.rglob("*.yaml"), *(ROOT / ".gitlab").rglob("*.yml")]
    assert {path.relative_to(ROOT).as_posix() for path in here} == set(FILES)


@pytest.mark.long
@pytest.mark.parametrize("file", FILES)
def test_files_hold_to_their_schemas(file: str, tmp_path: Path) -> None:
    check = [tool("check-jsonschema"), "--builtin-schema", FILES[file]]
    assert subprocess.run([*check, ROOT / file], capture_output=True).returncode == 0
    broken = tmp_path / Path(file).name
    text = (ROOT / file).read_text("utf-8")
    for old, new in (("runs-on: ubuntu-24.04", "run-on: x"), ("using: composite", "using: 7")):
        text = text.replace(old, new)
    broken.write_text(text.replace("script:\n", "script: {}\n  no:\n"), "utf-8")
    assert subprocess.run([*check, broken], capture_output=True).returncode == 1


def test_a_linter_for_security_finds_nothing(tmp_path: Path) -> None:
    lint = [tool("zizmor"), "--offline", "--no-progress"]
    done = subprocess.run([*lint, GITHUB], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copy = tmp_path / "ci.yml"
    text = (GITHUB / "workflows" / "ci.yml").read_text("utf-8")
    copy.write_text(
        text.replace("run: .ci/run", "run: echo ${{ github.event.pull_request.title }}")
    )
    done = subprocess.run([*lint, copy], capture_output=True, text=True)
    assert "template-injection" in done.stdout


@pytest.mark.parametrize("name", WORKFLOWS)
def test_permissions_are_the_least(name: str) -> None:
    document = read(GITHUB / "workflows" / name)
    assert "pull_request_target" not in document["on"]
    assert document["permissions"] == {}
    for job in document["jobs"].values():
        wanted = {"contents": "read"}
        if name == "edgenas-comment.yml":
            wanted |= {"actions": "read", "pull-requests": "write"}
        assert job["permissions"] == wanted


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(".github")])
def test_actions_are_pinned_and_scripts_take_nothing_but_variables(file: str) -> None:
    pins = re.findall(r"uses: (\S+)(.*)", (ROOT / file).read_text("utf-8"))
    for name, comment in pins:
        if not name.startswith("./"):
            assert re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40}", name)
            assert re.fullmatch(r" # v[0-9]+\.[0-9]+\.[0-9]+", comment)
    for step in steps(read(ROOT / file)):
        assert "${{" not in step.get("run", "")
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize(
    ("event", "origin", "runs"),
    [
        ("push", "", True),
        ("schedule", "", True),
        ("pull_request", "team/models", True),
        ("pull_request", "stranger/models", False),
        ("pull_request_target", "stranger/models", False),
        ("workflow_run", "stranger/models", False),
        ("issue_comment", "", False),
    ],
)
def test_a_device_never_works_for_a_fork(
    tmp_path: Path, event: str, origin: str, *, runs: bool
) -> None:
    job = read(GITHUB / "workflows" / "edgenas.yml")["jobs"]["device"]
    context = {
        "inputs.device": "board",
        "github.event_name": event,
        "github.repository": "team/models",
        "github.event.pull_request.head.repo.full_name": origin,
    }
    runner = Runner(tmp_path, tmp_path, context, {})
    assert runner.true(job["if"]) == runs
    context["inputs.device"] = ""
    assert not runner.true(job["if"])


def test_the_comment_runs_nothing_of_the_pull_request() -> None:
    job = read(GITHUB / "workflows" / "edgenas-comment.yml")["jobs"]["comment"]
    (checkout,) = [s for s in job["steps"] if s.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["ref"] == "${{ inputs.sha }}"
    (run,) = [step["run"] for step in job["steps"] if "run" in step]
    assert run == "python3 -I edgenas/edgenas/ci/posting.py told/comment.md"


def test_hooks_are_commands_that_there_are() -> None:
    from edgenas.cli.main import main

    for hook in read(ROOT / ".pre-commit-hooks.yaml"):
        assert isinstance(hook, dict)
        assert hook["language"] == "system"
        program, *command = hook["entry"].split()
        assert program == "edgenas"
        assert main([*command, "--help"]) == 0
        files = re.compile(hook["files"])
        assert files.search("a/latency_tables/x.json")
        assert not files.search("runs/phone/front.json")
    hook = read(ROOT / ".pre-commit-hooks.yaml")[0]
    for name in ("targets.toml", "edgenas.lock", "run.toml", "devices/x.toml", "my/run-small.toml"):
        assert re.search(hook["files"], name)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(".github")])
def test_scripts_are_bash(file: str) -> None:
    for step in steps(read(ROOT / file)):
        if "run" in step:
            text = textwrap.dedent(step["run"])
            assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
