"""A fleet of a run: checked before the search, chosen after it from all that was evaluated."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenas.artifacts import derive_seed
from edgenas.errors import InfeasibleError, SpecError
from edgenas.fleet import Fleet, choose_fleets, device_bounds, options_for
from edgenas.objectives import Objective
from edgenas.pareto import Candidate
from edgenas.pipeline.config import RunConfig
from edgenas.pipeline.goals import written_objectives
from edgenas.pipeline.metrics import COSTLY

if TYPE_CHECKING:
    from edgenas.pipeline.opening import Opened


def check_fleet(run: Opened) -> None:
    """Refuses, before anything is evaluated, a fleet with a device that no network can run on.

    Raises:
        InfeasibleError: a device whose bounds no architecture meets; it names the nearest values.
    """
    from edgenas.search import Problem, check_reachable

    written = written_objectives(run.config)
    common = [o for o in written if o.device is None]
    cheap = functools.cache(run.cheap)
    seed = derive_seed(run.config.seed, "reachable")
    for device, bounds in device_bounds(written, run.config.search.devices).items():
        problem = Problem(run.supernet.space, (*common, *bounds), cheap)
        try:
            check_reachable(problem, random.Random(seed))
        except InfeasibleError as error:
            raise InfeasibleError(f"{device}: {error}", hint=error.hint) from error


def accuracy_of(objectives: Sequence[Objective]) -> str:
    """The metric that a fleet is chosen by: the first accuracy that is maximised.

    Raises:
        SpecError: there is none.
    """
    for objective in objectives:
        if objective.metric in COSTLY and objective.direction == "max":
            return objective.name
    raise SpecError(
        "a fleet is chosen by accuracy, and no objective maximises one",
        hint='add "max top1" to the objectives in [search]',
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best fleet of a run for each number of networks; that for `wanted` is exported."""

    wanted: int
    accuracy: str
    bounds: dict[str, tuple[Objective, ...]]
    fleets: tuple[Fleet, ...]

    @classmethod
    def of(cls, config: RunConfig, wanted: int, candidates: Sequence[Candidate]) -> Chosen:
        """The best choices among all candidates, on the front or not.

        Raises:
            InfeasibleError: a device for which there is none, or more networks are needed.
        """
        written, devices = written_objectives(config), config.search.devices
        networks = {c.architecture.digest: c.metrics for c in candidates}
        accuracy = accuracy_of(written)
        options = options_for(networks, written, devices, accuracy=accuracy)
        fleets = choose_fleets(options, devices)
        least = fleets[0].k  # with as many networks as devices there is always a choice
        if wanted < least:
            raise InfeasibleError(
                f"no {wanted} of the networks that were evaluated do for all {len(devices)} "
                f"devices: {least} are needed",
                hint=f"--resume --fleet {least}, or relax the tightest device's bound",
            )
        return cls(wanted, accuracy, device_bounds(written, devices), fleets)

    @property
    def fleet(self) -> Fleet:
        """The one that is exported."""
        return next(f for f in reversed(self.fleets) if f.k <= self.wanted)

    def networks(self, candidates: Sequence[Candidate]) -> tuple[tuple[str, Candidate], ...]:
        """The candidates to export, each with why."""
        by_digest = {c.architecture.digest: c for c in candidates}
        return tuple(
            (f"for {', '.join(devices)}", by_digest[digest])
            for digest, devices in self.fleet.networks.items()
        )

    def to_table(self) -> dict[str, Any]:
        """As it stands in `result.json`."""
        return {
            "wanted": self.wanted,
            "accuracy": self.accuracy,
            "bounds": {d: [str(o) for o in bounds] for d, bounds in self.bounds.items()},
            "choices": [fleet.to_table() for fleet in self.fleets],
        }
