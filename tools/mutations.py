#!/usr/bin/env python
"""Breaks one line at a time in a copy of the checkout and expects its tests to fail.

    python tools/mutations.py            every mutation, several minutes
    python tools/mutations.py ops.py     those of files whose path contains the word

Ends with 1 and names the mutations that no test noticed. A mutation whose old text is gone is an
error: the list has to follow the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OPS, MOBILE = "edgenas/spaces/ops.py", "edgenas/spaces/mobile.py"
FILES, PLUGINS = "edgenas/artifacts/files.py", "edgenas/plugins.py"
T_OPS, T_MOBILE = "tests/spaces/test_ops.py", "tests/spaces/test_mobile.py"
T_FILES, T_PLUGINS = "tests/artifacts/test_files.py", "tests/test_plugins.py"

MUTATIONS = [  # file, old text (once in the file), new text, tests
    (OPS, '-(-v["h"] // s), -(-v["w"] // s)', 'v["h"] // s, v["w"] // s', T_OPS),
    (OPS, '(v["cin"] // v["g"]) * v["k"] ** 2', '(v["cin"] // v["g"]) * v["k"]', T_OPS),
    (OPS, "if op.key != key:", "if False:", T_OPS),
    (OPS, 'if v.get("skip", 0) > int(self.in_chw == self.out_chw):', "if False:", T_OPS),
    (OPS, 'if hidden != v["cin"]:', "if True:", T_OPS),
    (OPS, "Node(node.op, inputs, name)", "Node(node.op, (len(nodes) - 1,), name)", T_OPS),
    (OPS, "last_use[j] = i", "last_use[j] = j", T_OPS),
    (OPS, "j <= i <= last_use[j]", "j <= i < last_use[j]", T_OPS),
    (OPS, "if shape != node.op.in_chw:", "if False:", T_OPS),
    (OPS, "any(j >= i or j < -1 for j in node.inputs)", "False", T_OPS),
    (OPS, '2 * v["c"] * v["r"],\n            biases', 'v["c"] * v["r"],\n            biases',
     T_OPS),
    (OPS, 'return 0 if name in ("skip", "se") else 1', "return 0", T_OPS),
    (MOBILE, 'if kind == "inverted":', "if True:", T_MOBILE),
    (MOBILE, 'if kind != "plain":', "if True:", T_MOBILE),
    (MOBILE, "for j in range(1, int(depth or 0) + 1):", "for j in range(1, stage.depths[-1] + 1):",
     T_MOBILE),
    (MOBILE, "stage.stride if j == 1 else 1", "stage.stride", T_MOBILE),
    (MOBILE, "skip=int(stride == 1 and cin == width)", "skip=0", T_MOBILE),
    (MOBILE, "if j > stage.depths[0]:", "if False:", T_MOBILE),
    (MOBILE, "if j == 1 and i > 1:", "if False:", T_MOBILE),
    (MOBILE, "options**depth for depth", "options * depth for depth", T_MOBILE),
    (MOBILE, " or type(value) is not type(allowed[0])", "", T_MOBILE),
    (MOBILE, "if arch.space != NAME or self.architecture(arch.params) != arch:", "if False:",
     T_MOBILE),
    (MOBILE, "all(type(i) is wanted for i in items)", "all(isinstance(i, wanted) for i in items)",
     T_MOBILE),
    (MOBILE, "if values.get(key, found) != found", "if False", T_MOBILE),
    (MOBILE, "math.ceil(hidden / 32)", "math.floor(hidden / 32)", T_MOBILE),
    (MOBILE, "if image_size < MEDIUM.resolutions[0]:", "if image_size <= 40:", T_MOBILE),
    (FILES, "os.fsync(file.fileno())", "pass", T_FILES),
    (FILES, "temporary.replace(path)", "path.write_bytes(temporary.read_bytes())",
     T_FILES),
    (FILES, "temporary.unlink(missing_ok=True)", "pass", T_FILES),
    (FILES, "temporary.chmod(0o666 & ~_umask())", "pass", T_FILES),
    (FILES, "if key in result:", "if False:", T_FILES),
    (FILES, 'if value in (float("inf"), float("-inf")):', "if False:", T_FILES),
    (FILES, "parse_constant=constant,", "", T_FILES),
    (FILES, "except RecursionError as error:\n        raise ArtifactError",
     "except ZeroDivisionError as error:\n        raise ArtifactError", T_FILES),
    (FILES, "if len(data) > max_bytes:", "if False:", T_FILES),
    (FILES, "if sha256_file(path) != expected:", "if False:", T_FILES),
    (FILES, "not path.resolve().is_relative_to(folder.resolve())", "False", T_FILES),
    (FILES, "json.dumps([root, *parts])", "json.dumps([*parts])", T_FILES),
    (FILES, "sort_keys=True, separators", "separators", T_FILES),
    (PLUGINS, "if found and (name in builtins or len(found) > 1):", "if len(found) > 1:",
     T_PLUGINS),
    (PLUGINS, "except (ImportError, AttributeError) as error:",
     "except ZeroDivisionError as error:", T_PLUGINS),
]  # fmt: skip


def survives(copy: Path, file: str, old: str, new: str, tests: str) -> bool:
    """Whether `tests` pass although `old` reads `new` in `file`."""
    path = copy / file
    text = path.read_text("utf-8")
    if text.count(old) != 1:
        raise SystemExit(f"{file}: {text.count(old)} times {old!r}; mend the list")
    path.write_text(text.replace(old, new), "utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests],
        cwd=copy,
        env={**os.environ, "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    path.write_text(text, "utf-8")
    if run.returncode not in (0, 1):
        raise SystemExit(f"{file}: {old!r}: pytest ended with {run.returncode}")
    return run.returncode == 0


def main(word: str = "") -> int:
    """Tries the mutations of the files whose path contains `word`; 1 if one went unnoticed."""
    chosen = [mutation for mutation in MUTATIONS if word in mutation[0]]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in ("edgenas", "tests"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for n, mutation in enumerate(chosen, 1):
            survived = survives(copy, *mutation)
            survivors += [mutation] * survived
            verdict = "SURVIVED" if survived else "found"
            print(f"{n}/{len(chosen)} {verdict}: {mutation[0]}: {mutation[1]!r}", flush=True)
    for file, old, new, tests in survivors:
        print(f"no test in {tests} notices {file}: {old!r} -> {new!r}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
