"""Mixed precision and measured networks in page, Markdown and JSON."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgenas.artifacts import read_json, write_json
from edgenas.report import load_run
from edgenas.report.page import html
from edgenas.report.summary import document, markdown
from edgenas.report.text_tables import text_tables


def test_classes_operators_and_licences_are_told(own: Path) -> None:
    (first, *_) = sorted(own.glob("models/*/export.json"))
    certificate = read_json(first, schema="edgenas.export/1")
    names = [f"<class {i}>" for i in range(25)]
    for row in certificate["models"]:
        row["input"]["classes"] = names
        row["verification"]["classes"] = [
            {"n": 40, "top1": 0.9, "top1_drop": i / 1000} for i in range(24)
        ] + [{"n": 0, "top1": None, "top1_drop": None}]
        row["operators"] = {"Conv": {"INT8": 12, "INT4": 1}, "Reshape": {"FLOAT32": 1}}
        row["peak_memory_bytes"] = 20480
    certificate["parents"] = {"weights": "abc123"}
    certificate["data"] = {
        "name": "photos",
        "digest": "0123456789ab",
        "seed": 3,
        "image_size": 64,
        "channels": 3,
        "images": {"train": 1000, "search": 200, "test": 300},
        "licence": "CC-BY-4.0",
    }
    write_json(first, certificate)
    view = load_run(own)
    tables = {table.title: table for table in text_tables(view)}
    digest = first.parent.name
    classes = tables[f"By class: {digest}"]
    assert len(classes.rows) == 20
    assert "of 25 classes" in classes.notes[-1]
    assert classes.rows[0][:2] == ("<class 23>", "40")
    assert classes.rows[0][2] == "90.00 % (+2.30)"
    operators = tables[f"Operators: {digest}"]
    assert operators.rows[0][2:] == ("20.0 KiB", "FLOAT32: 1 Reshape; INT4: 1 Conv; INT8: 12 Conv")
    assert "INT4 is of the weights" in operators.notes[-1]
    assert tables["Parents of files"].rows == ((digest, "weights", "abc123"),)
    section = dict(dict(view.provenance)["Images and licences"])
    assert section["licence of the images"] == "CC-BY-4.0"
    assert section["licence of the files"] == "not stated"
    page = html(view)
    assert "&lt;class 23&gt;" in page
    assert "<class 23>" not in page
    assert "By class" in markdown(view)
    told = next(m for m in document(view)["models"] if m["digest"] == digest)
    assert told["parents"]["weights"] == "abc123"
    assert told["files"][0]["peak_memory_bytes"] == 20480
    assert told["files"][0]["operators"]["Conv"] == {"INT8": 12, "INT4": 1}
    assert told["files"][0]["classes"][23]["top1_drop"] == 0.023
    assert told["files"][0]["max_logit_difference"] is not None


def with_more(run: Path) -> None:
    """A file of the run made one in mixed precision, and two networks measured."""
    (first, *_) = sorted(run.glob("models/*/export.json"))
    certificate = read_json(first, schema="edgenas.export/1")
    points = [("fp32", "fp32"), ("fp32", "int8"), ("int8", "int8")]
    certificate["models"][0] |= {
        "format": "onnx-mixed",
        "units": [
            {
                "name": "stem",
                "precision": "fp32",
                "note": "nothing is saved: alone, int8 would save -9 bytes",
            },
            {
                "name": "head",
                "precision": "int8",
                "note": "",
                "alone": [
                    {
                        "precision": "int8",
                        "top1_drop": 0.004,
                        "noise": 0.00123,
                        "saved_bytes": 3000,
                        "saved_ms": 0.01,
                        "origin": "extrapolated",
                        "n": 250,
                    },
                    {"precision": "int4", "top1_drop": 0.0, "noise": 0.1, "saved_bytes": 4000},
                ],
            },
        ],
        "curve": [
            {
                "precisions": list(precisions),
                "size_bytes": 1000 - 300 * i,
                "top1": 0.93 - 0.001 * i,
                "top1_drop": 0.001 * i,
                "n": 1000,
                "latency": {"value_ms": 0.5 - 0.1 * i, "origin": "predicted"} if i < 2 else None,
                "chosen": i == 1,
                **({"drop_low": -0.001, "drop_high": 0.003} if i else {}),
            }
            for i, precisions in enumerate(points)
        ],
    }
    certificate["max_mixed_drop"] = 0.002
    write_json(first, certificate)
    result = read_json(run / "result.json", schema="edgenas.search-result/1")
    result["measured"] = [
        {
            "device": "board-<b>",
            "correction": {"told": "the table is kept: off by 1.0 % & less"},
            "networks": [
                {
                    "digest": digest,
                    "predicted": {"value": 1.0 + i, "origin": "predicted"},
                    "measured": {"value": 2.0 - i, "origin": "measured", "n": 50},
                    "place_predicted": i + 1,
                    "place": 2 - i,
                }
                for i, digest in enumerate(["aaaa", "bbbb"])
            ],
        }
    ]
    write_json(run / "result.json", result)


@pytest.fixture
def own(run_folder: Path, tmp_path: Path) -> Path:
    """A run of the test's own."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_mixtures_and_measured_networks_are_shown_with_their_words(own: Path) -> None:
    with_more(own)
    view = load_run(own)
    mixed, sensitivity, measured = text_tables(view)
    assert [row[0] for row in mixed.rows] == ["2 fp32", "1 fp32, 1 int8", "2 int8"]
    assert [row[4] for row in mixed.rows] == [
        "0.500 ms predicted",
        "0.400 ms predicted",
        "not known",
    ]
    assert [row[5] for row in mixed.rows] == ["", "chosen", ""]
    lost = ["0.00", "+0.10 [-0.10, +0.30]", "+0.20 [-0.10, +0.30]"]
    assert [row[3] for row in mixed.rows] == lost
    assert any("where it may lose 0.2 points of top-1" in note for note in mixed.notes)
    assert sensitivity.rows == (
        ("head", "int8", "0.0012", "+0.40", "3,000", "0.0100 ms extrapolated"),
        ("head", "int4", "0.1", "0.00", "4,000", "not known"),
    )
    assert "250 images" in sensitivity.notes[0]
    assert mixed.notes[0] == "Precision of each unit: stem fp32, head int8."
    assert "stem: nothing is saved: alone, int8 would save -9 bytes." in mixed.notes
    assert measured.title == "Measured on board-<b>"
    assert [row[-2:] for row in measured.rows] == [("1", "2"), ("2", "1")]
    page, text = html(view), markdown(view)
    assert "Measured on board-&lt;b&gt;" in page
    assert "off by 1.0 % &amp; less" in page
    assert "1 fp32, 1 int8" in page
    assert "1 fp32, 1 int8" in text
    assert "2.00 ms measured, n = 50" in text
    told = json.loads(json.dumps(document(view)))
    assert told["measured"][0]["networks"][1]["measured"]["origin"] == "measured"
    (file,) = (f for m in told["models"] for f in m["files"] if f["mixtures"])
    assert [m["chosen"] for m in file["mixtures"]] == [False, True, False]


def test_where_one_precision_won_it_is_said(own: Path) -> None:
    with_more(own)
    view = load_run(own)
    (model,) = (m for m in view.models if any(f.mixtures for f in m.files))
    (file,) = (f for f in model.files if f.mixtures)
    int8 = tuple(replace(m, chosen=i == 2) for i, m in enumerate(file.mixtures))
    one = replace(view, models=(replace(model, files=(replace(file, mixtures=int8),)),))
    told = "Of the mixtures tried the one with all units in int8 won."
    assert told in text_tables(one)[0].notes
