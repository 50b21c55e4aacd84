"""What a run of an archive has already, before an analysis adds to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..replacing import resolve
from .format import Json
from .reading import open_locked


@dataclass(frozen=True)
class Begun:
    """A run that an analysis continues.

    Attributes
    ----------
    layers, metrics
        Names of its layers and metrics; empty if there is no such run.
    is_closed
        Whether it is complete, so that there may be nothing to add.
    recipe
        Its settings.
    """

    layers: frozenset[str] = frozenset()
    metrics: tuple[str, ...] = ()
    is_closed: bool = False
    recipe: Mapping[str, Json] = field(default_factory=dict)


def begun(path: str | os.PathLike[str], run: str, *, overwrite: bool) -> Begun:
    """Return the layers, metrics and settings of a run, which stay when it grows; nothing if it is to be replaced.

    Raises
    ------
    ArchiveError
        The archive cannot be read, or another process is writing to it.
    """
    resolved = resolve(path)
    if overwrite or not resolved.exists():
        return Begun()
    with open_locked(resolved) as archive:
        if run not in archive.runs:
            return Begun()
        found = archive[run]
        layers, metrics = (row.name for row in found.layers), (metric.name for metric in found.metrics)
        return Begun(frozenset(layers), tuple(metrics), found.is_closed, found.recipe)
