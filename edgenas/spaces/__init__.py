"""Search spaces: architectures, operators, and the lowering from one to the other."""

from edgenas.spaces.architecture import Architecture, Choice
from edgenas.spaces.ops import KEY_VERSION, Lowering, Node, OpSpec, Shape, chain, conv
from edgenas.spaces.space import Choices, Place, SearchSpace, descriptors

__all__ = [
    "KEY_VERSION",
    "Architecture",
    "Choice",
    "Choices",
    "Lowering",
    "Node",
    "OpSpec",
    "Place",
    "SearchSpace",
    "Shape",
    "chain",
    "conv",
    "descriptors",
]
