"""Run folders: where a run's files lie, who works in one, what finished work looks like."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.artifacts import check_manifest, io_errors, read_json, write_json, write_manifest
from edgenas.artifacts.files import MANIFEST, MANIFEST_SCHEMA, is_within
from edgenas.errors import ArtifactError, ResourceError, SpecError, UsageError, nearest
from edgenas.pipeline.config import RunConfig, read_config, run_name
from edgenas.pipeline.goals import check_formats, written_objectives

RESULT_SCHEMA = "edgenas.search-result/1"
SESSIONS = ".sessions"
"""Folder in a run for measurements under way, so that a stopped one goes on."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run's settings and the folder that holds its files.

    `study` names it in a database, whatever the folder is called on this host.
    """

    folder: Path
    config: RunConfig
    study: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage that makes files hands back.

    `document` is what `--json` prints; `failures` says in words which gates were missed (exit code
    5) or which formats could not be written (8), `notes` what the user should know.
    """

    folder: Path
    document: Mapping[str, Any]
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: int = 0


def open_run(
    run_file: Path,
    *,
    runs: Path = Path("runs"),
    name: str | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    strategy: str | None = None,
    fleet: int | None = None,
    warm_start: Sequence[str] | None = None,
) -> Run:
    """The run that a run file describes, with settings from the command line in place of its own.

    Nothing is written. The folder is `runs/<name>`: `name`, else the file's, else the file's stem.

    Raises:
        SpecError: for the file's contents.
        UsageError: for a name that cannot be a folder's.
    """
    config = read_config(run_file)
    search = config.search
    if trials is not None or minutes is not None:
        search = replace(search, trials=trials, minutes=minutes)
    if strategy is not None:
        search = replace(search, strategy=strategy)
    if fleet is not None:
        search = replace(search, fleet=fleet)
    if warm_start:
        search = replace(search, warm_start=tuple(warm_start))
    config = replace(config, search=search)
    try:
        written_objectives(config)
        check_formats(config)
    except SpecError as error:
        raise SpecError(f"{run_file}: {error}", hint=error.hint) from error
    own = run_name(config.name or run_file.stem)
    chosen = run_name(name) if name else own
    return Run(runs / chosen, replace(config, name=chosen), own)


