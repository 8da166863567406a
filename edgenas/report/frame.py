"""A page that needs nothing else: no network, no other file but the models that it links to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources

from edgenas.report.charts import Figure

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
"""What the page may load: only what it carries, so that it cannot call anywhere."""


def page(title: str, body: str, figures: Mapping[str, Figure], *, version: str) -> str:
    """A whole page around `body`, with the charts of its placeholders and all that they need."""
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped,unused-ignore]

    code = get_plotlyjs().replace("</script", "<\\/script")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)} - edgenas</title>\n"
        f"<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n{body}"
        f"<footer>Written by edgenas {escape(version)}. Charts: plotly.js (MIT).</footer>\n"
        f'<script type="application/json" id="figures">{_json(figures)}</script>\n'
        f"<script>{code}</script>\n<script>\n{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def chart(key: str, figure: Figure, figures: dict[str, Figure], caption: str) -> str:
    """A place for a chart, which the page's script fills; `caption` is HTML."""
    figures[key] = figure
    height = figure["layout"]["height"]
    return (
        f'<figure class="panel"><div class="plot" id="{escape(key)}" '
        f'style="height:{height}px"></div><figcaption>{caption}</figcaption></figure>'
    )


def folded(summary: str, content: str) -> str:
    """A panel that opens when asked; `content` is HTML."""
    return f'<details class="panel"><summary>{escape(summary)}</summary>{content}</details>'


def _asset(name: str) -> str:
    return resources.files("edgenas.report").joinpath(name).read_text("utf-8")


def _json(value: object) -> str:
    """JSON that may stand in a script element: no `<` could end it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
