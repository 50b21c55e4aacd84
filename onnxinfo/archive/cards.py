"""Runs and archives as small HTML tables, for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from .. import markup
from ..errors import ArchiveError
from ..text import printable
from .sanity import SanityCard
from .table import Tabular, run_table

#: Cells of a run whose means are read to be shown.
_MOST_CELLS = 1_000_000


class Shown(Tabular, Protocol):
    """What a card shows of a run; see :class:`onnxinfo.Run`."""

    path: Path
    created: str

    @property
    def status(self) -> str:
        """State of the run."""

    @property
    def sanity(self) -> SanityCard | None:
        """What the model received."""


def run_card(run: Shown) -> str:
    """Return a run as HTML: what it is about, and the mean of every layer."""
    layers, samples = run.shape
    inputs = [f"{part.name} ({' x '.join(map(str, part.shape))}: {', '.join(part.axes)})" for part in run.parts]
    card = run.sanity
    rows: list[tuple[str, object]] = [
        ("archive", run.path),
        ("status", run.status),
        ("samples", f"{samples}{'' if run.labels is None else ', with labels'}"),
        ("noise on", "; ".join(inputs)),
        ("accuracy", "" if card is None or not math.isfinite(card.accuracy) else f"{card.accuracy:.3f}"),
        ("created", run.created),
    ]
    parts = [markup.facts(rows)]
    if card is not None and card.warnings:
        parts.append(markup.bullets(card.warning_lines()))
    if layers * samples * len(run.metrics) <= _MOST_CELLS:
        parts.append(_means(run))
    return markup.card("Run", run.name, *parts)


def _means(run: Shown) -> str:
    table = run_table(run, "layer")
    names = ("layer_index", "layer", "op", "depth", "metric", "value", "stderr", "n", "n_converged", "n_missing")
    found = [dict(zip(names, row, strict=True)) for row in zip(*(table[name] for name in names), strict=True)]
    rows = [
        [
            *(row[name] for name in ("layer_index", "layer", "op", "depth", "metric")),
            _number(row["value"]),
            f"± {row['stderr']:.4f}" if math.isfinite(row["stderr"]) else "",
            f"{row['n_converged']} of {row['n'] - row['n_missing']}",
        ]
        for row in found
    ]
    return markup.grid(["index", "layer", "op", "depth", "metric", "mean", "error", "proven"], rows)


def _number(value: float) -> object:
    return value if math.isfinite(value) else "no value"


class ShownArchive(Protocol):
    """What a card shows of an archive; see :class:`onnxinfo.Archive`."""

    path: Path

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str) -> Any: ...


def archive_card(archive: ShownArchive) -> str:
    """Return an archive as HTML: a row for each run; a damaged run is a row that says so."""
    rows = [*_rows(archive)]
    columns = ["run", "status", "layers", "samples", "metrics", "created"]
    content = markup.grid(columns, rows) if rows else markup.bullets(["no runs"])
    return markup.card("Archive", archive.path, content)


def _rows(archive: ShownArchive) -> Iterator[list[object]]:
    for name in archive:
        try:
            run = archive[name]
            metrics = ", ".join(metric.name for metric in run.metrics)
            yield [name, run.status, *run.shape, metrics, run.created]
        except ArchiveError as error:
            yield [name, f"damaged: {printable(error)[:120]}", "", "", "", ""]
