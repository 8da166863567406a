"""A stand-in for `adb`: replays recorded replies, and else is a phone that this machine plays.

`install` puts it into a folder for PATH. Its `session.json` holds `phones` (serial to state),
`replies` (each with `argv`, whose items may hold `*`, `stdout`, `stderr`, `status` and, optionally,
`times` and `sleep_s`), `old` (no shell_v2: no exit status, one stream, carriage returns) and
`cut_bytes` (the output of `shell` ends there). `calls` lists what it was called with.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

UNAUTHORISED = """error: device unauthorized.
This adb server's $ADB_VENDOR_KEYS is not set
Try 'adb kill-server' if that seems wrong.
Otherwise check for a confirmation dialog on your device.
"""
"""What adb 29 writes to stderr."""
STATES = {"offline": "error: device offline\n", "unauthorized": UNAUTHORISED}


def install(
    folder: Path,
    *,
    phones: Mapping[str, str],
    replies: Sequence[Mapping[str, Any]] = (),
    old: bool = False,
    cut_bytes: int | None = None,
) -> Path:
    """Writes the stand-in and its session; the folder to put first on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    session = {"phones": phones, "replies": replies, "old": old, "cut_bytes": cut_bytes}
    (folder / "session.json").write_text(json.dumps(session), "utf-8")
    script = folder / "adb"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{folder}" "$@"\n')
    script.chmod(0o755)
    return folder


def calls(folder: Path) -> list[list[str]]:
    """The arguments of each call so far."""
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main(folder: Path, argv: list[str]) -> int:
    """One call of adb."""
    session = json.loads((folder / "session.json").read_text("utf-8"))
    before = calls(folder)
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps(argv) + "\n")
    for reply in session["replies"]:
        seen = sum(_matches(call, reply["argv"]) for call in before)
        if _matches(argv, reply["argv"]) and seen < reply.get("times", seen + 1):
            sys.stdout.write(reply.get("stdout", ""))
            sys.stderr.write(reply.get("stderr", ""))
            sys.stdout.flush()
            time.sleep(reply.get("sleep_s", 0))
            return int(reply.get("status", 0))
    if argv == ["devices"]:
        rows = [f"{serial}\t{state}\n" for serial, state in session["phones"].items()]
        sys.stdout.write("".join(["List of devices attached\n", *rows]))
        return 0
    if argv[:1] != ["-s"] or argv[2] not in ("shell", "push"):
        sys.stderr.write(f"adb: unknown command {argv}\n")
        return 1
    state = session["phones"].get(argv[1])
    if state != "device":
        sys.stderr.write(STATES.get(state or "", f"error: device '{argv[1]}' not found\n"))
        return 1
    if argv[2] == "push":
        shutil.copyfile(argv[3], argv[4])
        return 0
    return _shell(" ".join(argv[3:]), old=session["old"], cut_bytes=session["cut_bytes"])


def _shell(line: str, *, old: bool, cut_bytes: int | None) -> int:
    phone = subprocess.Popen(
        ["sh", "-c", line],  # as adbd does: the argument is a line for the shell
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if old else None,
        start_new_session=True,  # as adbd does
    )
    assert phone.stdout is not None
    sent = 0
    while block := os.read(phone.stdout.fileno(), 65536):
        if old:
            block = block.replace(b"\n", b"\r\n")
        if cut_bytes is not None and sent + len(block) > cut_bytes:
            sys.stdout.buffer.write(block[: cut_bytes - sent])
            sys.stdout.flush()
            os.killpg(phone.pid, signal.SIGKILL)
            phone.wait()
            sys.stderr.write("error: closed\n")
            return 1
        sent += len(block)
        sys.stdout.buffer.write(block)
        sys.stdout.flush()
    status = phone.wait()
    return 0 if old else status if status >= 0 else 128 - status


def _matches(argv: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(argv) == len(pattern) and all(map(fnmatch.fnmatchcase, argv, pattern))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
