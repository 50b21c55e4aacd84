"""What a run of an archive has already, before an analysis adds to it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..replacing import resolve
from .reading import open_locked


@dataclass(frozen=True)
class Begun:
    """Layers and metrics of a run that an analysis continues.

    Attributes
    ----------
    layers, metrics
        Their names; empty if there is no such run.
    """

    layers: frozenset[str] = frozenset()
    metrics: tuple[str, ...] = ()


def begun(path: str | os.PathLike[str], run: str, *, overwrite: bool) -> Begun:
    """Return the layers and metrics of a run, which stay when it grows; nothing if it is to be replaced.

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
        return Begun(frozenset(row.name for row in found.layers), tuple(metric.name for metric in found.metrics))
