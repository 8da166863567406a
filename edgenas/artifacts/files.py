"""Files that survive: atomic writes, strict reads, digests, manifests.

A write goes to a temporary file in the same folder, is flushed and synced, then renamed over the
old file; the old one is whole until the new one is. A read refuses duplicate keys, NaN and
infinities, more than `max_bytes`, and nesting that would overflow the stack.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import hashlib
import io
import json
import os
import reprlib
import tempfile
import tomllib
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgenas.errors import ArtifactError, EdgenasError, ResourceError, SpecError

if TYPE_CHECKING:
    from pydantic import ValidationError

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "edgenas.manifest/1"
MAX_JSON_BYTES = 64 * 2**20


@contextlib.contextmanager
def io_errors(path: Path, doing: str) -> Iterator[None]:
    """Turns an `OSError` about `path` into `ResourceError`; `SpecError` where it is missing."""
    try:
        yield
    except EdgenasError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise SpecError(f"cannot {doing} {path}: {error.strerror}") from error
        hints = {
            errno.ENOSPC: "free some disk space, then repeat the command",
            errno.EROFS: "choose a folder that can be written",
            errno.EACCES: "choose a folder that you may write, or change its permissions",
            errno.EPERM: "choose a folder that you may write, or change its permissions",
            errno.EEXIST: "a file of that name is in the way: choose another name, or move it",
        }
        hint = hints.get(error.errno or 0, "")
        if doing == "read" and isinstance(error, PermissionError):
            hint = "change its permissions so that you may read it"
        raise ResourceError(
            f"cannot {doing} {path}: {error.strerror or error}", hint=hint
        ) from error
    except ValueError as error:
        if "null byte" in str(error):  # a path from a file may hold one; the system refuses it
            raise SpecError(f"cannot {doing} {str(path)!r}: {error}") from error
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes `path` whole or not at all, making its folder where needed.

    Raises:
        ResourceError: disk full, read-only folder, no permission; the old file is untouched.
    """
    payload = data.encode() if isinstance(data, str) else data
    with io_errors(path, "write"), replacing(path) as temporary:
        temporary.write_bytes(payload)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the caller writes there replaces `path` on leaving.

    The suffixes are those of `path`, since exporters read them. On an error nothing is left. A link
    stays one: what it points to is replaced. A folder or a device is refused.
    """
    with io_errors(path, "write"):
        path = path.resolve() if path.is_symlink() else path
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file"
            raise SpecError(f"cannot write {path}: it is {what}", hint="name another file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name.split('.')[0]}-", suffix="".join(path.suffixes), dir=path.parent
        )
        temporary = Path(name)
        try:
            os.close(handle)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Writes `value` as JSON: sorted keys, two spaces, one final newline."""
    write_atomic(path, to_json(value))


