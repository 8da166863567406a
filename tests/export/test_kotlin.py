"""`Classifier.kt` by the real Kotlin compiler, on a JVM, with stand-ins for Android and LiteRT.

Needs `kotlinc` (for instance `bin/kotlinc` of npm's package kotlin-compiler) and a JDK on the path.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgenas.export.contract import InputContract

STAND_INS = Path(__file__).parent / "android"
TOOLS = ("kotlinc", "javac", "java")
SCALE, ZERO_POINT = 0.0125, -55
"""Of the stand-in's input."""
SIZE = 24

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        None in map(shutil.which, TOOLS), reason=f"needs {', '.join(TOOLS)} on the path"
    ),
]


def test_the_kotlin_file_prepares_images_as_python_does(
    tmp_path: Path, script_beside: Callable[[InputContract], dict[str, Any]]
) -> None:
    contract = InputContract(
        *((1, SIZE, SIZE, 3), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)),
        *(tuple(f'cost ${i} "each"' for i in range(10)), "bilinear-antialias"),
    )
    script = script_beside(contract)
    build = tmp_path / "build"
    java = sorted(map(str, STAND_INS.glob("*.java")))
    subprocess.run(["javac", "-d", str(build), *java], check=True)
    kotlin = [str(tmp_path / "Classifier.kt"), *sorted(map(str, STAND_INS.glob("*.kt")))]
    jar = tmp_path / "classify.jar"
    command = ["kotlinc", "-Werror", "-cp", str(build), "-include-runtime", "-d", str(jar)]
    subprocess.run([*command, *kotlin], check=True)

    wide = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE + 7, 4), dtype=np.uint8)
    wide[..., 3][wide[..., 3] > 99] = 255  # most of it opaque
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "wide.raw").write_bytes(wide.tobytes())
    seen = {kind: tmp_path / f"seen.{kind}" for kind in ("float32", "int8")}
    for kind, path in seen.items():
        (tmp_path / kind).write_text(f"{kind}\n{path}\n")
    told = subprocess.run(
        [
            *("java", "-cp", f"{jar}:{build}", "MainKt", str(tmp_path), str(tmp_path / "wide.raw")),
            *(str(wide.shape[1]), str(wide.shape[0]), *seen),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines() == ['cost $7 "each"'] * 2

    wanted = script["prepare"](script["read"](tmp_path / "wide.png")).ravel()
    got = np.frombuffer(seen["float32"].read_bytes(), "<f4")
    left = (wide.shape[1] - SIZE) // 2
    opaque = np.repeat(wide[:, left : left + SIZE, 3].ravel() == 255, 3)
    np.testing.assert_allclose(got[opaque], wanted[opaque], atol=1e-5)
    np.testing.assert_allclose(got, wanted, atol=1 / 255 / 0.2)  # whole grey levels in Python
    steps = np.clip(np.round(got / SCALE) + ZERO_POINT, -128, 127)
    off = np.abs(np.frombuffer(seen["int8"].read_bytes(), np.int8) - steps)
    assert off.max() <= 1, "a value halfway between two steps may go either way"
    assert (off > 0).mean() < 0.01
