"""From units to a checked table, on a device whose times are known."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.errors import ArtifactError, MeasurementError, SpecError
from edgenas.events import NOTICE, Event
from edgenas.hardware import load_device
from edgenas.latency import Entry, Predictor, read_table, write_table
from edgenas.latency.adapt import Adaptation
from edgenas.profiling import (
    QUICK,
    Converter,
    Run,
    adapt_device,
    calibrate_device,
    calibration_networks,
    compare_granularities,
    profile_device,
    spread_architectures,
    validate_table,
)
from edgenas.profiling.session import OtherVersionError
from edgenas.spaces import Lowering, OpSpec, conv
from edgenas.spaces.mobile import MobileSpace, Stage

DEVICE = load_device("local-litert-fp32-t1")
SPACE = MobileSpace(
    resolutions=(12, 16),
    stem_width=8,
    stem_stride=1,
    head_width=32,
    in_channels=1,
    stages=(
        Stage(2, widths=(8, 16), depths=(1, 2, 3, 4), kernels=(3, 5), expands=(2, 3)),
        Stage(2, widths=(24,), depths=(1, 2), kernels=(3,), expands=(2, 4)),
    ),
)
SCALE, CONSTANT = 0.9, -0.004


def unit_ms(op: OpSpec) -> float:
    noise = zlib.crc32(op.key.encode()) % 1000 / 5000  # no function of MACs alone
    return 0.01 + op.macs * 2e-6 * (1 + noise)


def network_ms(net: Lowering) -> float:
    return SCALE * sum(unit_ms(op) for op in net) + CONSTANT * len(net)


@pytest.fixture
def converter(tmp_path: Path) -> Converter:
    """ "Models" that say how long they take."""
    folder = tmp_path / "models"
    folder.mkdir()

    def put(name: str, ms: float) -> Path:
        path = folder / f"{zlib.crc32(name.encode()):08x}"
        path.write_text(repr(ms))
        return path

    def units(ops: Sequence[OpSpec]) -> Mapping[str, Path]:
        return {op.key: put(op.key, unit_ms(op)) for op in ops}

    def networks(nets: Mapping[str, Lowering]) -> Mapping[str, Path]:
        return {name: put(f"network {name}", network_ms(net)) for name, net in nets.items()}

    return Converter(units, networks)


def lowered(n: int, *, seed: int = 0, exclude: Sequence[Any] = ()) -> dict[str, Lowering]:
    chosen = spread_architectures(SPACE, n, seed=seed, exclude=exclude)
    return {arch.digest: SPACE.lower(arch) for arch in chosen}


@pytest.fixture
def run(tmp_path: Path, oracle: Callable[..., Any]) -> Run:
    return Run(tmp_path / "work", QUICK, transport=oracle())


def test_a_device_is_profiled_into_a_table_that_predicts_it(
    tmp_path: Path, converter: Converter, run: Run
) -> None:
    table = profile_device(DEVICE, SPACE.units(), lowered(12), converter, run=run)
    assert table.source == "measured"
    assert set(table.entries) == set(SPACE.units())
    fit = table.fit("unit")
    assert fit is not None
    assert (fit.scale, fit.per_part_ms) == pytest.approx((SCALE, CONSTANT), rel=1e-4)
    assert fit.n_networks == 12
    assert table.fit("primitive") is None
    assert table.cost_model is not None
    for net in lowered(20, seed=7).values():
        found = Predictor(table).predict(net)
        assert found.latency_ms == pytest.approx(network_ms(net), rel=1e-4)
    write_table(table, tmp_path / "t.json")
    assert read_table(tmp_path / "t.json").entries.keys() == table.entries.keys()


def test_both_granularities_are_fitted_from_one_run(converter: Converter, run: Run) -> None:
    table = compare_granularities(DEVICE, lowered(12), converter, run=run)
    assert {fit.granularity for fit in table.fits} == {"unit", "primitive"}
    unit, primitive = table.fit("unit"), table.fit("primitive")
    assert unit is not None
    assert primitive is not None
    assert unit.error_mean < primitive.error_mean  # this machine's truth is in blocks


def test_what_parts_pay_alone_is_told_and_networks_of_operators_are_predicted(
    tmp_path: Path, run: Run
) -> None:
    """A runtime that brings every model's input and output into another order."""

    def inside(op: OpSpec) -> float:
        return sum(0.001 + node.op.macs * 2e-7 for node in op.primitives())

    def alone(op: OpSpec) -> float:
        elements = math.prod(op.in_chw) + math.prod(op.out_chw)
        return 0.005 + inside(op) + 1e-6 * elements

    def put(name: str, ms: float) -> Path:
        path = tmp_path / f"{zlib.crc32(name.encode()):08x}"
        path.write_text(repr(ms))
        return path

    converter = Converter(
        lambda ops: {op.key: put(op.key, alone(op)) for op in ops},
        lambda nets: {
            name: put(name, 0.005 + sum(inside(op) for op in net)) for name, net in nets.items()
        },
    )
    lone = [conv(c, c, s, s, 3, g=c, act="relu6") for c in (8, 16, 32) for s in (3, 4, 6, 8, 12)]
    lone += [conv(c, 2 * c, s, s, 1, act="relu6") for c in (8, 16, 32) for s in (3, 4, 6, 8, 12)]
    table = profile_device(DEVICE, [*SPACE.units(), *lone], lowered(12), converter, run=run)
    fit = table.fit("unit")
    assert fit is not None
    assert fit.edges
    assert fit.call_ms == pytest.approx(0.005, rel=0.1)
    write_table(table, tmp_path / "t.json")
    again = read_table(tmp_path / "t.json").fit("unit")
    assert again is not None
    assert again.edges == pytest.approx(fit.edges, rel=1e-5)
    chain = [(str(i), op) for i, op in enumerate(lone)]
    truth = 0.005 + sum(inside(op) for op in lone)
    assert Predictor(table).predict_units(chain).latency_ms == pytest.approx(truth, rel=0.03)
    sum_alone = sum(alone(op) for op in lone)
    assert sum_alone > 1.5 * truth, "else there was nothing to tell"


