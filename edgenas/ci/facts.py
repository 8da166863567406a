"""What a target's results depend on, as it is now: read in moments, and without torch.

Data sets that edgenas knows are told by name, since their files' digests are part of the code that
reads them. An `.npz` file is told by the checksums in its index; a folder of images by its files'
names and sizes, and by their contents where they are few enough to be read in a moment.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path

from edgenas.artifacts import digest, io_errors, read_json, sha256_file
from edgenas.ci.stages import STAGES, Fact, Facts, revisions, stages_of
from edgenas.ci.targets import Target
from edgenas.errors import DataError, SpecError
from edgenas.hardware import DeviceProfile, find, load_device
from edgenas.pipeline.config import (
    BUILT_IN_SETS,
    SHIPPED,
    RunConfig,
    SupernetConfig,
    TrainConfig,
)
from edgenas.pipeline.evaluating import REVISIONS
from edgenas.pipeline.goals import devices_of
from edgenas.pipeline.metrics import costly_metrics
from edgenas.pipeline.mixing import device_of, in_other_precision
from edgenas.pipeline.profiling import supernet_space
from edgenas.pipeline.shipped import supernet_path
from edgenas.pipeline.training import supernet_file
from edgenas.spaces import SearchSpace

READ_FILES = 5000
READ_BYTES = 64 * 2**20
"""A folder with more files or bytes is told by names and sizes alone."""

HERE = "of the machine that searches"
"""The device `local-...` and its table, where no table of that name is kept."""

_GRADIENT = ("gradient_steps", "gradient_partial_channels", "gradient_progressive_depth")
_NOT_RESULTS = frozenset({"checkpoint_every", "accumulate", "device"})
"""Settings of a training that change how it runs and not what comes of it."""


class Reader:
    """Reads facts; what several targets share is read once."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._data: dict[str, str] = {}
        self._weights: dict[Path, str] = {}
        self._spaces: dict[Path, SearchSpace] = {}
        self._tables: dict[Path, str] = {}

    def facts(self, target: Target, before: Facts) -> dict[str, Fact]:
        """The facts of `target`; `before` are those of the lock, or none.

        A supernet that would be trained, but is not here, counts as the one that `before` tells of.

        Raises:
            SpecError: a file that is needed is missing or damaged.
            DataError: there are no such images.
        """
        config = target.config
        facts: dict[str, Fact] = {"seed": config.seed, **self._images(config)}
        if target.trains:
            facts |= {
                f"train {name}": value
                for name, value in asdict(config.train).items()
                if value is not None and name not in _NOT_RESULTS
            }
            facts["space"] = _space_text(config)
            here = self.checkpoint(target).is_file()
            facts["supernet"] = (
                self.supernet(target) if here else before.get("supernet", "to be trained")
            )
        else:
            facts["space"] = self.space(target).digest
            facts["supernet"] = self.supernet(target)
        facts |= self._evaluation(target)
        for device in devices_of(config):
            facts[f"device {device.name}"] = HERE if device.is_local else device.digest
            facts[f"table {device.name}"] = self._table(device)
        facts |= _search(target)
        facts |= {f"target {name}": load_device(name).digest for name in config.export.targets}
        facts["select top"] = config.export.top
        if config.final is not None:
            told = asdict(config.final).items()
            facts |= {f"final {name}": value for name, value in told if value is not None}
        facts |= {f"format {name}": self._format(config, name) for name in config.export.formats}
        return facts | revisions(stages_of(facts))

    def resolved(self, target: Target) -> RunConfig:
        """The target's settings with the checkpoint that is meant, shared where it is trained."""
        if not target.trains:
            return target.config
        return replace(target.config, supernet=SupernetConfig(str(self.checkpoint(target))))

    def checkpoint(self, target: Target) -> Path:
        """Where the target's supernet lies; a trained one is shared by all that would train it."""
        config = target.config
        match config.supernet.checkpoint:
            case None:
                return supernet_file(self.training_folder(target))
            case shipped if shipped == SHIPPED:
                return supernet_path(config.data.source)
            case path:
                return Path(path)

    def training_folder(self, target: Target) -> Path:
        """The run in which the supernet of all targets like this one is trained.

        Settings that are left at their defaults do not count, so that one which edgenas learns
        moves no supernet; who changes a default raises the stage's revision.
        """
        config, default = target.config, asdict(TrainConfig())
        train = {
            name: value
            for name, value in asdict(config.train).items()
            if value != default[name] and name not in _NOT_RESULTS
        }
        revision = STAGES["supernet"].revision
        key = digest([revision, _space_text(config), self._images(config), config.seed, train])
        return self._runs.absolute() / f"supernet.{key}"

    def supernet(self, target: Target) -> str:
        """The digest of the weights, as their sidecar tells it; checked where they lie beside it.

        Raises:
            SpecError: there is no sidecar.
            ArtifactError: it is damaged.
        """
        path = self.checkpoint(target)
        if path not in self._weights:
            told = str(read_json(path.with_suffix(".json"), schema="edgenas.supernet/1")["sha256"])
            found = sha256_file(path) if path.is_file() else told
            if found != told:
                sidecar = path.with_suffix(".json").name
                raise SpecError(
                    f"{path}: these are not the weights that {sidecar} is of",
                    hint="restore both files, or train the supernet again",
                )
            self._weights[path] = digest([told, self.space(target).digest])
        return self._weights[path]

    def space(self, target: Target) -> SearchSpace:
        """The space of the target's supernet; raises as `supernet`."""
        path = self.checkpoint(target)
        if path not in self._spaces:
            self._spaces[path] = supernet_space(path)
        return self._spaces[path]

    def _images(self, config: RunConfig) -> dict[str, Fact]:
        source = config.data.source
        if source not in self._data:
            self._data[source] = data_text(source)
        size = config.data.image_size
        told: dict[str, Fact] = {"data images": self._data[source]}
        return told if size is None else {**told, "data image_size": size}

    def _evaluation(self, target: Target) -> dict[str, Fact]:
        settings = target.config.search
        metrics = costly_metrics(target.objectives)
        facts: dict[str, Fact] = {f"metric {name}": REVISIONS[name] for name in metrics}
        names = ["images", "pilots", "recalibration_images"]
        names += ["robustness_images"] * ("robustness" in metrics)
        values = {name: getattr(settings, name) for name in names}
        facts |= {f"evaluate {k}": v for k, v in values.items() if v is not None}
        if settings.unlabelled is not None and "agreement" in metrics:
            facts["evaluate unlabelled"] = data_text(settings.unlabelled)
        return facts

    def _format(self, config: RunConfig, name: str) -> Fact:
        """Of a mixed format what its mixtures are chosen by, beside the tables of the search."""
        if not name.endswith("-mixed"):
            return True
        limit = f"loses at most {config.export.max_mixed_drop:g}"
        if (device := device_of(devices_of(config), name)) is None:
            return limit
        other = in_other_precision(device)
        try:
            return f"{limit}, table {other.name} {self._table(other)}"
        except SpecError:
            return limit

    def _table(self, device: DeviceProfile) -> str:
        """First digits of the SHA-256 of the table's file; a search calibrates without one."""
        from edgenas.latency import table_file

        if device.is_local:
            found = find("latency_tables", device.name)
            if found is None:
                return HERE
        else:
            found = table_file(device)
        if found.path not in self._tables:
            self._tables[found.path] = sha256_file(found.path)[:12]
        return self._tables[found.path]


