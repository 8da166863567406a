"""A process that makes the run of one target: `python -m edgenas.ci.worker`.

It is told on its standard input, in one line of JSON, which folder it is to work in, with how many
threads; all else stands in the folder's run file. That input stays open as long as the process that
started it lives; when it closes, this one gives up what it is at and ends.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from edgenas.artifacts import read_json, write_json
from edgenas.errors import EdgenasError, Interrupted
from edgenas.pipeline.helping import end_with, stop

FAILURE = ".failure.json"
FAILURE_SCHEMA = "edgenas.ci-failure/1"

_GRACE_S = 20.0
"""From asking a process to end until it is killed: a step of torch cannot be interrupted."""


def start(folder: Path, *, threads: int, measure: bool) -> subprocess.Popen[bytes]:
    """A process that goes on with the run in `folder`; what it says stands in a log beside it."""
    from edgenas.export.worker import environment

    (folder / FAILURE).unlink(missing_ok=True)
    with _log(folder).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgenas.ci.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for the leader, who ends the others
            env={**environment(), "OMP_NUM_THREADS": str(threads)},
        )
    if process.stdin is not None:
        with contextlib.suppress(OSError):  # dead already: its exit code tells
            process.stdin.write(json.dumps([str(folder), threads, measure]).encode() + b"\n")
            process.stdin.flush()
    return process


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


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Has them end: asked first, then killed."""
    for process in processes:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        process.kill()
        process.wait()


def main() -> int:
    """Makes the run, or leaves in its folder what it failed of."""
    signal.signal(signal.SIGTERM, stop)
    name, threads, measure = json.loads(sys.stdin.buffer.readline())
    folder = Path(name)
    threading.Thread(target=end_with, args=(sys.stdin.buffer,), daemon=True).start()
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
