from __future__ import annotations

import inspect
import pickle
import re

import pytest

from edgenas import errors
from edgenas.errors import EdgenasError, Interrupted, SpecError, difference, nearest

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, EdgenasError)
}
DRAWN = re.compile(
    r"^ {4}(?P<depth>[│ ]*)(?:[├└]── )?(?P<name>\w+)(?: \((?P<base>\w+)\))? +(?P<code>\d+)"
)


def drawn() -> dict[str, tuple[str | None, str | None, int]]:
    """The tree of the module's docstring: name to parent, built-in base and exit code."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str | None, str | None, int]] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        if found := DRAWN.match(line):
            indent = found.start("name")
            while path and path[-1][0] >= indent:
                path.pop()
            parent = path[-1][1] if path else None
            tree[found["name"]] = (parent, found["base"], int(found["code"]))
            path.append((indent, found["name"]))
    return tree


def test_the_drawn_tree_is_the_tree() -> None:
    actual = {}
    for name, cls in CLASSES.items():
        ours = [base.__name__ for base in cls.__bases__ if issubclass(base, EdgenasError)]
        foreign = [base.__name__ for base in cls.__bases__ if not issubclass(base, EdgenasError)]
        parent = ours[0] if ours else None
        base = foreign[0] if foreign and parent else None
        actual[name] = (parent, base, cls.exit_code)
    actual["Interrupted"] = (*actual["Interrupted"][:2], 130)
    assert drawn() == actual


def test_exit_codes() -> None:
    # 0 fine, 1 unexpected, 2 usage, 3 input, 4 device, 5 gate, 6 resource, 7 infeasible, 8 export
    assert {name: cls.exit_code for name, cls in CLASSES.items()} == {
        "EdgenasError": 1,
        "UsageError": 2,
        "SpecError": 3,
        "ArtifactError": 3,
        "DataError": 3,
        "DivergedError": 3,
        "MissingUnitsError": 3,
        "DeviceError": 4,
        "MeasurementError": 4,
        "VerificationError": 5,
        "ResourceError": 6,
        "InfeasibleError": 7,
        "ExportError": 8,
        "Interrupted": 130,
    }
    assert Interrupted("x").exit_code == 130
    assert Interrupted("x", exit_code=143).exit_code == 143
    assert Interrupted.exit_code == 130


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_message_and_hint(cls: type[EdgenasError]) -> None:
    error = cls("what is wrong", hint="edgenas doctor")
    assert (str(error), error.hint) == ("what is wrong", "edgenas doctor")
    assert cls("what is wrong").hint == ""
    assert (cls.__doc__ or "").strip()
    again = pickle.loads(pickle.dumps(error))  # worker processes hand errors over like this
    assert (type(again), str(again), again.hint) == (cls, "what is wrong", "edgenas doctor")
    assert again.exit_code == error.exit_code


def test_callers_may_expect_built_ins() -> None:
    with pytest.raises(ValueError, match="x"):
        raise SpecError("x")
    with pytest.raises(OSError, match="x"):
        raise errors.ResourceError("x")


@pytest.mark.parametrize(
    ("name", "known", "phrase"),
    [
        ("kernal", ["kernel", "depth"], "did you mean 'kernel'?"),
        ("zzz", ["kernel", "depth"], "known: depth, kernel"),
        ("", ["b", "a"], "known: a, b"),
        ("x", [], "none is known"),
        ("s1.2.kernal", {"s1.2.kernel": 1, "s1.1.kernel": 1}, "did you mean 's1.2.kernel'?"),
    ],
)
def test_nearest(name: str, known: list[str], phrase: str) -> None:
    assert nearest(name, known) == phrase


def test_a_difference_is_told_name_by_name() -> None:
    assert difference(["a", "b, c", "d"], ["a", "d", "e"]) == "lacks 'b, c' and adds 'e'"
    assert difference(["a", "b"], ["b", "a"]) == "has the same in another order"
    assert difference([], "abcdef") == "adds 'a', 'b', 'c', 'd', 'e', ..."
