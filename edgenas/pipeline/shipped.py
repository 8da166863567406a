"""What comes with edgenas beside code: supernets, and the models that calibrate a latency table."""

from __future__ import annotations

import os
from pathlib import Path

from edgenas.errors import UsageError, nearest

FOLDER = Path(__file__).resolve().parents[1] / "shipped"
DEFAULT_SET = "fashion-mnist"


def supernets() -> dict[str, Path]:
    """Checkpoints of the shipped supernets by data set."""
    found = sorted((FOLDER / "supernets").glob("*/supernet.safetensors"))
    return {path.parent.name: path for path in found}


def supernet_path(data_set: str) -> Path:
    """The checkpoint shipped for `data_set`.

    Raises:
        UsageError: there is none; those that there are are named.
    """
    known = supernets()
    if data_set not in known:
        raise UsageError(
            f"no supernet is shipped for {data_set!r}; {nearest(data_set, known)}",
            hint="leave [supernet] checkpoint out: one is trained first",
        )
    return known[data_set]


def fashion_mnist_folder() -> Path | None:
    """Where all files of Fashion-MNIST lie on this machine; None where they do not.

    The same places as `edgenas.data`, without loading torch.
    """
    from platformdirs import user_data_path

    names = [
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    if named := os.environ.get("EDGENAS_DATA"):
        candidates = [Path(named), Path(named) / DEFAULT_SET]
    else:
        candidates = [
            Path("/usr/share/datasets/fashion-mnist"),
            user_data_path("edgenas") / "datasets" / DEFAULT_SET,
        ]
    for folder in candidates:
        if all((folder / name).is_file() for name in names):
            return folder
    return None
