"""Device profiles: one measurement context each, written by hand in `devices/*.toml`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.artifacts import digest, read_toml, toml_value
from edgenas.errors import SpecError, UsageError, nearest
from edgenas.hardware.chip import this_chip
from edgenas.hardware.folders import Found, check_name, find, listing
from edgenas.hardware.transports import LOCAL, Connection, transport_for
from edgenas.hardware.vela import accelerator

DeviceClass = Literal["cpu", "mobile", "gpu", "tpu", "npu", "mcu"]
RuntimeName = Literal[
    "onnxruntime",
    "litert",
    "vela",  # Arm's compiler, which estimates its Ethos-U NPUs
    "tflm",  # TensorFlow Lite Micro, which runs here but is timed on no device
    "openvino",
    # known by published figures only; edgenas times nothing in them
    "tflite",  # TensorFlow Lite before it was called LiteRT
    "armnn",
    "tensorrt",
    "edgetpu",
    "xcubeai",
    "xla",
    "unstated",
]
Precision = Literal["fp32", "int8", "unstated"]
ToolchainName = Literal["onnxruntime", "openvino", "litert", "nnapi", "edgetpu", "vela", "tflm"]

FORMATS = MappingProxyType(
    {
        ("onnxruntime", "fp32"): "onnx",
        ("onnxruntime", "int8"): "onnx-int8",
        ("litert", "fp32"): "tflite",
        ("litert", "int8"): "tflite-int8",
    }
)
"""The runtimes and precisions that edgenas can time, with the exported format that each runs."""
_ONNX_RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "xla", "unstated")
_ONNX_TOOLCHAINS = ("onnxruntime", "openvino")

SCHEMA = "edgenas.device/1"
_LOCAL = re.compile(r"local-([a-z0-9]+)-([a-z0-9]+)-t([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One measurement context: chip, connection, runtime, precision, threads, batch.

    `threads` None means that the source of its figures does not state them. A latency is that of
    the whole batch. `runtime_version` None means whichever is installed. `affinity` names the
    processors that the agent is bound to; empty: none. `ram_bytes` and `flash_bytes` are what is
    left for a model. `toolchain` None means the runtime's own (`edgenas.targets`); `operators`,
    named as in files, stand in place of its list; empty: the list holds.
    """

    name: str
    title: str
    device_class: DeviceClass
    chip: str
    runtime: RuntimeName
    precision: Precision
    threads: int | None
    connection: Connection = LOCAL
    runtime_version: str | None = None
    ram_bytes: int | None = None
    flash_bytes: int | None = None
    toolchain: ToolchainName | None = None
    operators: tuple[str, ...] = ()
    affinity: tuple[int, ...] = ()
    batch: int = 1
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_name(self.chip, what="chip")
        if self.threads is None and self.runtime in _RUNTIME:
            raise SpecError(f"device {self.name}: threads is missing; {self.runtime} has them set")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise SpecError(f"device {self.name}: {self.threads} threads; 1 to 1024 are allowed")
        if not 1 <= self.batch <= 65536:
            raise SpecError(f"device {self.name}: batch {self.batch}; 1 to 65536 are allowed")
        if self.toolchain == "vela":
            accelerator(self.chip)
        self._check_toolchain()
        if self.runtime in _RUNTIME and not self.can_be_timed:
            raise SpecError(f"device {self.name}: {self.runtime} does not run {self.precision}")
        if self.is_estimated:
            accelerator(self.chip)
            if (self.precision, self.batch) != ("int8", 1):
                raise SpecError(
                    f"device {self.name}: vela estimates int8 models, one image at a time"
                )

    def _check_toolchain(self) -> None:
        """Refuses a tool-chain that cannot take the files that the runtime runs."""
        onnx = self.format.startswith("onnx")
        fitting = [name for name in get_args(ToolchainName) if (name in _ONNX_TOOLCHAINS) == onnx]
        if self.toolchain is not None and self.toolchain not in fitting:
            mine, other = ("ONNX", "TFLite") if onnx else ("TFLite", "ONNX")
            raise SpecError(
                f"device {self.name}: runtime {self.runtime!r} runs {mine} files, but toolchain "
                f"{self.toolchain!r} takes {other} files",
                hint=f"for this runtime: toolchain = {' or '.join(map(repr, fitting))}, or leave "
                "it out",
            )

    @property
    def can_be_timed(self) -> bool:
        """Whether edgenas can run its runtime; else its table rests on published figures."""
        return (self.runtime, self.precision) in FORMATS

    @property
    def is_estimated(self) -> bool:
        """Whether a vendor's compiler says, on any machine, what models take on it."""
        return self.runtime == "vela"

    @property
    def why_unmeasured(self) -> str:
        """Why networks are never timed on it, however it is reached; empty: they can be."""
        if self.is_estimated:
            return "Vela estimates it"
        if not self.can_be_timed:
            return f"edgenas does not run {self.runtime} {self.precision}"
        return "" if self.batch == 1 else f"single images are timed, not {self.batch}"

    @property
    def format(self) -> str:
        """The exported format that it runs, or would be converted from; unstated is float."""
        family = "onnx" if self.runtime in _ONNX_RUNTIMES else "tflite"
        return f"{family}-int8" if self.precision == "int8" else family

    @property
    def is_local(self) -> bool:
        """Whether it names the machine at hand rather than a chip."""
        return self.name.startswith("local-")

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over what decides a latency: not the name."""
        return digest(
            [
                self.chip,
                self.runtime,
                self.runtime_version,
                self.precision,
                self.threads,
                list(self.affinity),
                *([self.batch] if self.batch != 1 else []),
            ]
        )


class _Limits(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    ram_bytes: Annotated[int, Field(gt=0, le=2**50)] | None = None
    flash_bytes: Annotated[int, Field(gt=0, le=2**50)] | None = None


class _DeviceFile(BaseModel):
    """The file format; `devices/README.md` explains its keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_: Annotated[Literal["edgenas.device/1"], Field(alias="schema")]
    name: str
    title: Annotated[str, Field(min_length=1, max_length=200)]
    class_: Annotated[DeviceClass, Field(alias="class")]
    chip: str
    runtime: RuntimeName
    runtime_version: Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+_-]{0,40}$")] | None = None
    precision: Precision
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    batch: Annotated[int, Field(ge=1, le=65536)] = 1
    affinity: list[Annotated[int, Field(ge=0, le=1023)]] = []
    toolchain: ToolchainName | None = None
    operators: list[str] = []
    connection: dict[str, Any] = {}  # each kind checks its own keys
    memory: _Limits = _Limits()

    def to_profile(self, path: Path) -> DeviceProfile:
        options = dict(self.connection)
        kind = options.pop("kind", "local")
        if not isinstance(kind, str):
            raise SpecError(f"connection.kind: {kind!r} is not text")
        connection = Connection(kind, tuple(sorted(options.items())))
        transport_for(connection)
        if len(set(self.affinity)) < len(self.affinity):
            raise SpecError(f"affinity: {self.affinity}: a processor is named twice")
        if "benchmark_model" in options and self.runtime != "litert":
            raise SpecError(f"connection.benchmark_model runs litert, not {self.runtime}")
        profile = DeviceProfile(
            name=self.name,
            title=self.title,
            device_class=self.class_,
            chip=self.chip,
            runtime=self.runtime,
            precision=self.precision,
            threads=self.threads,
            connection=connection,
            runtime_version=self.runtime_version,
            ram_bytes=self.memory.ram_bytes,
            flash_bytes=self.memory.flash_bytes,
            toolchain=self.toolchain,
            operators=tuple(self.operators),
            affinity=tuple(self.affinity),
            batch=self.batch,
            path=path,
        )
        _check_operators(profile)
        return profile


