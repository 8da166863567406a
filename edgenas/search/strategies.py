"""Strategies by name. Each is a function (problem, seed) -> Optuna sampler, made anew every trial.

A strategy of ours is a `Propose` function that `StrategySampler` adapts; Optuna's own samplers are
used as they are. The group of entry points is `edgenas.strategies`.
"""

from __future__ import annotations

import random as random_
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from edgenas.errors import SpecError
from edgenas.plugins import lookup, names
from edgenas.search import evolution as evolution_
from edgenas.search import gradient as gradient_
from edgenas.search import nsga2 as nsga2_
from edgenas.search import nsga3 as nsga3_
from edgenas.search import reinforce as reinforce_
from edgenas.search import surrogate as surrogate_
from edgenas.search.problem import History, Problem, Propose, Trial, repair
from edgenas.spaces import Choices

Strategy = Callable[[Problem, int], BaseSampler]

BUILTIN: Mapping[str, str] = {
    name: f"edgenas.search.strategies:{name}"
    for name in (
        "surrogate",
        "nsga2",
        "nsga3",
        "evolution",
        "reinforce",
        "gradient",
        "tpe",
        "gp",
        "random",
    )
}


class _JointSampler(BaseSampler):
    """Proposes every gene of a problem's space together."""

    _problem: Problem

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every gene."""
        return distributions(self._problem.space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never needed, since every gene is proposed together."""
        raise SpecError(f"the strategy proposed no value for {param_name!r}")


class StrategySampler(_JointSampler):
    """Adapts a strategy that is a function of the stored history to Optuna.

    All state is in the study: the history is read from it, the seed comes with the sampler.
    """

    def __init__(self, propose: Propose, problem: Problem, seed: int) -> None:
        self._propose = propose
        self._problem = problem
        self._seed = seed

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The genes that the strategy proposes."""
        history = read_history(study, self._problem)
        return dict(self._propose(self._problem, history, random_.Random(self._seed)))


class RepairingSampler(_JointSampler):
    """Another sampler of Optuna's, whose proposals are repaired until the cheap bounds hold.

    Where there are none, or they hold, it proposes what the other one does.
    """

    def __init__(self, inner: BaseSampler, problem: Problem, seed: int) -> None:
        self._inner = inner
        self._problem = problem
        self._rng = random_.Random(seed)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """What the other sampler proposes, repaired."""
        jointly = self._inner.infer_relative_search_space(study, trial)
        params = self._inner.sample_relative(study, trial, jointly)
        for name, distribution in search_space.items():
            if name not in params:
                params[name] = self._inner.sample_independent(study, trial, name, distribution)
        return repair(self._problem, params, self._rng)


def surrogate(problem: Problem, seed: int) -> BaseSampler:
    """A Gaussian process and expected hypervolume; see `edgenas.search.surrogate`."""
    return StrategySampler(surrogate_.propose, problem, seed)


def nsga2(problem: Problem, seed: int) -> BaseSampler:
    """NSGA-II for few evaluations; see `edgenas.search.nsga2`."""
    return StrategySampler(nsga2_.propose, problem, seed)


def nsga3(problem: Problem, seed: int) -> BaseSampler:
    """NSGA-III for few evaluations; see `edgenas.search.nsga3`."""
    return StrategySampler(nsga3_.propose, problem, seed)


def evolution(problem: Problem, seed: int) -> BaseSampler:
    """Aging evolution; see `edgenas.search.evolution`."""
    return StrategySampler(evolution_.propose, problem, seed)


def reinforce(problem: Problem, seed: int) -> BaseSampler:
    """A policy-gradient controller; see `edgenas.search.reinforce`."""
    return StrategySampler(reinforce_.propose, problem, seed)


def gradient(problem: Problem, seed: int) -> BaseSampler:
    """Gradients of the supernet by its choices; see `edgenas.search.gradient`."""
    return StrategySampler(gradient_.propose, problem, seed)


def tpe(problem: Problem, seed: int) -> BaseSampler:
    """Optuna's multi-objective TPE over all genes jointly, after 20 random trials."""
    inner = TPESampler(seed=seed % 2**32, multivariate=True, n_startup_trials=20)
    return RepairingSampler(inner, problem, seed)


def gp(problem: Problem, seed: int) -> BaseSampler:
    """Optuna's Gaussian process with expected hypervolume, after 20 random trials; slow.

    It knows nothing of cheap metrics: it learns them like the costly ones.
    """
    inner = GPSampler(seed=seed % 2**32, n_startup_trials=20, deterministic_objective=True)
    return RepairingSampler(inner, problem, seed)


def random(problem: Problem, seed: int) -> BaseSampler:
    """Optuna's random sampler: every gene uniformly."""
    return RepairingSampler(RandomSampler(seed=seed % 2**32), problem, seed)


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
    """Earlier trials, then the study's own without those that were cut off.

    Measured values stand in place of predicted ones.
    """
    known: dict[int, Trial] = problem.memory.setdefault("trials", {})  # as they are stored
    genes = len(problem.space.genes)
    found = list(problem.earlier)
    for trial in study.get_trials(deepcopy=False):
        number = trial.number
        if number not in known:
            running = trial.state == TrialState.RUNNING
            # One that is being made has no genes yet; one that was cut off has no error.
            if len(trial.params) < genes or not (running or _finished(trial)):
                continue
            read = Trial(
                number,
                problem.space.architecture(trial.params),
                dict(trial.params),
                {} if running else dict(trial.user_attrs.get("metrics", {})),
            )
            if running:
                found.append(read)
                continue
            known[number] = read
        found.append(known[number])
    if not problem.measured:
        return found
    return [replace(t, metrics=problem.overlaid(t.architecture, t.metrics)) for t in found]


def _finished(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE or "error" in trial.user_attrs
