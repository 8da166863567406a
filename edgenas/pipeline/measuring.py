"""Measuring workers of a search: architectures timed on a device while trials go on elsewhere.

Each device has a worker of its own (`helper`). What it times are networks of the architectures
with random weights in the device's format: latency does not depend on weights. A device elsewhere
is timed while trials run; this machine only while none does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.errors import DeviceError, ExportError, MeasurementError
from edgenas.events import Report
from edgenas.hardware import LOCAL, DeviceProfile, held, place_of
from edgenas.pareto import Metric, ParetoFront
from edgenas.pipeline.metrics import at_device
from edgenas.pipeline.runs import SESSIONS
from edgenas.pipeline.tables import check_here, converter_for

if TYPE_CHECKING:
    from edgenas.pipeline.opening import Opened
    from edgenas.search import Instrument
    from edgenas.search.measuring import Outcomes
    from edgenas.spaces import Architecture, Lowering

BUDGET_S = 120.0
"""For the rounds of one session."""


@dataclass(frozen=True)
class Measuring:
    """Which devices of a search are measured; `notes` says why the others are not."""

    metrics: Mapping[str, DeviceProfile]
    """The latency of each device by the metric's name."""
    notes: tuple[str, ...] = ()

    @classmethod
    def on(cls, devices: Sequence[DeviceProfile]) -> Measuring:
        """All devices that can be measured.

        Raises:
            DeviceError: none can.
        """
        metrics, refused = {}, []
        for device in devices:
            try:
                _check(device)
                metrics[at_device("latency_ms", device, devices)] = device
            except DeviceError as error:
                refused.append(error)
        if not metrics:
            raise DeviceError(f"measuring: {'; '.join(map(str, refused))}", hint=refused[0].hint)
        return cls(metrics, tuple(f"not measured: {error}" for error in refused))

    def judged(
        self, front: ParetoFront, told: Mapping[str, str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What of the front was not measured: notes, and a failure for a device where nothing was.

        `told` is what the worker of each metric said last.
        """
        notes, failures = list(self.notes), []
        for metric, device in self.metrics.items():
            n = sum(c.metrics[metric].origin == "measured" for c in front.candidates)
            if n == 0:
                why = told.get(metric) or "the measuring worker did not come to it"
                failures.append(
                    f"nothing was measured on {device.name}, its latencies are predicted: {why}; "
                    "once it is mended, --resume --measure goes on"
                )
            elif n < len(front):
                notes.append(
                    f"{n} of {len(front)} networks of the front are measured on {device.name}, the "
                    "others' latency is predicted; --resume --measure goes on"
                )
        return tuple(notes), tuple(failures)


def can_be_measured(device: DeviceProfile) -> bool:
    """Whether networks can be timed on the device, if it is reached."""
    try:
        _check(device)
    except DeviceError:
        return False
    return True


def _check(device: DeviceProfile) -> None:
    """Refuses a device that no measurement can be made on."""
    if device.why_unmeasured:
        raise DeviceError(
            f"{device.name} cannot be measured: {device.why_unmeasured}",
            hint="do without a measurement: its table predicts, edgenas predict tells",
        )
    check_here(device)


def instrument_for(run: Opened, device: DeviceProfile) -> Instrument:
    """What measures the latency of architectures on `device`, a session at a time."""
    from edgenas.search import Instrument

    def prepare(archs: Sequence[Architecture], report: Report) -> Callable[[], Outcomes]:
        with held(LOCAL, report=report):  # converting would disturb who times on this machine
            lowerings = {arch: run.supernet.space.lower(arch) for arch in archs}
            files, failed = _converted(lowerings, device)
        workdir = run.folder / SESSIONS / f"{device.name}-networks"
        return lambda: {**failed, **_timed(files, device, workdir, seed=run.config.seed)}

    return Instrument(
        metric=at_device("latency_ms", device, run.devices),
        place=place_of(device.connection),
        held=lambda report: held(device.connection, report=report),
        quiet=device.connection == LOCAL,
        prepare=prepare,
    )


def _converted(
    lowerings: Mapping[Architecture, Lowering], device: DeviceProfile
) -> tuple[dict[Architecture, Path], dict[Architecture, str]]:
    """The network files, and why others cannot be written.

    Raises:
        ExportError: none can.
    """
    convert = converter_for(device).networks
    by_name = {arch.digest: arch for arch in lowerings}
    named = {name: lowerings[arch] for name, arch in by_name.items()}
    try:
        return {by_name[name]: path for name, path in convert(named).items()}, {}
    except ExportError as error:
        if len(named) == 1:
            raise
        last = error
    files: dict[Architecture, Path] = {}
    failed: dict[Architecture, str] = {}
    for name, lowering in named.items():  # which of them was it
        try:
            files[by_name[name]] = convert({name: lowering})[name]
        except ExportError as error:
            failed[by_name[name]], last = str(error), error
    if not files:
        raise last
    return files, failed


def _timed(
    files: Mapping[Architecture, Path], device: DeviceProfile, workdir: Path, *, seed: int
) -> dict[Architecture, Metric | str]:
    """The latency of each file in one session, without those that others disturbed.

    Raises:
        DeviceError: the device cannot be reached, or all were disturbed.
    """
    from edgenas.profiling.session import measure
    from edgenas.profiling.settings import QUICK

    found = measure(
        {arch.digest: path for arch, path in files.items()},
        device,
        workdir=workdir,
        settings=replace(QUICK, budget_s=BUDGET_S),
        seed=seed,
        resume=False,
    )
    told: dict[Architecture, Metric | str] = {}
    for arch in files:
        if (why := found.failed.get(arch.digest)) is not None:
            told[arch] = why
            continue
        timing = found.timings.get(arch.digest)
        if timing is not None and not timing.disturbed:
            told[arch] = timing.metric
    if not told:
        raise MeasurementError(f"{device.name}: other programs disturb the timing")
    return told
