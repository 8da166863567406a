"""Who may import whom, read from the source: at module level, in functions, and as text.

Text counts because plug-in tables name what they load as "module:attribute".
"""

from __future__ import annotations

import ast
import graphlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = (
    "errors", "plugins", "processes", "events", "artifacts", "spaces", "models", "objectives",
    "pareto", "fleet", "hardware", "targets", "latency", "profiling", "data", "networks",
    "supernet", "evaluation", "search", "export", "report", "pipeline", "ci", "cli", "__main__",
    "testing",
)  # fmt: skip
"""A package imports only from itself and from those before it.

`networks` is the builder that supernet and export share.
"""

NARROWER = {
    "spaces": {"errors", "plugins"},
    "objectives": {"errors"},
    "pareto": {"errors", "artifacts", "spaces", "objectives"},
    "fleet": {"errors", "objectives", "pareto"},
    "artifacts": {"errors"},
    # receives metric functions: knows neither weights nor tables
    "search": {"errors", "plugins", "events", "spaces", "objectives", "pareto", "artifacts"},
}
"""Packages whose place in the design is narrower than their place in the order."""

TORCH = (
    "data/", "networks.py", "supernet/", "export/",
    "evaluation/supernet.py", "evaluation/quantised.py", "evaluation/corruption.py",
)  # fmt: skip
"""Where torch, and what brings it along, may be imported."""

BRINGS_TORCH = {"torch", "torchao", "torchvision", "litert_torch", "ai_edge_torch"}

_TARGET = re.compile(r"edgenas(\.\w+)+:\w+")


def statements(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Dotted names that a module's statements import, with lines; `package` is where it lies."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def imported(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Those, and the names that are imported by their text."""
    yield from statements(tree, package)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _TARGET.fullmatch(node.value):
                yield node.value.replace(":", "."), node.lineno
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), node.lineno


def modules(source: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """Each module below `source` (the folder `edgenas`): path, package's dotted name, tree."""
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).as_posix()
        package = ".".join(["edgenas", *Path(name).parent.parts])
        yield name, package, ast.parse(path.read_text("utf-8"), filename=name)


def breaches(source: Path) -> list[str]:
    """Every import that breaks the order, the narrower rules, or that of torch."""
    found = []
    for name, package, tree in modules(source):
        top = Path(name).parts[0].removesuffix(".py")
        if top == "__init__":
            allowed: set[str] = set()
        elif top not in ORDER:
            found.append(f"{name}: {top} has no place in the order of packages")
            continue
        else:
            allowed = NARROWER.get(top, set(ORDER[: ORDER.index(top)])) | {top}
        for target, line in imported(tree, package):
            parts = target.split(".")
            if parts[0] in BRINGS_TORCH and not name.startswith(TORCH):
                found.append(f"{name}:{line} imports {parts[0]}")
            if parts[0] == "edgenas" and len(parts) > 1:
                known = parts[1] in ORDER
                if (known and parts[1] not in allowed) or not (known or parts[1] == "__version__"):
                    found.append(f"{name}:{line} imports {target}")
    return found


def test_packages_import_only_from_those_above(root: Path) -> None:
    assert breaches(root / "edgenas") == []


def circle(source: Path) -> list[str]:
    """Modules that import one another in a circle: within functions and for types, too."""
    known = {}
    for name, package, tree in modules(source):
        dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        known[f"edgenas.{dotted}"] = package, tree
    graph = graphlib.TopologicalSorter[str]()
    for importer, (package, tree) in known.items():
        for target, _ in statements(tree, package):
            while target not in known and target:
                target = target.rpartition(".")[0]
            if target and target != importer:
                graph.add(importer, target)
    try:
        graph.prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_in_no_circle(root: Path) -> None:
    assert circle(root / "edgenas") == []


@pytest.mark.parametrize(
    "line",
    [
        "from edgenas.spaces import mobile",
        "def f() -> None:\n    from edgenas.spaces.mobile import default_space",
        "if False:\n    from .mobile import MobileSpace",
    ],
)
def test_a_circle_is_found(root: Path, tmp_path: Path, line: str) -> None:
    copy = tmp_path / "edgenas"
    shutil.copytree(root / "edgenas", copy, ignore=shutil.ignore_patterns("*.pyc", "shipped"))
    with (copy / "spaces" / "ops.py").open("a") as file:
        file.write(f"\n{line}\n")
    assert {"edgenas.spaces.ops", "edgenas.spaces.mobile"} <= set(circle(copy))


