"""The search over architectures: an Optuna study, strategies by name, the Pareto front.

It knows neither torch nor latency tables: it receives functions from architectures to metrics.
"""

from edgenas.search.ledger import FinishedTrial
from edgenas.search.measuring import Instrument
from edgenas.search.problem import (
    Gradients,
    History,
    MetricFunction,
    Problem,
    Propose,
    Trial,
    check_reachable,
)
from edgenas.search.storage import check_storage
from edgenas.search.study import Gains, SearchResult, Sharing, Stagnation, run_search

__all__ = [
    "FinishedTrial",
    "Gains",
    "Gradients",
    "History",
    "Instrument",
    "MetricFunction",
    "Problem",
    "Propose",
    "SearchResult",
    "Sharing",
    "Stagnation",
    "Trial",
    "check_reachable",
    "check_storage",
    "run_search",
]
