"""The metrics that a run can name, and the cheap ones as a function of an architecture.

| metric | is | origin |
|---|---|---|
| `top1` | share of the search split that is named rightly | supernet |
| `latency_ms` | time of one image on a device | predicted, extrapolated, ... |
| `size_bytes` | size of the file in the device's format | computed |
| `peak_memory_bytes` | largest sum of live activations in the device's precision | computed |
| `macs`, `params` | multiply-accumulates, parameters as deployed | computed |

The first three of the cheap ones belong to a device: with several devices they are written
`latency_ms@DEVICE`, and the bare name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgenas.hardware import DeviceProfile
from edgenas.pareto import Metric
from edgenas.spaces import Architecture, Lowering, SearchSpace

if TYPE_CHECKING:
    from edgenas.latency import Predictor

COSTLY = ("top1",)
OF_NETWORK = ("macs", "params")
OF_DEVICE = ("latency_ms", "size_bytes", "peak_memory_bytes")


def metric_names(devices: Sequence[str]) -> tuple[str, ...]:
    """The names that objectives may use when these devices are searched for."""
    if len(devices) == 1:
        return (*COSTLY, *OF_DEVICE, *OF_NETWORK)
    qualified = [f"{metric}@{device}" for metric in OF_DEVICE for device in devices]
    return (*COSTLY, *qualified, *OF_NETWORK)


@dataclass(frozen=True)
class CheapMetrics:
    """All metrics that are closed functions of the lowering; callable with an architecture."""

    space: SearchSpace
    devices: tuple[DeviceProfile, ...]
    predictors: Mapping[str, Predictor]

    def __call__(self, arch: Architecture) -> dict[str, float]:
        """The values by name."""
        return {name: metric.value for name, metric in self.explain(arch).items()}

    def explain(self, arch: Architecture) -> dict[str, Metric]:
        """The values with interval and origin."""
        lowering = self.space.lower(arch)
        metrics = {
            "macs": Metric(float(lowering.macs), "computed"),
            "params": Metric(float(lowering.params), "computed"),
        }
        for device in self.devices:
            at = "" if len(self.devices) == 1 else f"@{device.name}"
            metrics |= {f"{k}{at}": v for k, v in self._on(device, lowering).items()}
        return metrics

    def _on(self, device: DeviceProfile, lowering: Lowering) -> dict[str, Metric]:
        from edgenas.spaces.size import size_bytes

        predicted = self.predictors[device.name].predict(lowering)
        element = 1 if device.precision == "int8" else 4
        peak = lowering.peak_memory_bytes(bytes_per_element=element)
        return {
            "latency_ms": Metric(
                predicted.latency_ms, predicted.origin, predicted.low_ms, predicted.high_ms
            ),
            "size_bytes": Metric(float(size_bytes(lowering, device.format)), "computed"),
            "peak_memory_bytes": Metric(float(peak), "computed"),
        }
