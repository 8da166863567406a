"""What lies beside exported models so that they can be used at once.

`infer.py`, `classify.cc` and `Classifier.kt` run the files of a folder; `micro/` holds the int8
file as a C array, with the arena and the operators that TensorFlow Lite Micro needs for it. What
is constant is written into them: they need nothing of edgenas.
"""

from __future__ import annotations

import functools
import math
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from edgenas.artifacts import io_errors, write_atomic
from edgenas.data.folder import FORMATS
from edgenas.errors import ArtifactError
from edgenas.export.certificate import AGAIN, REJECTED, Certificate, ExportedModel, TargetEvidence
from edgenas.export.contract import InputContract
from edgenas.export.tflite import LABELS_FILE, labels_text
from edgenas.hardware.micro import MICRO_BUILD
from edgenas.models import micro_arena_of_file
from edgenas.targets import MARGIN, operators_of_file
from edgenas.targets.toolchains import MICRO_METHODS, SQUEEZE_EXCITE

_BYTES_A_LINE = 16
_DEFINED = re.compile(r"^#define (MODEL_\w+) (.+)$", re.MULTILINE)
_ARRAY = re.compile(r"\b(model_\w+)\[MODEL_\w+\] = \{(.*?)\};", re.DOTALL)
_FOR_TFLITE = ("classify.cc", "Classifier.kt")
_MICRO = "micro"


def write_ready(folder: Path, certificate: Certificate, *, image_size: int) -> None:
    """Writes `labels.txt` and the scripts beside the models; removes them where there is no model.

    `image_size` is the height and width in pixels that images were read at for training. `micro/`
    is written where a target of the certificate takes the int8 file in TensorFlow Lite Micro.
    """
    models = [m for m in certificate.models if not m.path.endswith(REJECTED)]
    if not models:
        _remove(folder, (LABELS_FILE, "infer.py", *_FOR_TFLITE, _MICRO))
        return
    facts = _facts(models[0].input, certificate.digest, image_size)
    write_atomic(folder / LABELS_FILE, labels_text(models[0].input.classes))
    write_atomic(folder / "infer.py", _filled("infer.py", facts))
    tflite = [m for m in models if m.format.startswith("tflite")]
    if tflite:
        best = next((m for m in tflite if m.precision == "int8"), tflite[0])
        write_atomic(folder / "classify.cc", _filled("classify.cc", facts))
        text = _filled("Classifier.kt", {**facts, "model": best.path})
        write_atomic(folder / "Classifier.kt", text)
    else:
        _remove(folder, _FOR_TFLITE)
    int8 = next((m for m in tflite if m.precision == "int8"), None)
    if int8 is not None and any(_is_micro(t, int8) for t in certificate.targets):
        write_micro(folder / _MICRO, folder / int8.path, int8, certificate, facts=facts)
    else:
        _remove(folder, (_MICRO,))


def _remove(folder: Path, names: Iterable[str]) -> None:
    """What an earlier export wrote is of other files."""
    for path in (folder / name for name in names):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_micro(
    target: Path,
    path: Path,
    model: ExportedModel,
    certificate: Certificate,
    *,
    facts: Mapping[str, str],
) -> None:
    """Writes the int8 file at `path` as a C array with its arena and operators into `target`."""
    arena, origin = _arena(path, certificate)
    data = path.read_bytes()
    adds = micro_methods(path)
    values = {
        **facts,
        "file": path.name,
        "sha256": model.sha256,
        "size": str(len(data)),
        "arena": str(arena),
        "arena_origin": "\n *   ".join(textwrap.wrap(f"Arena: {origin}.", 95)),
        "scale": repr(model.input.scale),
        "zero_point": str(model.input.zero_point),
        "bytes": "\n".join(_lines(data)),
        "n_operators": str(len(adds)),
        "adds": "\n".join(f"  TF_LITE_ENSURE_STATUS(operators.{add}());" for add in adds),
    }
    for name in ("model_data.h", "model_data.c", "model_runner.h"):
        write_atomic(target / name, _filled(name, values))


