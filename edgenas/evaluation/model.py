"""A cheap model of accuracy, fitted to evaluated architectures; for benchmarks of search.

Its file says which space it is of and adds up terms: each holds some choices and counts where the
architecture has all of them. With the link `logit` the sum is log(p / (1 - p)) of the accuracy p.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgenas.artifacts import read_json, write_json
from edgenas.errors import SpecError
from edgenas.spaces import Architecture, Choice, SearchSpace
from edgenas.spaces.registry import space_from

SCHEMA = "edgenas.accuracy-model/1"
FOLDS = 5
PENALTIES = tuple(10.0**k for k in range(-3, 4))
"""Ridge penalties that cross-validation chooses from, for accuracies scaled to variance 1."""

Link = Literal["identity", "logit"]
Term = tuple[tuple[str, Choice], ...]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyModel:
    """`model(arch)` is {"top1": its accuracy, between 0 and 1}."""

    space: SearchSpace
    image_size: int
    intercept: float
    terms: Mapping[Term, float]
    link: Link = "logit"
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was fitted to and how far it is off, in cross-validation."""

    def __call__(self, arch: Architecture) -> dict[str, float]:
        """The accuracy by its name as a metric."""
        have = set(arch.choices)
        total = self.intercept + sum(
            add for term, add in self.terms.items() if have.issuperset(term)
        )
        return {"top1": (1 + math.tanh(total / 2)) / 2 if self.link == "logit" else total}

    def write(self, path: Path) -> None:
        """The file that `read_model` reads."""
        terms = [{"when": dict(term), "add": add} for term, add in self.terms.items()]
        write_json(
            path,
            {
                "schema": SCHEMA,
                "space": self.space.to_table(),
                "image_size": self.image_size,
                "link": self.link,
                "intercept": self.intercept,
                "terms": terms,
                "fit": dict(self.facts),
            },
        )


def read_model(path: Path) -> AccuracyModel:
    """The model in `path`.

    Raises:
        ArtifactError: not such a file.
        SpecError: a space, a choice or a number that is none.
    """
    table = read_json(path, schema=SCHEMA)
    try:
        space_table, size = table["space"], int(table["image_size"])
        space = space_from(
            space_table,
            image_size=size,
            in_channels=space_table["in_channels"],
            n_classes=space_table["n_classes"],
        )
        terms = {tuple(term["when"].items()): float(term["add"]) for term in table["terms"]}
        intercept, link = float(table["intercept"]), table["link"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(
            f"{path}: no accuracy model: {type(error).__name__}: {error}",
            hint="it needs space, image_size, link, intercept and terms of 'when' and 'add'",
        ) from error
    if size < 1:
        raise SpecError(f"{path}: image_size {size} is not positive")
    if link not in ("identity", "logit"):
        raise SpecError(f"{path}: link {link!r} is neither 'identity' nor 'logit'")
    for term in terms:
        for gene, value in term:
            if value not in space.genes.get(gene, ()):
                raise SpecError(f"{path}: {gene}={value!r} is no choice of its space")
    if not all(map(math.isfinite, (intercept, *terms.values()))):
        raise SpecError(f"{path}: a number is not finite")
    model = AccuracyModel(space, size, intercept, terms, link, table.get("fit", {}))
    for arch in (space.smallest(), space.largest()):
        if not 0 <= (accuracy := model(arch)["top1"]) <= 1:
            raise SpecError(
                f"{path}: its accuracy of {arch} is {accuracy:g}, not between 0 and 1",
                hint="link 'logit' turns any sum into a share",
            )
    return model


def fit_model(
    space: SearchSpace,
    accuracies: Mapping[Architecture, float],
    *,
    image_size: int,
    seed: int = 0,
    source: str = "",
) -> AccuracyModel:
    """Ridge regression of the logits on every choice, and on pairs of those of whole stages.

    A choice that is inactive in an architecture has no term there. `facts` has n, the mean absolute
    error and Spearman's rank correlation over all folds of a cross-validation.

    Raises:
        SpecError: fewer than 10 accuracies for each fold, or one that does not lie in (0, 1).
    """
    from scipy.stats import spearmanr

    if len(accuracies) < 10 * FOLDS:
        raise SpecError(f"{len(accuracies)} accuracies are too few: {10 * FOLDS} are needed")
    if bad := [a for a in accuracies.values() if not 0 < a < 1]:
        raise SpecError(f"accuracy {bad[0]} does not lie between 0 and 1")
    terms = _terms(space)
    holds = np.array(
        [[set(arch.choices).issuperset(term) for term in terms] for arch in accuracies], np.float64
    )
    accuracy = np.array(list(accuracies.values()))
    logit = np.log(accuracy / (1 - accuracy))
    order = list(range(len(accuracies)))
    random.Random(seed).shuffle(order)
    folds = [order[k::FOLDS] for k in range(FOLDS)]

    def predicted(penalty: float) -> Values:
        """Each accuracy by a model that has not seen it."""
        found = np.zeros(len(order))
        for fold in folds:
            rest = [i for i in order if i not in set(fold)]
            intercept, effects = _ridge(holds[rest], logit[rest], penalty)
            found[fold] = 1 / (1 + np.exp(-(intercept + holds[fold] @ effects)))
        return found

    errors = {penalty: float(np.abs(predicted(penalty) - accuracy).mean()) for penalty in PENALTIES}
    penalty = min(errors, key=lambda p: errors[p])
    intercept, effects = _ridge(holds, logit, penalty)
    facts = {
        "n": len(order),
        "source": source,
        "penalty": penalty,
        "folds": FOLDS,
        "error_mean": round(errors[penalty], 6),
        "spearman": round(float(spearmanr(predicted(penalty), accuracy).statistic), 4),
    }
    kept = {t: float(e) for t, e in zip(terms, effects, strict=True) if e}
    return AccuracyModel(space, image_size, float(intercept), kept, "logit", facts)


def _terms(space: SearchSpace) -> Sequence[Term]:
    """Every value of a gene but the first; pairs of them where neither is a single block's."""
    single = [((gene, value),) for gene, values in space.genes.items() for value in values[1:]]
    whole = [term for term in single if term[0][0].count(".") < 2]
    pairs = [(*a, *b) for a, b in itertools.combinations(whole, 2) if a[0][0] != b[0][0]]
    return [*single, *pairs]


def _ridge(x: Values, y: Values, penalty: float) -> tuple[float, Values]:
    """Intercept and effects; the penalty is on effects of columns as they are."""
    centre, mean = x.mean(0), float(y.mean())
    scale = max(float(y.std()), 1e-12)
    moved = x - centre
    gram = moved.T @ moved + penalty * np.eye(x.shape[1])
    effects = np.linalg.solve(gram, moved.T @ ((y - mean) / scale)) * scale
    return mean - float(centre @ effects), np.asarray(effects, dtype=np.float64)
