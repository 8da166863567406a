"""`edgenas doctor`."""

from __future__ import annotations

from edgenas.cli.console import Json, output


def doctor(json: Json = False) -> None:
    """Shows what is installed and reachable here, and how to mend the rest. Writes nothing.

    Looks at packages, Fashion-MNIST, device files, cores, memory, disk and folder. Ends with 0 even
    where optional things are missing. What is known of devices says `edgenas devices`.
    """
    from edgenas import pipeline

    with output(json=json) as out:
        checks = pipeline.examine()
        marks = {"ok": "ok     ", "missing": "missing", "problem": "PROBLEM"}
        lines = [
            f"{marks[c.state]}  {c.name}: {c.found}"
            + (f"\n         {c.remedy}" if c.remedy else "")
            for c in checks
        ]
        out.result(
            {
                "schema": "edgenas.doctor/1",
                "checks": [
                    {"name": c.name, "state": c.state, "found": c.found, "remedy": c.remedy}
                    for c in checks
                ],
            },
            "\n".join(lines),
        )
