"""A study in optuna-dashboard: live, read-only, and on this machine alone."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import sqlalchemy
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from edgenas.errors import (
    ArtifactError,
    Interrupted,
    ResourceError,
    SpecError,
    UsageError,
    nearest,
)
from edgenas.search.storage import STUDY, quiet_optuna, sqlalchemy_url, storage_errors

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
CONSTRAINTS = "constraints"
"""The system attribute that optuna-dashboard (0.21) reads; Optuna 5 writes one a constraint."""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ShownStorage(RDBStorage):
    """A storage whose trials carry their constraints as the dashboard reads them.

    Each call reads the database anew, so that a search under way is seen as it goes.
    """

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial."""
        return _shown(super().get_trial(trial_id))

    def get_all_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        """A study's trials."""
        return [_shown(trial) for trial in super().get_all_trials(*args, **kwargs)]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best feasible trial of a study with one objective; the best one if none is."""
        done = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [trial for trial in done if all(v <= 0 for v in trial.constraints.values())]
        most = self.get_study_directions(study_id)[0] == StudyDirection.MAXIMIZE
        return (max if most else min)(feasible or done, key=lambda trial: trial.values[0])


def _shown(trial: FrozenTrial) -> FrozenTrial:
    if found := trial.constraints:
        trial.system_attrs.setdefault(CONSTRAINTS, list(found.values()))
    return trial


@contextlib.contextmanager
def dashboard(where: Path | str, name: str = STUDY, *, port: int = 0) -> Iterator[Dashboard]:
    """A server for the study `name` in `where`, bound to the loopback interface.

    Args:
        where: an SQLite file (whose study needs no `name`), or the URL of a PostgreSQL database.
            Its connections cannot write, and a file's are closed between two requests.
        name: of the study in a database.
        port: to listen at; 0 takes a free one.

    Raises:
        UsageError: no URL of PostgreSQL, no such study in it, or the port is taken.
        SpecError: there is no such file.
        ArtifactError: it holds no study.
        ResourceError: optuna-dashboard or a driver is not installed, the database does not answer.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise ResourceError(
            "optuna-dashboard is not installed", hint="pip install 'edgenas[dashboard]'"
        ) from None
    hint = "see that it is there and can be read"
    told = str(where) if isinstance(where, Path) else "the database"
    with quiet_optuna(), storage_errors(told, hint, verb="read"), _opened(where) as storage:
        studies = [study.study_name for study in storage.get_all_studies()]
        if isinstance(where, Path):
            if STUDY not in studies:
                raise ArtifactError(f"{where} holds no study of edgenas")
            name = STUDY
        elif name not in studies:
            raise UsageError(
                f"the database holds no study {name!r}; {nearest(name, studies)}",
                hint="--study NAME; it is the `name` of the search's run file",
            )
        app: Any = wsgi(storage)  # a Bottle application
        app.install(_only_feasible)
        with _listening(port) as server:
            hosts = {f"{host}:{server.server_port}" for host in (HOST, "localhost")}
            server.set_app(_guarded(app, hosts))
            yield Dashboard(server, storage.get_study_id_from_name(name))


class Dashboard:
    """A dashboard that listens; `url` is the study's page."""

    def __init__(self, server: WSGIServer, study_id: int) -> None:
        self._server = server
        self.url = f"http://{HOST}:{server.server_port}/dashboard/studies/{study_id}"

    def serve(self) -> None:
        """Answers until it is interrupted.

        Raises:
            Interrupted: on KeyboardInterrupt.
        """
        try:
            self._server.serve_forever()
        except KeyboardInterrupt:
            raise Interrupted("the dashboard is closed") from None


@contextlib.contextmanager
def _opened(where: Path | str) -> Iterator[ShownStorage]:
    """A storage that cannot write; it leaves no connection and no file behind."""
    engine: dict[str, Any] = {"poolclass": sqlalchemy.NullPool}
    if isinstance(where, Path):
        if not where.is_file():
            raise SpecError(
                f"{where}: there is no study: the search has not begun, or its study is in a "
                "database",
                hint="--storage postgresql://USER@HOST/DATABASE, as the search had",
            )
        path = where.absolute()
        url = sqlalchemy.URL.create("sqlite", database=str(path))
        engine["creator"] = lambda: _reader(path)
    else:
        url = sqlalchemy_url(where)
        engine["connect_args"] = {"options": "-c default_transaction_read_only=on"}
    # The tables are there: to make them would be to write.
    storage = ShownStorage(
        url.render_as_string(hide_password=False), engine, skip_table_creation=True
    )
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _reader(path: Path) -> sqlite3.Connection:
    """A connection that refuses to write.

    Not SQLite's `mode=ro`: that would leave the log's files behind, as it may not delete them.
    """
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _only_feasible(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A Bottle plug-in: the dashboard (0.21) takes infeasible trials for best ones too."""

    def answer(*args: Any, **kwargs: Any) -> Any:
        body = callback(*args, **kwargs)
        if isinstance(body, dict) and "best_trials" in body:
            body["best_trials"] = [
                trial for trial in body["best_trials"] if all(v <= 0 for v in trial["constraints"])
            ]
        return body

    return answer


def _guarded(app: App, hosts: Collection[str]) -> App:
    """`app` without what changes anything, and for pages from here alone.

    A page of another origin whose name leads to this machine has another Host.
    """

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reason = ""
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            reason = "edgenas shows this study read-only"
        elif environ.get("HTTP_HOST") not in hosts:
            reason = "this dashboard is for its own machine"
        if not reason:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Requests go to the log, not to stderr."""
        logger.debug(format, *args)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[WSGIServer]:
    try:
        server = _Server((HOST, port), _Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} of {HOST} is in use", hint="--port another, or none: a free one"
            ) from None
        raise ResourceError(
            f"cannot listen at port {port} of {HOST}: {error.strerror}",
            hint="--port another, above 1023",
        ) from error
    with server:
        yield server
