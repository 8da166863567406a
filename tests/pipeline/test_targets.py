"""Targets of a run: bounds by their memory, and what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.cli.main import main
from edgenas.errors import SpecError
from edgenas.hardware import load_device
from edgenas.objectives import parse_objectives
from edgenas.pipeline import read_config, show_device
from edgenas.pipeline.goals import objectives_of, targets_of
from edgenas.pipeline.metrics import CheapMetrics, metric_names
from edgenas.pipeline.opening import open_stages
from edgenas.pipeline.targets import check_runnable, memory_bounds
from edgenas.spaces.mobile import MobileSpace, default_space
from edgenas.targets import MARGIN, ram_bytes_of
from edgenas.testing.fakes import INVENTED_DEVICE, tiny_space, write_tiny_run

MCU = "cortex-m-tflm-int8"


def with_targets(path: Path, *names: str, space: MobileSpace | None = None) -> Path:
    from edgenas.artifacts import toml_value

    text = path.read_text("utf-8") + f"targets = {toml_value(names)}\n"
    if space is not None:
        lines = [
            f"space = {toml_value(space.to_table())}" if line.startswith("space = ") else line
            for line in text.splitlines()
        ]
        text = "\n".join(lines) + "\n"
    path.write_text(text, "utf-8")
    return path


def test_targets_of_a_run_are_its_devices_and_those_named(folder: Path) -> None:
    config = read_config(with_targets(write_tiny_run(folder), MCU, INVENTED_DEVICE, MCU))
    assert [t.name for t in targets_of(config)] == [INVENTED_DEVICE, MCU]
    assert [str(o) for o in objectives_of(config)] == [
        "max top1",
        "min latency_ms",
        f"peak_memory_bytes@{MCU} <= 256901",
        f"size_bytes@{MCU} <= 513802",
    ]


def test_an_unknown_target_is_named_with_its_key(folder: Path) -> None:
    config = read_config(with_targets(write_tiny_run(folder), "cortex-m-tflm-int4"))
    with pytest.raises(SpecError, match=r"export\.targets: .*did you mean 'cortex-m-tflm-int8'"):
        targets_of(config)


def test_a_target_that_no_file_is_for_is_refused_first(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = with_targets(write_tiny_run(folder, formats='"onnx", "tflite"'), MCU)
    for command in ("search", "train"):
        assert main([command, str(path), "--quiet"]) == 3
        told = capfd.readouterr().err
        assert f"run.toml: export.targets: {MCU} runs tflite-int8 files" in told
        assert 'add "tflite-int8" to formats' in told
    assert not Path("runs").exists()
    with pytest.raises(SpecError, match=r"has only onnx, tflite"):
        open_stages(read_config(path), folder / "other", resume=False)


def test_a_wrong_space_says_where_to_mend_it(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_run(folder)
    text = path.read_text("utf-8").replace("stem_width", "stem_widht")
    path.write_text(text, "utf-8")
    assert main(["train", str(path), "--quiet"]) == 3
    told = capfd.readouterr().err
    assert "space.stem_widht: unknown key; did you mean 'stem_width'?" in told
    assert "try: mend `space` in the run file" in told


def test_the_tighter_bound_holds(folder: Path) -> None:
    board, mcu = load_device(INVENTED_DEVICE), load_device(MCU)
    known = metric_names([board.name], [mcu.name])

    def bounds(*texts: str) -> list[str]:
        given = parse_objectives(["max top1", *texts], known=known)
        return [str(o) for o in memory_bounds(given, [board], [board, mcu])][1:]

    assert bounds(f"min size_bytes@{MCU} <= 100000")[0] == f"min size_bytes@{MCU} <= 100000"
    assert bounds(f"min size_bytes@{MCU} <= 900000")[0] == f"min size_bytes@{MCU} <= 513802"
    assert bounds(f"min size_bytes@{MCU}")[0] == f"min size_bytes@{MCU} <= 513802"
    with pytest.raises(SpecError, match=r"holds 524,288 bytes of it at most"):
        bounds(f"size_bytes@{MCU} >= 1000")
    searched = memory_bounds(parse_objectives(["max top1"], known=known), [mcu], [mcu])
    assert [o.name for o in searched[1:]] == ["peak_memory_bytes", "size_bytes"]
    npu = replace(load_device("ethos-u55-128-vela-int8"), ram_bytes=30_000, flash_bytes=10**6)
    given = parse_objectives(["max top1"], known=known)
    assert [o.metric for o in memory_bounds(given, [board], [npu])[1:]] == ["size_bytes"]
    assert len(memory_bounds(given, [npu], [npu])) == 3, "its table says what RAM it takes"


def test_metrics_of_a_target_need_no_table(folder: Path) -> None:
    mcu = load_device(MCU)
    space = tiny_space()
    cheap = CheapMetrics(space, (), {}, None, (mcu,))
    found = cheap(space.largest())
    assert set(found) == {"macs", "params", f"size_bytes@{MCU}", f"peak_memory_bytes@{MCU}"}
    some = CheapMetrics(space, (), {}, frozenset({f"size_bytes@{MCU}"}), (mcu,))
    assert set(some(space.largest())) == {"macs", "params", f"size_bytes@{MCU}"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"activation": "hswish"}, 3, ("HARD_SWISH", 'activation = "relu6"')),
        ({"squeeze_excite": True}, 3, ("SQUEEZE_EXCITE", "squeeze_excite = false")),
    ],
)
def test_a_space_that_a_target_cannot_run_is_refused_before_training(
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    change: dict[str, object],
    code: int,
    said: tuple[str, ...],
) -> None:
    space = replace(tiny_space(), **change)  # type: ignore[arg-type]
    with_targets(write_tiny_run(folder, formats='"tflite-int8"'), MCU, space=space)
    for command in ("search", "train"):
        assert main([command, "run.toml", "--quiet", "--name", command]) == code
        told = capfd.readouterr().err
        assert all(word in told for word in (MCU, *said)), told
        assert not (folder / "runs" / command / "supernet").exists()


def test_a_space_too_large_for_a_target_is_infeasible(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shipped = Path(__file__).parents[2] / "devices" / f"{MCU}.toml"
    text = shipped.read_text("utf-8").replace("524288", "5000")
    (folder / "devices" / f"{MCU}.toml").write_text(text, "utf-8")
    with_targets(write_tiny_run(folder, formats='"tflite-int8"'), MCU)
    assert main(["train", "run.toml", "--quiet"]) == 7
    told = capfd.readouterr().err
    assert f"size_bytes@{MCU} <= 4900: the nearest reached is" in told
    assert f"more [memory], in bytes, in {folder / 'devices' / MCU}.toml" in told
    text = shipped.read_text("utf-8").replace("262144", "1000")
    (folder / "devices" / f"{MCU}.toml").write_text(text, "utf-8")
    for command in ("train", "search"):
        assert main([command, "run.toml", "--quiet"]) == 7
        told = capfd.readouterr().err
        assert f"peak_memory_bytes@{MCU} <= 980: the nearest reached is" in told
        assert f"more [memory], in bytes, in {folder / 'devices' / MCU}.toml" in told
    assert not list((folder / "runs").rglob("supernet*"))


def test_ram_is_not_judged_by_the_network_with_the_fewest_parameters() -> None:
    space = default_space(image_size=28, in_channels=1, n_classes=10)
    board = replace(load_device(MCU), ram_bytes=48 * 2**10)
    smallest = str(space.smallest())
    fused = smallest.replace("inverted", "fused")
    least, most = (
        ram_bytes_of(space.lower(space.parse(line)), board) for line in (fused, smallest)
    )
    assert least < MARGIN * 48 * 2**10 < most
    check_runnable(space, [board])


def test_bounds_out_of_reach_are_refused_before_training(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_file = write_tiny_run(folder)
    text = run_file.read_text("utf-8")
    assert '"min latency_ms"' in text
    bounded = text.replace('"min latency_ms"', '"min latency_ms <= 0.00001"')
    run_file.write_text(bounded, "utf-8")
    assert main(["search", "run.toml", "--quiet"]) == 7
    told = capfd.readouterr().err
    assert "latency_ms <= 1e-05: the nearest reached is" in told
    assert not list((folder / "runs").rglob("supernet*"))


def test_a_device_says_what_checks_it() -> None:
    facts = show_device("coral-usb-edgetpu-int8")
    assert "Edge TPU" in facts["toolchain"]
    assert "https://coral.ai" in facts["operators"]
    assert show_device("v100")["toolchain"] is None
