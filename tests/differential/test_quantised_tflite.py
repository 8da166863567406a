"""The int8 simulation and LiteRT on the exported file are the same function, all but rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas import networks
from edgenas.evaluation import QuantisedNetwork
from edgenas.export.contract import InputContract
from edgenas.export.jobs import run_tflite
from edgenas.export.models import tflite_jobs
from edgenas.export.runners import open_model
from edgenas.networks import Network
from edgenas.testing.fakes import tiny_space

# the space, and how much of int8's own error the simulation may be off by: LiteRT approximates a
# hard swish in 16-bit fixed point, to about half a step
CASES = {
    "relu6": (replace(tiny_space(), squeeze_excite=True), 0.05),
    "hswish": (replace(tiny_space(), activation="hswish"), 0.6),
}


def images(network: Network, n: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *network.lowering.in_chw, generator=generator)


@pytest.mark.slow
def test_logits_are_those_of_the_exported_file(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs the extra edgenas[tflite]")
    contract = InputContract(
        (1, 8, 8, 1), (0.5,), (0.5,), tuple("0123456789"), "bilinear-antialias"
    )
    items, folders = {}, {}
    for name, (space, _) in CASES.items():
        network = networks.random_network(space.lower(space.largest()), seed=4)
        calibration = images(network, 32, seed=0).permute(0, 2, 3, 1).numpy()
        items[name] = network, calibration, contract, {}
        folders[name] = tmp_path / name
        folders[name].mkdir()
    with tflite_jobs(items, ["tflite-int8"], folders) as jobs:
        assert run_tflite(jobs) == {}
    for name, (network, *_) in items.items():
        simulated = QuantisedNetwork(network, images(network, 32, seed=0).split(10))
        asked = images(network, 400, seed=1)
        with torch.inference_mode():
            found = simulated(asked).numpy()
            reference = network(asked).numpy()
        file = folders[name] / "model.int8.tflite"
        expected = open_model(file).run(asked.permute(0, 2, 3, 1).numpy())
        off = np.abs(found - expected).mean()
        lost = np.abs(reference - expected).mean()
        assert 0 < off < CASES[name][1] * lost, name
        assert np.abs(found - expected).max() < 5.5 * simulated.ranges[-1].scale, name