def check_micro(folder: Path, certificate: Certificate) -> None:
    """Compares the constants and arrays in `micro/` with the int8 file, where both are there.

    Raises:
        ArtifactError: one of them is of another model.
    """
    int8 = next((m for m in certificate.models if m.format == "tflite-int8"), None)
    if int8 is None or int8.path.endswith(REJECTED) or not (folder / int8.path).is_file():
        return
    with tempfile.TemporaryDirectory(prefix="edgenas-") as name:
        again, facts = Path(name), _facts(int8.input, certificate.digest, 0)
        write_micro(again, folder / int8.path, int8, certificate, facts=facts)
        for file, pattern in (("model_data.h", _DEFINED), ("model_data.c", _ARRAY)):
            path = folder / _MICRO / file
            if not path.is_file():
                continue
            with io_errors(path, "read"):
                found = dict(pattern.findall(path.read_text("utf-8", errors="replace")))
            for key, value in pattern.findall((again / file).read_text("utf-8")):
                if found.get(key, value) != value:
                    told = f"{path} was changed: {key} is not that of {int8.path}"
                    raise ArtifactError(told, hint=AGAIN)


def micro_methods(path: Path) -> tuple[str, ...]:
    """Methods of `MicroMutableOpResolver` that add the operators of the TFLite file, each once.

    Raises:
        KeyError: TensorFlow Lite Micro has no such operator; `check_targets` fails such a file.
    """
    names = {"MUL" if op.name == SQUEEZE_EXCITE else op.name for op in operators_of_file(path)}
    return tuple(sorted(MICRO_METHODS[name] for name in names))


def _is_micro(target: TargetEvidence, model: ExportedModel) -> bool:
    asked = target.toolchain == "tflm" and target.path == model.path
    return asked and target.verdict != "failed"


def _arena(path: Path, certificate: Certificate) -> tuple[int, str]:
    """The arena's bytes in whole multiples of 16, and where the figure comes from."""
    for target in certificate.targets:
        if target.toolchain == "tflm" and target.path == path.name and target.arena_bytes:
            if not target.checked_by.startswith("tflm"):
                break
            where = f"measured in {target.checked_by}, {MICRO_BUILD}"
            return -(-target.arena_bytes // 16) * 16, where
    planned = micro_arena_of_file(path).total
    spared = math.ceil(planned / MARGIN)
    return -(-spared // 16) * 16, f"planned, not measured, with {1 / MARGIN - 1:.0%} to spare"


def _facts(contract: InputContract, digest: str, image_size: int) -> dict[str, str]:
    _, height, width, channels = contract.shape
    low, high = contract.value_range
    return {
        "digest": digest,
        "image_size": str(image_size),
        "height": str(height),
        "width": str(width),
        "channels": str(channels),
        "order": "grey" if channels == 1 else "red, green, blue",
        "mean": repr(list(contract.mean)),
        "std": repr(list(contract.std)),
        "mean_c": _floats(contract.mean),
        "std_c": _floats(contract.std),
        "low": repr(float(low)),
        "high": repr(float(high)),
        "labels": repr(list(contract.classes)),
        "formats": repr(FORMATS),
        "labels_c": ",\n".join(f"    {c_string(label)}" for label in contract.classes),
        "n_classes": str(len(contract.classes)),
    }


def c_string(text: str) -> str:
    r"""`text` as a C string literal of UTF-8 bytes.

    >>> print(c_string('caf\u00e9 "1"?'))
    "caf\303\251 \0421\042\077"
    """
    safe = (
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return '"' + "".join(safe) + '"'


def _floats(values: Sequence[float]) -> str:
    return ", ".join(f"{float(value)!r}f" for value in values)


def _lines(data: bytes) -> Iterable[str]:
    for start in range(0, len(data), _BYTES_A_LINE):
        yield "    " + ",".join(f"0x{b:02x}" for b in data[start : start + _BYTES_A_LINE]) + ","


@functools.cache
def _template(name: str) -> Template:
    folder = resources.files("edgenas.export") / "templates"
    return Template((folder / f"{name}.in").read_text("utf-8"))


def _filled(name: str, values: Mapping[str, str]) -> str:
    return _template(name).substitute(values)
