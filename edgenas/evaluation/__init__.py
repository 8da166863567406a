"""Accuracy of an architecture from the supernet: as it is, in int8, corrupted, without labels.

What needs torch is loaded when it is asked for: a recorded table needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgenas.evaluation.contested import Contested, pilots
    from edgenas.evaluation.corruption import CORRUPTIONS, SEVERITIES, corrupt
    from edgenas.evaluation.quantised import QuantisedNetwork
    from edgenas.evaluation.supernet import SupernetEvaluator, top1

__all__ = [
    "CORRUPTIONS",
    "SEVERITIES",
    "Contested",
    "QuantisedNetwork",
    "SupernetEvaluator",
    "corrupt",
    "pilots",
    "top1",
]

_MODULES = {
    "Contested": "contested",
    "QuantisedNetwork": "quantised",
    "SupernetEvaluator": "supernet",
    "pilots": "contested",
    "top1": "supernet",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        module = _MODULES.get(name, "corruption")
        return getattr(importlib.import_module(f"edgenas.evaluation.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
