"""A study in the real optuna-dashboard, over HTTP and in a browser."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from edgenas.cli.main import main
from edgenas.errors import ArtifactError, ResourceError, SpecError, UsageError
from edgenas.objectives import parse_objectives
from edgenas.search import Sharing, run_search
from edgenas.search.tabulated import TabulatedSpace
from edgenas.spaces import Architecture
from edgenas.testing.fakes import write_tiny_run
from edgenas.testing.postgres_server import POSTGRES, database

GOALS = parse_objectives(["max top1 >= 0.3", "min latency_ms <= 5", "size_bytes <= 6"])
GENES = {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3)}
SPACE = TabulatedSpace(
    GENES,
    {
        (a, b): {"top1": 0.1 * (a + b), "latency_ms": a + 0.1 * b, "size_bytes": a + 2 * b}
        for a in range(4)
        for b in range(4)
    },
)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def costs(arch: Architecture) -> Mapping[str, float]:
    return {name: SPACE.metrics(arch)[name] for name in ("latency_ms", "size_bytes")}


def accuracy(arch: Architecture) -> Mapping[str, float]:
    return {"top1": SPACE.metrics(arch)["top1"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials inside and outside of each bound."""
    path = tmp_path_factory.mktemp("run") / "study.db"

    run_search(
        SPACE, GOALS, cheap=costs, costly=accuracy,
        strategy="random", trials=30, seed=1, storage=path,
    )  # fmt: skip
    return path


@contextlib.contextmanager
def served(where: Path | str, **settings: Any) -> Iterator[str]:
    from edgenas.search.dashboard import dashboard

    with dashboard(where, **settings) as shown:
        thread = threading.Thread(target=shown.serve)
        thread.start()
        try:
            yield shown.url
        finally:
            shown._server.shutdown()
            thread.join()


def get(url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, method=method, headers=dict(headers or {}))
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


def api(url: str) -> str:
    return url.replace("/dashboard/", "/api/")


@pytest.fixture
def installed() -> None:
    pytest.importorskip("optuna_dashboard")


@pytest.mark.usefixtures("installed")
def test_infeasible_trials_are_shown_as_such(study: Path) -> None:
    with served(study) as url:
        told = get(api(url))
    assert told["objective_names"] == ["top1", "latency_ms"]
    trials = {t["number"]: t for t in told["trials"] if t["state"] == "Complete"}
    assert len(trials) == 30
    infeasible = set()
    for number, trial in trials.items():
        values = {a["key"]: a["value"] for a in trial["user_attrs"]}
        metrics = json.loads(values["metrics"])
        broken = [g.name for g in GOALS if g.name in metrics and not g.feasible(metrics)]
        assert any(c > 0 for c in trial["constraints"]) == bool(broken), number
        infeasible |= {number} if broken else set()
    assert 3 < len(infeasible) < 27
    best = {t["number"] for t in told["best_trials"]}
    assert best
    assert not best & infeasible
    storage = optuna.storages.RDBStorage(f"sqlite:///{study}")
    try:
        loaded = optuna.load_study(study_name="edgenas", storage=storage)
        assert best == {t.number for t in loaded.best_trials}
    finally:  # an open connection keeps files beside the study that later tests see
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.usefixtures("installed")
def test_nothing_is_written_and_nothing_is_left(study: Path) -> None:
    before = study.read_bytes(), sorted(p.name for p in study.parent.iterdir())
    with served(study) as url:
        get(api(url))
        for method, path in (("DELETE", ""), ("PUT", "/note"), ("POST", "/rename")):
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(api(url) + path, method=method)
            assert caught.value.code == 403
            assert "read-only" in caught.value.read().decode()
    assert (study.read_bytes(), sorted(p.name for p in study.parent.iterdir())) == before


@pytest.mark.usefixtures("installed")
def test_the_storage_itself_refuses_to_write(study: Path) -> None:
    from edgenas.search.dashboard import _opened

    with (
        _opened(study) as storage,
        pytest.raises(optuna.exceptions.StorageInternalError) as caught,
    ):
        storage.set_study_user_attr(1, "x", 1)
    assert "readonly" in str(caught.value.__cause__)


@pytest.mark.usefixtures("installed")
def test_it_listens_on_loopback_and_answers_its_own_name_alone(study: Path) -> None:
    with served(study) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/1", url)
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(api(url), headers={"Host": "elsewhere.example"})
        assert caught.value.code == 403
        get(api(url), headers={"Host": f"localhost:{port}"})
        for line in (
            Path("/proc/net/tcp").read_text().splitlines() if sys.platform == "linux" else []
        ):
            address, state = line.split()[1], line.split()[3]
            if address.endswith(f":{port:04X}") and state == "0A":
                assert address.startswith("0100007F"), "not 127.0.0.1"


