"""The fleet in a report: read from result.json, in page, Markdown and JSON."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgenas.artifacts import write_json
from edgenas.errors import ArtifactError
from edgenas.report import RunView, document, html, load_run, markdown
from edgenas.report.page import roles

DEVICES = ("testchip-litert-int8-t1", "testchip-onnxruntime-fp32-t1")


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """A run of a fleet: two devices, three choices were one too many."""
    run = Path(shutil.copytree(run_folder, tmp_path / "fleet"))
    result = json.loads((run / "result.json").read_text("utf-8"))
    first, second = (row["digest"] for row in result["front"][:2])

    def assigned(device: str, digest: str, accuracy: float, loss: float) -> dict[str, Any]:
        latency = {"value": 1.5, "low": 1.4, "high": 1.7, "origin": "predicted"}
        return {"device": device, "digest": digest, "accuracy": accuracy, "loss": loss,
                "latency_ms": latency}  # fmt: skip

    both = [assigned(DEVICES[0], first, 0.9, 0.0), assigned(DEVICES[1], first, 0.9, 0.02)]
    own = [both[0], assigned(DEVICES[1], second, 0.92, 0.0)]
    result["fleet"] = {
        "wanted": 1,
        "accuracy": "top1",
        "bounds": {d: [f"latency_ms@{d} <= 2"] for d in DEVICES},
        "choices": [{"k": 1, "assignments": both}, {"k": 2, "assignments": own}],
    }
    write_json(run / "result.json", result)
    return run


@pytest.fixture
def fleet_view(folder: Path) -> RunView:
    return load_run(folder)


def test_the_page_has_both_charts_and_says_who_runs_what(fleet_view: RunView) -> None:
    assert fleet_view.fleet
    page = html(fleet_view)
    section = page.split('<section id="fleet">')[1].split("</section>")[0]
    assert '<a href="#fleet">' in page
    assert 'id="fleet-price"' in section
    assert 'id="fleet-devices"' in section
    assert "1 network for 2 devices, each device within its own bounds" in section
    assert f"loses 1.00 points against what is best for it alone, at worst 2.00 points " \
        f"({DEVICES[1]})" in section  # fmt: skip
    assert section.count("1.50 ms predicted, 1.40 to 1.70") == 2
    assert "1.50 ms predicted, 1.40 to 1.70, rough" in section
    (chosen,) = re.findall(r'<tr class="chosen">(.*?)</tr>', section)
    assert re.findall(r"<td[^>]*>(.*?)</td>", chosen)[:5] == [
        "1", "1", "90.00 %", "1.00 points", "2.00 points",
    ]  # fmt: skip
    digest = fleet_view.fleet.fleet.assignments[0].digest
    model = next(m for m in fleet_view.models if m.digest == digest)
    assert f"for {DEVICES[0]}, {DEVICES[1]}" in roles(fleet_view, model)


def test_a_report_without_a_fleet_has_no_section(view: RunView) -> None:
    assert 'id="fleet"' not in html(view)
    assert "## Fleet" not in markdown(view)
    assert document(view)["fleet"] is None


def test_markdown_and_json_tell_the_same(fleet_view: RunView) -> None:
    text = markdown(fleet_view).split("## Fleet")[1].split("\n## ")[0]
    assert f"| `{DEVICES[0]}` | latency\\_ms \\<= 2.00 ms |" in text
    assert "| **1** | **1** | **90.00 %** | **1.00 points** | **2.00 points** |" in text
    assert "| 2 | 2 | 91.00 % | 0.00 points | 0.00 points |  |" in text
    table = document(fleet_view)["fleet"]
    assert [c["mean_loss"] for c in table["choices"]] == [0.01, 0.0]
    assert table["choices"][1]["assignments"][1]["latency_ms"]["origin"] == "predicted"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("bounds", DEVICES[0]), ["latency_ms"]),
        (("wanted",), 0),
        (("choices",), []),
        (("choices", 0, "assignments", 0, "device"), "another"),
        (("choices", 0, "assignments", 0, "latency_ms", "low"), 9.0),
        (("choices", 0, "assignments", 0, "accuracy"), "high"),
    ],
)
def test_a_damaged_fleet_is_refused(folder: Path, path: tuple[str | int, ...], value: Any) -> None:
    result = json.loads((folder / "result.json").read_text("utf-8"))
    place: Any = result["fleet"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    write_json(folder / "result.json", result)
    with pytest.raises(ArtifactError, match="result"):
        load_run(folder)
