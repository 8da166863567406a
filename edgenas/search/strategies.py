"""Strategies by name. Each is a function (problem, seed) -> Optuna sampler, made anew every trial.

A strategy of ours is a `Propose` function that `StrategySampler` adapts; Optuna's own samplers are
used as they are. The group of entry points is `edgenas.strategies`.
"""

from __future__ import annotations

import random as random_
from collections.abc import Callable, Mapping
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from edgenas.errors import SpecError
from edgenas.plugins import lookup, names
from edgenas.search import nsga2 as nsga2_
from edgenas.search.problem import History, Problem, Propose, Trial
from edgenas.spaces import Choices

Strategy = Callable[[Problem, int], BaseSampler]

BUILTIN: Mapping[str, str] = {
    name: f"edgenas.search.strategies:{name}" for name in ("nsga2", "tpe", "random")
}


class StrategySampler(BaseSampler):
    """Adapts a strategy that is a function of the stored history to Optuna.

    All state is in the study: the history is read from it, the seed comes with the sampler.
    """

    def __init__(self, propose: Propose, problem: Problem, seed: int) -> None:
        self._propose = propose
        self._problem = problem
        self._seed = seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every gene."""
        return distributions(self._problem.space)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The genes that the strategy proposes."""
        problem = self._problem
        history = read_history(study, problem)
        rng = random_.Random(self._seed)
        return dict(self._propose(problem.space, problem.objectives, history, problem.cheap, rng))

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never needed, since every gene is proposed together."""
        raise SpecError(f"the strategy proposed no value for {param_name!r}")


def nsga2(problem: Problem, seed: int) -> BaseSampler:
    """NSGA-II for few evaluations; see `edgenas.search.nsga2`."""
    return StrategySampler(nsga2_.propose, problem, seed)


def tpe(problem: Problem, seed: int) -> BaseSampler:
    """Optuna's multi-objective TPE over all genes jointly, after 20 random trials."""
    return TPESampler(seed=seed % 2**32, multivariate=True, n_startup_trials=20)


def random(problem: Problem, seed: int) -> BaseSampler:
    """Optuna's random sampler: every gene uniformly."""
    return RandomSampler(seed=seed % 2**32)


def strategy_names() -> tuple[str, ...]:
    """The strategies that `find_strategy` knows."""
    return names("strategies", BUILTIN)


def find_strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        SpecError: unknown, with the nearest known name.
    """
    return cast("Strategy", lookup("strategies", name, BUILTIN))


def distributions(space: Choices) -> dict[str, BaseDistribution]:
    """Each gene of the space as a categorical distribution."""
    return {name: CategoricalDistribution(values) for name, values in space.genes.items()}


def read_history(study: optuna.Study, problem: Problem) -> History:
    """The study's trials as strategies see them: finished ones in order, then pending ones."""
    finished, pending = [], []
    genes = len(problem.space.genes)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
        if trial.state == TrialState.RUNNING:
            if len(trial.params) == genes:  # one that is being made has none yet
                pending.append(_trial(trial, problem))
            continue
        if trial.number not in problem.finished:
            problem.finished[trial.number] = _trial(trial, problem)
        finished.append(problem.finished[trial.number])
    return finished + pending


def _trial(trial: FrozenTrial, problem: Problem) -> Trial:
    return Trial(
        problem.space.architecture(trial.params),
        dict(trial.params),
        dict(trial.user_attrs.get("metrics", {})),
        pending=trial.state == TrialState.RUNNING,
    )
