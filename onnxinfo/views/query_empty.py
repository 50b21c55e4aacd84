"""Why a query finds no rows."""

from __future__ import annotations

from typing import Any

from ..archive.reading import Run
from ..archive.reading import open as open_archive
from ..text import listed
from .selection import Paths, Selected, Selection


def why_empty(path: Paths, **options: Any) -> str:
    """Return in words why :func:`onnxinfo.query` found no rows with the same arguments.

    If no cell of the chosen runs is finished, the other runs that have finished cells are named, such as the copy
    ``NAME~`` of a run that is being extended or replaced.
    """
    selected: Any = {name: value for name, value in options.items() if name in Selected.__annotations__}
    selection = Selection.of(path, **selected)
    chosen = []
    for view, source in selection.views():
        if any(view.values(metric.name)["done"].any() for metric in view.metrics):
            return "no rows: no finished cell meets all conditions"
        chosen.append((source, view.name))
    if not chosen:
        return f"no rows: there is no run in {', '.join(map(str, selection.paths))}"
    others = []
    for source in selection.paths:
        with open_archive(source) as archive:
            others += [name for name in archive.runs if (source, name) not in chosen and _has_cells(archive[name])]
    advice = f"; other runs: {listed(others)}" if others else ""
    return f"no rows: no finished cells in the chosen runs{advice}"


def _has_cells(run: Run) -> bool:
    return any(bool(run.finished(metric.name).any()) for metric in run.metrics)