def _check_operators(device: DeviceProfile) -> None:
    """Refuses names that operators have in no file of the format that the device runs."""
    if not device.operators:
        return
    from edgenas.models import known_operators  # loads the schemas of both formats' packages

    title, known = "TFLite", known_operators("tflite")
    if device.format.startswith("onnx"):
        title, known = "ONNX", known_operators("onnx")
    told = []
    for name in sorted({*device.operators} - known):
        close = difflib.get_close_matches(name, known, n=1)
        told.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    if told:
        raise SpecError(
            f"operators: {', '.join(told)}: no operator of {title} files, which {device.runtime} "
            "runs",
            hint=f"give them the names that they have in {title} files; devices/README.md has some",
        )


def load_device_file(path: Path) -> DeviceProfile:
    """The device that the file describes; its name must be the file's.

    Raises:
        SpecError: not TOML, unknown or ill-typed keys (all at once, with the nearest known one), a
            name that cannot be a file's name.
    """
    table = read_toml(path)
    try:
        profile = _DeviceFile.model_validate(table).to_profile(path)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise SpecError(
            f"{path}: {problems}", hint="edgenas devices show NAME --toml prints one"
        ) from error
    except (SpecError, UsageError) as error:
        raise SpecError(f"{path}: {error}", hint=error.hint) from error
    if profile.name != path.name.removesuffix(".toml"):
        raise SpecError(f"{path}: it names {profile.name!r}; file and device must have one name")
    if profile.name.startswith("local-") and profile.chip != this_chip().name:
        raise SpecError(
            f"{path}: {profile.name!r} means this machine, whose chip is {this_chip().name}, "
            f"not {profile.chip}"
        )
    if profile.is_local and profile.connection.kind != "local":
        raise SpecError(
            f"{path}: {profile.name!r} means this machine, which is not reached by "
            f"{profile.connection.kind}: name it after its board or chip"
        )
    return profile


