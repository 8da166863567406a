"""Files that edgenas reads and writes: atomic, strict, versioned, named by digest."""

from edgenas.artifacts.files import (
    check_manifest,
    check_schema,
    derive_seed,
    digest,
    io_errors,
    parse_json,
    read_csv,
    read_json,
    read_toml,
    replacing,
    sha256_file,
    to_json,
    toml_value,
    write_atomic,
    write_json,
    write_manifest,
)

__all__ = [
    "check_manifest",
    "check_schema",
    "derive_seed",
    "digest",
    "io_errors",
    "parse_json",
    "read_csv",
    "read_json",
    "read_toml",
    "replacing",
    "sha256_file",
    "to_json",
    "toml_value",
    "write_atomic",
    "write_json",
    "write_manifest",
]
