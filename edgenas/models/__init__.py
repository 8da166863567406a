"""Model files of any origin, read as graphs of operators that tables and cost models know."""

from edgenas.models.graph import ModelGraph, Step, Tensor
from edgenas.models.read import read_model

__all__ = ["ModelGraph", "Step", "Tensor", "read_model"]