def _search(target: Target) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    for objective in target.objectives:
        if objective.direction is not None:
            facts[f"objective {objective.name}"] = objective.direction
        if objective.bound is not None:
            facts[f"bound {objective.name}"] = f"{objective.relation} {objective.bound:.12g}"
    settings, config = target.config.search, target.config
    names = ["strategy", "minutes", "patience"]
    names += _GRADIENT if settings.strategy == "gradient" else ()
    if settings.fleet is not None:
        facts |= {"search fleet": True, "select fleet": settings.fleet}
    values = {"trials": config.max_trials, **{name: getattr(settings, name) for name in names}}
    values["measure"] = target.measure or None
    return facts | {f"search {k}": v for k, v in values.items() if v is not None}


def _space_text(config: RunConfig) -> str:
    """A family's name, or the digest of a table of choices."""
    return config.space if isinstance(config.space, str) else digest(_plain(config.space))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def data_text(source: str) -> str:
    """What there is of the images `source`, in a line that changes with them.

    Raises:
        DataError: no known set, plug-in, folder or `.npz` file.
    """
    path = Path(source).expanduser()
    if source in BUILT_IN_SETS:
        return source
    if path.is_dir():
        return _folder_text(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _array_text(path)
    for plugin in entry_points(group="edgenas.datasets"):
        if plugin.name == source:
            package = plugin.dist
            return f"{source}, {package.name} {package.version}" if package else source
    raise DataError(
        f"{source}: there are no such images", hint="check [data] source; paths start from the file"
    )


def _array_text(path: Path) -> str:
    with io_errors(path, "read"):
        try:
            with zipfile.ZipFile(path) as file:
                parts = [(i.filename, i.file_size, i.CRC) for i in file.infolist()]
        except zipfile.BadZipFile as error:
            raise DataError(f"{path}: damaged: {error}") from error
    return f"{path.name}, {digest(sorted(parts))}"


def _folder_text(folder: Path) -> str:
    with io_errors(folder, "read"):
        files = sorted(_files(folder))
        sizes = [path.stat().st_size for _, path in files]
    reads = len(files) <= READ_FILES and sum(sizes) <= READ_BYTES
    found = hashlib.sha256()
    for (name, path), size in zip(files, sizes, strict=True):
        found.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if reads:
            found.update(sha256_file(path).encode())
    how = "names, sizes and contents" if reads else "names and sizes"
    return f"{folder.name}, {len(files)} files by {how}, {found.hexdigest()[:12]}"


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below `folder` that is not hidden, by its name there; no folder twice."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield (here / name).relative_to(folder).as_posix(), here / name
