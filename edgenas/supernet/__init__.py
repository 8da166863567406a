"""The once-for-all supernet: elastic weights, training, BatchNorm recalibration, checkpoints."""

from edgenas.supernet.checkpoint import SupernetInfo, load_supernet, save_supernet
from edgenas.supernet.elastic import Supernet
from edgenas.supernet.recalibration import recalibrate
from edgenas.supernet.relaxed import LossGradient
from edgenas.supernet.training import Recipe, sandwich, train

__all__ = [
    "LossGradient",
    "Recipe",
    "Supernet",
    "SupernetInfo",
    "load_supernet",
    "recalibrate",
    "sandwich",
    "save_supernet",
    "train",
]
