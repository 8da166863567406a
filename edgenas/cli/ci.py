"""`edgenas ci`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from edgenas.cli.console import Json, Quiet, again, output

app = typer.Typer(
    help="Re-search when targets change: what is stale, make it again, gates, a comment."
)

Targets = Annotated[
    Path,
    typer.Option(help="The file of targets; devices/ and latency_tables/ beside it are read too."),
]
Lock = Annotated[
    Path | None, typer.Option(help="The lock; default: edgenas.lock beside the targets.")
]
Runs = Annotated[
    Path | None, typer.Option(help="Folder of the runs; default: runs beside the targets.")
]
Base = Annotated[
    Path | None,
    typer.Option(
        metavar="LOCK", help="The lock to compare with: git show main:edgenas.lock > base.lock"
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--target", metavar="NAME", help="This target alone; repeatable."),
]
TARGETS = Path("targets.toml")


@app.command()
def plan(
    targets: Targets = TARGETS,
    lock: Lock = None,
    runs: Runs = None,
    target: Only = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 5 where something is stale.")
    ] = False,
    json: Json = False,
) -> None:
    """Which stages of which targets are stale, and why. Writes nothing, takes seconds.

    Example: edgenas ci plan
    """
    from edgenas import ci

    with output(json=json) as out, _devices_beside(targets):
        found = ci.plan(targets, **_beside(targets, lock, runs), only=target or ())
        out.result(found.document(), found.text())
    if exit_code and found.stale:
        raise typer.Exit(5)


@app.command()
def run(
    targets: Targets = TARGETS,
    lock: Lock = None,
    runs: Runs = None,
    target: Only = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Targets side by side; default: cores / 2."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Makes what is stale, from what the last run knows, and writes the lock.

    A target is locked when its files are verified; one that fails leaves the others and its lock as
    they are. The same command goes on with what was stopped. Ends with 4 where a device to be
    measured told nothing, with 5 where an exported file missed its gate, with 7 where no
    architecture meets a target's bounds, with 8 where a format could not be written.

    Example: edgenas ci run
    """
    from edgenas import ci

    with output(json=json, quiet=quiet, resume=again()) as out, _devices_beside(targets):
        found = ci.run(
            targets,
            **_beside(targets, lock, runs),
            only=target or (),
            jobs=jobs,
            report=out.report,
        )
        out.result(found.document(), found.text())
    if found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command()
def check(
    targets: Targets = TARGETS,
    lock: Lock = None,
    runs: Runs = None,
    base: Base = None,
    target: Only = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="NAME", help="This gate alone, as lock; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """The gates, for a pull request: nothing is searched, exported or timed.

    Bounds and latency by the tables, accuracy against the lock beyond noise, size, arena, drop at
    export, certificates, files as locked, lock up to date. Ends with 5 where a gate fails.

    Whether the committed lock is up to date, before ci run: edgenas ci check --gate lock

    Example: edgenas ci check --base base.lock
    """
    from edgenas import ci

    with output(json=json) as out, _devices_beside(targets):
        found = ci.check(targets, **_beside(targets, lock, runs), base=base, only=target or ())
        found = found.only(gate) if gate else found
        out.result(found.document(), found.text())
    if found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command()
def comment(
    targets: Targets = TARGETS,
    lock: Lock = None,
    runs: Runs = None,
    base: Base = None,
    committed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What check --gate lock --json said of the lock before ci run."
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Writes comment.md, summary.md, pictures."),
    ] = None,
    json: Json = False,
) -> None:
    """What changed against the base, why, and what the gates say, in Markdown on stdout.

    At most 60,000 bytes; the longer text for the summary of a job is written with --out, as are
    pictures of the fronts. Ends with 0 whatever the gates say.

    Example: edgenas ci comment --base base.lock --out ci-comment
    """
    from edgenas import ci

    with output(json=json) as out, _devices_beside(targets):
        told = ci.comment(targets, **_beside(targets, lock, runs), base=base, committed=committed)
        document = told.document()
        if out_folder is not None:
            document["files"] = [str(path) for path in ci.write_comment(out_folder, told)]
        out.result(document, told.comment)


@app.command()
def validate(targets: Targets = TARGETS, lock: Lock = None, json: Json = False) -> None:
    """Whether the targets, what they name and the lock can be read: a hook before each commit.

    Run files, devices, tables that did not ship with edgenas (as table check does), the lock. What
    is stale is no mistake. Loads no torch. Ends with 3 where something is wrong.

    Example: edgenas ci validate
    """
    from edgenas import ci

    with output(json=json) as out, _devices_beside(targets):
        found, text = ci.validate(targets, lock=_beside(targets, lock, None)["lock"])
        out.result(found, text)
    if not found["passed"]:
        raise typer.Exit(3)


class _Beside(TypedDict):
    lock: Path
    runs: Path


def _beside(targets: Path, lock: Path | None, runs: Path | None) -> _Beside:
    """The lock and the folder of runs, which lie beside the targets unless said otherwise."""
    folder = targets.parent
    return {"lock": lock or folder / "edgenas.lock", "runs": runs or folder / "runs"}


def _devices_beside(targets: Path) -> AbstractContextManager[None]:
    """Where devices and tables that lie beside the targets are found."""
    from edgenas.hardware import also_in

    return also_in(targets.parent)
