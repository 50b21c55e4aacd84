"""Prepare an archive for a run: create, extend, resume, repair or refuse it."""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..replacing import replacing
from ..text import quoted
from .conventions import line
from .copying import copy_cells, copy_run, new_archive
from .format import LIVE, RunSchema, create_run
from .growth import Growth, grown
from .reading import Run, open_locked
from .storage import is_being_read, is_left_open, is_live

logger = logging.getLogger(__name__)

# Suffix of the name under which a run is kept until its replacement is complete.
BACKUP = "~"


@dataclass(frozen=True)
class Request:
    """What is asked of a run.

    Attributes
    ----------
    schema
        Its description.
    compression
        Storage of maps.
    overwrite
        Replace a run of that name that cannot grow into the requested one, or is complete.
    """

    schema: RunSchema
    compression: str = "rounded"
    overwrite: bool = False


def is_complete(path: Path, run: str, request: Request) -> bool:
    """Return whether a finished run has everything that is requested, so that nothing is to be written.

    Raises
    ------
    UsageError
        The run, finished or not, has another recipe and is not to be replaced.
    ArchiveError
        The archive cannot be read, or another process is writing to it.
    """
    if not path.exists():
        return False
    with open_locked(path) as archive:
        if run not in archive.runs:
            return False
        growth = _growth(archive[run], request)
        return archive[run].is_closed and growth is not None and growth.changes_nothing


def kept_cells(path: Path, run: str, request: Request) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which cells, (layer, sample) by metric, an analysis of the request finds finished."""
    shape = len(request.schema.layers), len(request.schema.sample_names)
    none = {metric.name: np.zeros(shape, dtype=bool) for metric in request.schema.metrics}
    if not path.exists():
        return none
    with open_locked(path) as archive:
        growth = _growth(archive[run], request) if run in archive.runs else None
    if growth is None:
        return none
    place = growth.placement()
    return none | {name: place.placed(kept, none[name]) for name, kept in growth.kept.items()}


def prepare(path: Path, run: str, request: Request) -> None:
    """Leave at `path` a closed archive that can be read while the run in it is written, whatever state it was in."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if not path.exists():
        with replacing(path) as part, new_archive(part, [line(f"began run {quoted(run)}")], LIVE) as file:
            create_run(file, run, request.schema, compression=request.compression, created=created)
        return
    with open_locked(path) as archive:
        known = archive.runs
        growth = _growth(archive[run], request) if run in known else None
        history = [*archive.history, line(_change(run, growth))]
        begun = archive[run].created if growth is not None else created
        if growth is not None and not growth.changes_nothing:
            _announce(archive[run], growth)
    resumes = growth is not None and growth.changes_nothing
    # Readers keep the file that they opened: changes are made to a copy.
    if resumes and is_live(path) and not is_left_open(path) and not is_being_read(path):
        return
    kept = {name: name for name in known}
    if run in known and not resumes:
        # A run whose name ends in ~ is complete; another unfinished attempt is not worth keeping.
        kept = {name: name for name in known if name != run} | ({} if run + BACKUP in known else {run: run + BACKUP})
    with replacing(path) as part, open_locked(path) as archive, new_archive(part, history, LIVE) as file:
        for name, new_name in kept.items():
            copy_run(archive[name], file, new_name)
        if growth is not None and not resumes:
            group = create_run(file, run, growth.schema, compression=request.compression, created=begun)
            copy_cells(archive[run], group, growth.placement())
        elif not resumes:
            create_run(file, run, request.schema, compression=request.compression, created=created)


def _growth(existing: Run, request: Request) -> Growth | None:
    """Return how the run grows into the requested one; None if it is to be replaced; raise if neither is possible."""
    found = grown(existing, request.schema, request.compression)
    if not isinstance(found, str) and not (request.overwrite and existing.is_closed):
        return found
    if request.overwrite:
        return None
    raise another_recipe(existing.name, str(found))


def another_recipe(run: str, difference: str) -> UsageError:
    """Return the error that a run has another recipe than the requested one, given the difference in words."""
    return UsageError(
        f"run '{run}' exists and has another recipe ({difference}); choose another run=..., or replace it with "
        f"overwrite=True"
    )


def _change(run: str, growth: Growth | None) -> str:
    """Return the line of the history."""
    if growth is None:
        return f"began run {quoted(run)}"
    return f"added {', '.join(growth.added)} to run {quoted(run)}" if growth.added else f"continued run {quoted(run)}"


def _announce(run: Run, growth: Growth) -> None:
    """Say beforehand what is added, and which finished cells are computed again."""
    finished = sum(int(run.finished(metric.name).sum()) for metric in run.metrics)
    again = finished - sum(int(kept.sum()) for kept in growth.kept.values())
    added = f"adds {', '.join(growth.added)} to" if growth.added else "continues"
    text = f"{added} run {quoted(run.name)}; {finished - again} of its {finished} finished cells stay"
    if again:
        text += f", {again} are computed again: {growth.why_lost}"
        if growth.starts_from_maps:
            text += "; the search for SID starts from their maps"
    logger.warning("%s", text)


def finish(path: Path, run: str) -> None:
    """Rewrite an archive whose run is complete for other programs, and without the run that this one replaces."""
    with replacing(path) as part, open_locked(path) as archive:
        history = [*archive.history, line(f"completed run {quoted(run)}")]
        with new_archive(part, history) as file:
            for name in archive.runs:
                if name != run + BACKUP:
                    copy_run(archive[name], file, name)
