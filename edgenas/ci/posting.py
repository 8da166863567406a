"""Puts the comment of an unprivileged job on its pull request; trusts nothing in it.

    python3 -I edgenas/ci/posting.py told/comment.md

It runs where a token may write, so it needs the standard library and `gh` alone, and edgenas is not
installed. Which pull request is meant is told by the event that started the job (REPOSITORY,
HEAD_OWNER, HEAD_BRANCH, HEAD_SHA in the environment), never by the file. A comment that `edgenas ci
comment` would not write (see `refused`) is not posted. One comment a pull request: the one with the
hidden mark is replaced.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARK = "<!-- edgenas ci -->"
MAX_BYTES = 60_000
AUTHOR = "github-actions[bot]"

_ALLOWED = ("<details><summary>front before and now</summary>", "</details>")
_NO_MENTION = "\u200b"
"""What edgenas writes after an @ that would call somebody, and within GH-1."""
_OURS = (
    r"(?m)^#{1,6} ",
    rf"(?<=\w)&#64;|&#64;{_NO_MENTION}",
    r"&#(?!64;)[0-9]{1,3};",
    r"\\[!-/:-@\[-`{-~]",
)
"""Headings, names that call nobody, entities, escaped letters: as edgenas writes them."""
_FOREIGN = {
    "a control character": re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"),
    "HTML": re.compile(r"[<>]"),
    "somebody's name": re.compile("@|&#64;"),
    "an entity": re.compile("&"),
    "a link or a picture": re.compile(r"\]\s*[(\[:]|://|www\.", re.IGNORECASE),
    "a reference": re.compile(r"#|\bGH-[0-9]", re.IGNORECASE),
}
"""What a text is refused for, after what edgenas itself writes is taken out."""


def refused(data: bytes) -> str:
    r"""Why `data` is no comment of `edgenas ci comment`; empty where it may be one.

    >>> refused(b"<!-- edgenas ci -->\n## edgenas: no gate failed, 1 target\n")
    ''
    >>> refused(b"<!-- edgenas ci -->\n## edgenas: hello @everyone\n")
    "it has somebody's name in it"
    """
    if len(data) > MAX_BYTES:
        return f"it has more than {MAX_BYTES} bytes"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "it is no text in UTF-8"
    if not text.startswith(f"{MARK}\n## edgenas: "):
        return "it does not begin as a comment of edgenas"
    rest = text.removeprefix(MARK)
    for known in _ALLOWED:
        rest = rest.replace(known, "")
    for pattern in _OURS:
        rest = re.sub(pattern, "", rest)
    has = next((what for what, found in _FOREIGN.items() if found.search(rest)), "")
    return f"it has {has} in it" if has else ""


def post(path: Path, event: dict[str, str]) -> str:
    """Posts the comment in `path`, or replaces the one that is there; says what was done.

    Raises:
        ValueError: it is refused, or no open pull request has this head.
        subprocess.CalledProcessError: `gh` failed.
    """
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} is no file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if why := refused(data):
        raise ValueError(f"{path} is not posted: {why}")
    repository = event["REPOSITORY"]
    head = f"{event['HEAD_OWNER']}:{event['HEAD_BRANCH']}"
    query = ["-X", "GET", "-f", "state=open", "-f", f"head={head}"]
    pulls = _gh(f"repos/{repository}/pulls", *query)
    numbers = [int(pull["number"]) for pull in pulls if pull["head"]["sha"] == event["HEAD_SHA"]]
    if not numbers:
        raise ValueError("no open pull request has this head any more")
    comments = f"repos/{repository}/issues/{numbers[0]}/comments"
    pages = _gh(comments, "-X", "GET", "--paginate", "--slurp")
    ours = [
        int(comment["id"])
        for page in pages
        for comment in page
        if comment["user"]["login"] == AUTHOR and comment["body"].startswith(MARK)
    ]
    body = json.dumps({"body": data.decode("utf-8")})
    if ours:
        _gh(f"repos/{repository}/issues/comments/{ours[0]}", "-X", "PATCH", text=body)
        return f"replaced the comment on pull request {numbers[0]}"
    _gh(comments, "-X", "POST", text=body)
    return f"commented on pull request {numbers[0]}"


def _gh(path: str, *options: str, text: str | None = None) -> Any:
    given = ["--input", "-"] if text is not None else []
    done = subprocess.run(  # noqa: S603
        ["gh", "api", *options, *given, path],  # noqa: S607
        input=text,
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    )
    return json.loads(done.stdout)


def main(arguments: Sequence[str]) -> int:
    """Posts; ends with 1 where nothing was."""
    names = ("REPOSITORY", "HEAD_OWNER", "HEAD_BRANCH", "HEAD_SHA")
    try:
        (path,) = arguments
        told = post(Path(path), {name: os.environ[name] for name in names})
    except KeyError as error:
        told = f"the environment has no {error.args[0]}"
    except (ValueError, subprocess.CalledProcessError) as error:
        told = str(error)
    else:
        print(told)  # noqa: T201
        return 0
    print(f"error: {told}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
