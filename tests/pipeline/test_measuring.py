"""Which devices a search measures, what is said of those that are not, and network files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import DeviceError, ExportError
from edgenas.hardware import Connection, load_device
from edgenas.objectives import parse_objectives
from edgenas.pareto import Candidate, Metric, ParetoFront
from edgenas.pipeline import measuring
from edgenas.pipeline.measuring import Measuring
from edgenas.profiling import Converter
from edgenas.spaces import Lowering
from edgenas.testing.fakes import tiny_space

HERE = load_device("local-onnxruntime-fp32-t1")
BOARD = replace(
    HERE, name="board", chip="arm-d0b-dotprod", connection=Connection("ssh", (("host", "b"),))
)
ELSEWHERE = replace(BOARD, name="elsewhere", connection=HERE.connection)


def front(*origins: str) -> ParetoFront:
    archs = [tiny_space().smallest(), tiny_space().largest()]
    return ParetoFront(
        parse_objectives(["max top1", "min latency_ms"]),
        tuple(
            Candidate(
                arch,
                {"top1": Metric(0.1 * i, "supernet"), "latency_ms": Metric(1.0 + i, origin)},
            )
            for i, (arch, origin) in enumerate(zip(archs, origins, strict=True))
        ),
    )


def test_each_device_that_can_be_measured_has_its_metric() -> None:
    assert dict(Measuring.on([BOARD]).metrics) == {"latency_ms": BOARD}
    several = Measuring.on([HERE, BOARD, ELSEWHERE])
    assert set(several.metrics) == {f"latency_ms@{HERE.name}", "latency_ms@board"}
    assert len(several.notes) == 1
    assert "elsewhere is not this machine" in several.notes[0]


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (ELSEWHERE, "is not this machine"),
        (replace(BOARD, batch=8), "single images are timed, not 8"),
        (replace(BOARD, runtime="armnn"), "edgenas does not run armnn fp32"),
    ],
)
def test_no_device_that_can_be_measured_is_an_error(device: object, why: str) -> None:
    with pytest.raises(DeviceError, match=f"measuring: .*{why}") as caught:
        Measuring.on([device])  # type: ignore[list-item]
    assert caught.value.hint


def test_what_was_not_measured_is_a_note_and_nothing_at_all_a_failure() -> None:
    found = Measuring.on([BOARD])
    assert found.judged(front("measured", "measured"), {}) == ((), ())
    notes, failures = found.judged(front("measured", "predicted"), {})
    assert "1 of 2 networks of the front are measured on board" in notes[0]
    assert failures == ()
    notes, failures = found.judged(front("predicted", "predicted"), {"latency_ms": "b is off"})
    assert notes == ()
    assert "nothing was measured on board" in failures[0]
    assert "b is off" in failures[0]


def test_a_network_that_cannot_be_converted_does_not_spoil_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = tiny_space()
    archs = [space.smallest(), space.largest()]
    bad = {space.largest().digest}

    def networks(lowerings: Mapping[str, Lowering]) -> dict[str, Path]:
        if bad.intersection(lowerings):
            raise ExportError("no such operator")
        return {name: Path(name) for name in lowerings}

    monkeypatch.setattr(
        measuring, "converter_for", lambda device: Converter(lambda ops: {}, networks)
    )
    lowerings = {arch: space.lower(arch) for arch in archs}
    files, failed = measuring._converted(lowerings, HERE)
    assert list(files) == [archs[0]]
    assert failed == {archs[1]: "no such operator"}
    bad.add(archs[0].digest)
    with pytest.raises(ExportError):
        measuring._converted(lowerings, HERE)
