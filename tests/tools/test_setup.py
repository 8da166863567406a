"""The scripts in tools/, with a Python that only notes what pip was asked for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPTS = ("tools/test", "tools/check", "tools/quickstart", ".ci/run")

PYTHON = """#!/bin/sh
case "$*" in
*" pip "*) echo "$*" >>"$PIP_CALLS"; exit "${PIP_STATUS:-0}" ;;
*" venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
*) exec "$REAL_PYTHON" "$@" ;;
esac
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run(root: Path, script: str) -> None:
    path = root / script
    assert os.access(path, os.X_OK)
    assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in path.read_text("utf-8")
    subprocess.run(["bash", "-n", str(path)], check=True)


class Checkout:
    """A copy of the scripts in a folder of its own, and the commands that they find."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = folder / "a check out"
        shutil.copytree(root / "tools", self.root / "tools")
        shutil.copy(root / "pyproject.toml", self.root)
        commands = folder / "commands"
        commands.mkdir()
        for name, text in (("python3.11", PYTHON), ("apt-get", "#!/bin/sh\nexit 100\n"),
                           ("apt-cache", "#!/bin/sh\n")):  # fmt: skip
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self.calls = folder / "calls"
        self.environment = {
            "PATH": f"{commands}:/usr/bin:/bin",
            "REAL_PYTHON": sys.executable,
            "PIP_CALLS": str(self.calls),
        }

    def run(self, script: str, *arguments: str, **added: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / script), *arguments],
            cwd="/",
            env={**self.environment, **added},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def installs(self) -> list[str]:
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if "--editable" in line]


@pytest.fixture
def checkout(root: Path, tmp_path: Path) -> Checkout:
    return Checkout(root, tmp_path)


def test_set_up_once_and_again_when_pins_change(checkout: Checkout) -> None:
    first = checkout.run("tools/test", "--setup-only")
    assert first.returncode == 0, first.stderr
    assert ".venv is ready" in first.stderr
    assert "installing edgenas" in first.stderr
    assert first.stdout == ""
    (install,) = checkout.installs
    assert "--constraint tools/constraints.txt" in install
    assert "--editable .[tflite,micro,digits,postgres,dashboard,test]" in install
    second = checkout.run("tools/test", "--setup-only")
    assert second.returncode == 0
    assert "installing edgenas" not in second.stderr
    assert len(checkout.installs) == 1
    with (checkout.root / "tools" / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert checkout.run("tools/test", "--setup-only").returncode == 0
    assert len(checkout.installs) == 2


def test_what_debian_lacks_is_told_and_no_error(checkout: Checkout, tmp_path: Path) -> None:
    """The apt-get of these tests installs nothing; a PATH without adb stands for a bare machine."""
    for name in ("bash", "env", "dirname", "mkdir", "cp", "cat", "id", "tail", "sh"):
        found = shutil.which(name)
        assert found
        (tmp_path / "commands" / name).symlink_to(found)
    run = checkout.run("tools/test", "--setup-only", PATH=str(tmp_path / "commands"))
    assert run.returncode == 0, run.stderr
    assert re.search(
        r"tests that need .*adb chromium skip themselves \(apt-get install", run.stderr
    )


def test_a_failed_installation_is_repeated(checkout: Checkout) -> None:
    failed = checkout.run("tools/test", "--setup-only", PIP_STATUS="1")
    assert failed.returncode == 1
    assert "the installation failed; the log is " in failed.stderr
    assert checkout.run("tools/test", "--setup-only").returncode == 0
    assert len(checkout.installs) == 2


def test_a_broken_environment_is_made_again(checkout: Checkout) -> None:
    assert checkout.run("tools/test", "--setup-only").returncode == 0
    (checkout.root / ".venv" / "bin" / "python").unlink()
    again = checkout.run("tools/test", "--setup-only")
    assert "making .venv" in again.stderr
    assert again.returncode == 0


def test_without_a_python_that_is_new_enough(checkout: Checkout, tmp_path: Path) -> None:
    for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
        (tmp_path / "commands" / name).write_text("#!/bin/sh\nexit 1\n")  # as an old one answers
        (tmp_path / "commands" / name).chmod(0o755)
    run = checkout.run("tools/test", "--setup-only", PYTHON="/nonexistent/python")
    assert run.returncode == 1
    assert "needs Python 3.11 or newer" in run.stderr
    assert not (checkout.root / ".venv").exists()


@pytest.mark.parametrize("script", ["tools/test", "tools/check"])
def test_usage(checkout: Checkout, script: str) -> None:
    wrong = checkout.run(script, "--slwo")
    assert wrong.returncode == 2
    assert "--slwo" in wrong.stderr
    told = checkout.run(script, "--help")
    assert told.returncode == 0
    assert f"{script} --slow" in told.stdout
    assert not checkout.calls.exists()


def test_checks_get_the_arguments(checkout: Checkout) -> None:
    (checkout.root / "tools" / "check").write_text('#!/bin/sh\necho "checks: $*"\nexit 7\n')
    run = checkout.run("tools/test", "--slow")
    assert run.stdout == "checks: --slow\n"
    assert run.returncode == 7


def test_quickstart_passes_its_arguments_on(checkout: Checkout) -> None:
    assert checkout.run("tools/test", "--setup-only").returncode == 0
    command = checkout.root / ".venv" / "bin" / "edgenas"
    command.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    command.chmod(0o755)
    run = checkout.run("tools/quickstart", "--out", "a b")
    assert run.stdout == "quickstart|--out|a b|"


def test_ci_runs_the_test_command(root: Path, checkout: Checkout, tmp_path: Path) -> None:
    shutil.copytree(root / ".ci", checkout.root / ".ci")
    (checkout.root / "tools" / "test").write_text(
        '#!/bin/sh\necho "${EDGENAS_MEASUREMENTS:-none} $CI"\n'
    )
    assert checkout.run(".ci/run").stdout == "none true\n"
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert checkout.run(".ci/run").stdout == f"{tmp_path / 'shared' / 'data'} true\n"
    assert checkout.run(".ci/run", EDGENAS_MEASUREMENTS="mine").stdout == "mine true\n"


# Pins


def pins(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (root / "tools" / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9.]+)", line)
            assert match, f"no plain pin: {line}"
            name = re.sub(r"[-_.]+", "-", match[1]).lower()
            assert name not in found
            found[name] = match[2]
    return found


def test_every_requirement_has_a_pin_that_fits(root: Path) -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    pinned = pins(root)
    wanted = [*project["dependencies"]]
    for extra, lines in project["optional-dependencies"].items():
        if extra != "dashboard":
            wanted += lines
    for line in wanted:
        requirement = requirements.Requirement(line)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pinned, f"{name} has no pin"
        assert requirement.specifier.contains(pinned[name], prereleases=True), line


def test_the_exporters_pins(root: Path) -> None:
    pinned = pins(root)
    assert pinned["torch"] == "2.13.0"  # no local label: a CPU build fits as well
    assert pinned["pydantic"].startswith("2.11.")  # see the file's head
