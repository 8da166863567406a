"""The README's figures are those of the result files, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_figures_are_generated(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "tools/readme"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_commands_exist(root: Path) -> None:
    from typer.main import get_command

    from edgenas.cli.main import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]  # a group
    text = (root / "README.md").read_text("utf-8")
    named = set(re.findall(r"^(?:\$ )?edgenas ([a-z]+)", text, re.MULTILINE))
    assert named
    assert named <= known
    for script in re.findall(r"tools/[a-z_/.]+", text):
        assert (root / script.rstrip(".")).exists(), script
