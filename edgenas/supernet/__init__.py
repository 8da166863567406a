"""The once-for-all supernet: elastic weights, training, BatchNorm recalibration, checkpoints."""

from edgenas.supernet.checkpoint import (
    SupernetInfo,
    load_supernet,
    load_weights,
    save_supernet,
    save_weights,
)
from edgenas.supernet.elastic import Supernet
from edgenas.supernet.recalibration import recalibrate
from edgenas.supernet.relaxed import LossGradient
from edgenas.supernet.training import Recipe, sandwich, train
from edgenas.supernet.tuning import Teacher, tune

__all__ = [
    "LossGradient",
    "Recipe",
    "Supernet",
    "SupernetInfo",
    "Teacher",
    "load_supernet",
    "load_weights",
    "recalibrate",
    "sandwich",
    "save_supernet",
    "save_weights",
    "train",
    "tune",
]
