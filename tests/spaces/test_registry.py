from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgenas import plugins
from edgenas.errors import SpecError
from edgenas.spaces.mobile import SMALL, default_space
from edgenas.spaces.registry import space_from

DATA: dict[str, int] = {"image_size": 28, "in_channels": 1, "n_classes": 10}


def test_name_gives_the_familys_own_choices() -> None:
    expected = default_space(**DATA)
    assert space_from("mobile/1", **DATA) == expected
    assert space_from({"family": "mobile/1"}, **DATA) == expected


def test_table_reads_back_and_is_left_alone() -> None:
    table = SMALL.to_table() | {"in_channels": 1}
    before = dict(table)
    space = space_from(table, **DATA)
    assert space.to_table() == table == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mobil/1", "did you mean 'mobile/1'"),
        ("mobile/2", "did you mean 'mobile/1'"),
        ("", "known: mobile/1"),
        ({}, "space.family is missing; known: mobile/1"),
        ({"family": 3}, "space.family 3 is not text"),
        (
            {"family": "mobile/1", "stem_w": 3},
            "space.stem_w: unknown key; did you mean 'stem_width'",
        ),
        ({"family": "mobile/1", "resolutions": "24"}, "space.resolutions: '24' is not a list"),
    ],
)
def test_what_cannot_be_a_space(value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        space_from(value, **DATA)


def test_a_package_adds_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = plugins.EntryPoint("other/1", "edgenas.spaces.mobile:space_for", "edgenas.spaces")
    monkeypatch.setattr(plugins, "_plugins", lambda kind: (plugin,) if kind == "spaces" else ())
    space = space_from({"family": "other/1", "resolutions": [20]}, **DATA)
    assert space == dataclasses.replace(default_space(**DATA), resolutions=(20,))
