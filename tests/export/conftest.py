"""One small network trained on digits and one larger random one, exported once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgenas import networks
from edgenas.export.certificate import Certificate, ExportedModel
from edgenas.export.certified import ExportRequest, export_networks
from edgenas.export.contract import InputContract
from edgenas.export.formats import FORMATS
from edgenas.export.models import torch_logits
from edgenas.export.ready import write_ready
from edgenas.export.verify import Gate, Verification
from edgenas.networks import Network
from edgenas.spaces.mobile import MobileSpace, Stage

TINY = MobileSpace(
    resolutions=(16,),
    stages=(
        Stage(2, widths=(16,), depths=(2,), kernels=(3,), expands=(2,), kinds=("fused",)),
        Stage(2, widths=(24,), depths=(2,), kernels=(5,), expands=(3,)),
    ),
    stem_width=8,
    head_width=64,
    in_channels=1,
    stem_stride=1,
)

WIDE = MobileSpace(
    resolutions=(16,),
    stages=(Stage(2, widths=(160,), depths=(1,), kernels=(3,), expands=(4,)),),
    stem_width=128,
    head_width=768,
    in_channels=1,
)


@dataclass(frozen=True)
class Digits:
    """Normalised 16x16 digits: 1197 to train and calibrate, 600 to verify."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class Exported:
    """A network, its folder of files, and what was asked for."""

    request: ExportRequest
    certificate: Certificate

    @property
    def folder(self) -> Path:
        return self.request.folder

    @property
    def reference(self) -> np.ndarray:
        return torch_logits(self.request.network, self.request.images)


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    size = TINY.resolutions[0]
    large = torch.nn.functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    images = ((large - 0.3) / 0.37).permute(0, 2, 3, 1).contiguous().numpy()
    labels = data.target.astype(np.int64)
    return Digits(images[:1197], labels[:1197], images[1197:], labels[1197:])


@pytest.fixture(scope="session")
def contract() -> InputContract:
    return InputContract(
        shape=(1, 16, 16, 1),
        mean=(0.3,),
        std=(0.37,),
        classes=tuple(f"digit {i}" for i in range(10)),
        resize="bilinear-antialias",
    )


@pytest.fixture(scope="session")
def trained(digits: Digits) -> Network:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.build(TINY.lower(TINY.largest()))
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(digits.train).permute(0, 3, 1, 2)
    labels = torch.from_numpy(digits.train_labels)
    network.train()
    for _ in range(4):
        for batch in torch.randperm(len(labels), generator=generator).split(64):
            loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()


@pytest.fixture(scope="session")
def request_for(
    digits: Digits, contract: InputContract, trained: Network
) -> Callable[[Path], ExportRequest]:
    def request(folder: Path) -> ExportRequest:
        arch = TINY.largest()
        return ExportRequest(
            network=trained,
            folder=folder,
            architecture=str(arch),
            digest=arch.digest,
            contract=contract,
            calibration=digits.train[:128],
            images=np.concatenate([digits.test, digits.train]),
            labels=np.concatenate([digits.test_labels, digits.train_labels]),
            parents={"supernet": "0123456789ab", "data": "ba9876543210"},
        )

    return request


@pytest.fixture(scope="session")
def _both(
    request_for: Callable[[Path], ExportRequest],
    contract: InputContract,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Exported, Exported]:
    pytest.importorskip("litert_torch", reason="needs the extra edgenas[tflite]")
    folder = tmp_path_factory.mktemp("models")
    arch = WIDE.largest()
    lowering = WIDE.lower(arch)
    noise = np.random.default_rng(0).standard_normal((24, 16, 16, 1), dtype=np.float32)
    network = networks.random_network(lowering, seed=0)
    large = ExportRequest(
        network=network,
        folder=folder / "large",
        architecture=str(arch),
        digest=arch.digest,
        contract=contract,
        calibration=noise,
        images=noise,
        labels=torch_logits(network, noise).argmax(1),
    )
    requests = [request_for(folder / "digits"), large]
    certificates = export_networks(requests, formats=FORMATS)
    first, second = (Exported(*pair) for pair in zip(requests, certificates, strict=True))
    return first, second


@pytest.fixture(scope="session")
def exported(_both: tuple[Exported, Exported]) -> Exported:
    """The network trained on digits."""
    return _both[0]


@pytest.fixture(scope="session")
def large(_both: tuple[Exported, Exported]) -> Exported:
    """A random network whose int8 constants exceed 256 KB."""
    return _both[1]


@pytest.fixture
def script_beside(tmp_path: Path) -> Callable[[InputContract], dict[str, Any]]:
    """Writes what lies ready beside a float TFLite file that takes such images into `tmp_path`.

    What it returns are the names that `infer.py` there defines.
    """

    def write(contract: InputContract) -> dict[str, Any]:
        model = ExportedModel(
            path="model.tflite",
            format="tflite",
            precision="fp32",
            sha256="0" * 64,
            size_bytes=1,
            input=contract,
            verification=Verification(600, 0.9, 0.9, 0.0, 0, 0, 1.0, 0, 0, 0, 3.0, 1.0),
            gates=(Gate("fp32", "passed", "fine"),),
        )
        certificate = Certificate("mobile/1 r=24", "0123456789ab", 1000, 100, (model,))
        write_ready(tmp_path, certificate, image_size=contract.shape[1])
        names: dict[str, Any] = {"__name__": "infer"}
        exec(compile((tmp_path / "infer.py").read_text("utf-8"), "infer.py", "exec"), names)
        return names

    return write
