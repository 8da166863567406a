"""Progress lines and options."""

from __future__ import annotations

import pytest

from edgenas.cli.console import PlainProgress, duration
from edgenas.cli.results import columns, metric
from edgenas.events import Event


def test_plain_progress_prints_start_and_end_but_not_every_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = PlainProgress(every_s=60)
    for step in range(1, 101):
        report(Event("train", step, 100, f"loss {step}", remaining_s=130.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["train: 1/100: loss 1: about 2 min 10 s left", "train: 100/100: loss 100"]


def test_plain_progress_shows_every_message_of_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    report = PlainProgress(every_s=60)
    for text in ("one", "two"):
        report(Event("plan", message=text))
    assert capsys.readouterr().err.splitlines() == ["plan: one", "plan: two"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_columns_put_numbers_to_the_right() -> None:
    assert columns(("a", "n"), [("x", "1"), ("yy", "10")]) == "a    n\nx    1\nyy  10"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("top1", 0.9342, "93.42 %"),
        ("latency_ms@pixel4", 0.4121, "0.412 ms"),
        ("size_bytes", 2048.0, "2 KiB"),
        ("macs", 3_200_000.0, "3.20 M"),
    ],
)
def test_metrics_have_units(name: str, value: float, text: str) -> None:
    assert metric(name, value) == text
