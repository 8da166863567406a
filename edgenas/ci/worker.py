"""A process that makes the run of one target: `python -m edgenas.ci.worker`.

It is told which folder it is to work in, with how many threads; all else stands in the folder's run
file. It ends with the process that started it (`edgenas.processes`).
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from edgenas import processes
from edgenas.artifacts import read_json, write_json
from edgenas.errors import EdgenasError, Interrupted

FAILURE = ".failure.json"
FAILURE_SCHEMA = "edgenas.ci-failure/1"


def start(folder: Path, *, threads: int, measure: bool) -> subprocess.Popen[bytes]:
    """A process that goes on with the run in `folder`; what it says stands in a log beside it."""
    (folder / FAILURE).unlink(missing_ok=True)
    task = [str(folder), threads, measure]
    return processes.start("edgenas.ci.worker", task, log=_log(folder), threads=threads)


def failure(folder: Path, code: int) -> EdgenasError | None:
    """What a process that ended with `code` failed of."""
    if code == 0:
        _log(folder).unlink(missing_ok=True)
        return None
    if (folder / FAILURE).is_file():
        told = read_json(folder / FAILURE, schema=FAILURE_SCHEMA)
        error = EdgenasError(str(told["error"]), hint=str(told["hint"]))
        error.exit_code = int(told["exit_code"])
        return error
    what = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    return EdgenasError(f"the process that made it {what}", hint=f"its words: {_log(folder)}")


def main() -> int:
    """Makes the run, or leaves in its folder what it failed of."""
    name, threads, measure = processes.task()
    folder = Path(name)
    try:
        from edgenas.data import threads as at_most
        from edgenas.pipeline.config import read_config
        from edgenas.pipeline.searching import search

        with at_most(threads):
            config = read_config(folder / "run.toml")
            search(config, folder, resume=True, measure=measure)
    except (KeyboardInterrupt, Interrupted):
        return 128 + signal.SIGTERM
    except EdgenasError as error:
        told = {"error": str(error), "hint": error.hint, "exit_code": error.exit_code}
        write_json(folder / FAILURE, {"schema": FAILURE_SCHEMA, **told})
        return error.exit_code
    return 0


def _log(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.log"


if __name__ == "__main__":
    sys.exit(main())
