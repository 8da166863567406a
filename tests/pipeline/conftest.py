"""A working folder with a device of its own, and one with a finished run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import write_manifest
from edgenas.cli.main import main
from edgenas.export.certificate import sealed
from edgenas.testing.fakes import tiny_space, write_invented_device, write_tiny_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the test works in; it holds `INVENTED_DEVICE` and its table."""
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished run on the digits, two formats."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_invented_device(folder, tiny_space())
        path = write_tiny_run(folder, trials=3, formats='"onnx", "onnx-int8"')
        text = path.read_text("utf-8").replace("epochs = 1", "epochs = 4")
        text = text.replace("[search]", 'licence = "as found"\n\n[search]')
        path.write_text(text.replace("top = 1", 'top = 1\nlicence = "Apache-2.0"'), "utf-8")
        assert main(["search", "run.toml", "--quiet"]) == 0
    return folder


@pytest.fixture
def model(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The exported network's folder in a copy; the working folder is the run's."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    (certificate,) = Path("runs/tiny").glob("models/*/export.json")
    return certificate.parent


def verify(*argv: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and what was said of `edgenas verify`."""
    capfd.readouterr()
    code = main(["verify", *argv, "--json", "--quiet"])
    out, err = capfd.readouterr()
    document = json.loads(out) if out else {}
    return code, document, "\n".join([err, *document.get("failures", ())])


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a certificate, and makes its run and its own digest say that this is right."""
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(sealed(table)), "utf-8")
    run = path.parent.parent.parent
    if (run / "manifest.json").is_file():
        write_manifest(run)


def written(old: str, new: str, path: Path = Path("run.toml")) -> None:
    """Changes the run file."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
