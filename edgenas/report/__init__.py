"""Reports of a run: one HTML page, Markdown, JSON, and the front as a picture."""

from edgenas.report.bench import prepare_plots, write_bench_plots
from edgenas.report.compared import (
    comparison_document,
    comparison_html,
    comparison_markdown,
    write_comparison,
)
from edgenas.report.comparison import Comparison, compare
from edgenas.report.load import load_run, read_trials
from edgenas.report.model import RunView
from edgenas.report.page import html
from edgenas.report.picture import front_svg
from edgenas.report.prediction import prediction_html
from edgenas.report.summary import document, markdown
from edgenas.report.write import write_report

__all__ = [
    "Comparison",
    "RunView",
    "compare",
    "comparison_document",
    "comparison_html",
    "comparison_markdown",
    "document",
    "front_svg",
    "html",
    "load_run",
    "markdown",
    "prediction_html",
    "prepare_plots",
    "read_trials",
    "write_bench_plots",
    "write_comparison",
    "write_report",
]