@pytest.mark.usefixtures("installed")
def test_a_search_at_work_is_seen_as_it_goes_and_not_disturbed(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    shutil.copy(study, path)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    at_work = optuna.load_study(study_name="edgenas", storage=storage)
    writer = sqlite3.connect(path, isolation_level=None)
    with served(path) as url:
        writer.execute("BEGIN IMMEDIATE")  # in the midst of a write
        assert len(get(api(url))["trials"]) == 30
        writer.execute("COMMIT")
        trial = at_work.ask()
        trial.set_constraint("latency_ms", 0.5)
        at_work.tell(trial, [0.1, 9.0])
        assert len(at_work.trials) == 31
    writer.close()
    with served(path) as url:
        last = get(api(url))["trials"][-1]
    assert last["constraints"] == [0.5]
    storage.engine.dispose()


@pytest.mark.usefixtures("installed")
def test_errors_name_the_next_step(study: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no study") as missing, served(tmp_path / "s.db"):
        pass
    assert "--storage" in missing.value.hint
    (tmp_path / "bad.db").write_bytes(b"no database, however long it may be" * 100)
    with pytest.raises(ArtifactError, match=r"bad\.db is damaged"), served(tmp_path / "bad.db"):
        pass
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE x (a)")
    with (
        pytest.raises(ArtifactError, match=r"empty\.db holds no study of edgenas"),
        served(tmp_path / "empty.db"),
    ):
        pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} .* is in use"), served(study, port=port):
            pass


def test_what_is_not_installed_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ResourceError, match="not installed") as caught, served(study):
        pass
    assert caught.value.hint == "pip install 'edgenas[dashboard]'"


@pytest.fixture
def run(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    write_tiny_run(folder)
    shutil.copy(study, folder / "study.db")
    return folder


@pytest.mark.long
@pytest.mark.usefixtures("installed", "run")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_prints_its_address_and_ends_at_a_signal(number: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgenas", "dashboard", "tiny", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert len(get(api(url))["trials"]) == 30
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code
    assert errors == "the dashboard is closed\n"


@pytest.mark.long
@pytest.mark.usefixtures("installed", "run")
def test_the_command_takes_a_port_and_opens_a_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}.part && mv {seen}.part {seen}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("DISPLAY", ":9")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgenas", "dashboard", "tiny", "--port", str(port), "--browser"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith(f"http://127.0.0.1:{port}/")
        assert len(get(api(url))["trials"]) == 30
        assert seen.read_text().strip() == url
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_run_without_a_study(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna_dashboard")
    (run / "study.db").unlink()
    assert main(["dashboard", "tiny", "--no-browser"]) == 3
    assert "there is no study" in capsys.readouterr().err
    assert main(["dashboard", "tiny", "--storage", "mysql://x/y"]) == 2
    assert "no URL of a PostgreSQL database" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
def test_the_page_draws_infeasible_trials_in_grey(study: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    with served(study) as url:
        done = subprocess.run(
            [
                BROWSER,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--no-proxy-server",
                f"--user-data-dir={tmp_path}",
                "--window-size=1400,3000",
                "--virtual-time-budget=10000",
                "--dump-dom",
                url,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert "Pareto Front" in done.stdout
    assert ">Infeasible<" in done.stdout, "in the legend of the timeline"


@pytest.mark.long
@pytest.mark.usefixtures("installed")
def test_a_study_in_postgresql() -> None:
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with database() as url:
        run_search(
            SPACE, GOALS[:2], cheap=costs, costly=accuracy, strategy="random", trials=5,
            storage=url, sharing=Sharing("night"),
        )  # fmt: skip
        with served(url, name="night") as page:
            trials = get(api(page))["trials"]
            assert len(trials) == 5
            assert all(len(trial["constraints"]) >= 1 for trial in trials)
        from edgenas.search.dashboard import _opened

        with (
            _opened(url) as storage,
            pytest.raises(optuna.exceptions.StorageInternalError) as caught,
        ):
            storage.set_study_user_attr(1, "x", 1)
        assert "read-only transaction" in str(caught.value.__cause__)
        with (
            pytest.raises(UsageError, match="did you mean 'night'") as wrong,
            served(url, name="nigth"),
        ):
            pass
        assert "--study" in wrong.value.hint


def test_a_database_that_does_not_answer_shows_no_password() -> None:
    pytest.importorskip("optuna_dashboard")
    with pytest.raises(ResourceError) as caught, served("postgresql://u:secret@127.0.0.1:1/d"):
        pass
    assert "secret" not in f"{caught.value} {caught.value.hint}"
