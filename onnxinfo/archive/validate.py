"""Check whether an archive conforms to the format and its data are intact."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import OnnxinfoError
from ..text import printable
from . import guard
from .dimensions import dimension_names
from .format import (
    COMPRESSION,
    FOREGROUND_AXES,
    INPUT_COLUMNS,
    LAYER_COLUMNS,
    MARKS,
    PREDICTION_COLUMNS,
    THUMBNAIL_AXES,
    Metric,
    whole_maps,
)
from .reading import Archive, Run
from .reading import open as open_archive
from .storage import is_being_written, is_left_open

T = TypeVar("T")
MAPS_AT_ONCE = 16


@dataclass(frozen=True)
class Violation:
    """A deviation from the format.

    Attributes
    ----------
    run
        The run concerned; empty if it concerns the whole file.
    where
        The dataset, attribute or cell.
    problem
        Description of the problem.
    """

    run: str
    where: str
    problem: str


@dataclass(frozen=True)
class Validation:
    """Result of :func:`validate`.

    Attributes
    ----------
    path
        The archive.
    runs
        Its runs.
    cells
        Number of finished cells whose checksums were compared.
    violations
        All problems; empty for a valid archive.
    notes
        Observations that are not violations.
    """

    path: str
    runs: tuple[str, ...]
    cells: int
    violations: tuple[Violation, ...]
    notes: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether there are no violations."""
        return not self.violations


def validate(path: str | os.PathLike[str]) -> Validation:
    """Check an archive's structure, types, dimensions, attributes, checksums and values (``docs/format.md``).

    Parameters
    ----------
    path
        The archive; it may be in use by a writer.

    Returns
    -------
    Validation
        The problems found, if any.

    Examples
    --------
    >>> validation = onnxinfo.validate("result.h5")
    >>> validation.runs, validation.cells, validation.violations
    (('digits-cnn',), 4, ())
    """
    resolved = Path(path)
    try:
        archive = open_archive(resolved)
    except OnnxinfoError as error:
        return Validation(str(path), (), 0, (Violation("", "file", _problem(error, resolved)),), ())
    notes = []
    if is_being_written(resolved):
        notes.append("a run is being written")
    elif is_left_open(resolved):
        notes.append("left open by a writer that died; the next analysis or onnxinfo.recover(...) closes it")
    with archive:
        violations = [*_links(archive)]
        cells = 0
        try:
            names = archive.runs
        except OnnxinfoError as error:
            names = ()
            violations.append(Violation("", "file", _problem(error, resolved)))
        for name in names:
            check = _RunCheck(archive, name)
            check.everything()
            violations += check.violations
            cells += check.cells
    return Validation(str(path), tuple(printable(name) for name in names), cells, tuple(violations), tuple(notes))


def _links(archive: Archive) -> Iterator[Violation]:
    try:
        for name in guard.members(archive.file):
            if guard.is_link(archive.file, name):
                yield Violation("", printable(name), "a link to elsewhere, which an archive must not have")
    except OnnxinfoError as error:
        yield Violation("", "file", _problem(error, archive.path))