def find_run(text: str, *, runs: Path = Path("runs")) -> Run:
    """The finished or started run that `text` names: a folder's path, or a name below `runs`.

    Raises:
        UsageError: there is none.
    """
    for folder in (Path(text), runs / text):
        if (folder / "run.toml").is_file():
            return Run(folder, read_config(folder / "run.toml"))
    known = [p.parent.name for p in sorted(runs.glob("*/run.toml"))]
    raise UsageError(
        f"no run {text!r} here or below {runs}; {nearest(text, known)}",
        hint="edgenas search run.toml makes one",
    )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from working in `folder` at the same time.

    The lock dies with its process, so a killed one leaves none behind.

    Raises:
        ResourceError: another process works there (its pid and host are named), or the folder
            cannot be written.
    """
    from filelock import FileLock, Timeout

    with io_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        owner = folder / ".owner.json"
        try:
            lock.acquire()
        except Timeout:
            who = "another process"
            with contextlib.suppress(OSError, ValueError, KeyError):
                facts = json.loads(owner.read_text("utf-8"))
                who = f"process {facts['pid']} on {facts['host']}"
            raise ResourceError(
                f"{who} is working in {folder}",
                hint="wait for it; a search or a training may take another --name",
            ) from None
    try:
        write_json(owner, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def check_clearable(folder: Path) -> None:
    """Raises `UsageError` where `folder` has something in it but holds no run."""
    if not folder.exists() or not any(p.name[0] != "." for p in folder.iterdir()):
        return
    if not (folder / "run.toml").is_file():
        raise UsageError(
            f"{folder} is not empty and holds no run; it is left as it is",
            hint="choose another folder with --name or --runs",
        )


def clear(folder: Path, *keep: str) -> None:
    """Deletes what a run has written into `folder`, but for the lock and `keep`.

    Raises:
        UsageError: the folder holds no run, so what lies there is not ours to delete.
    """
    check_clearable(folder)
    with io_errors(folder, "clear"):
        for path in folder.iterdir() if folder.exists() else ():
            if path.name in (".lock", ".owner.json", *keep):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def seal(folder: Path) -> None:
    """Ends work in `folder`: measuring sessions go, and the manifest names what is left."""
    shutil.rmtree(folder / SESSIONS, ignore_errors=True)
    write_manifest(folder)


def check_sealed(
    folder: Path, *, below: Collection[str] | None = None, but: Collection[str] = ()
) -> Mapping[str, str]:
    """The files of the run's manifest with their digests; `below` and `but` as in `check_manifest`.

    Raises:
        ArtifactError: a file is missing or was changed; how to mend it is told.
    """
    try:
        return check_manifest(folder, below=below, but=but)
    except ArtifactError as error:
        hint = "put the file back as the run wrote it, or search again from run.toml"
        if f"{folder / 'models'}/" in str(error):
            hint = f"edgenas export {folder} NETWORK writes and verifies a network's files again"
        raise ArtifactError(str(error), hint=hint) from error


@contextlib.contextmanager
def resealing(folder: Path, *written: str, changed: Collection[str] = ()) -> Iterator[None]:
    """Lets work in a sealed run write the files and folders `written`, and edit those `changed`.

    All others, and `changed` before it begins, must be as they were sealed. Until the work is done
    the manifest does not name what it writes: one that fails or is killed leaves the rest to be
    verified. A folder without a manifest is not sealed, and stays so.

    Raises:
        ArtifactError: another file is missing or was changed.
    """
    if not (folder / MANIFEST).is_file():
        yield
        return
    files = check_sealed(folder, but=written)
    kept = {name: it for name, it in files.items() if not is_within(name, (*written, *changed))}
    write_json(folder / MANIFEST, {"schema": MANIFEST_SCHEMA, "files": kept})
    yield
    seal(folder)


def read_result(folder: Path) -> dict[str, Any]:
    """The `result.json` of a finished run.

    Raises:
        SpecError: the run is not finished, or the file is damaged.
    """
    path = folder / "result.json"
    if not path.is_file():
        raise SpecError(
            f"{folder}: the run is not finished: it has no result.json",
            hint=f"edgenas search {folder / 'run.toml'} --resume",
        )
    return read_json(path, schema=RESULT_SCHEMA)


def fleet_of(result: Mapping[str, Any]) -> dict[str, str]:
    """By device the digest that it runs, where a search was for a fleet; else empty."""
    fleet = result.get("fleet")
    if fleet is None:
        return {}
    chosen = [choice for choice in fleet["choices"] if choice["k"] <= fleet["wanted"]][-1]
    return {a["device"]: a["digest"] for a in chosen["assignments"]}


def report(folder: Path) -> tuple[Path, ...]:
    """Writes the report of the run in `folder` again, from its files alone, and its manifest.

    Raises:
        SpecError: the search has not finished.
        ArtifactError: one of these files is missing or was changed.
    """
    from edgenas.report.write import FILES, write_report

    with locked(folder), resealing(folder, *FILES):
        return write_report(folder)


def compare_runs(folder: Path, other: Path, *, out: Path | None = None) -> Outcome:
    """What the run in `folder` changes against that in `other`, as a page and Markdown.

    They are `compare.html` and `compare.md` in `folder`, in the folder `out`, or the page has the
    name `out`, which then ends in `.html`.

    Raises:
        SpecError: one of them is no finished run.
        UsageError: they are after something else, in another space, or the same run.
    """
    from edgenas.report import compare, comparison_document, load_run, write_comparison

    if folder.resolve() == other.resolve():
        raise UsageError(f"{folder} is compared with itself", hint="name another run")
    found = compare(load_run(folder), load_run(other))
    home = folder if out is None else out
    page = home if home.suffix == ".html" else home / "compare.html"
    if page.parent.resolve() != folder.resolve():
        files = write_comparison(found, page)
    else:
        names = [page.name, page.with_suffix(".md").name]
        with locked(folder), resealing(folder, *names):
            files = write_comparison(found, page)
    document = comparison_document(found) | {"files": [str(file) for file in files]}
    return Outcome(folder, document)
