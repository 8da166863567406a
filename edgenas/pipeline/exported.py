"""What was exported: certificates of several networks, and their files as rows of a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.errors import worst_code

if TYPE_CHECKING:
    from edgenas.export.certificate import Certificate, ExportedModel, TargetEvidence

EXPORTS_SCHEMA = "edgenas.exports/1"


@dataclass(frozen=True, slots=True)
class Exported:
    """The certificates of several networks by their folders, and what went wrong."""

    certificates: Mapping[Path, Certificate]
    failures: tuple[str, ...]
    exit_code: int

    def rows(self, folder: Path) -> list[dict[str, Any]]:
        """Every file as a row of `result.json`; paths relative to the run's `folder`."""
        return [
            exported_row(model, (place / model.path).relative_to(folder).as_posix())
            for place, certificate in self.certificates.items()
            for model in certificate.models
        ]

    def targets(self, folder: Path) -> list[dict[str, Any]]:
        """What each target says of each network's file, as rows of `result.json`."""
        return [
            target_row(target, place.relative_to(folder).as_posix())
            for place, certificate in self.certificates.items()
            for target in certificate.targets
        ]


def gathered(folder: Path, certificates: Mapping[Path, Certificate]) -> Exported:
    """The certificates of networks in a run's `folder`, and what they say went wrong."""
    failures = tuple(
        f"{place.relative_to(folder).as_posix()}/{problem}"
        for place, certificate in certificates.items()
        for problem in certificate.problems()
    )
    code = worst_code(certificate.exit_code for certificate in certificates.values())
    return Exported(certificates, failures, code)


def exported_row(model: ExportedModel, path: str) -> dict[str, Any]:
    """A file as a row of `result.json`."""
    predicted, measured = model.predicted_ms, model.measured_ms
    return {
        "path": path,
        "format": model.format,
        "sha256": model.sha256,
        "size_bytes": model.size_bytes,
        "verified": model.verified,
        "top1": model.verification.top1,
        "top1_drop": model.verification.top1_drop,
        "agreement": model.verification.agreement,
        "n_images": model.verification.n,
        "device": model.device or None,
        "predicted_ms": None if predicted is None else predicted.value_ms,
        "predicted_origin": None if predicted is None else predicted.origin,
        "low_ms": None if predicted is None else predicted.low_ms,
        "high_ms": None if predicted is None else predicted.high_ms,
        "measured_ms": None if measured is None else measured.value_ms,
        "rough": predicted is not None and predicted.rough,
        **({"unsure": list(model.unsure)} if model.unsure else {}),
        **({"units": {u.name: u.precision for u in model.units}} if model.units else {}),
    }


def target_row(target: TargetEvidence, place: str) -> dict[str, Any]:
    """Evidence with the path of its file, or of its network's folder, in the run's folder."""
    return {**asdict(target), "path": f"{place}/{target.path}" if target.path else place}