def to_json(value: object) -> str:
    """The text that `write_json` writes.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def toml_value(value: object) -> str:
    """`value` as TOML on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return (
            "{"
            + ", ".join(f"{toml_value(str(k))} = {toml_value(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"no TOML for {type(value).__name__}")


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a CSV file with a header line, which may be gzip-compressed.

    Raises:
        SpecError: the file is missing, no text, or a row is shorter or longer than the header.
    """
    with io_errors(path, "read"):
        data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SpecError(f"{path}: not a CSV file: {error}") from error
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise SpecError(f"{path}: not a CSV file: {error}") from error
    if not lines:
        raise SpecError(f"{path} is empty", hint="its first line names the columns")
    columns, *rows = lines
    found = []
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(columns):
            raise SpecError(
                f"{path}: row {number} has {len(row)} fields, the header {len(columns)}"
            )
        if row:
            found.append(dict(zip(columns, row, strict=True)))
    return columns, found


def read_json(path: Path, *, schema: str, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in `path`, whose key `schema` must read `schema` (such as `edgenas.front/1`).

    Raises:
        ArtifactError: not JSON, cut off, duplicate keys, NaN, too large, another schema.
    """
    value = parse_json(_read(path, max_bytes), origin=str(path))
    found = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(found, str):
        raise ArtifactError(
            f"{path}: not an edgenas file: it has no schema; {schema!r} is expected"
        )
    check_schema(found, schema, origin=str(path))
    return value


def check_schema(found: str, expected: str, *, origin: str) -> None:
    """Compares two schema names of the form `edgenas.<kind>/<version>`."""
    if found == expected:
        return
    kind, _, version = found.partition("/")
    wanted_kind, _, wanted = expected.partition("/")
    newer = version.isdecimal() and (len(version), version) > (len(wanted), wanted)
    if kind == wanted_kind and newer:
        raise ArtifactError(
            f"{origin}: schema {found!r} is newer than {expected!r}",
            hint="upgrade: pip install --upgrade edgenas",
        )
    raise ArtifactError(f"{origin}: schema {found!r}; {expected!r} is expected")


def problems_of(error: ValidationError, *, most: int = 5) -> str:
    """What pydantic found wrong, each with its place: the first few, and how many more."""
    told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return "; ".join(told[:most]) + more


def parse_json(data: bytes, *, origin: str) -> Any:
    """Strict JSON: see the module's text. `origin` names the source in messages."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in items:
            if key in result:
                raise ArtifactError(
                    f"{origin}: key {key!r} stands twice: "
                    f"{reprlib.repr(result[key])}, {reprlib.repr(value)}"
                )
            result[key] = value
        return result

    def constant(name: str) -> NoReturn:
        raise ArtifactError(f"{origin}: {name} is not a number")

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ArtifactError(f"{origin}: {text} is out of range")
        return value

    def integer(text: str) -> int:
        if len(text) > 100:  # beyond 4300 digits Python itself refuses
            raise ArtifactError(f"{origin}: {text[:20]}... is out of range")
        return int(text)

    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_float=number,
            parse_int=integer,
        )
        if b"\\ud" in data.lower():  # the escape of half a character, and perhaps not of the other
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise ArtifactError(
            f"{origin}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{origin}: not UTF-8 text at byte {error.start}") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ArtifactError(f"{origin}: {half!r} is half a character") from error
    except RecursionError as error:
        raise ArtifactError(f"{origin}: nested too deeply") from error


def read_toml(path: Path, *, max_bytes: int = 2**20) -> dict[str, Any]:
    """The table in `path`.

    Raises:
        SpecError: missing, too large, not UTF-8, not TOML (with line and column).
    """
    data = _read(path, max_bytes)
    try:
        return tomllib.loads(data.decode())
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: not UTF-8 text at byte {error.start}", hint="save it as UTF-8"
        ) from error
    except RecursionError as error:
        raise SpecError(f"{path}: nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise SpecError(f"{path}: {error}") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of the file, as 64 hexadecimal digits."""
    with io_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """First 12 hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def derive_seed(root: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose: the hash of the list (root, *parts), never glued strings.

    >>> derive_seed(0, "train", 1, 11) == derive_seed(0, "train", 11, 1)
    False
    """
    text = json.dumps([root, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every other file below `folder` into its `manifest.json`.

    Hidden files are left out: a write that was killed may leave one.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST and not path.name.startswith(".")
    }
    write_json(folder / MANIFEST, {"schema": MANIFEST_SCHEMA, "files": files})


def check_manifest(
    folder: Path, *, below: Collection[str] | None = None, but: Collection[str] = ()
) -> Mapping[str, str]:
    """The manifest's files and digests, after comparing each with the file.

    `below` names files and folders in `folder`: only these are compared then; `but` names those
    that are not.

    Raises:
        ArtifactError: a file is missing or differs.
    """
    files = read_json(folder / MANIFEST, schema=MANIFEST_SCHEMA).get("files")
    if not isinstance(files, dict):
        raise ArtifactError(f"{folder / MANIFEST}: files must be a table of names and digests")
    for name, expected in files.items():
        if is_within(name, but) or not (below is None or is_within(name, below)):
            continue
        path = folder / name
        if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
            raise ArtifactError(f"{folder / MANIFEST}: {name!r} lies outside the folder")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing, but {MANIFEST} lists it")
        if sha256_file(path) != expected:
            raise ArtifactError(f"{path} was changed: its SHA-256 differs from {MANIFEST}")
    return dict(files)


def is_within(name: str, places: Iterable[str]) -> bool:
    """Whether `name` is one of these files, or lies in one of these folders."""
    return any(f"{name}/".startswith(f"{place}/") for place in places)


def _read(path: Path, max_bytes: int) -> bytes:
    with io_errors(path, "read"), path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ArtifactError(f"{path}: larger than {max_bytes} bytes")
    return data


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
