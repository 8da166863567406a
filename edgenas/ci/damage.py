"""What of a locked run is not as it was locked: files that are gone or changed, forged figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgenas.artifacts import check_manifest, parse_json, sha256_file
from edgenas.ci.lock import FRONT, Entry, certificate_digest, file_of, stored_metrics
from edgenas.ci.targets import Target
from edgenas.errors import ArtifactError, EdgenasError


def damage(target: Target, entry: Entry, runs: Path) -> tuple[str, ...]:
    """What of the locked run is missing, was changed, or is not what the lock says."""
    folder = runs / entry.run
    if found := (*_missing(entry, runs), *_edited(target, entry, folder)):
        return found
    try:
        check_manifest(folder)
    except EdgenasError as error:
        found = (str(error),)
    return found if _as_locked(entry, folder) else (*found, *_other_figures(entry, folder))


def _missing(entry: Entry, runs: Path) -> tuple[str, ...]:
    """The locked files that are not in the folder of runs, or not with the content locked."""
    wanted = {FRONT: entry.digests.get(FRONT)} | {p: f.sha256 for p, f in entry.files.items()}
    problems = []
    for name, sha256 in sorted(wanted.items()):
        path = runs / entry.run / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif (found := sha256_file(path)) != sha256:
            problems.append(f"{path} was changed: SHA-256 {found[:12]}, locked {str(sha256)[:12]}")
    return tuple(problems)


def _edited(target: Target, entry: Entry, folder: Path) -> tuple[str, ...]:
    """Where the lock says something else of the front than the front's file that it names."""
    path = folder / FRONT
    if not path.is_file() or sha256_file(path) != entry.digests.get(FRONT):
        return ()  # told already
    stored = stored_metrics(target, folder)
    problems = [f"{path} has {digest}, the lock has not" for digest in stored.keys() - entry.front]
    for digest, network in entry.front.items():
        found = stored.get(digest)
        if found is None:
            if digest not in entry.fleet.values():
                problems.append(f"the lock has {digest}, {path} has not")
            continue
        problems += [
            f"{name} of {digest} is {found[name].value} by {path}, locked {value}"
            for name, value in network.metrics.items()
            if name in found and found[name].value != value
        ]
    return tuple(sorted(problems))


def _as_locked(entry: Entry, folder: Path) -> bool:
    """Whether certificates and files have the very figures of the lock: read in a moment."""
    found = {}
    try:
        for place in (f"models/{digest}" for digest in entry.exported):
            path = folder / place / "export.json"
            for row in parse_json(path.read_bytes(), origin=str(path))["models"]:
                file, evidence = f"{place}/{row['path']}", row["verification"]
                size = (folder / file).stat().st_size
                found[file] = (row["format"], row["size_bytes"], size, evidence["n"],
                               evidence["top1"], evidence["top1_drop"])  # fmt: skip
    except (OSError, ArtifactError, KeyError, TypeError):
        return False
    return found == {
        path: (f.format, f.size_bytes, f.size_bytes, f.n_images, f.top1, f.top1_drop)
        for path, f in entry.files.items()
    }


def _other_figures(entry: Entry, folder: Path) -> Iterator[str]:
    """Each figure of a certificate that is not the lock's, or not the file's own."""
    from edgenas.export.certificate import read_certificate
    from edgenas.export.verify import ROUNDING

    for digest in entry.exported:
        place = f"models/{digest}"
        try:
            certificate = read_certificate(folder / place)
        except EdgenasError as error:
            yield str(error)
            continue
        if certificate_digest(certificate) != entry.certificates.get(digest):
            yield f"{place}: its certificate is of other files, parents or limits than locked"
        for model in certificate.models:
            path = f"{place}/{model.path}"
            file, stated, locked = folder / path, file_of(model), entry.files.get(path)
            if locked is None:
                yield f"{path}: it is not in the lock"
                continue
            for name in ("format", "size_bytes", "n_images", "top1", "top1_drop"):
                said, kept = getattr(stated, name), getattr(locked, name)
                rounded = isinstance(said, float) and abs(said - kept) <= ROUNDING + 1e-9
                if said != kept and not rounded:
                    yield f"{path}: {name} {said} by its certificate, locked {kept}"
            if file.is_file() and (size := file.stat().st_size) != model.size_bytes:
                yield f"{path}: it has {size} bytes, {model.size_bytes} by its certificate"
