from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas import artifacts
from edgenas.artifacts import files
from edgenas.errors import ArtifactError, ResourceError, SpecError

OLD, NEW = b'{"old": true}', b"new" * 5000


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# Writing


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "naïve ☃" / "x.int8.onnx"
    artifacts.write_atomic(path, "über")
    assert path.read_bytes() == "über".encode()
    artifacts.write_atomic(path, NEW)
    assert path.read_bytes() == NEW
    assert listing(path.parent) == [path.name]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        artifacts.write_atomic(tmp_path / "x", b"")
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
        assert os.umask(0o022) == 0o022  # as it was
    finally:
        os.umask(before)


def test_temporary_path_has_the_suffixes(tmp_path: Path) -> None:
    with artifacts.replacing(tmp_path / "model.int8.tflite") as temporary:
        assert temporary.name.endswith(".int8.tflite")
        assert temporary.name.startswith(".")
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"1")
    assert listing(tmp_path) == ["model.int8.tflite"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(OLD)

    def export() -> None:
        with artifacts.replacing(path) as temporary:
            temporary.write_bytes(NEW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        export()
    assert path.read_bytes() == OLD
    assert listing(tmp_path) == ["x.json"]


CALLS: tuple[tuple[Any, str], ...] = (
    (io, "open"), (os, "open"), (os, "fsync"), (os, "replace"), (os, "chmod"), (os, "close"),
)  # fmt: skip


class FailingCall:
    """Lets the n-th of the watched system calls fail (counted over all of them)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, code: int) -> None:
        self.left = n
        self.code = code
        for module, name in CALLS:
            monkeypatch.setattr(module, name, self.wrap(getattr(module, name), name))

    def wrap(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return wrapped


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_whatever_call_fails_the_file_is_whole(tmp_path: Path, code: int) -> None:
    path = tmp_path / "x.json"
    outcomes = []
    for n in range(1, 30):
        path.write_bytes(OLD)
        with pytest.MonkeyPatch.context() as patch:
            failing = FailingCall(patch, n, code)
            try:
                artifacts.write_atomic(path, NEW)
                error: ResourceError | None = None
            except ResourceError as caught:
                error = caught
        assert listing(tmp_path) == ["x.json"], n
        content = path.read_bytes()
        assert content in (OLD, NEW)
        if error is None:
            assert content == NEW
            assert failing.left > 0  # there was no n-th call: all of them were tried
            break
        assert error.exit_code == 6
        assert str(path) in str(error)
        assert os.strerror(code) in str(error)
        assert bool(error.hint) == (code != errno.EIO)
        outcomes.append(content)
    else:
        pytest.fail("the writer makes more calls than expected")
    # every failure up to the rename leaves the old file; only the folder's sync comes after it
    assert outcomes == sorted(outcomes, key=lambda content: content != OLD)
    assert len(outcomes) >= 8
    assert outcomes.count(OLD) >= 6


def test_the_file_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def noting_sync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noting_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", noting_replace)
    artifacts.write_atomic(tmp_path / "x", NEW)
    assert calls == ["file", "rename", "folder"]


def test_a_failed_write_raises_although_nothing_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        artifacts.write_json(tmp_path / "x.json", {})
    assert "free some disk space" in caught.value.hint
    assert listing(tmp_path) == []


def test_full_disk(small_disk: Path) -> None:
    path = small_disk / "x.json"
    artifacts.write_atomic(path, b"a" * 20_000)
    with pytest.raises(ResourceError, match="No space left"):
        artifacts.write_atomic(path, b"b" * 100_000)
    assert path.read_bytes() == b"a" * 20_000
    assert listing(small_disk) == ["x.json"]


@pytest.mark.parametrize("parent", ["file", "file/deeper"])
def test_a_file_where_the_folder_should_be(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises((ResourceError, SpecError), match="cannot write"):
        artifacts.write_atomic(tmp_path / parent / "x.json", NEW)
    assert listing(tmp_path) == ["file"]


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(SpecError, match="cannot write"):
        artifacts.write_atomic(tmp_path / "x.json", NEW)
    assert listing(tmp_path) == ["x.json"]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SpecError, match="no regular file"):
        artifacts.write_atomic(pipe, NEW)
    assert pipe.is_fifo()
    assert listing(tmp_path) == ["pipe"]


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("known", "new"):
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
    (tmp_path / "there" / "known").write_text("old")
    for name in ("known", "new"):
        artifacts.write_atomic(tmp_path / name, NEW)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "there" / name).read_bytes() == NEW
    assert listing(tmp_path / "there") == ["known", "new"]


WRITER = """
import sys
from pathlib import Path
from edgenas.artifacts import write_json
path = Path(sys.argv[1])
n = 0
while True:
    n += 1
    write_json(path, {"schema": "test/1", "n": n, "values": [n] * (1 + n * 997 % 9000)})
    if n == 1:
        print("writing", flush=True)
"""


def test_killed_while_writing(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "state.json"
    rng = random.Random(3)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], cwd=root, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            time.sleep(rng.uniform(0.0, 0.08))
            process.send_signal(signal.SIGKILL)
        value = artifacts.read_json(path, schema="test/1")
        assert value["values"] == [value["n"]] * (1 + value["n"] * 997 % 9000)
    artifacts.write_manifest(tmp_path)  # ignores what the kills left behind
    assert dict(artifacts.check_manifest(tmp_path)).keys() == {"state.json"}


# JSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner
    ),
)  # fmt: skip


@given(json_values)
def test_json_round_trip(value: object) -> None:
    text = artifacts.to_json(value)
    again = artifacts.parse_json(text.encode(), origin="x")
    assert again == value
    assert artifacts.to_json(again) == text
    assert artifacts.digest(again) == artifacts.digest(value)


def test_json_has_one_form() -> None:
    assert artifacts.to_json({"b": 1, "a": [1.5, "ü"]}) == (
        '{\n  "a": [\n    1.5,\n    "ü"\n  ],\n  "b": 1\n}\n'
    )
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            artifacts.to_json([number])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON at line 1, column 1"),
        (b'{"a": 1', "not valid JSON at line 1, column 8"),
        (b'{"a": 1}\n}', "line 2, column 1"),
        (b"<!doctype html>", "line 1, column 1"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e999}', "1e999 is out of range"),
        (b'{"a": -1e999}', "-1e999 is out of range"),
        (b'{"a": ' + b"9" * 9999 + b"}", "out of range"),
        (b'{"a": 1, "a": 2}', "key 'a' stands twice: 1, 2"),
        (b'{"a": {"b": 1, "b": [2]}}', r"key 'b' stands twice: 1, \[2\]"),
        (b'{"a": "\xff"}', "not UTF-8 text at byte 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (rb'{"a": ["b", "\uD800"]}', r"'\\ud800' is half a character"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": 01}', "not valid JSON"),
    ],
)
def test_what_strict_json_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        artifacts.parse_json(data, origin="table.json")
    assert str(caught.value).startswith("table.json: ")
    assert len(str(caught.value)) < 300
    assert caught.value.exit_code == 3


def test_damaged_files_raise_only_our_errors(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "front.json"
    value = {"schema": "edgenas.front/1", "candidates": [{"top1": 0.5, "name": "ü"}] * 3}
    whole = artifacts.to_json(value).encode()
    damaged = [whole[:n] for n in range(len(whole))]
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        with contextlib.suppress(ArtifactError):  # or the damage is none
            artifacts.read_json(path, schema="edgenas.front/1")


def test_schema(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, message in (
        ("[]", "no schema"),
        ("3", "no schema"),
        ('{"a": 1}', "no schema"),
        ('{"schema": 1}', "no schema"),
        ('{"schema": "edgenas.front/2"}', "newer than 'edgenas.front/1'"),
        ('{"schema": "edgenas.front/10"}', "newer than 'edgenas.front/1'"),
        ('{"schema": "edgenas.front/0"}', "'edgenas.front/1' is expected"),
        ('{"schema": "edgenas.front/²"}', "'edgenas.front/1' is expected"),
        ('{"schema": "edgenas.front/one"}', "'edgenas.front/1' is expected"),
        ('{"schema": "edgenas.table/2"}', "'edgenas.front/1' is expected"),
    ):
        path.write_text(content, "utf-8")
        with pytest.raises(ArtifactError, match=message) as caught:
            artifacts.read_json(path, schema="edgenas.front/1")
        assert ("upgrade" in caught.value.hint) == ("newer" in message)
    artifacts.check_schema("edgenas.front/1", "edgenas.front/1", origin="x")


def test_reading_is_capped(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    artifacts.write_json(path, {"schema": "a/1", "fill": "x" * 100})
    size = path.stat().st_size
    assert artifacts.read_json(path, schema="a/1", max_bytes=size)
    with pytest.raises(ArtifactError, match="larger than"):
        artifacts.read_json(path, schema="a/1", max_bytes=size - 1)
    with pytest.raises(SpecError, match="larger than"):
        artifacts.read_json(Path("/dev/zero"), schema="a/1", max_bytes=1000)


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "none.json" / "x"):
        with pytest.raises(SpecError, match="cannot read") as caught:
            artifacts.read_json(path, schema="a/1")
        assert caught.value.exit_code == 3
        with pytest.raises(SpecError, match="cannot read"):
            artifacts.read_toml(path)
        with pytest.raises(SpecError, match="cannot read"):
            artifacts.sha256_file(path)
    with pytest.raises(SpecError, match="null byte"):
        artifacts.read_toml(Path("a\0b"))
    with pytest.raises(SpecError, match="null byte"):
        artifacts.write_atomic(tmp_path / "a\0b", b"")


# TOML


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('a = 1\n[b]\nc = "ü"\n', "utf-8")
    assert artifacts.read_toml(path) == {"a": 1, "b": {"c": "ü"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = 1\na = 2\n", "line 2, column 6"),
        (b"a = ", "line 1, column 5|end of document"),
        (b"a = '\xff'", "not UTF-8 text at byte 5"),
        (b"a = " + b"[" * 100_000, "nested too deeply|line 1"),
        (b"a = " + b"9" * 9999, "digits"),
        (b"x" * (2**20 + 1), "larger than"),
    ],
)
def test_what_toml_refuses(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=message) as caught:
        artifacts.read_toml(path)
    assert str(path) in str(caught.value)


# Digests, seeds


def test_digest_is_of_the_value() -> None:
    assert artifacts.digest({"a": 1, "b": (1, 2)}) == artifacts.digest({"b": [1, 2], "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": 2})
    assert artifacts.digest("") == "12ae32cb1ec0"  # of two quotation marks; fixed for good
    with pytest.raises(ValueError, match="JSON"):
        artifacts.digest(float("nan"))


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifacts.sha256_file(tmp_path / "x") == expected


def test_seeds_are_fixed_for_good() -> None:
    # of the JSON list [0, "train", 1]
    assert artifacts.derive_seed(0, "train", 1) == 6133370629789370551


@given(st.lists(st.integers() | st.text(), max_size=3), st.lists(st.integers() | st.text()))
def test_seeds_differ_with_their_purpose(one: list[int | str], two: list[int | str]) -> None:
    a, b = artifacts.derive_seed(7, *one), artifacts.derive_seed(7, *two)
    assert 0 <= a < 2**63
    assert (a == b) == (json.dumps(one) == json.dumps(two))
    assert a != artifacts.derive_seed(8, *one)


# Manifests


def folder_with_files(folder: Path) -> Path:
    artifacts.write_atomic(folder / "front.json", b"1")
    artifacts.write_atomic(folder / "models" / "ab" / "model.tflite", b"2")
    artifacts.write_atomic(folder / "models" / "manifest.json", b"3")
    artifacts.write_atomic(folder / ".hidden", b"4")
    artifacts.write_manifest(folder)
    return folder


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    folder = folder_with_files(tmp_path)
    listed = artifacts.check_manifest(folder)
    assert list(listed) == ["front.json", "models/ab/model.tflite", "models/manifest.json"]
    assert listed["front.json"] == artifacts.sha256_file(folder / "front.json")
    first = (folder / "manifest.json").read_bytes()
    artifacts.write_manifest(folder)
    assert (folder / "manifest.json").read_bytes() == first


def test_manifest_sees_a_flipped_bit_and_a_missing_file(tmp_path: Path) -> None:
    folder = folder_with_files(tmp_path)
    model = folder / "models" / "ab" / "model.tflite"
    model.write_bytes(b"\x33")
    with pytest.raises(ArtifactError, match=r"model\.tflite was changed"):
        artifacts.check_manifest(folder)
    model.unlink()
    with pytest.raises(ArtifactError, match=r"model\.tflite is missing"):
        artifacts.check_manifest(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "link", "a\0"])
def test_manifest_stays_inside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    content = {"schema": files.MANIFEST_SCHEMA, "files": {name: "0" * 64}}
    artifacts.write_json(folder / "manifest.json", content)
    with pytest.raises(ArtifactError, match="outside the folder"):
        artifacts.check_manifest(folder)


@pytest.mark.parametrize("listed", [None, [], "x", {"front.json": 3}, {"front.json": None}])
def test_manifest_of_another_form(tmp_path: Path, listed: object) -> None:
    (tmp_path / "front.json").write_bytes(b"1")
    content = {"schema": files.MANIFEST_SCHEMA, "files": listed}
    artifacts.write_json(tmp_path / "manifest.json", content)
    with pytest.raises(ArtifactError):
        artifacts.check_manifest(tmp_path)


def test_no_temporary_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a rename works only inside one file system
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    artifacts.write_atomic(tmp_path / "x", b"1")
    assert listing(tmp_path) == ["x"]


def test_csv_with_and_without_compression(tmp_path: Path) -> None:
    text = "a,b\n1,x\n\n2,\n"
    (tmp_path / "t.csv").write_text(text, "utf-8-sig")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.csv", "t.csv.gz"):
        found = artifacts.read_csv(tmp_path / name)
        assert found == (["a", "b"], [{"a": "1", "b": "x"}, {"a": "2", "b": ""}])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a,b\n1\n", "row 2 has 1 fields, the header 2"),
        (b"a,b\n1,2\n1,2,3\n", "row 3 has 3 fields"),
        (b"\x1f\x8bnot gzip", "not a CSV file"),
        (b"a,b\n\xff\xfe", "not a CSV file"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=said) as caught:
        artifacts.read_csv(path)
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("doing", "hint"), [("read", "you may read it"), ("write", "you may write")]
)
def test_the_hint_of_a_permission_is_of_what_was_done(doing: str, hint: str) -> None:
    said = f"cannot {doing} a.json: denied"
    with (
        pytest.raises(ResourceError, match=said) as caught,
        files.io_errors(Path("a.json"), doing),
    ):
        raise PermissionError(errno.EACCES, "denied")
    assert hint in caught.value.hint
