"""Who teaches in final training, and what of `[final]` is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgenas.errors import DataError, SpecError
from edgenas.pipeline.config import FinalConfig
from edgenas.pipeline.training import check_fits

if TYPE_CHECKING:
    from edgenas.data import DataSet
    from edgenas.supernet import Supernet, SupernetInfo


def check_final(settings: FinalConfig | None, data: DataSet, *, finished: bool = False) -> None:
    """Refuses settings that the data cannot have, before anything is trained.

    A run that is `finished` needs no teacher, unless it comes to train again.

    Raises:
        SpecError: a batch of more images than there are; there is no such teacher.
        ArtifactError: the teacher's file is damaged.
        DataError: the teacher is of other data.
    """
    if settings is None:
        return
    if settings.batch > len(data.train):
        raise SpecError(
            f"final.batch: {settings.batch} is more than the {len(data.train)} training images",
            hint="a smaller batch in [final] of the run file",
        )
    if settings.teacher is not None and not (finished and not Path(settings.teacher).exists()):
        teaching(settings.teacher, data)


def teaching(path: str, data: DataSet) -> tuple[Supernet, SupernetInfo]:
    """The supernet in `path`; see `check_final`."""
    from edgenas.supernet import load_supernet

    place = Path(path)
    if not place.is_file():
        why = "that is a folder" if place.is_dir() else "there is no such file"
        raise SpecError(
            f"final.teacher: {place}: {why}",
            hint="name a supernet's .safetensors file, or leave it out: the run's own teaches",
        )
    supernet, info = load_supernet(place)
    try:
        check_fits(info, supernet, data, place)
    except DataError as error:
        hint = "a teacher must know the same classes; left out, the run's own supernet teaches"
        raise DataError(f"final.teacher: {error}", hint=hint) from error
    return supernet, info
