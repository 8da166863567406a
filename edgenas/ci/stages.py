"""The stages that a target goes through, and which facts each one reads: what staleness follows.

A *fact* is one thing that a result depends on, by a name whose first word says what it is:

| first word | is, for example |
|---|---|
| `seed` | the root seed |
| `space` | the digest of the space |
| `data` | the images that there are, and the size that they are brought to |
| `train` | a setting of the training, where the run trains its supernet |
| `supernet` | the digest of the weights |
| `metric` | a costly metric that is evaluated, with the revision of how |
| `evaluate` | how many images, pilots, ... accuracies are read from |
| `device`, `target` | the digest of the profile of a device that is searched for, or held against |
| `table` | the digest of a device's latency table |
| `objective` | the direction of a metric |
| `bound` | the bound of a metric |
| `search` | strategy, trials, patience, whether it is for a fleet, ... |
| `select` | how many networks are exported, or a fleet may have |
| `final` | a setting of the final training, where the run file has one |
| `format` | a format that is exported |
| `revision` | the revision of a stage's code |

Versions are no facts: a release in which no stage changed stales nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Fact = str | int | float | bool
Facts = Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class Stage:
    """A step from a run file to verified files.

    `revision` grows when the same facts would give another result; 0 where facts tell it by
    themselves. `reads` are the first words of the facts that it reads itself, `after` the stages
    whose results it reads.
    """

    what: str
    revision: int
    reads: frozenset[str]
    after: tuple[str, ...] = ()


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "supernet": Stage("train the supernet", 1, frozenset({"train", "space", "data", "seed"})),
        "evaluate": Stage(
            "accuracies from the supernet",
            0,  # each metric has its own
            frozenset({"supernet", "space", "data", "seed", "metric", "evaluate"}),
            ("supernet",),
        ),
        "score": Stage("latencies from the tables", 1, frozenset({"device", "target", "table"})),
        "search": Stage(
            "architectures tried",
            1,
            frozenset({"objective", "bound", "search", "seed"}),
            ("evaluate", "score"),
        ),
        "select": Stage("networks of the front chosen", 1, frozenset({"select"}), ("search",)),
        "finish": Stage("networks trained further", 1, frozenset({"final"}), ("select",)),
        "export": Stage("files written", 2, frozenset({"format", "seed"}), ("select", "finish")),
        "verify": Stage("files run over the test split", 1, frozenset(), ("export",)),
    }
)
"""In the order in which they run."""


def stages_of(facts: Facts) -> tuple[str, ...]:
    """The stages that a target with these facts has; two only where the run file asks for them."""
    words = {name.partition(" ")[0] for name in facts}
    left_out = {"supernet": "train" not in words, "finish": "final" not in words}
    return tuple(name for name in STAGES if not left_out.get(name))


def revisions(stages: Iterable[str]) -> dict[str, int]:
    """The facts that these stages' revisions are."""
    return {f"revision {name}": r for name in stages if (r := STAGES[name].revision)}


def first_reader(fact: str, stages: Collection[str]) -> str | None:
    """The first of `stages` that reads `fact` itself; None for a fact that none of them reads."""
    word, _, rest = fact.partition(" ")
    if word == "revision":
        return rest if rest in stages else None
    return next((name for name in stages if word in STAGES[name].reads), None)


def following(stale: Iterable[str], stages: Iterable[str]) -> tuple[str, ...]:
    """`stale` with all stages that read their results, directly or not, in order."""
    found = set(stale)
    for name in stages:
        if found & set(STAGES[name].after):
            found.add(name)
    return tuple(name for name in stages if name in found)
