from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from edgenas import plugins
from edgenas.errors import SpecError
from edgenas.spaces.mobile import MobileSpace

BUILTINS = {"mobile": "edgenas.spaces.mobile:MobileSpace", "lazy": "edgenas_not_there:thing"}


def install(monkeypatch: pytest.MonkeyPatch, **added: str) -> None:
    found = tuple(EntryPoint(name, value, "edgenas.spaces") for name, value in added.items())
    monkeypatch.setattr(plugins, "_plugins", lambda kind: found if kind == "spaces" else ())


def test_built_ins_are_loaded_only_when_asked_for() -> None:
    assert plugins.lookup("spaces", "mobile", BUILTINS) is MobileSpace
    assert "edgenas_not_there" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        plugins.lookup("spaces", "lazy", BUILTINS)


def test_unknown_name() -> None:
    with pytest.raises(SpecError, match="spaces: no 'mobil'; did you mean 'mobile'"):
        plugins.lookup("spaces", "mobil", BUILTINS)
    with pytest.raises(SpecError, match="known: lazy, mobile"):
        plugins.lookup("spaces", "zzz", BUILTINS)


def test_a_plugin_adds_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, stage="edgenas.spaces.mobile:Stage")
    assert plugins.names("spaces", BUILTINS) == ("mobile", "lazy", "stage")
    assert plugins.names("runtimes", {}) == ()
    assert plugins.lookup("spaces", "stage", BUILTINS).__name__ == "Stage"  # type: ignore[attr-defined]
    assert plugins.lookup("spaces", "mobile", BUILTINS) is MobileSpace
    with pytest.raises(SpecError, match="no 'stage'; none is known"):
        plugins.lookup("runtimes", "stage", {})


def test_a_plugin_never_replaces_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, mobile="edgenas.spaces.mobile:Stage")
    assert plugins.names("spaces", BUILTINS) == ("mobile", "lazy")
    with pytest.raises(SpecError, match="'mobile' is claimed by edgenas, ") as caught:
        plugins.lookup("spaces", "mobile", BUILTINS)
    assert caught.value.hint.startswith("pip uninstall ")


@pytest.mark.parametrize("target", ["edgenas_not_there:x", "edgenas.spaces.mobile:nothing"])
def test_a_plugin_that_does_not_load(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    install(monkeypatch, other=target)
    with pytest.raises(SpecError, match=r"'other' of the package .* does not load"):
        plugins.lookup("spaces", "other", BUILTINS)


def test_what_is_installed_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return []

    monkeypatch.setattr(plugins, "entry_points", counted)
    plugins._plugins.cache_clear()
    try:
        for _ in range(3):
            assert plugins.names("spaces", BUILTINS) == ("mobile", "lazy")
        assert asked == ["edgenas.spaces"]
    finally:
        plugins._plugins.cache_clear()
