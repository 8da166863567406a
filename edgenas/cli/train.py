"""`edgenas train`."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgenas.cli.console import Fresh, Json, Quiet, Resume, again, output
from edgenas.cli.options import Name, RunFile, Runs


def train(
    run_file: RunFile,
    name: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    fresh: Fresh = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trains the supernet of a run file into runs/NAME/supernet, once for all devices.

    Says beforehand what it will take. A stopped training goes on with --resume from its last
    checkpoint; a finished one is left as it is.

    Example: edgenas train run.toml
    """
    from edgenas import pipeline

    with output(json=json, quiet=quiet, resume=again("--resume")) as out:
        run = pipeline.open_run(run_file, runs=runs, name=name)
        facts = pipeline.train(
            run.config, run.folder, resume=resume, fresh=fresh, report=out.report
        )
        accuracy = ", ".join(f"{k} {100 * v:.2f} %" for k, v in facts["top1"].items())
        out.result(
            {"schema": "edgenas.train/1", **facts},
            f"supernet: {facts['checkpoint']} (top-1 on the search split: {accuracy})\n"
            f"next: edgenas search {shlex.quote(str(run_file))}",
        )
