"""Where a study is kept: an SQLite file for one machine, a PostgreSQL database for many."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgenas.artifacts import digest, io_errors, replacing
from edgenas.errors import ArtifactError, EdgenasError, ResourceError, SpecError, UsageError
from edgenas.objectives import Objective, directed

if TYPE_CHECKING:
    import optuna
    import sqlalchemy
    from filelock import BaseFileLock
    from optuna.storages import BaseStorage

STUDY = "edgenas"
ANOTHER_FOLDER = "--name searches in another folder, --fresh begins anew in this one"
TURN_S = 600.0
"""How long a worker waits for its turn to ask for a trial: a surrogate's model takes seconds. And
for the file of the one it helps."""
LOOK_S = 0.1
"""Between two looks for that file."""


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


Where = Path | str | None
"""An SQLite file, the URL of a PostgreSQL database, or nothing: in memory."""


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study, and who else may be at work on it."""

    study: optuna.Study
    alone: bool
    """Whether no other process works on it, so that its running trials are orphans."""
    turn: Callable[[], contextlib.AbstractContextManager[object]]
    """`with turn():` one worker at a time, on all hosts; needed to ask for a trial."""
    lock: Callable[[str], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    """`with lock(name):` one at a time among all hosts that use the database, whatever its study;
    a study in a file is on one host, where other locks see to that."""


@contextlib.contextmanager
def open_study(
    where: Where,
    objectives: Sequence[Objective],
    marks: Mapping[str, str],
    *,
    resume: bool,
    name: str = STUDY,
    joins: bool = False,
) -> Iterator[OpenStudy]:
    """The study in `where`, made where there is none.

    One in a file is for this process and its helpers; one in a database is joined by whoever opens
    it.

    Args:
        where: see `Where`.
        objectives: of the study.
        marks: its fingerprint.
        resume: whether a study that is in the file already may be gone on with.
        name: of the study in a database; the one in a file needs none.
        joins: whether this process helps the one that opened the file.

    Raises:
        UsageError: the file is in use, or holds a study without `resume`; no URL of a database.
        SpecError: the study has another fingerprint.
        ResourceError: the file or the database cannot be written or reached.
    """
    if where is None:
        import optuna

        study = _create(optuna.storages.InMemoryStorage(), STUDY, objectives, marks)
        yield OpenStudy(study, alone=True, turn=contextlib.nullcontext)
    elif isinstance(where, Path):
        with _open_file(where.absolute(), objectives, marks, resume, joins) as opened:
            yield opened
    else:
        with _open_database(where, name, objectives, marks) as opened:
            yield opened


def _create(
    storage: BaseStorage, name: str, objectives: Sequence[Objective], marks: Mapping[str, str]
) -> optuna.Study:
    import optuna

    directions: list[Literal["maximize", "minimize"]] = [
        "maximize" if o.direction == "max" else "minimize" for o in directed(objectives)
    ]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    study.set_metric_names([o.name for o in directed(objectives)])
    study.set_user_attr("fingerprint", dict(marks))
    return study


@contextlib.contextmanager
def _open_file(
    path: Path,
    objectives: Sequence[Objective],
    marks: Mapping[str, str],
    resume: bool,  # noqa: FBT001  # passed on, not called by hand
    joins: bool,  # noqa: FBT001
) -> Iterator[OpenStudy]:
    import optuna
    from filelock import FileLock, Timeout

    lock = FileLock(path.parent / f".{path.name}.lock", timeout=0)
    hint = "free some disk space, or choose a folder that can be written; then --resume"
    with storage_errors(str(path), hint):
        with io_errors(path, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not joins:
                    lock.acquire()
            except Timeout:
                raise UsageError(
                    f"another search is at work on {path}",
                    hint="wait for it, or choose another run folder",
                ) from None
        try:
            if joins:
                _await_study(path)
            if path.exists() and not resume:
                raise UsageError(
                    f"{path} already holds a search",
                    hint="--resume goes on with it; or choose another run folder",
                )
            if not path.exists():
                # Made aside and renamed, so that a kill leaves no study without its fingerprint.
                with replacing(path) as temporary, _sqlite(temporary) as storage:
                    _create(storage, STUDY, objectives, marks)
            with _sqlite(path) as storage:
                try:
                    study = optuna.load_study(study_name=STUDY, storage=storage)
                except KeyError:
                    raise ArtifactError(
                        f"{path} holds no study of edgenas", hint=ANOTHER_FOLDER
                    ) from None
                _check_fingerprint(
                    str(path),
                    study.user_attrs.get("fingerprint", {}),
                    marks,
                    hint="choose another run folder, or go back to what the study was made with",
                )
                turn = FileLock(path.parent / f".{path.name}.turn.lock")
                yield OpenStudy(study, alone=not joins, turn=lambda: _turn(turn, path))
        finally:
            lock.release()


def _await_study(path: Path) -> None:
    """Waits for the leader, who makes the study; who made one too would replace it."""
    until = time.monotonic() + TURN_S
    while not path.exists():
        if time.monotonic() > until:
            raise ResourceError(
                f"{path} was not there after {TURN_S:.0f} s",
                hint="see whether the search that this process helps still runs",
            )
        time.sleep(LOOK_S)


@contextlib.contextmanager
def _turn(lock: BaseFileLock, path: Path) -> Iterator[None]:
    from filelock import Timeout

    try:
        lock.acquire(timeout=TURN_S)
    except Timeout:
        raise ResourceError(
            f"another worker has kept {path} to itself for {TURN_S:.0f} s",
            hint="end it; then the same command with --resume",
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _open_database(
    text: str, name: str, objectives: Sequence[Objective], marks: Mapping[str, str]
) -> Iterator[OpenStudy]:
    import optuna
    import sqlalchemy

    with _database_errors(text) as (url, shown):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with _advisory_lock(engine, ""):  # several hosts may come at the same moment
            storage = optuna.storages.RDBStorage(
                url.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True}
            )
            if name in optuna.get_all_study_names(storage):
                study = optuna.load_study(study_name=name, storage=storage)
            else:
                study = _create(storage, name, objectives, marks)
        try:
            _check_fingerprint(
                f"study {name!r} in {shown}",
                study.user_attrs.get("fingerprint", {}),
                marks,
                hint="give the run the data, supernet and tables that it has on the other hosts "
                "(copy its folder tables/), or another `name` in its run file",
            )
            yield OpenStudy(
                study,
                alone=False,
                turn=lambda: _advisory_lock(engine, name),
                lock=lambda what: _advisory_lock(engine, f"lock {what}"),
            )
        finally:
            storage.remove_session()
            storage.engine.dispose()


def check_storage(text: str | None) -> None:
    """Connects once, so that a search is not refused after hours of training; None is a file.

    Raises:
        UsageError: `text` is no URL of a PostgreSQL database.
        ResourceError: the database cannot be reached, or no driver is installed.
    """
    if text is not None:
        import sqlalchemy

        with _database_errors(text) as (url, _):
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
            engine.connect().close()


@contextlib.contextmanager
def _database_errors(text: str) -> Iterator[tuple[sqlalchemy.URL, str]]:
    """The URL, and how it may be shown; errors about it have a remedy."""
    url = sqlalchemy_url(text)
    shown = url.set(drivername="postgresql").render_as_string(hide_password=True)
    hint = "see that the server runs and its address is right; then the same command once more"
    with storage_errors(shown, hint):
        yield url, shown


def sqlalchemy_url(text: str) -> sqlalchemy.URL:
    """The URL with the driver that is installed.

    Raises:
        UsageError: it is no URL of a PostgreSQL database.
        ResourceError: no driver is installed.
    """
    from importlib.util import find_spec

    import sqlalchemy

    try:
        url = sqlalchemy.make_url(text)
    except sqlalchemy.exc.ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        shown = "it" if url is None else url.render_as_string(hide_password=True)
        raise UsageError(
            f"--storage: {shown} is no URL of a PostgreSQL database",
            hint="write postgresql://USER@HOST/DATABASE; without --storage a file is used",
        )
    driver = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)
    if driver is None:
        raise ResourceError(
            "no driver for PostgreSQL is installed", hint="pip install 'edgenas[postgres]'"
        )
    return url.set(drivername=f"postgresql+{driver}")


@contextlib.contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """One holder on all hosts; the server releases it when its holder's connection is gone."""
    import sqlalchemy

    key = {"key": int(digest(["edgenas", name]), 16)}
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")  # no transaction stays open
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), key)
        yield


def _check_fingerprint(
    where: str, stored: Mapping[str, str], marks: Mapping[str, str], *, hint: str
) -> None:
    differing = [
        f"{name} is {marks.get(name)!r}, the study's {stored.get(name)!r}"
        for name in sorted({*stored, *marks})
        if stored.get(name) != marks.get(name)
    ]
    if differing:
        raise SpecError(f"{where} belongs to another search: {'; '.join(differing)}", hint=hint)


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
def storage_errors(where: str, hint: str, *, verb: str = "store") -> Iterator[None]:
    """Turns what Optuna and SQLAlchemy raise about the storage into errors with a remedy."""
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
                raise ArtifactError(
                    f"{where} is damaged: {text}", hint=f"restore it; {ANOTHER_FOLDER}"
                ) from error
            # of SQLite, and of PostgreSQL: relation "studies" does not exist
            if "no such table" in text or ("relation " in text and "does not exist" in text):
                raise ArtifactError(f"{where} holds no study of edgenas") from error
        raise ResourceError(
            f"cannot {verb} the search in {where}: {str(cause).splitlines()[0]}", hint=hint
        ) from error
