"""Prepare an archive for a run: create, extend, resume, repair or refuse it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..config import as_setting, unrecorded
from ..errors import UsageError
from ..replacing import replacing
from .copying import copy_run, new_archive, schema_of
from .format import LayerRow, RunSchema, create_run, encode_attribute, plain_text
from .reading import Run, open_locked
from .storage import is_being_read, is_left_open

# Suffix of the name under which a run is kept until its replacement is complete.
BACKUP = "~"


def prepare(path: Path, run: str, schema: RunSchema, overwrite: bool, compression: str) -> None:
    """Leave at `path` a closed archive that contains the run, whatever state the file was in."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if not path.exists():
        with replacing(path) as part, new_archive(part) as file:
            create_run(file, run, schema, compression=compression, created=created)
        return
    with open_locked(path) as archive:
        known = archive.runs
        resumes = run in known and _resumes(archive[run], schema, overwrite, compression)
    # Readers keep the file that they opened: changes are made to a copy.
    if resumes and not is_left_open(path) and not is_being_read(path):
        return
    kept = {name: name for name in known}
    if run in known and not resumes:
        # A run whose name ends in ~ is complete; another unfinished attempt is not worth keeping.
        kept = {name: name for name in known if name != run} | ({} if run + BACKUP in known else {run: run + BACKUP})
    with replacing(path) as part, open_locked(path) as archive, new_archive(part) as file:
        for name, new_name in kept.items():
            copy_run(archive[name], file, new_name)
        if not resumes:
            create_run(file, run, schema, compression=compression, created=created)


def _resumes(existing: Run, schema: RunSchema, overwrite: bool, compression: str) -> bool:
    """Whether the run is to be resumed (otherwise it is replaced); raise if neither is allowed."""
    difference = first_difference(existing, schema, compression)
    if difference is None and not existing.is_closed:
        return True
    if overwrite:
        return False
    reason = f"has another recipe ({difference})" if difference else "is complete"
    raise UsageError(
        f"run '{existing.name}' exists and {reason}; choose another run=..., or replace it with overwrite=True"
    )


def first_difference(existing: Run, schema: RunSchema, compression: str) -> str | None:
    """Describe the first difference between a stored run and a schema; None if there is none."""
    stored = schema_of(existing)
    recipes = [
        {key: encode_attribute(value) for key, value in recipe.items()} for recipe in (stored.recipe, schema.recipe)
    ]
    for key in dict.fromkeys([*recipes[1], *recipes[0]]):
        there, now = (recipe.get(key, encode_attribute(unrecorded(key))) for recipe in recipes)
        if there != now:
            (name, there), (_, now) = as_setting(key, there), as_setting(key, now)
            return f"{name} is {there} there, {now} now"
    facets: dict[str, list[Any]] = {
        "layers": [[LayerRow.of(layer) for layer in each.layers] for each in (stored, schema)],
        "sample names": [[plain_text(name) for name in each.sample_names] for each in (stored, schema)],
        "labels": [
            None if x.labels is None else [str(label) for label in np.asarray(x.labels).tolist()]
            for x in (stored, schema)
        ],
        "axes": [list(zip(each.axes, each.sample_shape, strict=True)) for each in (stored, schema)],
        "metrics": [[metric.datasets() for metric in each.metrics] for each in (stored, schema)],
        "input unit": [np.broadcast_to(each.unit, each.sample_shape).tolist() for each in (stored, schema)],
        "compression": [existing.compression, compression],
    }
    return next((f"other {name}" for name, (there, now) in facets.items() if there != now), None)


def drop_backup(path: Path, run: str) -> None:
    """Remove the old run after its replacement is complete."""
    with open_locked(path) as archive:
        known = archive.runs
    backup = run + BACKUP
    if backup not in known:
        return
    with replacing(path) as part, open_locked(path) as archive, new_archive(part) as file:
        for name in known:
            if name != backup:
                copy_run(archive[name], file, name)
