"""Targets: devices with the tool-chain that takes the models there, and what it accepts.

The rules are data (`toolchains`). They are held against the operators of a space before it is
searched and against those of a file after it was exported (`operators`, `check`).
"""

from edgenas.targets.check import (
    MARGIN,
    Misfit,
    check_space,
    misfits,
    offloaded_share,
    plans_ram,
    ram_bytes_of,
    ram_bytes_of_file,
)
from edgenas.targets.operators import Operator, operators_of_file, operators_of_lowering
from edgenas.targets.toolchains import TOOLCHAINS, Rule, Toolchain, toolchain_of

__all__ = [
    "MARGIN",
    "TOOLCHAINS",
    "Misfit",
    "Operator",
    "Rule",
    "Toolchain",
    "check_space",
    "misfits",
    "offloaded_share",
    "operators_of_file",
    "operators_of_lowering",
    "plans_ram",
    "ram_bytes_of",
    "ram_bytes_of_file",
    "toolchain_of",
]
