"""A network of a run as its files have it: weights, images, contract, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgenas.pipeline.evaluating import evaluator
from edgenas.pipeline.final_weights import final_network, final_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgenas.data import DataSet, Images
    from edgenas.export.certificate import DataStatement
    from edgenas.export.contract import InputContract
    from edgenas.hardware import DeviceProfile
    from edgenas.networks import Network
    from edgenas.pipeline.opening import Opened
    from edgenas.spaces import Architecture

    FloatArray = npt.NDArray[np.float32]


def extract(run: Opened, arch: Architecture) -> Network:
    """The plain network of `arch` with its final weights.

    Where it has none, with inherited ones, BatchNorm recalibrated.

    Raises:
        ArtifactError: the final weights are damaged.
    """
    network = final_network(run, arch)
    if network is not None:
        return network
    return evaluator(run.supernet, run.data, run.config).network(arch).cpu()


def network_images(
    data: DataSet, images: Images, resolution: int
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Normalised (n, h, w, c) images and their labels, as exported files take them."""
    import numpy as np

    from edgenas.data import prepare

    prepared = prepare(images.pixels, resolution=resolution, mean=data.mean, std=data.std)
    pixels = np.ascontiguousarray(prepared.permute(0, 2, 3, 1).numpy())
    return pixels, images.labels.numpy()


def contract_of(run: Opened, arch: Architecture) -> InputContract:
    """What a float file of the network takes and answers."""
    from edgenas.data import RESIZE
    from edgenas.export.contract import InputContract

    resolution = run.supernet.space.resolution(arch)
    return InputContract(
        shape=(1, resolution, resolution, run.data.channels),
        mean=run.data.mean,
        std=run.data.std,
        classes=run.data.classes,
        resize=RESIZE,
    )


def statement_of(run: Opened) -> DataStatement:
    """The images that the run's networks were trained, chosen and verified on."""
    from edgenas.data import licence_of
    from edgenas.export.certificate import DataStatement

    data, source = run.data, run.config.data
    return DataStatement(
        name=data.name,
        digest=data.digest,
        seed=run.config.seed,
        image_size=data.image_size,
        channels=data.channels,
        images={split: len(part) for split, part in data.splits.items()},
        licence=source.licence or licence_of(source.source),
    )


def parents_of(run: Opened, arch: Architecture) -> dict[str, str]:
    """The digests that the files of a network rest on. Tables only say which network is chosen."""
    found = final_weights(run, arch)
    name = None if found is None else found.digest
    return run.rests_on if name is None else {**run.rests_on, "weights": name}


def outcome_of_training(run: Opened, arch: Architecture) -> str:
    """What came of the network's final training; empty where the run has none."""
    if run.config.final is None:
        return ""
    if (found := final_weights(run, arch)) is None:
        return "inherited weights: it was not chosen for final training"
    return found.told


def asked_targets(run: Opened, fleet: Mapping[str, str], digest: str) -> tuple[DeviceProfile, ...]:
    """The targets whose word on a network counts: of a fleet not those that run another one."""
    if digest not in fleet.values():
        return run.targets
    return tuple(device for device in run.targets if fleet.get(device.name, digest) == digest)
