"""The lock as text: the same bytes for the same facts, and nothing else read from it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.ci import Entry, read_lock
from edgenas.ci.checking import read_base
from edgenas.ci.lock import File, Network, lock_text, write_lock
from edgenas.errors import ArtifactError
from edgenas.testing.fakes import tiny_space

SMALL, LARGE = tiny_space().smallest(), tiny_space().largest()
FILE = File("onnx", "0" * 64, 1000, 0.9, 0.001, 5000, "passed")
ENTRY = Entry(
    run="phone-0123abcd",
    facts={"seed": 0, "bound latency_ms@a-b": "<= 2", "format onnx": True, "evaluate x": 0.5},
    digests={"front.json": "1" * 64, "supernet": "abc"},
    front={
        arch.digest: Network(str(arch), {"top1": 0.9, "latency_ms@a-b": 1.0 + i})
        for i, arch in enumerate((SMALL, LARGE))
    },
    files={f"models/{SMALL.digest}/model.onnx": FILE},
    certificates={SMALL.digest: "fff"},
)


def test_it_reads_back_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "edgenas.lock"
    entries = {"phone": ENTRY, "board": replace(ENTRY, noted={"table a-b": "new"})}
    write_lock(path, entries)
    assert read_lock(path) == entries
    text = path.read_text("utf-8")
    assert text == lock_text(dict(reversed(entries.items()))), "in whatever order it is told"
    before = path.stat().st_mtime_ns
    write_lock(path, entries)
    assert path.stat().st_mtime_ns == before


def test_one_fact_a_line(tmp_path: Path) -> None:
    lines = [x for x in lock_text({"phone": ENTRY}).splitlines() if x and x[0] not in "#["]
    assert all(len(tomllib.loads(line)) == 1 for line in lines)
    changed = replace(ENTRY, facts={**ENTRY.facts, "bound latency_ms@a-b": "<= 3"})
    before, after = (lock_text({"phone": e}).splitlines() for e in (ENTRY, changed))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_entries_of_different_targets_merge_as_text() -> None:
    one, two = lock_text({"a": ENTRY}), lock_text({"z": ENTRY})
    both = lock_text({"a": ENTRY, "z": ENTRY})
    assert both.startswith(one)
    assert both.endswith(two[two.index("[target.z]") :])


def test_no_file_and_an_empty_one_hold_nothing(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "edgenas.lock") == {}
    (tmp_path / "edgenas.lock").write_text("", "utf-8")
    assert read_lock(tmp_path / "edgenas.lock") == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "seed = ", "edgenas.lock: "),
        ("size_bytes = 1000", "size_bytes = 0", r"size_bytes: .* \(found 0\)"),
        ("size_bytes = 1000", "size_bytes = 1000\nmore = 1", "more"),
        ("top1 = 0.9\n", "top1 = nan\n", "nan|finite"),
        ("s1.width=8", "s1.width=16", "its architecture is another one"),
        ("models/", "../", "no file of a network of its front"),
        ("phone-0123abcd", "../phone", "run"),
        ('sha256 = "', 'sha256 = "x', "sha256"),
        ("<= 2", "hello", "edgenas.lock: target.phone.from: 'bound latency_ms@a-b' is 'hello'"),
    ],
)
def test_what_was_edited_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "edgenas.lock"
    text = lock_text({"phone": ENTRY})
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        read_lock(path)
    assert "restore it from git" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        (
            "seed = 0", "<<<<<<< HEAD\nseed = 0\n=======\nseed = 1\n>>>>>>> phone",
            "line 12: a merge left a conflict: '<<<<<<< HEAD'", "take either side of each target",
        ),
        (
            "edgenas.lock/1", "edgenas.lock/2",
            "schema is 'edgenas.lock/2', written by another edgenas", "pip install --upgrade",
        ),
        (
            "edgenas.lock/1", "edgenas.targets/1",
            "schema is 'edgenas.targets/1', that of a lock is", "name the lock",
        ),
        ('schema = "edgenas.lock/1"', "", "schema is None", "name the lock"),
        ("seed = 0", "seed = ", "edgenas.lock: ", "git checkout HEAD -- "),
    ],
)  # fmt: skip
def test_what_to_do_fits_what_is_wrong(
    tmp_path: Path, old: str, new: str, message: str, hint: str
) -> None:
    path = tmp_path / "edgenas.lock"
    path.write_text(lock_text({"phone": ENTRY}).replace(old, new), "utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        read_lock(path)
    assert hint in caught.value.hint


def test_a_damaged_lock_to_compare_with_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "base.lock"
    path.write_text("seed =", "utf-8")
    with pytest.raises(ArtifactError, match=r"base\.lock: ") as caught:
        read_base(path)
    assert caught.value.hint == f"write it again: git show main:edgenas.lock > {path}"


def test_cut_off_anywhere_it_is_refused_or_holds_whole_tables(tmp_path: Path) -> None:
    text = lock_text({"board": ENTRY, "phone": ENTRY})
    path = tmp_path / "edgenas.lock"
    ends = [i for i, character in enumerate(text) if character == "\n"]
    seen = set()
    for end in sorted({*range(0, len(text), 11), *ends, *(i + 1 for i in ends)}):
        path.write_text(text[:end], "utf-8")
        try:
            found = read_lock(path)
        except ArtifactError:
            continue
        assert found == dict.fromkeys(found, ENTRY)
        seen.add(tuple(found))
    assert seen == {(), ("board",), ("board", "phone")}
