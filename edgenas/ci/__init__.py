"""Re-search when targets change: what is stale and why, what to make again, gates, the comment.

A team keeps `targets.toml` in its repository (see `targets`). `run` makes the networks of every
target and locks them with all that they rest on in `edgenas.lock`; `plan` compares the two; `check`
holds locked files to their gates; `comment` says it all in Markdown; `validate` only reads.
Each is loaded when it is asked for: a plan needs neither exporters nor reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgenas.plugins import attributes

if TYPE_CHECKING:
    from edgenas.ci.checking import Checked, Finding, check
    from edgenas.ci.commenting import Comment, comment, write_comment
    from edgenas.ci.lock import LOCK, Entry, read_lock
    from edgenas.ci.planning import RUNS, Plan, TargetPlan, plan
    from edgenas.ci.running import Made, Ran, run
    from edgenas.ci.stages import STAGES, Stage
    from edgenas.ci.targets import TARGETS, Gates, Target, read_targets
    from edgenas.ci.validating import validate

__all__ = [
    "LOCK",
    "RUNS",
    "STAGES",
    "TARGETS",
    "Checked",
    "Comment",
    "Entry",
    "Finding",
    "Gates",
    "Made",
    "Plan",
    "Ran",
    "Stage",
    "Target",
    "TargetPlan",
    "check",
    "comment",
    "plan",
    "read_lock",
    "read_targets",
    "run",
    "validate",
    "write_comment",
]

_MODULES = {
    "Checked": "checking",
    "Comment": "commenting",
    "Entry": "lock",
    "Finding": "checking",
    "Gates": "targets",
    "LOCK": "lock",
    "Made": "running",
    "Plan": "planning",
    "RUNS": "planning",
    "Ran": "running",
    "STAGES": "stages",
    "Stage": "stages",
    "TARGETS": "targets",
    "Target": "targets",
    "TargetPlan": "planning",
    "check": "checking",
    "comment": "commenting",
    "plan": "planning",
    "read_lock": "lock",
    "read_targets": "targets",
    "run": "running",
    "validate": "validating",
    "write_comment": "commenting",
}

if not TYPE_CHECKING:  # else any name would pass
    __getattr__ = attributes(__name__, _MODULES)
