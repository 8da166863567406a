"""FastNAS of NVIDIA's Model Optimizer: a network is trained, pruned by its channels, trained again.

    python tools/comparison/search_fastnas.py --run RUN.toml --out FOLDER --minutes 60

Runs in an environment of its own (`tools/comparison/elsewhere.py`). Half of the CPU-minutes go into
training the network, the rest into the search and into training what it leaves, which begins with
the weights that it has. Writes `result.json` and `weights.safetensors`. A search that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgenas.artifacts import derive_seed, read_json, write_json
from edgenas.data import DataSet, Images, prepare
from edgenas.evaluation import top1
from edgenas.export.jobs import read_lowering, write_lowering
from edgenas.networks import Network, build, fold
from edgenas.pipeline import read_config
from edgenas.pipeline.training import read_data
from edgenas.spaces import Lowering, Node, OpSpec
from edgenas.supernet import Recipe, load_weights, recalibrate, save_weights
from edgenas.supernet.training import Training
from tools.comparison.alone import Alone
from tools.comparison.baselines import baselines
from tools.comparison.elsewhere import RESULT, SCHEMA

PLAN = "edgenas.bench-frontier-fastnas/1"
DIVISOR = 8
"""Of channel numbers; its default of 32 leaves nothing to choose in networks as small as these."""
TIMED = 50
"""Steps, to know how many have room."""


class _OneInput(nn.Module):
    """The network with one named input, as tracing wants it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images)
        return found


def rebuilt(lowering: Lowering, network: Network) -> Lowering:
    """The lowering, all primitives, with the channels that the weights of `network` have."""
    nodes: list[Node] = []
    for node, unit in zip(lowering.nodes, network.units, strict=True):
        first = node.inputs[0]
        c = lowering.in_chw[0] if first < 0 else nodes[first].op.out_chw[0]
        values = dict(node.op.integers)
        module: Any = unit[0]  # a list of one primitive
        weight = getattr(getattr(module, "conv", module), "weight", None)
        if "c" in values:
            values["c"] = c
        elif weight is not None:
            values |= {"cin": c, "cout": int(weight.shape[0])}
            if values.get("g", 1) > 1:
                values["g"] = c
        nodes.append(
            Node(OpSpec.of(node.op.kind, act=node.op.act, **values), node.inputs, node.name)
        )
    return Lowering(lowering.in_chw, tuple(nodes))


@dataclass(frozen=True, slots=True)
class Kept:
    """What is left of a network after pruning, and what it took to come there."""

    lowering: Lowering
    network: Network
    top1_before: float
    n_steps: int
    cpu_minutes: float


def trained(
    network: Network, data: DataSet, recipe: Recipe, folder: Path, *, minutes: float, seed: int
) -> tuple[Network, int, float]:
    """The network after so many CPU-minutes, at most the recipe's epochs; its steps, CPU-minutes.

    How many steps have room is timed once, and kept in `folder` with the checkpoints.
    """
    network = network.to(memory_format=torch.channels_last).train()

    def training(folder: Path, n_steps: int | None) -> Training:
        learner = Alone(network, data, recipe)
        return Training(learner, data, recipe, folder=folder, seed=seed, n_steps=n_steps)

    plan = folder / "plan.json"
    if not plan.is_file():
        with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
            trial = training(Path(name), None)
            state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
            trial(resume=False, stop_after_steps=3)  # the first ones are slower
            before = trial.cpu_s
            trial(resume=False, stop_after_steps=TIMED)
            network.load_state_dict(state)
        room = int(60 * minutes / ((trial.cpu_s - before) / TIMED))
        write_json(plan, {"schema": PLAN, "n_steps": max(1, min(trial.n_steps, room))})
    whole = training(folder, int(read_json(plan, schema=PLAN)["n_steps"]))
    whole(resume=True)
    images = data.train.drawn(2048, seed=seed)
    batches = [_prepared(network, data, part) for part in _parts(images)]
    return recalibrate(network, batches), whole.n_steps, whole.cpu_s / 60


