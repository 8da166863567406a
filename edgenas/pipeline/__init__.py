"""The stages, each a function: what the command line calls, and the Python API.

```python
from pathlib import Path
from edgenas.pipeline import DataConfig, RunConfig, SearchConfig, search

config = RunConfig(
    data=DataConfig("photos"),
    search=SearchConfig(("local-litert-int8-t1",), ("max top1", "min latency_ms"), trials=100),
)
outcome = search(config, Path("runs/photos"))
for row in outcome.document["exports"]:
    print(row["path"], row["top1"], row["measured_ms"])
```

`read_config` reads a run file into a `RunConfig`. Nothing is printed: progress goes to `report`, a
function that takes an `edgenas.events.Event`. A stage is loaded when it is asked for, and
torch when the stage needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgenas.plugins import attributes

if TYPE_CHECKING:
    from edgenas.pipeline.benchmarking import bench_few_shot, bench_search
    from edgenas.pipeline.config import (
        DataConfig,
        ExportConfig,
        FinalConfig,
        RunConfig,
        SearchConfig,
        SupernetConfig,
        TrainConfig,
        read_config,
        write_config,
    )
    from edgenas.pipeline.contributing import check_tables
    from edgenas.pipeline.devices import (
        device_file,
        diff_tables,
        list_devices,
        show_device,
        show_table,
    )
    from edgenas.pipeline.examining import Check, examine
    from edgenas.pipeline.exporting import export
    from edgenas.pipeline.predicting import predict
    from edgenas.pipeline.profiling import bench_latency, profile, profile_kit, validate_table
    from edgenas.pipeline.quickstart import run_quickstart
    from edgenas.pipeline.remeasuring import measure
    from edgenas.pipeline.runs import Outcome, Run, compare_runs, find_run, open_run, report
    from edgenas.pipeline.searching import dashboard, join_search, search
    from edgenas.pipeline.starting import write_run_file
    from edgenas.pipeline.training import train
    from edgenas.pipeline.verifying import verify

__all__ = [
    "Check",
    "DataConfig",
    "ExportConfig",
    "FinalConfig",
    "Outcome",
    "Run",
    "RunConfig",
    "SearchConfig",
    "SupernetConfig",
    "TrainConfig",
    "bench_few_shot",
    "bench_latency",
    "bench_search",
    "check_tables",
    "compare_runs",
    "dashboard",
    "device_file",
    "diff_tables",
    "examine",
    "export",
    "find_run",
    "join_search",
    "list_devices",
    "measure",
    "open_run",
    "predict",
    "profile",
    "profile_kit",
    "read_config",
    "report",
    "run_quickstart",
    "search",
    "show_device",
    "show_table",
    "train",
    "validate_table",
    "verify",
    "write_config",
    "write_run_file",
]

_MODULES = {
    "Check": "examining",
    "DataConfig": "config",
    "ExportConfig": "config",
    "FinalConfig": "config",
    "Outcome": "runs",
    "Run": "runs",
    "RunConfig": "config",
    "SearchConfig": "config",
    "SupernetConfig": "config",
    "TrainConfig": "config",
    "bench_few_shot": "benchmarking",
    "bench_latency": "profiling",
    "bench_search": "benchmarking",
    "check_tables": "contributing",
    "compare_runs": "runs",
    "dashboard": "searching",
    "device_file": "devices",
    "diff_tables": "devices",
    "examine": "examining",
    "export": "exporting",
    "find_run": "runs",
    "join_search": "searching",
    "list_devices": "devices",
    "measure": "remeasuring",
    "open_run": "runs",
    "predict": "predicting",
    "profile": "profiling",
    "profile_kit": "profiling",
    "read_config": "config",
    "report": "runs",
    "run_quickstart": "quickstart",
    "search": "searching",
    "show_device": "devices",
    "show_table": "devices",
    "train": "training",
    "validate_table": "profiling",
    "verify": "verifying",
    "write_config": "config",
    "write_run_file": "starting",
}

if not TYPE_CHECKING:  # else any name would pass
    __getattr__ = attributes(__name__, _MODULES)
