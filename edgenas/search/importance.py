"""Which choices matter for each objective, by PED-ANOVA over the trials of a search.

PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255; for choices that are not always there
arXiv:2601.20800) asks how differently a choice is made in the best trials and in all of them. What
few trials seem to say may be chance, so the same is done with the objective's values shuffled among
the trials: what no choice reached there is more than chance.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgenas.objectives import Objective, directed
from edgenas.search.gaussian import evenly
from edgenas.search.storage import quiet_optuna
from edgenas.spaces import Architecture, Choices

LEAST = 30
"""Trials below which nothing is said."""
TOP = 0.1
"""Share of the trials that are the best ones ..."""
LEAST_TOP = 15
"""... but at least so many: with 5, which Optuna's authors call the least, a choice that is worth
four standard deviations of the noise was not told from chance in 60 random trials."""
MOST = 400
"""Trials that are looked at, evenly out of all: 20 looks at 400 take Optuna about two seconds."""
SHUFFLES = 19
"""The greatest of so many shuffled importances is passed by chance once in 20 times."""


@dataclass(frozen=True, slots=True)
class Importance:
    """How much each choice matters for reaching the best values of `metric`.

    `genes` are shares that add up to 1, the greatest first; a share above `chance` is passed by
    any choice at all in 5 % of searches in which none matters. It rests on `n` architectures, of
    which the share `top` counts as best. With a `problem`, a plain sentence, there are no shares.
    """

    metric: str
    n: int
    top: float = 0.0
    genes: Mapping[str, float] = field(default_factory=dict)
    chance: float = 0.0
    problem: str = ""


def importances(
    space: Choices,
    objectives: Sequence[Objective],
    evaluated: Mapping[Architecture, Mapping[str, float]],
) -> tuple[Importance, ...]:
    """The importance of each active choice, for every objective that has a direction.

    `evaluated` are the metrics of all architectures that were tried; one that lacks an objective's
    metric does not count for it. Nothing is raised: what cannot be told is a `problem`.
    """
    return tuple(_importance(space, axis, evaluated) for axis in directed(objectives))


def _importance(
    space: Choices, axis: Objective, evaluated: Mapping[Architecture, Mapping[str, float]]
) -> Importance:
    told = [(arch, axis.loss(m)) for arch, m in evaluated.items() if axis.name in m]
    tried = [told[i] for i in evenly(len(told), MOST)]
    n, archs, losses = len(tried), [arch for arch, _ in tried], [loss for _, loss in tried]
    if n < LEAST:
        return Importance(axis.name, n, problem=f"{n} trials are too few; {LEAST} are needed")
    if min(losses) == max(losses):
        return Importance(axis.name, n, problem="it is the same in all trials")
    try:
        found, chance = _against_chance(space, archs, losses)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, ValueError) as error:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        return Importance(axis.name, n, problem=f"Optuna could not tell: {text}")
    total = sum(found.values())
    if not (math.isfinite(total) and total > 0):
        return Importance(axis.name, n, problem="the best trials chose as all others did")
    shares = {gene: found[gene] / total for gene in sorted(found, key=lambda g: (-found[g], g))}
    return Importance(axis.name, n, _top(n), shares, chance / total)


def _top(n: int) -> float:
    return max(TOP, LEAST_TOP / n)


def _against_chance(
    space: Choices, archs: Sequence[Architecture], losses: Sequence[float]
) -> tuple[dict[str, float], float]:
    """The importances, and the greatest one of any choice with the losses shuffled."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from edgenas.search.strategies import distributions

    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that less is better in a target: it is, in a loss
        genes = distributions(space)
        study = optuna.create_study()
        study.add_trials(
            [
                optuna.create_trial(
                    value=loss,
                    params=arch.params,  # active choices alone
                    distributions={gene: genes[gene] for gene in arch.params},
                )
                for arch, loss in zip(archs, losses, strict=True)
            ]
        )
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_top(len(archs)))

        def evaluated(values: Sequence[float]) -> dict[str, float]:
            return get_param_importances(
                study,
                evaluator=evaluator,
                target=lambda trial: values[trial.number],
                normalize=False,
            )

        found = evaluated(losses)
        rng = random.Random(f"importance {len(archs)}")
        shuffled = [evaluated(rng.sample(losses, len(losses))) for _ in range(SHUFFLES)]
        return found, max(max(one.values(), default=0.0) for one in shuffled)
