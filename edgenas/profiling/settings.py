"""How long and how carefully is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgenas.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how carefully is measured; see the agent for the rules."""

    rounds: int = 7
    extra_rounds: int = 7
    """At most, for models whose best round no other confirms."""
    seconds: float = 0.3
    """For each model, over all rounds."""
    runs: int = 50
    """At least, for each model, over all rounds."""
    warmup_s: float = 0.1
    warmup_runs: int = 10
    patience: float = 6.0
    """How many times its share of time a model may wait for moments in which nobody disturbs it."""
    retries: int = 3
    """Of a visit during which others took the processor."""
    canary_every_s: float = 60.0
    cool_s: float = 2.0
    on_drift: Literal["auto", "keep", "stop"] = "auto"
    budget_s: float | None = None
    """Ends after a round, at least three, when the next would exceed it; those are then enough."""
    idle_s: float = 120.0
    """Silence after which the device counts as hung."""

    def __post_init__(self) -> None:
        positive = self.rounds, self.runs, self.warmup_runs, self.idle_s, self.canary_every_s
        others = self.seconds, self.warmup_s, self.retries, self.cool_s, self.extra_rounds
        if min(positive) <= 0 or min(*others, self.patience) < 0:
            raise UsageError(f"settings of a measurement must be positive: {self}")


QUICK = Settings(rounds=5, extra_rounds=9, seconds=0.06, runs=15, warmup_s=0.02, cool_s=0.5)
STANDARD = Settings()
FULL = Settings(seconds=1.0, runs=50, warmup_s=0.5)
