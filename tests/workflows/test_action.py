"""The action, each of its steps' scripts in order, on a real git repository."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.ci.posting import refused
from tests.ci.conftest import (  # noqa: F401
    BOARD,
    OTHER,
    change,
    locked,
    locked_once,
    remeasure,
    write_other_supernet,
)
from tests.workflows.steps import Runner, Values, read

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / ".github" / "actions" / "edgenas" / "action.yml"


def git(*arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    done = subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def repository(locked: Path) -> Path:  # noqa: F811
    """The locked repository under git; runs are not committed, as in a team's."""
    Path(".gitignore").write_text("/runs/\n", "utf-8")
    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--quiet", "--message", "locked")
    return locked


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "a change")


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text, "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Action:
    """The action on the repository in the working folder; cache and artefacts are folders."""

    def __init__(self, place: Path, **inputs: str) -> None:
        self.cache, self.artefacts = place / "cache", place / "artefacts"
        self.document = read(ACTION)
        programs = place / "bin"
        programs.mkdir(exist_ok=True)
        main = "from edgenas.cli.main import main; import sys; sys.exit(main())"
        program(programs, "edgenas", f'#!/bin/sh\nexec {sys.executable} -c "{main}" "$@"\n')
        program(programs, "python", f'#!/bin/sh\necho "$@" >>{place}/installed\n')
        context = {
            "github.action_path": str(ACTION.parent),
            "github.run_id": "1",
            "github.run_attempt": "1",
            "runner.os": "Linux",
            "runner.temp": str(place / "temp"),
        }
        for name, told in self.document["inputs"].items():
            context[f"inputs.{name}"] = inputs.get(name, told["default"])
        stand_ins = {
            "actions/setup-python": lambda runner, given: None,
            "actions/cache/restore": self._restore,
            "actions/cache/save": self._save,
            "actions/upload-artifact": self._upload,
        }
        (place / "temp").mkdir()
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "PYTHONPATH": str(ROOT)}
        self.runner = Runner(Path.cwd(), place / "temp", context, stand_ins, env)

    def _restore(self, runner: Runner, given: Values) -> None:
        if self.cache.is_dir():
            shutil.copytree(self.cache, runner.workspace / given["path"], symlinks=True)

    def _save(self, runner: Runner, given: Values) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.copytree(runner.workspace / given["path"], self.cache, symlinks=True)

    def _upload(self, runner: Runner, given: Values) -> None:
        shutil.copytree(given["path"], self.artefacts / given["name"], dirs_exist_ok=True)

    def run(self) -> int:
        return self.runner.run(self.document["runs"]["steps"])

    def output(self, name: str) -> str:
        return self.runner.filled(self.document["outputs"][name]["value"])


def test_every_step_runs_in_order_on_a_change_of_format(repository: Path, tmp_path: Path) -> None:
    shutil.move("runs", tmp_path / "cache")
    change("targets.toml", "bounds =", 'formats = ["onnx", "onnx-int8"]\nbounds =')
    commit()
    action = Action(tmp_path, locked="false")
    assert action.run() == 0, action.runner.printed
    assert action.runner.done == [step["name"] for step in action.document["runs"]["steps"]]
    assert (action.output("stale"), action.output("passed")) == ("true", "true")
    told = tmp_path / "artefacts" / "edgenas-ci"
    names = {"run.json", "check.json", "comment.md", "summary.md", "edgenas.lock"}
    assert names <= {path.name for path in told.iterdir()}
    assert (told / "edgenas.lock").read_bytes() == Path("edgenas.lock").read_bytes()
    assert "format onnx-int8 added" in action.runner.summary
    assert "format onnx-int8 added" in action.runner.printed["What is stale"]
    (made,) = [t for t in json.loads((told / "run.json").read_text())["targets"] if t["run"]][:1]
    assert (tmp_path / "cache" / made["run"] / "study.db").is_file()
    assert action.output("locked") == "false"
    assert (
        "::warning::the committed edgenas.lock is out of date" in action.runner.printed["Verdict"]
    )
    assert "**The committed edgenas.lock is out of date.** Commit the one" in action.runner.summary
    installed = (tmp_path / "installed").read_text("utf-8")
    assert f"--constraint {ROOT}/tools/constraints.txt {ROOT}[tflite,digits]" in installed


@pytest.mark.slow
def test_a_committed_lock_that_is_out_of_date_fails_the_job(
    repository: Path, tmp_path: Path
) -> None:
    """Also where all was made and every gate is held: what is merged is the old lock."""
    change("targets.toml", "<= 0.028", "<= 0.02799")
    commit()
    action = Action(tmp_path, install="false")
    assert action.run() == 5, action.runner.printed
    assert (action.output("passed"), action.output("locked")) == ("true", "false")
    assert "::error::the committed edgenas.lock is out of date" in action.runner.printed["Verdict"]
    told = (tmp_path / "artefacts" / "edgenas-ci" / "comment.md").read_text("utf-8")
    assert "**The committed edgenas.lock is out of date.** Commit the one in the job's" in told
    assert "- out of date: board: select is stale: bound" in told
    assert refused(told.encode()) == ""
    commit()  # with the new lock
    shutil.rmtree(tmp_path / "temp")
    shutil.rmtree(tmp_path / "cache")
    again = Action(tmp_path, install="false")
    assert again.run() == 0, again.runner.printed
    assert again.output("locked") == "true"
    assert "out of date" not in again.runner.summary


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "bound": (lambda: change("targets.toml", "<= 0.028", "<= 0.02"), "search: bound"),
    "device": (
        lambda: change(
            "targets.toml", f'devices = ["{BOARD}", "{OTHER}"]', f'devices = ["{BOARD}"]'
        ),
        f"select: device {OTHER} removed",
    ),
    "table": (lambda: remeasure(1.3), f"score: table of {BOARD} measured again"),
    "seed": (lambda: change("run.toml", 'name = "tiny"', "seed = 1"), "evaluate: seed: 0 became 1"),
    "supernet": (lambda: write_other_supernet(Path(), seed=1), "evaluate: supernet retrained"),
    "strategy": (
        lambda: change("run.toml", "trials = 24", 'trials = 24\nstrategy = "nsga2"'),
        "search: search strategy",
    ),
    "how many": (lambda: change("run.toml", "top = 1", "top = 2"), "select: select top"),
}


