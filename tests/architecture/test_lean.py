"""What is loaded, by the set of loaded modules in a fresh process, never by seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch", "torchao", "optuna", "sqlalchemy", "onnx", "onnxruntime", "onnxscript", "plotly",
    "moocore", "sklearn", "scipy", "PIL", "ai_edge_litert", "ai_edge_quantizer", "litert_torch",
    "jax", "transformers", "tflite_micro", "matplotlib", "pandas",
}  # fmt: skip
TORCH = {"torch", "torchao", "litert_torch", "jax", "transformers"}

LOADED = """
import json, sys
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def loaded(code: str, *, cwd: Path) -> tuple[set[str], str]:
    """Top-level modules loaded after `code`, and its output."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + LOADED],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stderr.splitlines()[-1])), run.stdout


HELP = """
import sys
sys.argv = ["edgenas", *{arguments!r}]
from edgenas.cli.main import main
try:
    code = main()
except SystemExit as error:
    code = error.code
assert not code, code
"""


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["devices", "--help"]])
def test_help_loads_nothing_heavy(root: Path, arguments: list[str]) -> None:
    names, output = loaded(HELP.format(arguments=arguments), cwd=root)
    assert "edgenas" in names
    assert not names & HEAVY
    assert "Usage" in output


def test_only_packages_that_may_load_torch(root: Path) -> None:
    source = root / "edgenas"
    evaluation = (f"evaluation/{name}.py" for name in ("supernet", "quantised", "corruption"))
    may = ("data/", "networks.py", "supernet/", "export/", *evaluation)
    names = [
        ".".join(["edgenas", *path.relative_to(source).with_suffix("").parts]).removesuffix(
            ".__init__"
        )
        for path in sorted(source.rglob("*.py"))
        if not path.relative_to(source).as_posix().startswith((*may, "testing/", "shipped/"))
        and path.name != "__main__.py"
    ]
    code = "import importlib\nfor name in " + repr(names) + ":\n    importlib.import_module(name)\n"
    assert not loaded(code, cwd=root)[0] & TORCH


def test_the_waist_is_pure_python(root: Path) -> None:
    code = "import edgenas.spaces.registry, edgenas.spaces.mobile, edgenas.artifacts\n"
    names, _ = loaded(code + "edgenas.spaces.mobile.SMALL.units()\n", cwd=root)
    assert names.isdisjoint({*HEAVY, "numpy", "pydantic", "typer", "rich"})


def test_the_agent_loads_without_edgenas(root: Path, tmp_path: Path) -> None:
    agent = root / "edgenas" / "profiling" / "agent.py"
    (tmp_path / "agent.py").write_bytes(agent.read_bytes())
    names, _ = loaded("import sys\nsys.path.insert(0, '.')\nimport agent\n", cwd=tmp_path)
    assert "edgenas" not in names
    assert not names & HEAVY
