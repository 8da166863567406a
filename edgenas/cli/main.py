"""The command line: `edgenas COMMAND`. Each command is a module that imports its work when called.

`main` is the one place that turns errors into messages and exit codes, and the only one that
configures logging or signals.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated

import typer

from edgenas import __version__
from edgenas.cli import (
    bench,
    ci,
    dashboard,
    devices,
    doctor,
    export,
    init,
    measure,
    predict,
    profile,
    quickstart,
    report,
    search,
    table,
    train,
    verify,
)
from edgenas.cli.console import INVOKED
from edgenas.errors import EdgenasError

_RESOURCE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}

app = typer.Typer(
    name="edgenas",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgenas {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Log every step, and show tracebacks.")
    ] = False,
) -> None:
    """Networks for edge devices: search a supernet, export, verify in the real runtimes.

    First steps: `edgenas quickstart`, or for images of your own `edgenas init FOLDER`, then
    `edgenas train run.toml` and `edgenas search run.toml`.

    Results go to stdout, progress to stderr. Exit codes: 0 fine, 1 unexpected error, 2 usage,
    3 bad input, 4 device, 5 a verification failed, 6 disk or memory, 7 no architecture meets the
    bounds, 8 export not possible, 130 and 143 stopped by a signal.
    """


app.command()(quickstart.quickstart)
app.command()(init.init)
app.command()(doctor.doctor)
app.add_typer(devices.app, name="devices")
app.command()(profile.profile)
app.add_typer(table.app, name="table")
app.command()(predict.predict)
app.command()(train.train)
app.command()(search.search)
app.command()(measure.measure)
app.command()(export.export)
app.command()(verify.verify)
app.command()(report.report)
app.command()(dashboard.dashboard)
app.add_typer(ci.app, name="ci")
app.add_typer(bench.app, name="bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    _open_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    with _signals() as received, _logging(debug=debug):
        INVOKED.set(tuple(args))
        try:
            app(args, prog_name="edgenas")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            return 128 + received[0] if code == 130 and received else code
        except KeyboardInterrupt:  # outside of a command's own handling
            return 128 + (received[0] if received else signal.SIGINT)
        except EdgenasError as error:
            return _fail(str(error), error.hint, error.exit_code, debug=debug)
        except MemoryError:
            return _fail(
                "out of memory",
                "close other programs, or set a smaller batch, or accumulate = 2, in [train]",
                6,
                debug,
            )
        except OSError as error:
            if error.errno not in _RESOURCE_ERRNOS:
                return _unexpected(error, debug=debug)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = f"free some disk space; temporary files lie in {tempfile.gettempdir()}" * full
            return _fail(str(error), hint, 6, debug=debug)
        except Exception as error:  # noqa: BLE001  the last one: nobody else would catch it
            return _unexpected(error, debug=debug)
        return 0


def _open_streams() -> None:
    """Gives stdout and stderr that a shell closed (`>&-`) somewhere to go."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w"))


def _fail(message: str, hint: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        print(f"error: {message}", file=sys.stderr)
        if hint:
            print(f"  try: {hint}", file=sys.stderr)
    return code


def _unexpected(error: Exception, *, debug: bool) -> int:
    """A short message, and the traceback in a log file (on stderr with `--debug`)."""
    if debug:
        traceback.print_exc()
        return 1
    where = ""
    with contextlib.suppress(Exception):
        from pathlib import Path

        from platformdirs import user_log_dir

        path = Path(user_log_dir("edgenas")) / "last-error.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), "utf-8")
        where = f" (traceback: {path})"
    print(f"error: unexpected {type(error).__name__}: {error}{where}", file=sys.stderr)
    print("  try: the same command as `edgenas --debug ...`", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM ends work as Ctrl-C does; the list then holds its number.

    Python drops a KeyboardInterrupt that is raised in a destructor or a weak reference's callback:
    the signal is then sent once more.
    """
    received: list[int] = []
    unraisable = sys.unraisablehook

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if what.exc_type is not KeyboardInterrupt:
            unraisable(what)
            return
        number = received[-1] if received else signal.SIGINT
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield received
        return
    sys.unraisablehook = dropped
    try:
        yield received
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _logging(*, debug: bool) -> Iterator[None]:
    """Warnings and errors on stderr; everything of edgenas with `--debug`.

    SQLAlchemy writes the traceback of what it raises besides when a signal cuts a query short; that
    is kept off stderr.
    """
    logger = logging.getLogger("edgenas")
    if not debug:
        database = logging.getLogger("sqlalchemy")
        if not database.handlers:
            database.addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        with warnings.catch_warnings():
            if not debug:  # other libraries' warnings help no user
                warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
