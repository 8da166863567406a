"""Markdown and JSON of a report, and the files of `write_report`."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.artifacts import parse_json, to_json
from edgenas.errors import ResourceError
from edgenas.report import RunView, document, markdown, write_report


def tables(text: str) -> list[list[list[str]]]:
    """Each table as rows of cells, split at bars that are not escaped."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


def test_tables_are_rectangular_and_complete(view: RunView) -> None:
    front, files, devices = tables(markdown(view))
    for rows in (front, files, devices):
        assert len({len(row) for row in rows}) == 1
    assert len(front) == 2 + 20
    assert f"{len(view.front) - 20} more in report.json" in markdown(view)
    assert len(files) == 2 + 15
    assert len(devices) == 2 + 2


def test_every_latency_has_its_word(view: RunView) -> None:
    front, files, _ = tables(markdown(view))
    assert all(re.fullmatch(r"[\d.]+ predicted", row[2]) for row in front[2:])
    cells = [cell for row in files[2:] for cell in row[-2:] if cell != "-"]
    assert len(cells) == 12
    assert all(re.fullmatch(r"[\d.]+ ms (predicted|calibrated, rough|measured)", c) for c in cells)


def test_bars_and_line_breaks_stay_in_their_cell(view: RunView) -> None:
    model = view.models[0]
    file = replace(model.files[0], path="models/a|b`\n/x.onnx")
    odd = replace(view, models=(replace(model, files=(file,), why="a|b\nc"),))
    files = tables(markdown(odd))[1]
    assert len(files) == 3
    assert len({len(row) for row in files}) == 1


def test_short_enough_for_a_job_summary(view: RunView) -> None:
    assert len(markdown(view).encode()) < 20_000


def test_the_document_is_json_with_plain_units(view: RunView) -> None:
    table = parse_json(to_json(document(view)).encode(), origin="test")
    assert table["schema"] == "edgenas.report/1"
    assert len(table["front"]) == len(view.front)
    first = table["models"][0]
    assert first["digest"] == view.models[0].digest
    assert [f["format"] for f in first["files"]] == [f.format for f in view.models[0].files]
    latency = first["latencies"][0]
    assert latency["origin"] == "predicted"
    assert latency["low_ms"] < latency["latency_ms"] < latency["high_ms"]
    assert [u["key"] for u in latency["units"]] == [u.op.key for u in view.models[0].units]
    assert {t["device"]: t["rough"] for t in table["tables"]} == {
        t.device: t.rough for t in view.tables
    }
    assert table["hypervolume"][-1] == list(view.hypervolume[-1])


def test_write_report(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "ärger & <b>"))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    paths = write_report(run)
    assert [p.name for p in paths] == ["front.svg", "report.html", "report.json", "report.md"]
    first = [p.read_bytes() for p in paths]
    assert {p: p.read_bytes() for p in before} == before
    assert [p.read_bytes() for p in write_report(run)] == first, "not the same a second time"
    assert b"&lt;b&gt;" in paths[1].read_bytes()
    assert json.loads(paths[2].read_text("utf-8"))["run"] == "ärger & <b>"
    assert "front.svg" in paths[3].read_text("utf-8")


def test_a_folder_that_cannot_be_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_report(run)
    assert not list(run.glob("*report*"))
