"""The report's files in a run folder."""

from __future__ import annotations

from pathlib import Path

from edgenas.artifacts import to_json, write_atomic
from edgenas.report.load import load_run
from edgenas.report.page import html
from edgenas.report.picture import front_svg
from edgenas.report.summary import document, markdown

FILES = ("front.svg", "report.html", "report.json", "report.md")
"""What a report consists of."""


def write_report(run: Path) -> tuple[Path, ...]:
    """Writes `report.html`, `report.md`, `report.json` and `front.svg` from the run's other files.

    Returns the paths written. The same files give the same report. The manifest is left as it is:
    whoever keeps one writes it afterwards.

    Raises:
        SpecError: not a finished run.
        ArtifactError: one of its files is damaged.
        ResourceError: the folder cannot be written.
    """
    view = load_run(run)
    texts = (front_svg(view), html(view), to_json(document(view)), markdown(view))
    for name, text in zip(FILES, texts, strict=True):
        write_atomic(run / name, text)
    return tuple(run / name for name in FILES)
