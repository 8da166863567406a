"""Runs the steps of a workflow or an action in order, without a hosted runner.

`run` steps are run by bash as a runner runs them; `uses` steps are answered by stand-ins that the
test names. Of expressions it knows what the files use, and refuses the rest.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Values = Mapping[str, str]
StandIn = Callable[["Runner", Values], None]

_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|[A-Za-z_][\w.-]*|==|!=|&&|\|\||!|\(|\))")


def read(path: Path) -> dict[str, Any]:
    """The document; `on` is no boolean here."""
    found: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)
    return found


@dataclass
class Runner:
    """What steps leave for later ones."""

    workspace: Path
    temp: Path
    context: dict[str, str]
    stand_ins: Mapping[str, StandIn]
    env: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    """The names of the steps that ran."""
    printed: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    """The exit code of the first step that failed."""

    @property
    def summary(self) -> str:
        return (self.temp / "summary").read_text("utf-8")

    def run(self, steps: list[dict[str, Any]]) -> int:
        """Runs the steps; 0, or the exit code of the first that failed."""
        (self.temp / "summary").touch()
        for step in steps:
            if not self.true(step.get("if", "success()")):
                continue
            self.done.append(step["name"])
            code = self._used(step) if "uses" in step else self._ran(step)
            self.failed = self.failed or code
        return self.failed

    def _used(self, step: Mapping[str, Any]) -> int:
        name = step["uses"].partition("@")[0]
        given = {key: self.filled(value) for key, value in step.get("with", {}).items()}
        self.stand_ins[name](self, given)
        return 0

    def _ran(self, step: Mapping[str, Any]) -> int:
        assert "${{" not in step["run"], "an expression is no part of a script"
        assert step.get("shell", "bash") == "bash"
        told = self.temp / "output"
        told.write_text("", "utf-8")
        env = {
            **os.environ,
            **self.env,
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_OUTPUT": str(told),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
            **{name: self.filled(value) for name, value in step.get("env", {}).items()},
        }
        place = self.workspace / self.filled(step.get("working-directory", "."))
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=place, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.printed[step["name"]] = done.stdout + done.stderr
        for line in told.read_text("utf-8").splitlines():
            name, _, value = line.partition("=")
            self.context[f"steps.{step['id']}.outputs.{name}"] = value
        return done.returncode

    def filled(self, text: str) -> str:
        """`text` with its expressions in place."""
        return _EXPRESSION.sub(lambda match: self._value(match[1]), text)

    def _value(self, expression: str) -> str:
        assert re.fullmatch(r"[\w.-]+", expression), expression
        if expression.startswith("steps."):
            return self.context.get(expression, "")
        return self.context[expression]

    def true(self, condition: str) -> bool:
        """Whether a step with this condition runs."""
        text, place, words = condition.strip(), 0, []
        while place < len(text):
            match = _TOKEN.match(text, place)
            assert match, f"cannot read {text[place:]!r}"
            words.append(match[1])
            place = match.end()
        known = {"==": "==", "!=": "!=", "&&": "and", "||": "or", "!": "not", "(": "(", ")": ")"}
        python = []
        for word in words:
            if word in known:
                python.append(known[word])
            elif word in ("always", "success", "failure"):
                told = {"always": True, "success": not self.failed, "failure": bool(self.failed)}
                python.append(f"(lambda: {told[word]})")
            else:
                value = word[1:-1] if word.startswith("'") else self._value(word)
                python.append(repr(value))
        states = ("always", "success", "failure")
        answer = bool(eval(" ".join(python), {"__builtins__": {}}))  # words of our own files
        return answer and (not self.failed or any(state in words for state in states))
