"""The contracts: what a search chooses from, and a search space whose choices are networks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgenas.spaces.architecture import Architecture, Choice
from edgenas.spaces.ops import Lowering, OpSpec, Shape


class Choices(Protocol):
    """What a search chooses from: a space, or a table of results that holds no networks.

    `genes` names every choice with its allowed values, active or not; `architecture` drops the
    inactive ones. Same network, same `Architecture`. Frozen and equal by value; pure Python.
    """

    @property
    def name(self) -> str:
        """Name and version of the family, such as `mobile/1`."""

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 over the whole setting."""

    @property
    def genes(self) -> Mapping[str, tuple[Choice, ...]]:
        """All choices by name, values in ascending order of cost where they have one."""

    @property
    def size(self) -> int:
        """The number of distinct architectures."""

    def architecture(self, params: Mapping[str, Choice]) -> Architecture:
        """The canonical architecture; inactive choices are ignored and may be missing.

        Raises:
            SpecError: for an unknown name, a missing active choice or a value not allowed.
        """

    def parse(self, line: str) -> Architecture:
        """The architecture that `line` (its `str`) names."""

    def sample(self, rng: random.Random) -> Architecture:
        """A random architecture, every gene drawn uniformly."""

    def smallest(self) -> Architecture:
        """The one with every choice at its cheapest."""

    def largest(self) -> Architecture:
        """The one with every choice at its dearest."""


@runtime_checkable
class Described(Protocol):
    """A space that can say more of an architecture than its genes do."""

    def descriptors(self, arch: Architecture) -> Mapping[str, float]:
        """Numbers that a model which learns from few architectures may read; absent means 0."""


def descriptors(space: Choices, arch: Architecture) -> Mapping[str, float]:
    """The architecture's descriptors, or none where the space has no more to say."""
    return space.descriptors(arch) if isinstance(space, Described) else {}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network of a space may have a unit, and the few genes that decide which one.

    `unit(params)` is the unit under any choice that names these genes, others beside them or not;
    None where the network has none here. So whatever is a sum over units is a sum of look-ups.
    """

    name: str
    genes: tuple[str, ...]
    unit: Callable[[Mapping[str, Choice]], OpSpec | None]


class SearchSpace(Choices, Protocol):
    """A family of networks."""

    def places(self) -> tuple[Place, ...]:
        """All places in execution order; a network is the chain of the units in them."""

    def lower(self, arch: Architecture) -> Lowering:
        """The units of the network, from the image to the logits."""

    def units(self) -> Iterable[OpSpec]:
        """All distinct units of the space, in a fixed order: what profiling it costs."""

    def in_chw(self, arch: Architecture) -> Shape:
        """Shape of the input image."""

    def to_table(self) -> dict[str, object]:
        """The setting as a run file's table; `registry.space_from` reads it back."""


def read_choice(text: str, allowed: Sequence[Choice]) -> Choice | None:
    """The allowed value that `text` spells, or None."""
    return next((value for value in allowed if str(value) == text), None)