def test_too_few_networks_or_uncovered_ones_are_refused(converter: Converter, run: Run) -> None:
    with pytest.raises(SpecError, match="8 whole networks"):
        profile_device(DEVICE, SPACE.units(), lowered(7), converter, run=run)
    stems = [op for op in SPACE.units() if not op.is_block]
    with pytest.raises(SpecError, match="8 whole networks"):
        profile_device(DEVICE, stems, lowered(12), converter, run=run)


def test_a_table_is_extended_by_what_it_lacks_at_its_own_time(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    nets = lowered(12)
    units = list(SPACE.units())
    own = list(dict.fromkeys(op for net in nets.values() for op in net))
    first = profile_device(DEVICE, own, nets, converter, run=run)
    later = oracle(slow=(1.5,))  # the machine is half as slow again
    table = profile_device(
        DEVICE,
        units,
        nets,
        converter,
        run=replace(run, workdir=tmp_path / "later", transport=later),
        earlier=first,
    )
    assert set(table.entries) == set(units)
    assert len(set(later.measured)) == len(units) - len(own) + 16 + len(nets)
    for op in units:
        assert table.entries[op].latency_ms == pytest.approx(unit_ms(op), rel=1e-4)
    assert table.conditions["drift_since_earlier"] == pytest.approx(1.5)
    assert table.fits[0].scale == pytest.approx(SCALE, rel=1e-4)


def test_a_table_is_extended_without_timing_networks_again(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    nets = lowered(12)
    own = list(dict.fromkeys(op for net in nets.values() for op in net))
    first = profile_device(DEVICE, own, nets, converter, run=run)
    later = oracle(slow=(1.5,))
    again = replace(run, workdir=tmp_path / "later", transport=later)
    table = profile_device(DEVICE, SPACE.units(), {}, converter, run=again, earlier=first)
    assert set(table.entries) == set(SPACE.units())
    assert len(set(later.measured)) == len(table.entries) - len(own) + 16
    assert table.fits == first.fits
    for op in SPACE.units():
        assert table.entries[op].latency_ms == pytest.approx(unit_ms(op), rel=1e-4)


def test_another_runtimes_table_is_not_extended(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    nets = lowered(12)
    table = profile_device(DEVICE, SPACE.units(), nets, converter, run=run)
    later = oracle()
    again = replace(run, workdir=tmp_path / "later", transport=later)
    for changes, error, told in (
        ({"runtime_version": "0.1"}, OtherVersionError, "its table has 0.1"),
        ({"chip": "other"}, ArtifactError, "chip is 'other'"),
    ):
        foreign = replace(table, device=replace(table.device, **changes))
        with pytest.raises(error, match=told):
            profile_device(DEVICE, SPACE.units(), nets, converter, run=again, earlier=foreign)
    assert not later.measured


def test_what_no_table_can_be_read_with_is_left_out(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    units = SPACE.units()
    of = converter.units(units)
    bad = str(of[units[3].key])

    def wobble(path: str, start: int) -> float:
        return 5000.0 if path == bad else 1.0

    device = oracle(wobble=wobble)
    # parts of no other network than these count for the fit
    nets = {name: net for name, net in lowered(60).items() if units[3] not in net}
    table = profile_device(DEVICE, units, nets, converter, run=replace(run, transport=device))
    assert set(table.entries) == set(units) - {units[3]}
    assert "is implausible: the rest of the table says about" in table.excluded[units[3].key]
    write_table(table, tmp_path / "t.json")
    assert read_table(tmp_path / "t.json").excluded == table.excluded

    far = {str(path) for path in list(of.values())[: len(units) // 4]}
    device = oracle(wobble=lambda path, start: 1e4 if path in far else 1.0)
    worse = replace(run, workdir=tmp_path / "worse", transport=device)
    with pytest.raises(MeasurementError, match="units cannot be true"):
        profile_device(DEVICE, units, lowered(12), converter, run=worse)


def test_a_table_that_does_not_agree_with_what_is_timed_now_is_poor_and_said(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    nets = lowered(12)
    first = profile_device(DEVICE, SPACE.units(), nets, converter, run=run)
    first = replace(first, created="2026-01-01")

    def uneven(path: str, start: int) -> float:
        return 1.0 + zlib.crc32(Path(path).name.encode()) % 7

    for changes, doubt in (
        ({"slow": (7.0,)}, "takes 7 times as long"),
        ({"wobble": uneven}, "apart from what they took"),
        ({"slow": (1.1,)}, ""),
    ):
        events: list[Event] = []
        again = replace(
            run, workdir=tmp_path / doubt[:5], transport=oracle(**changes), report=events.append
        )
        table = profile_device(DEVICE, SPACE.units(), nets, converter, run=again, earlier=first)
        told = [e.message for e in events if e.stage == NOTICE]
        assert bool(told) == bool(doubt)
        assert (table.conditions["grade"] == "poor") == bool(doubt)
        assert doubt in " ".join(table.conditions.get("doubts", ()))
        assert table.created == "2026-01-01"


def test_validation_corrects_drift_and_tells_noise(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    chosen = calibration_networks(SPACE, 12, seed=0)
    nets = {arch.digest: SPACE.lower(arch) for arch in chosen}
    table = profile_device(DEVICE, SPACE.units(), nets, converter, run=run)
    unseen = lowered(10, seed=3, exclude=chosen)
    slow = replace(run, workdir=tmp_path / "check", transport=oracle(slow=(1.7,)))
    found = validate_table(table, DEVICE, unseen, converter, run=slow)
    assert found.drift == pytest.approx(1.7)
    assert len(found.networks) == 10
    assert found.error_max < 1e-3
    assert found.within_5 == 1.0
    assert {x.attempts for x in found.networks} == {1}


def test_an_unsteady_network_is_measured_again_and_never_dropped(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    nets = lowered(12)
    table = profile_device(DEVICE, SPACE.units(), nets, converter, run=run)
    unseen = lowered(5, seed=3)
    names = sorted(unseen)
    path = converter.networks(unseen)[names[0]]
    calls = {"n": 0}

    def wobble(file: str, start: int) -> float:
        if file != str(path) or start > 2:
            return 1.0
        calls["n"] += 1  # the second of its two timings takes half as long again, in two runs
        return 1.5 if (calls["n"] - 1) // QUICK.rounds % 2 else 1.0

    device = oracle(slow=(1.0, 1.3), wobble=wobble)  # and the machine slows down in between
    check = replace(run, workdir=tmp_path / "check", transport=device)
    found = validate_table(table, DEVICE, unseen, converter, run=check)
    attempts = {x.name: x.attempts for x in found.networks}
    assert attempts == {name: 3 if name == names[0] else 1 for name in names}
    assert len(found.networks) == 5
    assert found.unsteady == 0
    assert found.error_max < 1e-3
    assert device.starts == 3

    calls["n"] = 0
    stubborn = oracle(wobble=lambda file, start: wobble(file, 1))
    check = replace(run, workdir=tmp_path / "check2", transport=stubborn)
    found = validate_table(table, DEVICE, unseen, converter, run=check, max_attempts=2)
    assert len(found.networks) == 5
    assert found.unsteady == 1


def test_a_chips_table_is_calibrated_by_a_few_networks(
    tmp_path: Path, converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    nets = lowered(12)
    table = profile_device(DEVICE, SPACE.units(), nets, converter, run=run)
    few = lowered(8, seed=5)
    files = converter.networks(few)
    there = replace(run, workdir=tmp_path / "there", transport=oracle(slow=(2.5,)))
    mine = calibrate_device(
        DEVICE, table, {name: (few[name], files[name]) for name in few}, run=there
    )
    assert mine.source == "calibrated"
    assert mine.name == DEVICE.name
    for net in lowered(6, seed=9).values():
        assert Predictor(mine).predict(net).latency_ms == pytest.approx(
            2.5 * network_ms(net), rel=1e-3
        )


def test_a_new_device_is_adapted_to_from_ten_networks(
    converter: Converter, run: Run, tmp_path: Path
) -> None:
    table = profile_device(DEVICE, SPACE.units(), lowered(12), converter, run=run)
    # Two known devices: one twice as fast, one that is slow at the many calls of deep networks.
    calls = {op: Entry(*[0.02 * len(op.primitives())] * 4, n=1) for op in table.entries}
    known = [
        replace(table, device=replace(table.device, name="twice", chip="twice"), fits=()),
        replace(table, device=replace(table.device, name="calls", chip="calls"), entries=calls),
    ]
    pool = list(lowered(60, seed=3).values())
    adaptation = Adaptation(known, pool)
    rows = adaptation.choose(10)
    files = converter.networks({str(row): pool[row] for row in rows})
    found = adapt_device(
        DEVICE,
        adaptation,
        {row: files[str(row)] for row in rows},
        SPACE.units(),
        run=replace(run, workdir=tmp_path / "few"),
    )
    assert found.source == "calibrated"
    assert found.conditions["runtime_version"]
    assert "10 networks and 2 known tables" in found.conditions["calibrated_from"]
    for net in lowered(20, seed=7).values():
        assert Predictor(found).predict(net).latency_ms == pytest.approx(network_ms(net), rel=0.03)


def test_an_incomplete_measurement_makes_no_table(
    converter: Converter, run: Run, oracle: Callable[..., Any]
) -> None:
    class Stops(oracle):  # type: ignore[misc, valid-type]
        def run(self, *arguments: Any, **options: Any) -> Any:
            on_line = options["on_line"]
            lines = []
            ended = super().run(*arguments, **{**options, "on_line": lines.append})
            for line in (line for line in lines if f'"round": {QUICK.rounds - 1}' not in line):
                on_line(line)
            return ended

    with pytest.raises(MeasurementError, match="not complete"):
        profile_device(
            DEVICE, SPACE.units(), lowered(8), converter, run=replace(run, transport=Stops())
        )