@pytest.mark.parametrize(
    "kind", [k if k in ("table",) else pytest.param(k, marks=pytest.mark.slow) for k in CHANGES]
)
def test_a_stale_lock_is_told_of_and_fails(repository: Path, tmp_path: Path, kind: str) -> None:
    make, message = CHANGES[kind]
    make()
    commit()
    action = Action(tmp_path, search="false", install="false")
    assert action.run() == 5
    assert message in action.runner.printed["What is stale"], action.runner.printed
    assert "Make what is stale" not in action.runner.done
    assert action.runner.done[-1] == "Verdict"
    assert (action.output("stale"), action.output("passed")) == ("true", "false")
    assert "FAILED" in action.runner.summary
    assert "::error::edgenas ci check ended with 5" in action.runner.printed["Verdict"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_of_each_kind_is_made_from_the_cache(
    repository: Path, tmp_path: Path, kind: str
) -> None:
    CHANGES[kind][0]()
    commit()
    shutil.move("runs", tmp_path / "cache")
    action = Action(tmp_path, install="false", locked="false")
    assert action.run() == 0, action.runner.printed
    assert action.output("passed") == "true"


@pytest.mark.slow
def test_nothing_stale_makes_nothing(repository: Path, tmp_path: Path) -> None:
    Path("notes.txt").write_text("no target\n", "utf-8")
    commit()
    shutil.move("runs", tmp_path / "cache")
    action = Action(tmp_path, install="false")
    assert action.run() == 0, action.runner.printed
    assert "Make what is stale" not in action.runner.done
    assert (action.output("stale"), action.output("passed")) == ("false", "true")


@pytest.mark.slow
def test_bounds_that_none_meets_end_with_their_own_code(repository: Path, tmp_path: Path) -> None:
    change("targets.toml", "<= 0.028", "<= 0.000001")
    commit()
    action = Action(tmp_path, install="false")
    assert action.run() == 7
    assert (tmp_path / "cache").is_dir(), "what was found is kept all the same"
    assert "::error::edgenas ci run ended with 7" in action.runner.printed["Verdict"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "must", "code", "message"),
    [
        ("bounds =", 'formats = ["onnx", "onnx-int8"]\nbounds =', "false", 0, "onnx-int8 added"),
        ("<= 0.028", "<= 0.02799", "true", 5, "edgenas.lock is out of date.** Commit the one"),
        ("<= 0.028", "<= 0.000001", "true", 7, "edgenas.lock is out of date.** `edgenas ci run`"),
    ],
)
def test_the_jobs_script_of_gitlab(
    repository: Path, tmp_path: Path, old: str, new: str, must: str, code: int, message: str
) -> None:
    """The text is there whatever failed; the job ends as the first step that did."""
    change("targets.toml", old, new)
    commit()
    action = Action(tmp_path)  # for its programs alone
    program(tmp_path / "bin", "apt-get", "#!/bin/sh\n")
    document = read(ROOT / ".gitlab" / "edgenas.gitlab-ci.yml")
    lines = [*document[".edgenas"]["before_script"], *document["edgenas"]["script"]]
    env = {
        **os.environ, **action.runner.env, **document["variables"], "EDGENAS": "git+https://x",
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": git("rev-parse", "HEAD^").strip(),
        "EDGENAS_LOCKED": must,
    }  # fmt: skip
    done = subprocess.run(["sh", "-ec", "\n".join(lines)], env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert message in Path("edgenas-ci/comment.md").read_text("utf-8")
    assert "edgenas[tflite,digits] @ git+https://x" in (tmp_path / "installed").read_text("utf-8")


def test_a_broken_file_ends_before_anything_is_made(repository: Path, tmp_path: Path) -> None:
    change("targets.toml", "bounds", "bouds")
    commit()
    action = Action(tmp_path, install="false")
    assert action.run() == 3
    assert action.runner.done[-1] == "Validate targets, tables and lock"
    assert "did you mean 'bounds'" in action.runner.printed[action.runner.done[-1]]


def test_what_a_branch_is_called_runs_nothing(repository: Path, tmp_path: Path) -> None:
    change("targets.toml", "bounds", "bouds")
    commit()
    base = '$(touch canary)"; touch canary; "'
    action = Action(tmp_path, install="false", base=base)
    assert action.run() == 3
    assert not list(tmp_path.rglob("canary"))
    assert (tmp_path / "temp" / "base.lock").read_bytes() == b""
