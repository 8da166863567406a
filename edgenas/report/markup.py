"""Markdown that says what was meant, whatever stands in names and paths."""

from __future__ import annotations

import re
from collections.abc import Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells are Markdown too."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text in which Markdown and HTML mean nothing, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#&!~])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text in a code span; backticks and pipes, which would end it or its cell, become entities."""
    if any(character in text for character in "`|\n\r"):
        return plain(text)
    return f"`{text}`"
