"""A phone reached over the system's own `adb`, by its serial number: two may be plugged in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgenas.errors import DeviceError, SpecError
from edgenas.hardware.remote import (
    CONNECT_S,
    FOLDER,
    PROGRAM,
    RemoteShell,
    transfer_s,
)
from edgenas.hardware.transports import RESUMES, Finished, check_option, stream

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TOOL = re.compile(r"~?/[A-Za-z0-9_./@+-]+")


@dataclass(frozen=True, slots=True)
class AdbTransport:
    """A phone; exactly one of `python` and `benchmark_model` is given.

    `python` is the path of a Python on the phone. `benchmark_model` is the path on this machine of
    TFLite's tool of that name, built for the phone; then the phone needs nothing else.
    """

    serial: str
    python: str = ""
    benchmark_model: str = ""
    folder: str = "/data/local/tmp/edgenas"

    def __post_init__(self) -> None:
        check_option("serial", self.serial, _SERIAL, "serial number, as adb devices lists them")
        check_option("folder", self.folder, FOLDER, "path of a folder on the device")
        if (self.python == "") == (self.benchmark_model == ""):
            raise SpecError("connection: kind 'adb' needs either python or benchmark_model")
        if self.python != "":
            check_option("python", self.python, PROGRAM, "name or path of a program on the device")
        else:
            what = "path of TFLite's benchmark_model from / or ~/"
            check_option("benchmark_model", self.benchmark_model, _TOOL, what)

    @property
    def tool(self) -> Path | None:
        """The host's file of `benchmark_model`; None where the phone has a Python."""
        return Path(self.benchmark_model).expanduser() if self.benchmark_model else None

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """See `Transport.push`."""
        folder = PurePosixPath(self.folder)

        def send(left: Mapping[str, Path]) -> None:
            for name, path in left.items():
                ended = stream(
                    ["adb", "-s", self.serial, "push", str(path.resolve()), str(folder / name)],
                    idle_s=transfer_s({name: path}),
                    on_line=lambda line: None,
                )
                if ended.returncode:
                    raise self._error(ended.stderr, False)

        return self._shell().push(files, folder, send)

    def run(
        self,
        argv: Sequence[str],
        *,
        idle_s: float,
        on_line: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> Finished:
        """See `Transport.run`."""
        return self._shell().run(argv, idle_s=idle_s, on_line=on_line, environment=environment)

    def _shell(self) -> RemoteShell:
        return RemoteShell(("adb", "-s", self.serial, "shell"), self._error)

    def _error(self, stderr: str, started: bool) -> DeviceError:  # noqa: FBT001
        """What went wrong between here and the phone, and what mends it."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        own = [line for line in lines if line.startswith(("error:", "adb:"))]  # not the phone's
        last = (own or lines or ["adb said nothing"])[-1]
        if started:
            return DeviceError(f"phone {self.serial} was lost: {last}", hint=RESUMES)
        if "unauthorized" in last:
            return DeviceError(
                f"phone {self.serial} does not trust this computer",
                hint="unlock the phone and confirm 'Allow USB debugging'; where nothing is asked: "
                "adb kill-server, then plug it in again",
            )
        if "offline" in last:
            return DeviceError(
                f"phone {self.serial} is offline",
                hint=f"adb -s {self.serial} reconnect, or plug it in again",
            )
        if "permissions" in last:
            return DeviceError(
                f"this user may not open the USB device of phone {self.serial}: {last}",
                hint="apt-get install android-sdk-platform-tools-common, then plug it in again",
            )
        if "not found" in last or "no devices" in last:
            present = self._present()
            listed = f"present: {', '.join(present)}" if present else "no phone is present"
            return DeviceError(
                f"there is no phone {self.serial}; {listed}",
                hint="adb devices -l lists them; switch on USB debugging on the phone, and write "
                "its serial into the device file",
            )
        return DeviceError(f"adb -s {self.serial} failed: {last}", hint="adb devices -l")

    def _present(self) -> list[str]:
        """The serials that adb sees, with their state where it is not fine."""
        lines: list[str] = []
        try:
            stream(["adb", "devices"], idle_s=CONNECT_S, on_line=lines.append)
        except DeviceError:
            return []
        pairs = [line.split("\t") for line in lines if "\t" in line]
        return [p[0] if p[1].strip() == "device" else f"{p[0]} ({p[1].strip()})" for p in pairs]
