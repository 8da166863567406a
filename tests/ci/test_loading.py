"""What `ci plan` loads and reads: no more than it needs, since it is asked at every commit."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from edgenas import ci, pipeline
from edgenas.ci import targets
from edgenas.pipeline import read_config
from tests.ci.test_targets import HEAD, read


def test_a_plan_loads_no_exporter_and_no_report(locked: Path) -> None:
    code = (
        "import sys\nfrom edgenas.cli.main import main\nassert main(['ci', 'plan']) == 0\n"
        "unused = 'numpy torch edgenas.report edgenas.export.onnx edgenas.export.verify "
        "edgenas.ci.checking edgenas.ci.running edgenas.pipeline.searching'.split()\n"
        "print([name for name in unused if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("package", [ci, pipeline])
def test_every_name_of_a_package_is_found_in_its_module(package: object) -> None:
    names, modules = getattr(package, "__all__"), getattr(package, "_MODULES")  # noqa: B009
    assert sorted(names) == sorted(modules)
    for name in names:
        module = importlib.import_module(f"{getattr(package, '__name__')}.{modules[name]}")  # noqa: B009
        assert getattr(package, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        getattr(package, "serch")  # noqa: B009


def test_a_run_file_is_read_once_for_all_its_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []

    def counted(path: Path) -> object:
        files.append(path)
        return read_config(path)

    monkeypatch.setattr(targets, "read_config", counted)
    found = read(tmp_path, HEAD + "[target.a]\n[target.b]\n[target.c]\n")
    assert len(found) == 3
    assert len(files) == 1
