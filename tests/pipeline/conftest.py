"""A working folder with a device of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenas.testing.fakes import tiny_space, write_invented_device


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the test works in; it holds `INVENTED_DEVICE` and its table."""
    monkeypatch.chdir(tmp_path)
    write_invented_device(tmp_path, tiny_space())
    return tmp_path