def searched(
    whole: Lowering, data: DataSet, recipe: Recipe, arguments: argparse.Namespace, *, seed: int
) -> Kept:
    """Trains for half of the time and prunes, unless that is done already."""
    path, weights = arguments.out / "pruned.json", arguments.out / "pruned.safetensors"
    if path.is_file():
        done = read_json(path, schema=PLAN)
        lowering = read_lowering(done["lowering"])
        network = load_weights(weights, build(lowering), sha256=done["sha256"])
        return Kept(lowering, network, done["top1"], done["n_steps"], done["cpu_minutes"])
    torch.manual_seed(seed)
    network, n_steps, minutes = trained(
        build(whole),
        data,
        recipe,
        arguments.out / "first",
        minutes=arguments.minutes / 2,
        seed=seed,
    )
    started = time.process_time()
    before = top1(fold(network)(_prepared(network, data, data.search)), data.search.labels)
    kept = pruned(
        network,
        data,
        flops=arguments.flops,
        n_scored=arguments.scored,
        checkpoint=arguments.out / "search.pth",
    )
    lowering = rebuilt(whole, kept)
    network = build(lowering)
    network.load_state_dict(kept.state_dict())
    minutes += (time.process_time() - started) / 60
    write_json(
        path,
        {
            "schema": PLAN,
            "lowering": write_lowering(lowering),
            "sha256": save_weights(weights, network),
            "top1": before,
            "n_steps": n_steps,
            "cpu_minutes": minutes,
        },
    )
    return Kept(lowering, network, before, n_steps, minutes)


def pruned(
    network: Network, data: DataSet, *, flops: str, n_scored: int, checkpoint: Path
) -> Network:
    """What FastNAS leaves of the network; it asks `n_scored` images of the search split."""
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune.fastnas import _get_fastnas_default_rules

    rules = _get_fastnas_default_rules()
    for rule in rules.values():
        rule |= {key: DIVISOR for key in rule if key.endswith("_divisor")}
    images = data.search.drawn(n_scored, seed=0)
    batches = [_prepared(network, data, part) for part in _parts(images)]

    def score(model: nn.Module) -> float:
        with torch.inference_mode():
            return top1(torch.cat([model(batch) for batch in batches]), images.labels)

    plain = build(network.lowering)  # FastNAS takes no weights in channels_last
    plain.load_state_dict(network.state_dict())
    found, _ = mtp.prune(
        _OneInput(plain).eval(),
        mode=[("fastnas", {kind: {"*": rule} for kind, rule in rules.items()})],
        constraints={"flops": flops},
        dummy_input=torch.zeros(1, *network.lowering.in_chw),
        config={
            "data_loader": [(batch,) for batch in batches],
            "score_func": score,
            "checkpoint": str(checkpoint),
        },
    )
    kept: Network = found.network
    return kept


def _parts(images: Images) -> list[Images]:
    return [images.take(part) for part in torch.arange(len(images)).split(256)]


def _prepared(network: Network, data: DataSet, images: Images) -> torch.Tensor:
    size = network.lowering.in_chw[1]
    return prepare(images.pixels, resolution=size, mean=data.mean, std=data.std)


def main() -> None:
    """Trains, prunes, trains, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="run file that names the images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="CPU time for all of it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--network", default="mobilenet-v2-0.5-coarse")
    parser.add_argument("--flops", default="50%")
    parser.add_argument("--scored", type=int, default=1000, help="images for each choice")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = read_config(arguments.run)
    data, seed = read_data(config), derive_seed(arguments.seed, "fastnas")
    size = max(data.image_size, 28)
    whole = baselines(size, data.channels, len(data.classes))[
        arguments.network
    ].lowering.primitive()
    recipe = Recipe(epochs=1000, peak_lr=0.1, mirror=data.mirror)
    kept = searched(whole, data, recipe, arguments, seed=seed)
    smaller, n_steps, minutes = trained(
        kept.network,
        data,
        replace(recipe, peak_lr=recipe.peak_lr / 5),
        arguments.out / "second",
        minutes=arguments.minutes - kept.cpu_minutes,
        seed=seed + 1,
    )
    folded = fold(smaller)
    write_json(
        arguments.out / RESULT,
        {
            "schema": SCHEMA,
            "name": f"fastnas {arguments.network} {arguments.flops}",
            "family": "FastNAS",
            "lowering": write_lowering(kept.lowering),
            "weights_sha256": save_weights(arguments.out / "weights.safetensors", folded),
            "macs_before": whole.macs,
            "top1_search_before": kept.top1_before,
            "images_seen": (kept.n_steps + n_steps) * recipe.batch,
            "cpu_minutes": kept.cpu_minutes + minutes,
            "threads": arguments.threads,
            "versions": {name: version(name) for name in ("torch", "nvidia-modelopt")},
        },
    )


if __name__ == "__main__":
    main()
