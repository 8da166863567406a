"""BatchNorm statistics of an extracted network, measured on training images.

A network that shares its weights has no running statistics of its own; without this step its
accuracy is near chance (once-for-all, arXiv:1908.09791, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgenas.errors import DataError
from edgenas.networks import Network


def recalibrate(network: Network, batches: Iterable[Tensor]) -> Network:
    """Sets the running statistics to the means over `batches`, and returns it in evaluation mode.

    `batches` are prepared images (n, c, r, r); the same size each, or means are skewed.

    Raises:
        DataError: there is no batch.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches, where 0.1 would forget the first ones
    network.train()
    n = 0
    with torch.no_grad():
        for images in batches:
            network(images)
            n += 1
    if not n:
        raise DataError("there are no images to recalibrate BatchNorm with")
    return network.eval()
