"""What the stages of a run read: data, supernet and latency tables, made where they are missing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.artifacts import derive_seed
from edgenas.errors import SpecError
from edgenas.events import Event, Report, silent
from edgenas.hardware import DeviceProfile
from edgenas.pipeline.config import SHIPPED, RunConfig
from edgenas.pipeline.evaluating import read_unlabelled
from edgenas.pipeline.goals import (
    check_formats,
    devices_of,
    loads_of,
    objectives_of,
    targets_of,
    written_objectives,
)
from edgenas.pipeline.knowing import check_told
from edgenas.pipeline.metrics import CheapMetrics, check_energy, costly_metrics
from edgenas.pipeline.shipped import supernet_path
from edgenas.pipeline.tables import tables_for
from edgenas.pipeline.targets import check_runnable
from edgenas.pipeline.teaching import check_final
from edgenas.pipeline.training import (
    check_fits,
    read_data,
    space_for,
    supernet_file,
    train_supernet,
)

if TYPE_CHECKING:
    from edgenas.data import DataSet
    from edgenas.latency import LatencyTable
    from edgenas.supernet import Supernet, SupernetInfo


@dataclass(frozen=True)
class Opened:
    """A run with all that its stages read: built once, handed from stage to stage."""

    config: RunConfig
    folder: Path
    data: DataSet
    supernet: Supernet
    info: SupernetInfo
    checkpoint: Path
    devices: tuple[DeviceProfile, ...]
    tables: Mapping[str, LatencyTable]
    cheap: CheapMetrics
    targets: tuple[DeviceProfile, ...] = ()

    @property
    def rests_on(self) -> dict[str, str]:
        """The digests that every costly metric rests on."""
        return {
            "supernet": self.info.digest,
            "space": self.supernet.space.digest,
            "data": self.data.digest,
        }

    @property
    def parents(self) -> dict[str, str]:
        """The digests that everything made here rests on."""
        return {
            **self.rests_on,
            **{f"table {name}": table.digest for name, table in self.tables.items()},
        }


def open_stages(
    config: RunConfig,
    folder: Path,
    *,
    resume: bool,
    may_train: bool = True,
    tables: Path | None = None,
    report: Report = silent,
) -> Opened:
    """Loads, or makes where they are missing, the data, the supernet and the latency tables.

    What can be refused cheaply is refused before anything is trained. A missing supernet is
    trained only where it `may_train`. `tables` is the folder of the run's own copies of its tables,
    by default the one in `folder`.
    """
    from edgenas.data import device
    from edgenas.latency import Predictor
    from edgenas.search import Problem, check_reachable
    from edgenas.search.strategies import find_strategy
    from edgenas.supernet import load_supernet

    try:
        find_strategy(config.search.strategy)
    except SpecError as error:
        raise SpecError(f"search.strategy: {error}", hint=error.hint) from error
    try:
        devices, targets = devices_of(config), targets_of(config)
    except SpecError as error:
        raise SpecError(f"{folder / 'run.toml'}: {error}", hint=error.hint) from error
    if may_train:
        check_formats(config)
    report(Event("data", message=config.data.source))
    data = read_data(config, report=report)
    report(Event("data", 1, 1, f"{data.name}: {len(data.train)} training images"))
    own = supernet_file(folder)
    match config.supernet.checkpoint:
        case None:
            checkpoint = own
        case shipped if shipped == SHIPPED:
            checkpoint = supernet_path(data.name)
        case path:
            checkpoint = Path(path)
    trains = checkpoint == own and may_train
    if checkpoint == own and not trains and not own.is_file():
        raise SpecError(
            f"{own}: there is no supernet",
            hint="copy the run's folder supernet/ from where it was trained, or name a checkpoint "
            "in [supernet]",
        )
    loaded = None if trains else load_supernet(checkpoint)
    if loaded is not None:
        check_fits(loaded[1], loaded[0], data, checkpoint)
    space = space_for(config, data) if loaded is None else loaded[0].space
    if may_train:  # who goes on with a search, or verifies what it made, has its networks
        check_runnable(space, targets)
        check_told(config.search, space, runs=folder.parent)
        check_final(config.final, data, finished=(folder / "result.json").is_file())
    found = tables_for(
        devices,
        space,
        folder,
        copies=tables,
        profile_minutes=config.search.profile_minutes,
        report=report,
    )
    check_energy(written_objectives(config), found)
    objectives = objectives_of(config)
    named = frozenset(o.name for o in (*objectives, *written_objectives(config)))
    more = tuple(target for target in targets if target not in devices)
    predictors = {name: Predictor(table) for name, table in found.items()}
    cheap = CheapMetrics(space, devices, predictors, named, more, derived=loads_of(config))
    if may_train:
        seed = derive_seed(config.seed, "reachable")
        check_reachable(Problem(space, objectives, cheap), random.Random(seed))
    if loaded is None:  # last: what can be refused before hours of training is refused before
        read_unlabelled(data, config, costly_metrics(objectives), report=report)
        train_supernet(config, folder, data, resume=resume, report=report)
        loaded = load_supernet(checkpoint)
    supernet, info = loaded
    supernet = supernet.to(device(config.train.device))
    return Opened(config, folder, data, supernet, info, checkpoint, devices, found, cheap, targets)
