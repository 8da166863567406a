"""The process that writes TFLite files: `python -m edgenas.export.worker JOBS`.

One process converts many networks, since its imports alone take seconds. It prints one JSON line a
finished file on the descriptor that was its standard output; what the converters print, from Python
or C++, goes to standard error, which the parent keeps in a log. A converter that crashes takes down
this process only.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOGETHER = 24
"""So many units are converted by one call, which takes seconds before it looks at them."""


def main(argv: Sequence[str]) -> int:
    """Runs the jobs in the file `argv[0]`; 0 if every job was tried."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    import torch

    from edgenas.artifacts import read_json
    from edgenas.errors import ResourceError
    from edgenas.export.jobs import JOBS_SCHEMA

    torch.set_num_threads(1)
    table = read_json(Path(argv[0]), schema=JOBS_SCHEMA)
    jobs = table["jobs"]
    for i, job in enumerate(jobs):
        answers.write(json.dumps({"job": job["name"], "state": "started"}) + "\n")
        try:
            if table["together"] and i % TOGETHER == 0:
                _convert_together(jobs[i : i + TOGETHER])
            _convert(job)
        except Exception as error:  # noqa: BLE001  # whatever a converter raises is this job's answer
            answer = {"job": job["name"], "state": "failed"}
            answer["error"] = f"{type(error).__name__}: {error}"
            if isinstance(error, ResourceError):
                answer |= {"state": "no room", "error": str(error), "hint": error.hint}
            answers.write(json.dumps(answer) + "\n")
        else:
            answers.write(json.dumps({"job": job["name"], "state": "done"}) + "\n")
    answers.close()
    return 0


def _convert_together(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Writes the float32 files of those jobs that are single units; where it fails, none."""
    import torch

    from edgenas import networks
    from edgenas.artifacts import replacing
    from edgenas.export import litert, tflite
    from edgenas.export.jobs import read_lowering

    units = []
    for job in jobs:
        lowering, path = read_lowering(job["lowering"]), Path(job["files"]["tflite"])
        if job["weights"] is None and len(lowering) == 1 and not path.is_file():
            units.append((networks.random_network(lowering, seed=job["seed"]), path))
    if len(units) < 2:
        return
    with tempfile.TemporaryDirectory(prefix="edgenas-") as name, torch.no_grad():
        parts = [Path(name) / f"{i}.tflite" for i in range(len(units))]
        try:
            litert.write_together([network for network, _ in units], parts)
        except Exception:  # noqa: BLE001  # each by itself will tell whose fault it is
            traceback.print_exc()
            return
        for part, (_, path) in zip(parts, units, strict=True):
            tflite.canonicalise(part)
            with replacing(path) as temporary:
                shutil.copyfile(part, temporary)


def _convert(job: Mapping[str, Any]) -> None:
    import numpy as np
    import torch

    from edgenas import networks
    from edgenas.artifacts import replacing
    from edgenas.export import litert, tflite
    from edgenas.export.jobs import calibration_samples, read_lowering

    lowering = read_lowering(job["lowering"])
    files = {name: Path(path) for name, path in job["files"].items()}
    source = files["tflite"]
    form = job["form"]
    names = {"input_name": form["input_name"], "output_name": form["output_name"]}
    extras = {"metadata": _metadata(form["metadata"]), "labels": form["labels"]}
    if not source.is_file():
        if job["weights"] is None:
            network = networks.random_network(lowering, seed=job["seed"])
        else:
            from safetensors.torch import load_file

            network = networks.build(lowering, norm=False).eval()
            network.load_state_dict(load_file(job["weights"]))
        with torch.no_grad(), replacing(source) as temporary:
            litert.write_float(network, temporary)
            tflite.canonicalise(temporary, **names, **extras)
    if "tflite-fp16" in files:
        with replacing(files["tflite-fp16"]) as temporary:
            litert.cast_float16(source, temporary)
            tflite.canonicalise(temporary, **names, **extras)
    if "tflite-int8" not in files and not job["mixed"]:
        return
    if job["calibration"] is None:
        samples = calibration_samples(lowering, seed=job["seed"])
    else:
        images = np.load(job["calibration"], allow_pickle=False)
        samples = [(image[None],) for image in images]
    if "tflite-int8" in files:
        with replacing(files["tflite-int8"]) as temporary:
            litert.quantize(source, temporary, samples)
            tflite.canonicalise(temporary, int8=True, **names, **extras)
    if job["mixed"]:
        mixed = {Path(path): precisions for path, precisions in job["mixed"].items()}
        litert.quantize_units(source, mixed, samples, ranges=Path(job["ranges"]))
        for path in mixed:
            tflite.canonicalise(path, int8=True, **names, **extras)


def _metadata(texts: Mapping[str, str]) -> dict[str, bytes]:
    """The buffers of a file: the given texts and, where they hold a contract, the standard form."""
    from edgenas.export.contract import METADATA_KEY, contract_from
    from edgenas.export.tflite import LABELS_FILE
    from edgenas.export.tflite_metadata import KEY, standard_metadata

    found = {name: text.encode() for name, text in texts.items()}
    if METADATA_KEY in texts:
        document = json.loads(texts[METADATA_KEY])
        contract = contract_from(document["input"], origin="the job")
        name = document["about"].get("digest", "")
        found[KEY] = standard_metadata(contract, name=name, labels_file=LABELS_FILE)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
