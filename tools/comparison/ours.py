"""Our own networks: chosen by a search in a supernet, trained further one by one.

The choice is a file in the folder of results, and so is each network, with all that is asked of it
later. So what is finished is kept, whatever becomes of the folder of work; and several processes
may share the networks.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgenas.artifacts import write_json
from edgenas.data import DataSet
from edgenas.errors import UsageError
from edgenas.evaluation import top1
from edgenas.events import Report, silent
from edgenas.pareto import ParetoFront
from edgenas.pipeline import FinalConfig, RunConfig, read_config, search
from edgenas.pipeline.config import SHIPPED, ExportConfig, SearchConfig
from edgenas.pipeline.finishing import FinalTraining, earlier_weights
from edgenas.pipeline.metrics import CheapMetrics
from edgenas.pipeline.network_files import extract
from edgenas.pipeline.opening import Opened
from edgenas.pipeline.selection import choose
from edgenas.pipeline.shipped import supernet_path
from edgenas.pipeline.teaching import teaching
from edgenas.pipeline.training import read_data, seconds_a_step, supernet_file
from edgenas.spaces import Architecture
from edgenas.supernet import Recipe, Supernet, SupernetInfo, Teacher, load_supernet, tune
from tools.comparison.claims import claimed
from tools.comparison.entrants import ANY_DROP, Finished, Trained, told_of
from tools.comparison.results import kept

EDGENAS = "edgenas"
"""The family of our own networks."""
CHOICE_SCHEMA = "edgenas.bench-frontier-choice/1"
SCHEMA = "edgenas.bench-frontier-ours/1"


@dataclass(frozen=True)
class Ours:
    """A supernet, and the run that finds and finishes networks of it."""

    config: RunConfig
    """With what `[final]` says, and no search but ours."""
    supernet: Supernet
    info: SupernetInfo
    data: DataSet
    work: Path
    results: Path
    about: Mapping[str, object]
    """What every result names: versions, machine."""
    formats: tuple[str, ...]
    """Of the files whose answers are kept."""

    @classmethod
    def of(
        cls,
        run_file: Path,
        *,
        devices: Sequence[str],
        epochs: int,
        networks: int,
        trials: int,
        work: Path,
        results: Path,
        about: Mapping[str, object],
        formats: tuple[str, ...],
    ) -> Ours:
        """Reads run file, images and supernet; final training has the epochs that this one left.

        The search is for accuracy and for the latency of each device.

        Raises:
            UsageError: no supernet, or one that has seen all `epochs`.
        """
        start = _with_supernet(read_config(run_file), run_file)
        assert start.supernet.checkpoint is not None  # noqa: S101  # just written
        supernet, info = load_supernet(Path(start.supernet.checkpoint))
        shared = Recipe(**info.recipe).epochs
        if shared >= epochs:
            raise UsageError(
                f"{run_file}: its supernet saw {shared} epochs, of {epochs} in all",
                hint="a larger number of --epochs leaves some for final training",
            )
        final = start.final or FinalConfig()
        objectives = ("max top1", *(f"min latency_ms@{name}" for name in devices))
        config = replace(
            start,
            search=SearchConfig(tuple(devices), objectives, trials=trials),
            final=replace(final, epochs=epochs - shared, quantisation_aware="never"),
            export=ExportConfig(top=networks, max_top1_drop=ANY_DROP),
        )
        folder = work / "ours" / info.digest
        return cls(config, supernet, info, read_data(config), folder, results, about, formats)

    @property
    def recipe(self) -> Recipe:
        """The supernet's."""
        return Recipe(**self.info.recipe)

    def chosen(self) -> list[Architecture] | None:
        """The networks that the search chose; None where it is not done.

        Raises:
            UsageError: it was made by other settings.
        """
        if (found := self._choice()) is None:
            return None
        return [self.supernet.space.parse(row["architecture"]) for row in found["networks"]]

    def choose(self, *, report: Report = silent) -> list[Architecture]:
        """Searches, unless it is done, and keeps the choice; none while another process is at it.

        Raises:
            SpecError, ResourceError, Interrupted: see `edgenas.pipeline.search`.
        """
        with claimed(self.work, "search", report=report) as mine:
            done = self.chosen()
            return done or (self._search(report) if mine else [])

    def _search(self, report: Report) -> list[Architecture]:
        folder = self.work / "search"
        config = replace(self.config, final=None, export=replace(self.config.export, top=1))
        outcome = search(config, folder, resume=(folder / "run.toml").exists(), report=report)
        front = ParetoFront.read(folder / "front.json", parse=self.supernet.space.parse)
        found = [candidate for _, candidate in choose(front, self.config.export.top)]
        write_json(
            self._choice_path,
            {
                "schema": CHOICE_SCHEMA,
                "trials": outcome.document["trials"],
                "evaluated": outcome.document["evaluated"],
                "front": len(front.candidates),
                "networks": [
                    {
                        "architecture": str(one.architecture),
                        "found": {o.name: one.values[o.name] for o in front.objectives},
                    }
                    for one in found
                ],
                "settings": self._search_settings,
                **self.about,
            },
        )
        return [candidate.architecture for candidate in found]

    def train(self, *, report: Report = silent) -> None:
        """Trains, exports and scores each chosen network that no other process is at; small first.

        Raises:
            SpecError, ResourceError, Interrupted: see `edgenas.pipeline.search`.
        """
        lower = self.supernet.space.lower
        archs = sorted(self.choose(report=report), key=lambda arch: lower(arch).macs)
        stage = self._stage
        for arch in archs:
            with claimed(self.work, self.name(arch), report=report) as mine:
                if mine and self.result(arch) is None:
                    self._train(arch, stage, report)

    def result(self, arch: Architecture) -> dict[str, Any] | None:
        """What came of the network; None where it is not trained.

        Raises:
            UsageError: it was trained by other settings.
        """
        return kept(self._result_path(arch), schema=SCHEMA, settings=self._settings(arch))

    def finished(self) -> list[Finished]:
        """All chosen networks.

        Raises:
            UsageError: the search, or the training of some, is not done.
        """
        found = {arch: self.result(arch) for arch in self.chosen() or ()}
        if not found or None in found.values():
            left = sum(result is None for result in found.values())
            what = f"{left} networks are not trained yet" if found else "not searched yet"
            raise UsageError(f"{self.config.name}: {what}", hint="--stage search")
        lower = self.supernet.space.lower
        return [
            Finished(self.name(arch), EDGENAS, lower(arch), result)
            for arch, result in found.items()
            if result is not None
        ]

    def told(self) -> dict[str, Any]:
        """Where our networks come from: the supernet, the search that is done, final training."""
        choice = self._choice()
        assert choice is not None  # noqa: S101  # asked for before
        teacher, settings = self._teacher, asdict(self._stage.settings)
        return {
            "digest": self.info.digest,
            "epochs": self.recipe.epochs,
            "search": {name: choice[name] for name in ("trials", "evaluated", "front", "machine")},
            "final": {name: value for name, value in settings.items() if name != "teacher"},
            "teacher": None
            if teacher is None
            else {"digest": teacher.digest, "epochs": Recipe(**teacher.recipe).epochs},
        }

    def left(self) -> tuple[int, float]:
        """How many networks are not trained yet; minutes of that, from a few steps timed now.

        Each is timed as the mean of the largest and the smallest, without the teacher, who is asked
        once for all of them.
        """
        archs, space = self.chosen(), self.supernet.space
        n = self.config.export.top
        if archs is not None:
            n = sum(self.result(arch) is None for arch in archs)
        evaluate, final = self._stage.evaluate, self._stage.settings
        teacher, seconds = Teacher(evaluate.network(space.largest())), 0.0
        n_steps = final.epochs * (len(self.data.train) // final.batch)
        for arch in (space.largest(), space.smallest()):
            with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
                train = functools.partial(
                    tune,
                    evaluate.network(arch),
                    self.data,
                    replace(self.recipe, batch=final.batch),
                    resolution=space.resolution(arch),
                    teacher=teacher,
                    distil=0.0,
                    n_steps=n_steps,
                    folder=Path(folder),
                    seed=0,
                )
                seconds += seconds_a_step(lambda n, train=train: train(stop_after_steps=n)) / 2
        return n, n * seconds * n_steps / 60

    def name(self, arch: Architecture) -> str:
        """Of a network, among all that are compared."""
        return f"{self.config.name}-{arch.digest}"

    def _train(self, arch: Architecture, stage: FinalTraining, report: Report) -> None:
        name, earlier = self.name(arch), earlier_weights(stage.run, arch, report)
        found = earlier or stage.finish(arch, report=report)
        network = extract(stage.run, arch)
        told = told_of(
            Trained(name, EDGENAS, network, found.digest or "inherited"),
            self.data,
            self.work / "models",
            formats=self.formats,
            seed=self.config.seed,
        )
        scores = {
            kind: {
                split: top1(stage.evaluate.logits(one, images), images.labels)
                for split, images in (("search", self.data.search), ("test", self.data.test))
            }
            for kind, one in (("top1", network), ("inherited", stage.evaluate.network(arch)))
        }
        write_json(
            self._result_path(arch),
            {
                "schema": SCHEMA,
                "network": name,
                "architecture": str(arch),
                **scores,
                "n": {"search": len(self.data.search), "test": len(self.data.test)},
                "weights": found.verdict,
                "epochs": {"supernet": self.recipe.epochs, "final": found.epochs},
                "minutes": round(found.seconds / 60, 2),
                "settings": self._settings(arch),
                **told,
                **self.about,
            },
        )

    @functools.cached_property
    def _stage(self) -> FinalTraining:
        """Final training; it reads no latency of any device."""
        space, final = self.supernet.space, self.config.final
        assert final is not None  # noqa: S101  # `of` has set it
        run = Opened(
            self.config,
            self.work,
            self.data,
            self.supernet,
            self.info,
            Path(self.config.supernet.checkpoint or ""),
            (),
            {},
            CheapMetrics(space, (), {}, frozenset()),
        )
        return FinalTraining(run, final)

    @functools.cached_property
    def _teacher(self) -> SupernetInfo | None:
        """Of the supernet that teaches, if it is another one."""
        path = self._stage.settings.teacher
        return None if path is None else teaching(path, self.data)[1]

    def _choice(self) -> dict[str, Any] | None:
        return kept(self._choice_path, schema=CHOICE_SCHEMA, settings=self._search_settings)

    @property
    def _choice_path(self) -> Path:
        return self.results / f"{self.config.name}.json"

    def _result_path(self, arch: Architecture) -> Path:
        return self.results / f"{self.name(arch)}.json"

    @property
    def _search_settings(self) -> dict[str, Any]:
        """What the choice rests on, beside the latencies of the machine that it was made on."""
        search = self.config.search
        return {
            "supernet": self.info.digest,
            "data": self.data.digest,
            "objectives": list(search.objectives),
            "trials": search.trials,
            "networks": self.config.export.top,
            "seed": self.config.seed,
        }

    def _settings(self, arch: Architecture) -> dict[str, Any]:
        """What a result rests on."""
        teacher = self._teacher
        return {
            "supernet": self.info.digest,
            "data": self.data.digest,
            "architecture": str(arch),
            "final": {
                **asdict(self._stage.settings),
                "teacher": None if teacher is None else teacher.digest,
            },
            "seed": self.config.seed,
        }


def _with_supernet(start: RunConfig, run_file: Path) -> RunConfig:
    """The run with a supernet that is there: the one it names, or one beside it or in its run."""
    match start.supernet.checkpoint:
        case named if named == SHIPPED:
            checkpoint = supernet_path(start.data.source)
        case None:
            own_run = supernet_file(Path("runs", start.name))
            places = (run_file.with_name(own_run.name).resolve(), own_run.resolve())
            found = next((path for path in places if path.is_file()), None)
            if found is None:
                raise UsageError(
                    f"{run_file}: its supernet is neither beside it nor in runs/{start.name}",
                    hint=f"edgenas train {run_file}, in this folder",
                )
            checkpoint = found
        case path:
            checkpoint = Path(path)
    return replace(start, supernet=replace(start.supernet, checkpoint=str(checkpoint)))
