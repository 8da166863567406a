"""Profiling: what to measure, the agent that measures it, and the table that comes of it."""

from edgenas.profiling.adapting import adapt_device, calibrate_device
from edgenas.profiling.build import compare_granularities, models_to_time, profile_device
from edgenas.profiling.checking import time_model, validate_table
from edgenas.profiling.kit import read_results, write_kit
from edgenas.profiling.plan import (
    affordable,
    anchor_units,
    calibration_networks,
    missing_units,
    plain_stacks,
    spread_architectures,
)
from edgenas.profiling.primitives import general_primitives
from edgenas.profiling.runs import Converter, Run, today
from edgenas.profiling.session import measure
from edgenas.profiling.settings import FULL, QUICK, STANDARD, Settings
from edgenas.profiling.timings import Measurements, Timing

__all__ = [
    "FULL",
    "QUICK",
    "STANDARD",
    "Converter",
    "Measurements",
    "Run",
    "Settings",
    "Timing",
    "adapt_device",
    "affordable",
    "anchor_units",
    "calibrate_device",
    "calibration_networks",
    "compare_granularities",
    "general_primitives",
    "measure",
    "missing_units",
    "models_to_time",
    "plain_stacks",
    "profile_device",
    "read_results",
    "spread_architectures",
    "time_model",
    "today",
    "validate_table",
    "write_kit",
]
