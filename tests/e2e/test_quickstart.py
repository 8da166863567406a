"""The quickstart: on Fashion-MNIST, and where that is not to be had: no network, no package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.artifacts import check_manifest
from edgenas.cli.main import main
from edgenas.errors import ResourceError
from edgenas.hardware import load_device
from edgenas.latency import table_names, write_table
from edgenas.pipeline import quickstart
from edgenas.pipeline.config import (
    DataConfig,
    ExportConfig,
    RunConfig,
    TrainConfig,
    read_config,
)
from edgenas.pipeline.shipped import fashion_mnist_folder
from edgenas.spaces.mobile import default_space, from_table
from edgenas.testing.fakes import INVENTED_DEVICE, invented_table


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder on a machine without the data set and without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGENAS_DATA", str(tmp_path / "empty"))

    def offline(*arguments: object) -> None:
        raise ResourceError("cannot download: no network")

    monkeypatch.setattr("edgenas.data.sources._download", offline)
    return tmp_path


def test_the_small_space_is_a_part_of_the_default_one() -> None:
    whole = default_space(image_size=28, in_channels=1, n_classes=10)
    settings = {**whole.to_table(), **quickstart.small_space()}
    part = from_table(settings, in_channels=1, n_classes=10)
    assert set(part.units()) < set(whole.units())
    assert part.size > 10_000


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch, seconds of search, ONNX alone."""
    real = quickstart.quickstart_config

    def shortened(data: DataConfig) -> RunConfig:
        config = real(data)
        return replace(
            config,
            search=replace(config.search, trials=8, minutes=None, images=100),
            train=TrainConfig(epochs=1, batch=256, n_random=0),
            export=ExportConfig(formats=("onnx",), top=1),
        )

    monkeypatch.setattr(quickstart, "quickstart_config", shortened)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_shipped_supernet_is_searched_on_fashion_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if fashion_mnist_folder() is None:
        pytest.skip("Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--runs", "elsewhere", "--json"]) == 0
    shown = capfd.readouterr()
    assert "data: Fashion-MNIST, 70,000 images" in shown.err
    assert "train:" not in shown.err
    assert not Path("runs").exists()
    run = Path("elsewhere/quickstart")
    check_manifest(run)
    assert not (run / "supernet").exists(), "none is trained"
    config = read_config(run / "run.toml")
    assert (config.data.source, config.supernet.checkpoint) == ("fashion-mnist", "shipped")
    document = json.loads(shown.out)
    assert document["front"][0]["metrics"]["latency_ms"]["origin"] == "calibrated"
    assert document["exports"][0]["verified"] is True
    assert document["exports"][0]["top1"] > 0.7

    assert main(["quickstart", "--runs", "elsewhere"]) == 0
    assert "holds a finished run" in capfd.readouterr().out
    (run / "left over").touch()
    assert main(["quickstart", "--runs", "elsewhere", "--fresh"]) == 0
    assert "holds a finished run" not in capfd.readouterr().out
    assert not (run / "left over").exists()


@pytest.mark.long
@pytest.mark.usefixtures("short")
def test_digits_take_its_place(nowhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = default_space(image_size=28, in_channels=1, n_classes=10)
    table = invented_table(load_device(quickstart.DEVICE), whole)
    table = replace(
        table, device=replace(table.device, name=INVENTED_DEVICE, chip="invented-board")
    )
    write_table(table, nowhere / "latency_tables" / f"{INVENTED_DEVICE}.json")
    assert main(["quickstart", "--json"]) == 0
    shown = capfd.readouterr()
    assert "Fashion-MNIST is not to be had here" in shown.err
    assert "digits" in shown.err
    document = json.loads(shown.out)
    assert document["front"][0]["metrics"]["latency_ms"]["origin"] == "calibrated"
    assert document["exports"][0]["verified"] is True
    check_manifest(Path("runs/quickstart"))

    assert main(["quickstart"]) == 0
    shown = capfd.readouterr()
    assert "holds a finished run" in shown.out
    assert "train" not in shown.err, "a second call repeats nothing"


@pytest.mark.slow
def test_the_whole_quickstart_on_digits(nowhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert any("litert-int8" in name for name in table_names()), "one ships with edgenas"
    assert main(["quickstart", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert len(document["front"]) >= 8
    assert sum(e["verified"] is True for e in document["exports"]) >= 15
