"""Measuring a device that is not connected: a zip file that goes there, and the lines that return.

The kit is the same job that a connection would run: its nonce ties the results to the device, the
settings and the agent, and a model's id ties each timing to the model file.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgenas.artifacts import replacing
from edgenas.artifacts.files import MAX_JSON_BYTES, io_errors
from edgenas.errors import ArtifactError, SpecError
from edgenas.hardware import DeviceProfile
from edgenas.profiling import agent
from edgenas.profiling.records import decoded, fault, is_known, of_last_version
from edgenas.profiling.session import check_version, nonce_of, plan_job
from edgenas.profiling.settings import STANDARD, Settings
from edgenas.profiling.timings import Measurements, collect

RESULTS = "results.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same archive
_README = """Latency kit for {name}
{rule}

{title}: {runtime}, {precision}, {threads} thread(s), {n} models.

On the device, in this folder, with Python 3.9 or later, numpy and {package}:

    python3 agent.py job.json --out {results}

It prints a line for each timing, takes {minutes} and may be stopped at any time: the same
command goes on. Leave the device otherwise idle, on mains power and cool. Then bring {results}
back and make the table where this kit was made:

    {back}
"""
_PACKAGE = {"litert": "ai-edge-litert", "onnxruntime": "onnxruntime"}


def write_kit(
    models: Mapping[str, Path],
    device: DeviceProfile,
    path: Path,
    *,
    back: str,
    settings: Settings = STANDARD,
    seed: int = 0,
) -> None:
    """Writes the agent, the models, the job and a README into a zip file.

    `back` is the command that reads the results; the README quotes it.

    Raises:
        UsageError: no models.
        ResourceError: the file cannot be written.
    """
    plan = plan_job(models, device, settings=settings, seed=seed)
    job = {
        **plan.job,
        "models": {i: f"models/{i}.model" for i in plan.ids},
        "names": dict(plan.ids),
    }
    low = max(1, round(len(models) * (settings.seconds + settings.warmup_s) / 60))
    readme = _README.format(
        name=device.name,
        rule="=" * (len(device.name) + 16),
        title=device.title,
        runtime=device.runtime,
        precision=device.precision,
        threads=device.threads,
        n=len(models),
        package=_PACKAGE[device.runtime],
        results=RESULTS,
        minutes=f"{low} to {4 * low} minutes",
        back=back,
    )
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        texts = {
            "README.txt": readme.encode(),
            "agent.py": Path(agent.__file__).read_bytes(),
            "job.json": json.dumps(job, sort_keys=True, indent=2).encode(),
        }
        for name, text in texts.items():
            archive.writestr(_entry(name), text)
        for i, key in sorted(plan.ids.items()):
            archive.writestr(_entry(job["models"][i]), models[key].read_bytes())


def _entry(name: str) -> zipfile.ZipInfo:
    """A file of the archive, dated 1980: the same kit is the same file."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry


def read_results(
    models: Mapping[str, Path],
    device: DeviceProfile,
    path: Path,
    *,
    settings: Settings = STANDARD,
    seed: int = 0,
) -> Measurements:
    """What the agent of a kit of these models wrote, as `measure` would have returned it.

    A line that is cut or damaged counts as not measured.

    Raises:
        SpecError: no such file.
        ArtifactError: nothing in it is a line of the agent, it answers another job, or a line says
            what cannot be.
        DeviceError: another version of the runtime than the device's file wants.
        MeasurementError: no model was timed.
    """
    plan = plan_job(models, device, settings=settings, seed=seed)
    records = _answers(device, path, plan.ids, settings=settings, seed=seed)
    found = collect(device, records, plan.ids, settings=settings, seed=seed)
    check_version(device, found.conditions["runtime_version"])
    return found


def planned(
    device: DeviceProfile, path: Path, *, settings: Settings = STANDARD, seed: int = 0
) -> list[str]:
    """The keys of the models of the kit that `path` answers, before any model is at hand.

    Raises:
        SpecError, ArtifactError: as `read_results`; or a model that was timed is not named.
    """
    records = of_last_version(_answers(device, path, {}, settings=settings, seed=seed))
    names = _names(records)
    timed = {r["key"] for r in records if r["type"] in ("visit", "failed")}
    if nameless := timed - set(names):
        told = f"{len(nameless)} of the {len(timed)} models that were timed have no name"
    elif not names:
        told = "its last run named no model"
    else:
        return list(names.values())
    raise ArtifactError(
        f"{path}: {told}: lines of the type 'planned' are missing",
        hint=f"repeat the kit's command on the device: it adds them to {RESULTS}",
    )


def _answers(
    device: DeviceProfile, path: Path, ids: Mapping[str, str], *, settings: Settings, seed: int
) -> list[dict[str, Any]]:
    """The records in `path` of the job that `plan_job` plans; `ids` are for messages."""
    if not path.is_file():
        raise SpecError(
            f"cannot read {path}: there is no such file", hint=f"bring {RESULTS} from the device"
        )
    with io_errors(path, "read"), path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ArtifactError(f"{path}: larger than {MAX_JSON_BYTES} bytes")
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    records = [r for r in decoded(lines) if isinstance(r.get("nonce"), str) and is_known(r)]
    if not records:
        raise ArtifactError(
            f"{path}: it holds no whole line of the agent", hint="the kit's README names the file"
        )
    nonce = nonce_of(device, settings=settings, seed=seed)
    mine = [record for record in records if record["nonce"] == nonce]
    if not mine:
        raise ArtifactError(
            f"{path}: it answers another job than the one for {device.name}",
            hint="give the device, --run and --quick of the kit; a kit of another version of "
            "edgenas, or of a device file that has changed since, is measured anew",
        )
    names = {**ids, **_names(mine)}
    for record in mine:
        if wrong := fault(record):
            key = record.get("key")
            of = f" of {names.get(key, key)!r}" if isinstance(key, str) else ""
            raise ArtifactError(
                f"{path}: a line of the type {record['type']!r}{of}: {wrong}",
                hint=f"delete that line of {RESULTS} on the device and repeat the kit's command "
                "there: it measures what lacks",
            )
    return mine


def _names(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What the host called the models, by their ids."""
    return {r["key"]: r["name"] for r in records if r["type"] == "planned" and not fault(r)}