def test_every_part_has_its_place_in_the_order(root: Path) -> None:
    parts = {p.name.removesuffix(".py") for p in (root / "edgenas").iterdir()
             if p.is_dir() or p.suffix == ".py"}  # fmt: skip
    assert parts - {"__init__", "__pycache__", "shipped"} <= set(ORDER)


FORBIDDEN = [
    ("spaces/ops.py", "import edgenas.search"),
    ("spaces/ops.py", "def f() -> None:\n    from edgenas.latency import x"),
    ("spaces/ops.py", "from edgenas import cli"),
    ("spaces/ops.py", "from ..supernet import x"),
    ("spaces/registry.py", "TABLE = {'x': 'edgenas.supernet.elastic:Supernet'}"),
    ("spaces/ops.py", "import importlib\nimportlib.import_module('edgenas.export')"),
    ("spaces/ops.py", "if False:\n    import torch.nn"),
    ("artifacts/files.py", "from edgenas.events import Event"),
    ("search/__init__.py", "from edgenas.latency import x"),
    ("search/__init__.py", "def f() -> None:\n    import torch"),
    ("evaluation/__init__.py", "from torch import nn"),
    ("errors.py", "from edgenas.spaces import OpSpec"),
    ("__init__.py", "from edgenas.pipeline import x"),
    ("cli/__init__.py", "import edgenas.testing"),
    ("supernet/__init__.py", "from edgenas.nowhere import x"),
    ("utils.py", "import json"),
]


@pytest.mark.long
@pytest.mark.parametrize(("module", "line"), FORBIDDEN)
def test_a_forbidden_import_is_found(root: Path, tmp_path: Path, module: str, line: str) -> None:
    copy = tmp_path / "edgenas"
    shutil.copytree(root / "edgenas", copy, ignore=shutil.ignore_patterns("*.pyc", "shipped"))
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    found = breaches(copy)
    assert [breach for breach in found if breach.startswith(module)], found


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("supernet/__init__.py", "import torch"),
        ("spaces/ops.py", "from edgenas.errors import SpecError"),
        ("pipeline/__init__.py", "from edgenas.search import x"),
        ("cli/__init__.py", "from edgenas import __version__"),
        ("spaces/mobile.py", "from edgenas.spaces.ops import conv"),
    ],
)
def test_an_allowed_import_is_not(root: Path, tmp_path: Path, module: str, line: str) -> None:
    copy = tmp_path / "edgenas"
    shutil.copytree(root / "edgenas", copy, ignore=shutil.ignore_patterns("*.pyc", "shipped"))
    before = breaches(copy)
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    assert breaches(copy) == before


def test_the_agent_stands_alone(root: Path) -> None:
    """It is copied to devices that have Python, numpy and a runtime."""
    path = root / "edgenas" / "profiling" / "agent.py"
    tree = ast.parse(path.read_text("utf-8"))
    everywhere = {name.split(".")[0] for name, _ in imported(tree, "agent")}
    runtimes = {"numpy", "onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow"}
    assert everywhere <= {*sys.stdlib_module_names, *runtimes}
    top = {
        name.split(".")[0]
        for statement in tree.body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name, _ in imported(statement, "agent")
    }
    assert top <= {*sys.stdlib_module_names, "numpy"}


def _bound(tree: ast.Module) -> set[str]:
    """Names that a module's own statements bind."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(a.asname or a.name).split(".")[0] for a in aliases}
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


def _public(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    return None


def test_public_names_exist_and_are_no_modules(root: Path) -> None:
    """A function named like a submodule is replaced by it once that is imported."""
    seen = 0
    for name, _, tree in modules(root / "edgenas"):
        public = _public(tree)
        if public is None:
            continue
        seen += 1
        assert len(public) == len(set(public)), name
        assert set(public) <= _bound(tree), f"{name}: {set(public) - _bound(tree)}"
        if name.endswith("__init__.py"):
            folder = (root / "edgenas" / name).parent
            submodules = {p.name.removesuffix(".py") for p in folder.iterdir()}
            assert not set(public) & submodules, f"{name}: {set(public) & submodules}"
    assert seen >= 2


def test_no_star_imports(root: Path) -> None:
    stars = [
        f"{name}:{line}"
        for name, package, tree in modules(root / "edgenas")
        for target, line in imported(tree, package)
        if target.endswith("*")
    ]
    assert stars == []
