"""The Gaussian process: it interpolates, knows where it knows little, and learns pairs."""

from __future__ import annotations

import numpy as np
import pytest

from edgenas.search.gaussian import GaussianProcess, Inputs


def inputs(codes: np.ndarray, described: np.ndarray | None = None) -> Inputs:
    one_hot = np.eye(3)[codes].reshape(len(codes), -1)
    empty = np.zeros((len(codes), 0))
    return Inputs(one_hot, empty if described is None else described, codes.shape[1])


def test_it_learns_an_additive_function_from_few_points() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, (240, 12))
    effects = rng.normal(size=(12, 3))
    y = effects[np.arange(12), codes].sum(1)
    model = GaussianProcess(inputs(codes[:60]), y[:60])
    mean, deviation = model.predict(inputs(codes[60:]))
    assert np.corrcoef(mean, y[60:])[0, 1] > 0.98
    within = np.abs(mean - y[60:]) < 2 * deviation
    assert within.mean() > 0.85


def test_it_learns_pairs_and_descriptors() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 3, (300, 4))
    pairs = (codes[:, 0] == codes[:, 1]).astype(float) + 0.2 * codes[:, 2]
    mean, _ = GaussianProcess(inputs(codes[:60]), pairs[:60]).predict(inputs(codes[60:]))
    assert np.corrcoef(mean, pairs[60:])[0, 1] > 0.9
    told = rng.normal(size=(300, 1))
    bent = np.sin(2 * told[:, 0])
    mean, _ = GaussianProcess(inputs(codes[:60], told[:60]), bent[:60]).predict(
        inputs(codes[60:], told[60:])
    )
    assert np.corrcoef(mean, bent[60:])[0, 1] > 0.9


def test_it_is_sure_where_it_has_seen_and_unsure_elsewhere() -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 3, (40, 6))
    y = rng.normal(size=40)
    model = GaussianProcess(inputs(codes), y)
    _, seen = model.predict(inputs(codes))
    _, unseen = model.predict(inputs((codes + 1) % 3))
    assert seen.mean() < unseen.mean()
    assert (seen > 0).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_equal_values_and_few_points_do_no_harm(n: int) -> None:
    codes = np.zeros((n, 3), dtype=int)
    mean, deviation = GaussianProcess(inputs(codes), np.full(n, 0.7)).predict(inputs(codes + 1))
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    assert mean == pytest.approx(0.7)
