"""The processes that `torchrun` starts: who am I, and gradients averaged over all of them.

Gradients are averaged by hand after the last of a step's networks, where
`DistributedDataParallel` would do so after each, and would need to know which weights an
architecture leaves out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> Workers:
        """Joins the group that `torchrun` describes in the environment; alone without one."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(distributed.get_rank(), count)

    def average_gradients(self, module: nn.Module) -> None:
        """Replaces every gradient by its mean over the processes; a missing one counts as zero.

        Weights that no process used this step keep no gradient, so that momentum and decay leave
        them alone, as they do in one process.
        """
        if self.count == 1:
            return
        parameters = [p for p in module.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        distributed.all_reduce(flat)
        flat /= self.count
        start = 0
        for parameter in parameters:
            n = parameter.numel()
            parameter.grad = flat[start : start + n].view_as(parameter)
            start += n

    def sum(self, value: float) -> float:
        """The sum of every process's `value`."""
        if self.count == 1:
            return value
        total = torch.tensor([value], dtype=torch.float64)
        if torch.cuda.is_available():
            total = total.cuda()
        distributed.all_reduce(total)
        return float(total)

    def close(self) -> None:
        """Leaves the group."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
