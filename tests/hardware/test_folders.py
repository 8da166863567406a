from pathlib import Path

import pytest

from edgenas.errors import UsageError
from edgenas.hardware import check_name, find, listing, search_folders, user_folder


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "..",
            "a..b",
            "a/b",
            "a\\b",
            "-o",
            ".x",
            "x.",
            "A",
            "a b",
            "con",
            "nul.txt",
            "com1",
            "ü",
        ),
        *("a" * 121, "a\nb", "a;b", "$(touch x)", "a%b"),
    ],
)
def test_names_that_could_leave_their_folder_or_be_read_as_options_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["rpi4b-litert-int8-t4", "amd-epyc-f25m1-avx2", "a", "a_b.c-1"])
def test_ordinary_names_pass(name: str) -> None:
    assert check_name(name) == name


def test_later_folders_win_and_what_they_hide_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    user = user_folder("devices")
    user.mkdir(parents=True, exist_ok=True)
    for folder in (user, tmp_path / "devices"):
        (folder / "twice-in-this-test.toml").write_text("")
    try:
        found = find("devices", "twice-in-this-test")
    finally:
        (user / "twice-in-this-test.toml").unlink()
    assert found is not None
    assert found.path == tmp_path / "devices" / "twice-in-this-test.toml"
    assert found.origin == "working"
    assert found.shadows == (user / "twice-in-this-test.toml",)


def test_the_checkout_itself_is_shipped_not_working(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert [origin for origin, _ in search_folders("latency_tables")] == ["shipped", "user"]
    assert search_folders("latency_tables")[0][1] == root / "latency_tables"


def test_files_whose_name_is_no_device_name_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    for name in (".hidden.toml", "-x.toml", "Big.toml", "ok.toml", "ok.txt"):
        (tmp_path / "devices" / name).write_text("")
    mine = {n for n, f in listing("devices").items() if f.path.is_relative_to(tmp_path)}
    assert mine == {"ok"}
