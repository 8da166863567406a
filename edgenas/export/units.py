"""Moved to `edgenas.networks`."""

from edgenas.networks import Network, build, fold, random_network, unit_network

__all__ = ["Network", "build", "fold", "random_network", "unit_network"]
