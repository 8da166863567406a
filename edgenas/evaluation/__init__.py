"""Accuracy of an architecture: from the supernet; later from tables and after quantisation.

What needs torch is loaded when it is asked for: a recorded table needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgenas.evaluation.supernet import SupernetEvaluator, top1

__all__ = ["SupernetEvaluator", "top1"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("edgenas.evaluation.supernet"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
