"""What no source file does: shells, pickles, global seeds, effects of importing, local paths."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "ruamel"}
CALLS = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec",
    "random.seed", "np.random.seed", "numpy.random.seed", "torch.manual_seed", "torch.seed",
}  # fmt: skip
AT_IMPORT = ("logging.basicConfig", "warnings.", "torch.set_", "sys.path.", "os.environ", "os.put",
             "os.umask", "signal.", "load_dotenv", "matplotlib.use")  # fmt: skip


def _option(call: ast.Call, name: str) -> object:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def faults(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bases = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in bases or [alias.name for alias in node.names]:
                if name.split(".")[0] in MODULES:
                    yield f"{node.lineno}: imports {name}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                yield f"{node.lineno}: calls {name}"
            if _option(node, "shell") not in (None, False):
                yield f"{node.lineno}: {name} with a shell"
            if name == "torch.load" and _option(node, "weights_only") is not True:
                yield f"{node.lineno}: torch.load without weights_only=True"
            if _option(node, "allow_pickle") not in (None, False):
                yield f"{node.lineno}: {name} with allow_pickle"
        elif isinstance(node, ast.Global):
            yield f"{node.lineno}: global {', '.join(node.names)}"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{node.lineno}: bare except"
    for statement in tree.body:
        if isinstance(statement, ast.Expr | ast.Assign | ast.AugAssign):
            text = ast.unparse(statement)
            if text.startswith(AT_IMPORT):
                yield f"{statement.lineno}: {text} when imported"


def test_sources_keep_the_rules(root: Path) -> None:
    found = [
        f"{path.relative_to(root)}:{fault}"
        for path in sorted((root / "edgenas").rglob("*.py"))
        for fault in faults(path.read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from yaml import load",
        "def f():\n    import joblib.externals",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "torch.manual_seed(0)",
        "eval(text)",
        "def f():\n    global x\n    x = 1",
        "try:\n    f()\nexcept:\n    raise",
        "os.environ['A'] = '1'",
        "warnings.filterwarnings('ignore')",
        "torch.set_num_threads(1)",
        "sys.path.append('.')",
    ],
)
def test_each_rule_finds_its_fault(line: str) -> None:
    assert list(faults(line))


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(['ls'], shell=False)",
        "torch.load(path, weights_only=True)",
        "torch.Generator().manual_seed(0)",
        "model.eval()",
        "def f():\n    torch.set_num_threads(1)",
        "X = os.environ.get('A')",
    ],
)
def test_no_rule_finds_more(line: str) -> None:
    assert list(faults(line)) == []


LOCAL_PATH = re.compile(rb"(?<![\w.\-/~$}])/(?:root|work)/")


def test_tracked_files_name_no_path_of_a_machine(root: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert "pyproject.toml" in names
    found = []
    for name in names:
        path = root / name
        if path.is_file() and (hit := LOCAL_PATH.search(path.read_bytes())):
            found.append(f"{name}: {hit[0].decode()}")
    assert found == []


def test_local_paths_are_recognised() -> None:
    for text in ("cd /ro" + "ot/x", '"/wo' + 'rk/main"'):
        assert LOCAL_PATH.search(text.encode())
    for text in (
        "tests/wo" + "rk/x",
        "https://example.org/wo" + "rk/x",
        "~/wo" + "rk/",
        "a/ro" + "ot/b",
    ):
        assert not LOCAL_PATH.search(text.encode())
