"""Estimates by Vela: of real files where it is installed, and what is made of them."""

import importlib.util
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.errors import DeviceError, MeasurementError, SpecError, UsageError
from edgenas.hardware import DeviceProfile, load_device, load_device_file, vela
from edgenas.latency import Predictor, load_table, read_table, write_table
from edgenas.profiling import (
    Converter,
    Run,
    calibration_networks,
    profile_device,
    validate_table,
)
from edgenas.profiling.estimate import FILE, estimate_models
from edgenas.spaces import Lowering, OpSpec
from edgenas.testing.fakes import tiny_space

CALIBRATION = Path(__file__).parents[2] / "edgenas" / "shipped" / "calibration"
DEVICE = load_device("ethos-u55-128-vela-int8")
installed = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="needs the extra edgenas[micro]"
)


@pytest.fixture
def files() -> dict[str, Path]:
    """The smallest exported int8 files that ship."""
    found = sorted(CALIBRATION.glob("*.tflite"), key=lambda path: path.stat().st_size)
    return {path.name: path for path in found[:2]}


@installed
def test_real_files_are_estimated_once(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = estimate_models(files, DEVICE, workdir=tmp_path)
    assert set(found.timings) == set(files)
    assert found.conditions["clock_hz"] == 5e8
    assert found.conditions["memory_mode"] == "Shared_Sram"
    for name, path in files.items():
        alone = vela.estimate(path, vela.accelerator(DEVICE.chip))
        assert found.timings[name].latency_ms == alone.latency_ms
        assert found.timings[name].sram_bytes == alone.sram_bytes
        assert found.timings[name].n == 1
    monkeypatch.setattr(vela, "estimate", None)  # a second call does not compile
    again = estimate_models(files, DEVICE, workdir=tmp_path)
    assert again.timings == found.timings


@installed
def test_a_file_that_vela_refuses_failed_and_the_others_count(
    files: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"no model")
    found = estimate_models({**files, "bad": bad}, DEVICE, workdir=tmp_path / "work")
    assert set(found.timings) == set(files)
    assert "bad.tflite" in found.failed["bad"]
    with pytest.raises(MeasurementError, match="no model could be estimated"):
        estimate_models({"bad": bad}, DEVICE, workdir=tmp_path / "work")


def test_another_version_of_the_compiler_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"Vela"):
        estimate_models(files, replace(DEVICE, runtime_version="1.0"), workdir=tmp_path)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('chip = "ethos-u55-12"', "no chip 'ethos-u55-12'"),
        ('chip = "ethos-u55-128"\nbatch = 4', "one image at a time"),
    ],
)
def test_a_device_that_vela_does_not_know_is_refused(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "npu.toml"
    path.write_text(
        'schema = "edgenas.device/1"\nname = "npu"\ntitle = "An NPU"\nclass = "npu"\n'
        f'runtime = "vela"\nprecision = "int8"\n{line}\n',
        "utf-8",
    )
    with pytest.raises((SpecError, UsageError), match=told):
        load_device_file(path)


def unit_ms(op: OpSpec) -> float:
    return 0.01 + op.macs * 1e-6 * (1 + zlib.crc32(op.key.encode()) % 100 / 500)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """Models that say what Vela would: a seam for what takes minutes with the real one."""
    folder = tmp_path / "models"
    folder.mkdir()

    def put(name: str, ops: Sequence[OpSpec]) -> Path:
        path = folder / f"{zlib.crc32(name.encode()):08x}"
        each = [(unit_ms(op), 1000 + op.macs // 100, op.weights + 80) for op in ops]
        row = [
            0.95 * sum(x[0] for x in each),
            1.1 * max(x[1] for x in each),
            sum(x[2] for x in each),
        ]
        path.write_text(json.dumps(row if len(ops) > 1 else each[0]))
        return path

    def estimate(path: Path, settings: vela.Accelerator) -> vela.Estimate:
        ms, sram, flash = json.loads(path.read_text())
        return vela.Estimate(ms, round(ms * 5e5), 5e8, round(sram), round(flash), 5, 0)

    monkeypatch.setattr(vela, "estimate", estimate)
    monkeypatch.setattr("edgenas.profiling.estimate.installed_version", lambda _: "5.2.0")

    def units(ops: Sequence[OpSpec]) -> Mapping[str, Path]:
        return {op.key: put(op.key, [op]) for op in ops}

    def networks(nets: Mapping[str, Lowering]) -> Mapping[str, Path]:
        return {name: put(name, list(net)) for name, net in nets.items()}

    return Converter(units, networks)


def test_a_table_of_estimates_predicts_time_and_memory(told: Converter, tmp_path: Path) -> None:
    space = tiny_space()
    chosen = calibration_networks(space, 12, seed=0)
    nets = {arch.digest: space.lower(arch) for arch in chosen}
    run = Run(tmp_path / "work")
    table = profile_device(DEVICE, space.units(), nets, told, run=run)
    assert (tmp_path / "work" / FILE).is_file()
    assert table.source == "estimated"
    assert table.conditions["memory"]["sram_factor"] == pytest.approx(1.1, abs=0.01)
    others = calibration_networks(space, 10, seed=1, exclude=chosen)
    unseen = {arch.digest: space.lower(arch) for arch in others}
    checked = validate_table(
        table, DEVICE, unseen, told, run=replace(run, workdir=tmp_path / "check")
    )
    assert checked.error_median < 0.01
    assert checked.noise_max == 0.0
    assert checked.drift == pytest.approx(1.0)
    assert "against the compiler" in str(checked.to_json()["kind"])
    assert checked.baselines is not None
    assert checked.baselines.beaten_by([abs(x.error) for x in checked.networks])
    write_table(table, tmp_path / "table.json")
    read = read_table(tmp_path / "table.json")
    net = next(iter(unseen.values()))
    memory = Predictor(read).memory(list(net))
    assert memory is not None
    assert memory.flash_bytes == sum(op.weights + 80 for op in net)
    assert memory.sram_bytes == pytest.approx(
        1.1 * max(1000 + op.macs // 100 for op in net), rel=0.01
    )
    assert Predictor(read).predict(net).origin == "estimated"


def test_an_operator_left_to_the_processor_is_no_estimate(
    told: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ops = list(tiny_space().units())[:3]
    real: Callable[..., vela.Estimate] = vela.estimate
    models = dict(told.units(ops))
    first = models[ops[0].key]

    def estimate(path: Path, settings: vela.Accelerator) -> vela.Estimate:
        return replace(real(path, settings), cpu_operators=int(path == first))

    monkeypatch.setattr(vela, "estimate", estimate)
    found = estimate_models(models, DEVICE, workdir=tmp_path / "work")
    assert set(found.timings) == {op.key for op in ops[1:]}
    assert "1 of its operators" in found.failed[ops[0].key]


def test_estimated_devices_ship_one_for_each_accelerator() -> None:
    names = [f"{chip}-vela-int8" for chip in vela.ACCELERATORS]
    devices: list[DeviceProfile] = [load_device(name) for name in names]
    assert {d.chip for d in devices} == set(vela.ACCELERATORS)
    assert all(d.is_estimated and d.format == "tflite-int8" for d in devices)


def test_an_estimate_is_never_called_measured(tmp_path: Path) -> None:
    from edgenas.pipeline import predict, profile_kit
    from edgenas.pipeline.provenance import latency_note

    path = min(CALIBRATION.glob("*.tflite"), key=lambda path: path.stat().st_size)
    with pytest.raises(UsageError, match="estimated by Vela"):
        predict(DEVICE.name, str(path), measure=True)
    with pytest.raises(UsageError, match="needs no kit"):
        profile_kit(DEVICE.name, tmp_path / "kit.zip", back="edgenas")
    assert "how far that is off the chip" in latency_note(DEVICE.name, load_table(DEVICE.name))
