"""Where a study is kept: one SQLite file with a fingerprint, for one process at a time."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgenas.artifacts import io_errors, replacing
from edgenas.errors import ArtifactError, EdgenasError, ResourceError, SpecError, UsageError
from edgenas.objectives import Objective, directed

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

STUDY = "edgenas"


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna logs on its own to stderr: only what it warns of passes while we use it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def open_study(
    path: Path | None, objectives: Sequence[Objective], marks: Mapping[str, str], *, resume: bool
) -> Iterator[optuna.Study]:
    """The study in `path`, made where there is none, for this process alone."""
    import optuna
    from filelock import FileLock, Timeout

    directions: list[Literal["maximize", "minimize"]] = [
        "maximize" if o.direction == "max" else "minimize" for o in directed(objectives)
    ]

    def create(storage: BaseStorage) -> optuna.Study:
        study = optuna.create_study(storage=storage, study_name=STUDY, directions=directions)
        study.set_metric_names([o.name for o in directed(objectives)])
        study.set_user_attr("fingerprint", dict(marks))
        return study

    if path is None:
        yield create(optuna.storages.InMemoryStorage())
        return
    path = path.absolute()
    lock = FileLock(path.parent / f".{path.name}.lock", timeout=0)
    with _storage_errors(path):
        with io_errors(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                raise UsageError(
                    f"another search is at work on {path}",
                    hint="wait for it, or choose another run folder",
                ) from None
        try:
            if path.exists() and not resume:
                raise UsageError(
                    f"{path} already holds a search",
                    hint="--resume goes on with it; or choose another run folder",
                )
            if not path.exists():
                # Made aside and renamed, so that a kill leaves no study without its fingerprint.
                with replacing(path) as temporary, _sqlite(temporary) as storage:
                    create(storage)
            with _sqlite(path) as storage:
                try:
                    study = optuna.load_study(study_name=STUDY, storage=storage)
                except KeyError:
                    raise ArtifactError(f"{path} holds no study of edgenas") from None
                _check_fingerprint(path, study.user_attrs.get("fingerprint", {}), marks)
                yield study
        finally:
            lock.release()


def _check_fingerprint(path: Path, stored: Mapping[str, str], marks: Mapping[str, str]) -> None:
    differing = [
        f"{name} is {marks.get(name)!r}, the study's {stored.get(name)!r}"
        for name in sorted({*stored, *marks})
        if stored.get(name) != marks.get(name)
    ]
    if differing:
        raise SpecError(
            f"{path} belongs to another search: {'; '.join(differing)}",
            hint="choose another run folder, or go back to what the study was made with",
        )


@contextlib.contextmanager
def _sqlite(path: Path) -> Iterator[BaseStorage]:
    """Optuna's storage in an SQLite file; on leaving, all is in that one file.

    A write-ahead log halves the time of a trial with 40 genes; `synchronous=NORMAL` with it
    survives a kill, and a power cut loses at most the last commits.
    """
    import sqlalchemy
    from optuna.storages import RDBStorage

    url = sqlalchemy.URL.create("sqlite", database=str(path))
    storage = RDBStorage(url.render_as_string(hide_password=False))
    try:

        def prepare(connection: Any, record: object) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        sqlalchemy.event.listen(storage.engine, "connect", prepare)
        storage.engine.dispose()  # the connection made before the listener was there
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()  # the last connection to close folds the log into the file


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Turns what Optuna and SQLAlchemy raise about the file into errors with a remedy."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError, SQLAlchemyError

    try:
        yield
    except EdgenasError:
        raise
    except (SQLAlchemyError, StorageInternalError, AssertionError) as error:
        if isinstance(error, AssertionError) and "Should not reach" not in str(error):
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if isinstance(cause, DatabaseError):
            text = str(cause.orig)
            if "not a database" in text or "malformed" in text:
                raise ArtifactError(f"{path} is damaged: {text}") from error
        raise ResourceError(
            f"cannot store the search in {path}: {str(cause).splitlines()[0]}",
            hint="free some disk space, or choose a folder that can be written; then --resume",
        ) from error