class _RunCheck:
    """The checks of one run; if one stops, the others continue."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive, self._name = archive, name
        self.violations: list[Violation] = []
        self.cells = 0

    def everything(self) -> None:
        run = self._try("run", lambda: self._archive[self._name])
        if run is None:
            return
        self._try("status", lambda: run.status)
        self._try("elapsed", lambda: self._demand(run.elapsed >= 0, "elapsed", "is negative or not a number"))
        self._try("input_unit", lambda: self._unit(run))
        self._try("unit_name", lambda: run.unit_names)
        self._try("thumbnail", lambda: run.thumbnails)
        self._try("predicted", lambda: run.predicted)
        self._try("probability", lambda: run.probability)
        self._try("foreground", lambda: self._foreground(run))
        self._try("attributes", lambda: self._attributes(run))
        self._try("sample", lambda: self._samples(run))
        for metric in run.metrics:
            self._try(metric.name, partial(self._metric, run, metric))
        self._try("dimensions", lambda: self._dimensions(run))
        self._try("links", lambda: self._links(run))

    def _attributes(self, run: Run) -> None:
        self._demand(run.compression in COMPRESSION, "attribute compression", f"is '{printable(run.compression)}'")
        self._demand(bool(run.created), "attribute created", "is missing")
        for metric in run.metrics:
            for name in metric.datasets():
                for key in ("units", "long_name"):
                    found = guard.member(run.group, name, h5py.Dataset)
                    value = None if found is None else guard.attribute(found, key)
                    self._demand(isinstance(value, str), name, f"has no attribute {key}")

    def _samples(self, run: Run) -> None:
        found = guard.dataset(run.group, "sample", [run.shape[1]], ["<i8"])
        self._demand(bool((guard.array(found) == np.arange(run.shape[1])).all()), "sample", "is not 0, 1, 2, ...")
        for name in ("layer", "sample", "sample_name", "input_unit", *LAYER_COLUMNS[1:]):
            member = guard.member(run.group, name, h5py.Dataset)
            checksum = None if member is None else guard.attribute(member, "crc32")
            self._demand(isinstance(checksum, int), name, "has no attribute crc32")

    def _unit(self, run: Run) -> None:
        unit = run.unit
        self._demand(bool((np.isfinite(unit) & (unit > 0)).all()), "input_unit", "is not positive and finite")

    def _foreground(self, run: Run) -> None:
        mask = run.foreground
        self._demand(mask is None or bool((mask <= 1).all()), "foreground", "holds something else than 0 and 1")

    def _metric(self, run: Run, metric: Metric) -> None:
        self._try(f"{metric.name}_retried", lambda: run.retried(metric.name))
        for column in ("done", "converged"):
            stored = guard.array(guard.dataset(run.group, f"{metric.name}_{column}", run.shape, ["|u1"]))
            self._demand(bool((stored <= 1).all()), f"{metric.name}_{column}", "holds something else than 0 and 1")
        values = run.values(metric.name)
        self.cells += int(values["done"].sum())
        self._cells(run, metric.name, values["converged"] & ~np.isfinite(values["value"]), "converged but not finite")
        if "mark" in values:
            proven = np.isin(values["mark"], [code for code, mark in MARKS.items() if mark.proven])
            known = values["done"] & np.isin(values["mark"], [*MARKS])
            self._cells(run, metric.name, known & (proven != values["converged"]), "its mark contradicts converged")
        if metric.has_map:
            for layer, done in enumerate(values["done"]):
                samples = np.nonzero(done)[0]
                for start in range(0, len(samples), MAPS_AT_ONCE):
                    some = samples[start : start + MAPS_AT_ONCE].tolist()
                    self._maps(run, metric.name, layer, some, values["converged"][layer, some])

    def _maps(self, run: Run, metric: str, layer: int, samples: list[int], converged: npt.NDArray[np.bool_]) -> None:
        where = f"{metric}_map[{layer}, {{}}]"
        try:
            maps = run.maps(metric, layer, samples)
        except OnnxinfoError:
            # Read once more, one by one, to name each damaged map.
            for sample in samples:
                self._try(where.format(sample), partial(run.map, metric, layer, sample))
            return
        for sample, bad in zip(samples, converged & ~whole_maps(maps, run.recipe), strict=True):
            self._demand(not bad, where.format(sample), "converged but not finite")

    def _cells(self, run: Run, metric: str, bad: npt.NDArray[np.bool_], problem: str) -> None:
        for layer, sample in np.argwhere(bad):
            name = printable(run.layers[layer].name)
            self._demand(False, f"{metric}[{layer}, {sample}]", f"{problem} (layer '{name}', sample {sample})")

    def _dimensions(self, run: Run) -> None:
        named = dimension_names(self._archive.path, self._name)
        for name, dims in _dimensions(run):
            if name in named:
                expected = [[dim] for dim in dims]
                self._demand(named[name] == expected, name, f"has dimensions {named[name]}, expected {expected}")

    def _links(self, run: Run) -> None:
        for name in guard.members(run.group):
            problem = "a link to elsewhere, which an archive must not have"
            self._demand(not guard.is_link(run.group, name), printable(name), problem)

    def _demand(self, holds: bool, where: str, problem: str) -> None:
        if not holds:
            self.violations.append(Violation(printable(self._name), where, problem))

    def _try(self, where: str, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except OnnxinfoError as error:
            self._demand(False, where, _problem(error, self._archive.path, self._name))
            return None


def _problem(error: OnnxinfoError, path: Path, run: str = "") -> str:
    """Return an error without the advice to validate the archive and the names that a violation has already."""
    text = str(error).removesuffix(guard.ADVICE)
    for name in {str(path), printable(path)}:
        text = text.replace(f"cannot read {name}: ", "cannot be read: ")
        for owner in (printable(f"run '{run}' of {name}"), name):
            text = text.removeprefix(f"{owner} ").removeprefix(f"{owner}: ")
            text = re.sub(rf" (?:of|in) {re.escape(owner)}(?= |:|;|,|$)", "", text)
    return text


def _dimensions(run: Run) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the datasets of a run that have dimensions, with the dimensions' names."""
    for name in LAYER_COLUMNS[1:]:
        yield name, ("layer",)
    yield "sample_name", ("sample",)
    if run.labels is not None:
        yield "label", ("sample",)
    for name in PREDICTION_COLUMNS:
        yield name, ("sample",)
    yield "unit_name", run.axes
    for name in INPUT_COLUMNS[1:]:
        yield name, ("input",)
    yield "thumbnail", ("sample", *THUMBNAIL_AXES)
    yield "foreground", ("sample", *FOREGROUND_AXES)
    for metric in run.metrics:
        for name in [*metric.datasets(), metric.dataset("retried")]:
            suffix = name.removeprefix(f"{metric.name}_")
            dims: tuple[str, ...] = ("layer",) if suffix == "normalizer" else ("layer", "sample")
            yield name, (*dims, *run.axes) if suffix == "map" else dims
