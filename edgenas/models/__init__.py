"""Model files of any origin, read as graphs of operators that tables and cost models know."""

from edgenas.models.blocks import in_blocks, sums_in_convolutions
from edgenas.models.graph import ModelGraph, Step, Tensor
from edgenas.models.memory import least_bytes, micro_arena, planned_bytes, tflite_graph
from edgenas.models.read import SUFFIXES, known_operators, micro_arena_of_file, read_model

__all__ = [
    "SUFFIXES",
    "ModelGraph",
    "Step",
    "Tensor",
    "in_blocks",
    "known_operators",
    "least_bytes",
    "micro_arena",
    "micro_arena_of_file",
    "planned_bytes",
    "read_model",
    "sums_in_convolutions",
    "tflite_graph",
]
