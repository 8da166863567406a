"""A process that helps with a search on this machine: `python -m edgenas.pipeline.helper`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from edgenas import processes
from edgenas.errors import EdgenasError, Interrupted
from edgenas.pipeline.helping import Task


def main() -> int:
    """Works on the run that it is told, until its search or its leader is at an end."""
    task = Task(**processes.task())
    try:
        from edgenas.data import threads
        from edgenas.pipeline.config import read_config
        from edgenas.pipeline.searching import help_search

        folder = Path(task.folder)
        config = read_config(folder / "run.toml")
        with threads(task.threads):
            help_search(config, folder, storage=task.storage, study=task.study, device=task.device)
    except EdgenasError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    except (KeyboardInterrupt, Interrupted):
        return 128 + signal.SIGTERM
    return 0


if __name__ == "__main__":
    sys.exit(main())
