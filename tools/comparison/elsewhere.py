"""Other projects' searches: each a script here, run in a virtual environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from edgenas.artifacts import read_json, write_atomic, write_json
from edgenas.errors import ResourceError, UsageError

HERE = Path(__file__).resolve().parent
RESULT = "result.json"
SCHEMA = "edgenas.bench-frontier-elsewhere/1"
_INSTALLED = "installed.txt"
_BEGUN = "begun.json"
_BEGUN_SCHEMA = "edgenas.bench-frontier-begun/1"


@dataclass(frozen=True, slots=True)
class Searcher:
    """The packages of a search that is another project's; `alone` are taken without theirs."""

    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    reads_images: bool = False
    """From a file of arrays, where others read the run file with edgenas."""


_OURS = ("platformdirs", "pillow", "psutil", "filelock", "safetensors", "pydantic", "numpy")

SEARCHERS: Mapping[str, Searcher] = MappingProxyType(
    {
        "fastnas": Searcher(  # it imports more than it declares; torchprofile asks for torchvision
            ("torch==2.13.0", "nvidia-modelopt==0.47.0", "requests", "transformers", *_OURS),
            ("torchprofile==0.0.4",),
        ),
        # keras 3.15 refuses what AutoKeras 3.0 builds (a layer's units as a numpy integer)
        "autokeras": Searcher(
            ("autokeras==3.0.0", "keras==3.12.0", "tensorflow-cpu==2.21.0", "tensorboard"),
            reads_images=True,
        ),
    }
)


def search_elsewhere(
    name: str,
    run_file: Path,
    folder: Path,
    *,
    minutes: float,
    threads: int,
    write_images: Callable[[Path], None],
) -> None:
    """Lets a search work for so many CPU-minutes, unless its result is in `folder` already.

    All its threads count. One that was stopped goes on, with the minutes that it was begun with.

    One that cannot have edgenas in its environment reads the file that `write_images` writes.

    Raises:
        UsageError: it was begun in `folder` with other minutes.
        ResourceError: its packages cannot be installed, or it failed; the log is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / _BEGUN
    if not begun.is_file():
        write_json(begun, {"schema": _BEGUN_SCHEMA, "minutes": minutes})
    if (before := read_json(begun, schema=_BEGUN_SCHEMA)["minutes"]) != minutes:
        raise UsageError(
            f"{folder}: {name} was begun with {before:g} minutes, not {minutes:g}",
            hint="name another --work, or as many --minutes as then",
        )
    if (folder / RESULT).is_file():
        return
    python, log = folder / "venv" / "bin" / "python", folder / "log.txt"
    if not (folder / _INSTALLED).is_file():
        venv.create(folder / "venv", with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        wanted = SEARCHERS[name]
        _run([*pip, *wanted.packages], log)
        if wanted.alone:
            _run([*pip, "--no-deps", *wanted.alone], log)
        frozen = subprocess.run([*pip[:3], "freeze"], capture_output=True, text=True, check=True)
        write_atomic(folder / _INSTALLED, frozen.stdout)
    asked = ["--out", str(folder), "--minutes", str(minutes), "--threads", str(threads)]
    if SEARCHERS[name].reads_images:
        write_images(folder / "images.npz")
        asked += ["--images", str(folder / "images.npz")]
    else:
        asked += ["--run", str(run_file)]
    _run([str(python), str(HERE / f"search_{name}.py"), *asked], log)


def _run(argv: list[str], log: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    environment.pop("OMP_NUM_THREADS", None)  # each search sets its own
    print(" ".join(argv), file=sys.stderr, flush=True)
    with log.open("ab") as file:
        done = subprocess.run(argv, stdout=file, stderr=file, env=environment, check=False)
    if done.returncode:
        raise ResourceError(f"{argv[0]} ended with status {done.returncode}", hint=f"see {log}")
