"""A tiny space and a tiny data set of real images, for everything that trains."""

from __future__ import annotations

import pytest

from edgenas.data import DataSet, load_data
from edgenas.spaces.mobile import MobileSpace, Stage


@pytest.fixture(scope="session")
def tiny_space() -> MobileSpace:
    return MobileSpace(
        resolutions=(8, 12),
        stem_width=4,
        stem_stride=1,
        head_width=16,
        in_channels=1,
        stages=(
            Stage(2, (4, 8), (1, 2), (3, 5), (1, 2), ("inverted", "plain", "fused")),
            Stage(1, (8, 12), (1, 2), (3, 5, 7), (2, 3)),
        ),
    )


@pytest.fixture(scope="session")
def digits() -> DataSet:
    pytest.importorskip("sklearn", reason="the data set digits is in scikit-learn")
    return load_data("digits", seed=0)
