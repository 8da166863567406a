"""The metrics that a run can name, and the cheap ones as a function of an architecture.

| metric | is | origin |
|---|---|---|
| `top1` | share of the search split that is named rightly | supernet |
| `top1_int8` | the same in int8, as TFLite computes it | simulated |
| `robustness` | mean top-1 under noise, blur, brightness, contrast, pixelation | supernet |
| `agreement` | share named as the supernet's largest network does, without labels | supernet |
| `latency_ms` | time of one image on a device | predicted, extrapolated, ... |
| `size_bytes` | size of the file in the device's format | computed |
| `peak_memory_bytes` | activations as planned; all of TFLite-Micro's arena | estimated, computed |
| `energy_mj` | of one image, where the device's table states its mean power | as the latency |
| `macs`, `params` | multiply-accumulates, parameters as deployed | computed |
| `least_load`, `mean_load` | share of the devices' bounds (`edgenas.fleet`) | computed |

Those between `agreement` and `macs` belong to a device: with several devices they are written
`latency_ms@DEVICE`, and the bare name is refused. Loads are no objectives to write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgenas.errors import SpecError
from edgenas.hardware import DeviceProfile
from edgenas.objectives import Objective
from edgenas.pareto import Metric
from edgenas.spaces import Architecture, Lowering, SearchSpace
from edgenas.targets import plans_ram, ram_bytes_of

if TYPE_CHECKING:
    from edgenas.latency import LatencyTable, Predictor

COSTLY = ("top1", "top1_int8", "robustness", "agreement")
OF_NETWORK = ("macs", "params")
OF_DEVICE = ("latency_ms", "size_bytes", "peak_memory_bytes", "energy_mj")
OF_TARGET = ("size_bytes", "peak_memory_bytes")


def metric_names(devices: Sequence[str], targets: Sequence[str] = ()) -> tuple[str, ...]:
    """The names that objectives may use when these devices are searched for.

    Of further `targets`, which have no latency table, there is what needs none.
    """
    more = [f"{m}@{t}" for m in OF_TARGET for t in targets if t not in devices]
    if len(devices) == 1:
        return (*COSTLY, *OF_DEVICE, *more, *OF_NETWORK)
    qualified = [f"{metric}@{device}" for metric in OF_DEVICE for device in devices]
    return (*COSTLY, *qualified, *more, *OF_NETWORK)


def check_meaning(objectives: Sequence[Objective]) -> None:
    """Refuses what can only be a slip: shares above 1, costs of 0 or less, and worse sought.

    Raises:
        SpecError: with what was probably meant.
    """
    for objective in objectives:
        share, bound = objective.metric in COSTLY, objective.bound
        good = "max" if share else "min"
        if objective.direction not in (None, good):
            raise SpecError(
                f"objective '{objective}': {'less' if share else 'more'} {objective.metric} is not "
                "better",
                hint=f"write '{good} {objective.name}', or a bound alone",
            )
        if bound is None:
            continue
        if share and not 0 <= bound <= 1:
            meant = f"; {bound:g} % is {bound / 100:g}" if 1 < bound <= 100 else ""
            raise SpecError(
                f"objective '{objective}': {objective.metric} lies between 0 and 1",
                hint=f"write a share of the images{meant}",
            )
        if not share and objective.relation == "<=" and bound <= 0:
            raise SpecError(
                f"objective '{objective}': no network has {objective.metric} of 0 or less",
                hint=f"write a positive bound, '{objective.name} <= NUMBER'",
            )


def costly_metrics(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """Those that a search for these objectives evaluates: what they name, and always `top1`."""
    named = {objective.metric for objective in objectives}
    return tuple(name for name in COSTLY if name == "top1" or name in named)


def at_device(metric: str, device: DeviceProfile, devices: Sequence[DeviceProfile]) -> str:
    """What `metric` of `device` is called in a search for `devices`."""
    return metric if len(devices) == 1 else f"{metric}@{device.name}"


@dataclass(frozen=True)
class CheapMetrics:
    """All metrics that are closed functions of the lowering; callable with an architecture."""

    space: SearchSpace
    devices: tuple[DeviceProfile, ...]
    predictors: Mapping[str, Predictor]
    names: frozenset[str] | None = None
    """Those that a call gives, beside `macs` and `params`; None: all. A search asks for thousands
    of architectures, and planning the memory of each takes longer than all else."""
    targets: tuple[DeviceProfile, ...] = ()
    """More devices, whose size and memory are told but no latency."""
    derived: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    """Further metrics, as a function of the others."""

    def __call__(self, arch: Architecture) -> dict[str, float]:
        """The values by name."""
        return {name: metric.value for name, metric in self._found(arch, self.names).items()}

    def explain(self, arch: Architecture) -> dict[str, Metric]:
        """All values with interval and origin."""
        return self._found(arch, None)

    def _found(self, arch: Architecture, names: frozenset[str] | None) -> dict[str, Metric]:
        lowering = self.space.lower(arch)
        metrics = {
            "macs": Metric(float(lowering.macs), "computed"),
            "params": Metric(float(lowering.params), "computed"),
        }
        for device in self.devices:
            wanted = {
                m for m in OF_DEVICE if names is None or at_device(m, device, self.devices) in names
            }
            found = self._on(device, lowering, wanted)
            metrics |= {at_device(k, device, self.devices): v for k, v in found.items()}
        for target in self.targets:
            wanted = {m for m in OF_TARGET if names is None or f"{m}@{target.name}" in names}
            found = self._on(target, lowering, wanted)
            metrics |= {f"{k}@{target.name}": v for k, v in found.items()}
        return self.completed(metrics)

    def completed(self, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
        """The metrics with those derived from them, anew where they are there."""
        if self.derived is None:
            return dict(metrics)
        values = self.derived({name: metric.value for name, metric in metrics.items()})
        return {**metrics, **{name: Metric(v, "computed") for name, v in values.items()}}

    def _on(self, device: DeviceProfile, lowering: Lowering, wanted: set[str]) -> dict[str, Metric]:
        from edgenas.latency import energy_mj
        from edgenas.spaces.size import size_bytes

        predictor = self.predictors.get(device.name)
        metrics = {}
        if predictor is not None and not wanted.isdisjoint(("latency_ms", "energy_mj")):
            rough = predictor.table.rough
            found = predictor.predict(lowering)
            times = found.latency_ms, found.low_ms, found.high_ms
            metrics["latency_ms"] = Metric(times[0], found.origin, *times[1:], rough=rough)
            middle, low, high = (energy_mj(predictor.table, ms) for ms in times)
            if middle is not None:
                metrics["energy_mj"] = Metric(middle, found.origin, low, high, rough=rough)
        if "size_bytes" in wanted:
            size = float(size_bytes(lowering, device.format))
            metrics["size_bytes"] = Metric(size, "computed")
        if "peak_memory_bytes" in wanted:
            metrics["peak_memory_bytes"] = _peak_memory(device, predictor, lowering)
        return metrics


def check_energy(objectives: Sequence[Objective], tables: Mapping[str, LatencyTable]) -> None:
    """Refuses an objective on the energy of a device whose table says nothing of it.

    Raises:
        SpecError: with the devices whose tables do.
    """
    from edgenas.latency import energy_mj

    for objective in objectives:
        if objective.metric != "energy_mj":
            continue
        name = objective.device or next(iter(tables))
        if energy_mj(tables[name], 1.0) is None:
            raise SpecError(
                f"objective '{objective}': the table of {name} states no power and no energy",
                hint="edgenas devices list: microcontrollers measured by MLPerf Tiny have it",
            )


def _peak_memory(device: DeviceProfile, predictor: Predictor | None, lowering: Lowering) -> Metric:
    """As the table tells it, else as planned: where only a compiler knows, an extrapolation."""
    known = None if predictor is None else predictor.memory(lowering)
    if predictor is not None and known is not None:
        return Metric(known.sram_bytes, predictor.table.source)
    origin = "computed" if plans_ram(device) else "extrapolated"
    return Metric(float(ram_bytes_of(lowering, device)), origin)
