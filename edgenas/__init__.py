"""edgenas: hardware-aware optimisation of neural networks for edge devices.

The Python API is the functions of `edgenas.pipeline`; the command line calls the same ones.
"""

__version__ = "0.1.0"
