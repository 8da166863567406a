"""Latency: tables of what units take on a device, and networks predicted from them."""

from edgenas.latency.calibrate import rescale
from edgenas.latency.cost import CostModel, fit_cost
from edgenas.latency.files import check_readable, read_table, write_table
from edgenas.latency.fit import Fit, Sample, fit_networks
from edgenas.latency.known import (
    load_table,
    nearest_table,
    other_tables,
    table_file,
    table_for,
    table_names,
)
from edgenas.latency.predictor import LatencyPrediction, Memory, Origin, Predictor, UnitLatency
from edgenas.latency.table import (
    ROUGH_ERROR,
    Entry,
    LatencyTable,
    TableDevice,
    energy_mj,
    named,
)
from edgenas.latency.validate import Validation, compare, drift_factor, repeat_error
from edgenas.latency.whole import Observed, WholeFit, fit_whole

__all__ = [
    "ROUGH_ERROR",
    "CostModel",
    "Entry",
    "Fit",
    "LatencyPrediction",
    "LatencyTable",
    "Memory",
    "Observed",
    "Origin",
    "Predictor",
    "Sample",
    "TableDevice",
    "UnitLatency",
    "Validation",
    "WholeFit",
    "check_readable",
    "compare",
    "drift_factor",
    "energy_mj",
    "fit_cost",
    "fit_networks",
    "fit_whole",
    "load_table",
    "named",
    "nearest_table",
    "other_tables",
    "read_table",
    "repeat_error",
    "rescale",
    "table_file",
    "table_for",
    "table_names",
    "write_table",
]