def load_device(name: str) -> DeviceProfile:
    """The device called `name`; `local-<runtime>-<precision>-t<n>` needs no file.

    Raises:
        UsageError: unknown name, with the nearest known one; a name that is no name.
        SpecError: its file is wrong.
    """
    found = find("devices", name)
    if found:
        return load_device_file(found.path)
    if name.startswith("local-") or name == "local":
        return _local(name)
    raise UsageError(
        f"no device {name!r}; {nearest(name, device_names())}", hint="edgenas devices list"
    )


def device_names() -> dict[str, Found | None]:
    """All names that `load_device` knows, sorted; None stands for a local device without a file.

    Any thread count is known for local devices; listed are those with one thread.
    """
    names: dict[str, Found | None] = {local_name(*pair, threads=1): None for pair in FORMATS}
    names |= listing("devices")
    return dict(sorted(names.items()))


def local_name(runtime: str, precision: str, *, threads: int) -> str:
    """The name of a device that is the machine at hand."""
    return f"local-{runtime}-{precision}-t{threads}"


def on_this_chip(device: DeviceProfile) -> str:
    """The name under which a table for `device` would be shipped: by its chip, never `local`."""
    name = f"{device.chip}-{device.runtime}-{device.precision}"
    name += f"-t{device.threads}" if device.threads is not None else ""
    return name + (f"-b{device.batch}" if device.batch != 1 else "")


def device_toml(device: DeviceProfile, *, runtime_version: str | None = None) -> str:
    """The file that `load_device_file` reads back; `runtime_version` fixes the one that ran."""
    lines = [
        f'schema = "{SCHEMA}"',
        f"name = {toml_value(device.name)}",
        f"title = {toml_value(device.title)}",
        f"class = {toml_value(device.device_class)}",
        f"chip = {toml_value(device.chip)}",
        f"runtime = {toml_value(device.runtime)}",
        f"precision = {toml_value(device.precision)}",
    ]
    if device.threads is not None:
        lines.append(f"threads = {device.threads}")
    if device.batch != 1:
        lines.append(f"batch = {device.batch}")
    if version := runtime_version or device.runtime_version:
        lines.append(f"runtime_version = {toml_value(version)}")
    if device.affinity:
        lines.append(f"affinity = {toml_value(list(device.affinity))}")
    if device.toolchain:
        lines.append(f"toolchain = {toml_value(device.toolchain)}")
    if device.operators:
        lines.append(f"operators = {toml_value(list(device.operators))}")
    if device.connection != LOCAL:
        options = {"kind": device.connection.kind, **dict(device.connection.options)}
        lines += ["", "[connection]"]
        lines += [f"{key} = {toml_value(value)}" for key, value in options.items()]
    limits = {"ram_bytes": device.ram_bytes, "flash_bytes": device.flash_bytes}
    if any(limits.values()):
        lines += ["", "[memory]"] + [f"{key} = {value}" for key, value in limits.items() if value]
    return "\n".join(lines) + "\n"


def _local(name: str) -> DeviceProfile:
    match = _LOCAL.fullmatch(name)
    known = [local_name(*pair, threads=1) for pair in FORMATS]
    if match is None:
        raise UsageError(
            f"no device {name!r}: local devices are local-<runtime>-<precision>-t<threads>; "
            f"{nearest(name, known)}",
            hint="edgenas devices list",
        )
    runtime, precision, threads = match.groups()
    for pair in FORMATS:
        if pair == (runtime, precision) and 1 <= int(threads) <= 1024 and threads[0] != "0":
            chip = this_chip()
            return DeviceProfile(
                name=name,
                title=f"this machine: {chip.title}, {chip.n_cpus} processors",
                device_class="cpu",
                chip=chip.name,
                runtime=_RUNTIME[runtime],
                precision=_PRECISION[precision],
                threads=int(threads),
            )
    raise UsageError(f"no device {name!r}; {nearest(name, known)}", hint="edgenas devices list")


_RUNTIME: dict[str, RuntimeName] = {"onnxruntime": "onnxruntime", "litert": "litert"}
_PRECISION: dict[str, Precision] = {"fp32": "fp32", "int8": "int8"}


def _problem(item: object) -> str:
    """One line for one of pydantic's errors; unknown keys get the nearest known one."""
    error = dict(item)  # type: ignore[call-overload]
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        outer: type[BaseModel] = _DeviceFile
        if error["loc"][0] == "memory":
            outer = _Limits
        known = [f.alias or key for key, f in outer.model_fields.items()]
        return f"{place}: unknown key; {nearest(str(error['loc'][-1]), known)}"
    value = error.get("input")
    shown = f" (found {value!r})" if isinstance(value, str | int | float | bool) else ""
    return f"{place}: {error['msg'][:1].lower()}{error['msg'][1:]}{shown}"
