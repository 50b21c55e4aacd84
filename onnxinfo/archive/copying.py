"""Make archives from runs of other archives: the only way in which the structure of a file changes.

Data are checked while they are copied. The new file is renamed only when it is complete, so an interruption leaves the
old one unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError
from ..inputs.hdf5_chunks import filter_codes
from . import conventions, guard
from .format import (
    AT_REST,
    COMPRESSION,
    FORMAT,
    STATUS,
    VERSION,
    Metric,
    RunSchema,
    cell_checksums,
    create_run,
    put_chunk,
    put_map,
    put_retried,
    write_attribute,
)
from .reading import Run
from .storage import create_file

# Stands in for the date of a run whose attribute was lost.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class LostCell:
    """A cell that is marked finished but whose data are damaged."""

    run: str
    metric: str
    layer: str
    sample: int


@contextlib.contextmanager
def new_archive(path: Path, history: Iterable[str], libver: tuple[str, str] = AT_REST) -> Iterator[h5py.File]:
    """Yield a new archive without runs, open for writing.

    Parameters
    ----------
    path
        The file.
    history
        What was done to the archive, oldest first, one line each.
    libver
        Bounds of HDF5's file format.
    """
    with create_file(path, libver) as file:
        write_attribute(file, "format", FORMAT)
        write_attribute(file, "format_version", VERSION)
        conventions.describe(file, history)
        yield file


def schema_of(run: Run) -> RunSchema:
    """Return the schema that a run was created with."""
    return RunSchema(
        layers=run.layers,
        axes=run.axes,
        sample_shape=run.sample_shape,
        sample_names=run.sample_names,
        metrics=run.metrics,
        unit=run.unit,
        recipe=run.recipe,
        labels=run.labels,
        thumbnails=run.thumbnails,
        foreground=run.foreground,
        unit_names=run.stored_unit_names,
        inputs=run.inputs,
        predicted=run.predicted,
        probability=run.probability,
        provenance={key: value for key, value in run.provenance.items() if key not in ("format", "format_version")},
    )


@dataclass(frozen=True)
class Placement:
    """Place of a run's cells in a larger run.

    Attributes
    ----------
    layers, samples
        Positions of the run's layers and samples in the larger one.
    kept
        Cells of each metric to copy, (layer, sample) of bool.
    retried
        Cells of each metric that get more passes, or got them.
    """

    layers: Sequence[int]
    samples: Sequence[int]
    kept: Mapping[str, npt.NDArray[np.bool_]]
    retried: Mapping[str, npt.NDArray[np.bool_]]

    @classmethod
    def same(cls, run: Run) -> Placement:
        """Return the placement of all finished cells in a run of the same shape."""
        kept = {metric.name: run.finished(metric.name) for metric in run.metrics}
        retried = {metric.name: run.retried(metric.name) for metric in run.metrics}
        return cls(range(run.shape[0]), range(run.shape[1]), kept, retried)

    def put(self, dataset: h5py.Dataset, data: npt.NDArray[Any]) -> None:
        """Write the cells of a dataset, (layer, sample), in their places."""
        dataset[...] = data if dataset.shape == data.shape else self.placed(data, dataset[...])

    def placed(self, data: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the cells of the larger run, `whole`, with those of the run in their places."""
        whole[np.ix_(self.layers, self.samples)] = data
        return whole


def copy_run(run: Run, file: h5py.File, name: str) -> list[LostCell]:
    """Copy a run to another archive.

    Parameters
    ----------
    run
        The run, from an archive open for reading.
    file
        An archive open for writing that has no run named `name`.
    name
        The run's name there.

    Returns
    -------
    list of LostCell
        Cells with a wrong checksum; they are unfinished in the copy.

    Raises
    ------
    ArchiveError
        The run's description cannot be read.
    """
    if run.compression not in COMPRESSION:
        raise ArchiveError(f"run '{run.name}' has unknown compression '{run.compression}'; it is damaged")
    group = create_run(file, name, schema_of(run), compression=run.compression, created=run.created or UNKNOWN)
    lost: list[LostCell] = []
    place = Placement.same(run)
    for metric in run.metrics:
        lost += _copy_metric(run, metric.name, group, place)
    status = guard.array(guard.dataset(run.group, "status", [], ["|u1"]))
    finished = all((group[f"{metric.name}_done"][()] == 1).all() for metric in run.metrics)
    is_complete = int(status) == STATUS.index("complete")
    group["status"][()] = status if finished or not is_complete else STATUS.index("open")
    group["elapsed"][()] = run.elapsed
    return lost


def keep_readable(run: Run, lost: dict[str, str]) -> None:
    """Leave out the metrics of a run that cannot be copied, and put them into `lost`, with the reasons.

    Raises
    ------
    ArchiveError
        No metric is left.
    """
    whole = []
    for metric in run.metrics:
        try:
            _read_through(run, metric)
            whole.append(metric)
        except ArchiveError as error:
            lost[metric.name] = str(error)
    if not whole and lost:
        raise ArchiveError(next(iter(lost.values())))
    run.metrics = tuple(whole)


def _read_through(run: Run, metric: Metric) -> None:
    """Read everything of a metric except its maps, whose damage is that of single cells."""
    name, cells = metric.name, [(f"{metric.name}_checksum", "<u4")]
    cells += [(metric.dataset(column.name), column.dtype) for column in metric.columns]
    if metric.has_map:
        cells += [(f"{name}_map_checksum", "<u4"), (f"{name}_map_offset", "<u8")]
        _filters(run.map_dataset(name))
    for dataset, dtype in cells:
        guard.array(guard.dataset(run.group, dataset, run.shape, [dtype]))
    run.normalizer(name)
    run.retried(name)


def copy_cells(run: Run, group: h5py.Group, place: Placement) -> None:
    """Copy the cells of a run that a larger one keeps; those with a wrong checksum are left unfinished there."""
    for metric in run.metrics:
        _copy_metric(run, metric.name, group, place)
    group["elapsed"][()] = run.elapsed


def _copy_metric(run: Run, name: str, target: h5py.Group, place: Placement) -> list[LostCell]:
    metric = run.metric(name)
    shape = run.shape
    normalizer = run.normalizer(name)
    columns = [guard.array(guard.dataset(run.group, metric.dataset(c.name), shape, [c.dtype])) for c in metric.columns]
    checksum = guard.array(guard.dataset(run.group, f"{name}_checksum", shape, ["<u4"]))
    marked = run.finished(name) & place.kept[name]
    whole = marked & (cell_checksums(normalizer, columns, shape) == checksum)
    if metric.has_map:
        whole = _copy_maps(run, name, whole, target, place)
    # The checksum of a cell is the only one of its layer's normalizer.
    _put_normalizers(target[f"{name}_normalizer"], np.where(whole.any(1), normalizer, np.nan), place)
    place.put(target[f"{name}_checksum"], np.where(whole, checksum, 0))
    for column, data in zip(metric.columns, columns, strict=True):
        fill = np.nan if column.dtype == "<f8" else 0
        place.put(target[metric.dataset(column.name)], np.where(whole, data, fill).astype(column.dtype))
    place.put(target[f"{name}_done"], whole.astype("|u1"))
    if place.retried[name].any():
        nowhere = np.zeros(target[f"{name}_done"].shape, dtype=bool)
        put_retried(target, name, place.placed(place.retried[name], nowhere))
    return [
        LostCell(run.name, name, run.layers[layer].name, int(sample)) for layer, sample in np.argwhere(marked & ~whole)
    ]


def _put_normalizers(dataset: h5py.Dataset, normalizer: npt.NDArray[np.float64], place: Placement) -> None:
    whole = dataset[...]
    whole[[*place.layers]] = normalizer
    dataset[...] = whole


def _copy_maps(
    run: Run, name: str, wanted: npt.NDArray[np.bool_], target: h5py.Group, place: Placement
) -> npt.NDArray[np.bool_]:
    """Copy the wanted maps that are intact, and report which ones these are."""
    source, maps = run.map_dataset(name), target[f"{name}_map"]
    checksum, old_offset = (
        guard.array(guard.dataset(run.group, f"{name}_map_{suffix}", run.shape, [dtype]))
        for suffix, dtype in (("checksum", "<u4"), ("offset", "<u8"))
    )
    same_filters = _filters(source) == _filters(maps)
    whole, offset = np.zeros(run.shape, dtype=bool), np.zeros(run.shape, dtype="<u8")
    for layer, sample in np.argwhere(wanted):
        at = int(layer), int(sample)
        saved = _saved_map(run.path, source, at, int(old_offset[at]), int(checksum[at]))
        if saved is not None:
            whole[at] = True
            new = place.layers[at[0]], place.samples[at[1]]
            data, chunk = saved
            # To deflate large maps again would take several times as long as everything else.
            if chunk is not None and same_filters:
                offset[at] = put_chunk(maps, new, chunk)
            else:
                offset[at] = put_map(maps, new, data, run.compression)
    place.put(target[f"{name}_map_checksum"], np.where(whole, checksum, 0))
    place.put(target[f"{name}_map_offset"], offset)
    return whole


def _filters(maps: h5py.Dataset) -> tuple[str, list[int]] | None:
    """Return what determines the bytes of a chunk: its element type and filters; None if maps have no chunks."""
    return None if maps.chunks is None else (maps.dtype.str, filter_codes(maps))


def _saved_map(
    path: Path, maps: h5py.Dataset, at: tuple[int, int], offset: int, checksum: int
) -> tuple[npt.NDArray[Any], bytes | None] | None:
    """Return a map as it was written, with the bytes of its chunk if it has one; None if it is lost.

    If HDF5's chunk index is damaged, the chunk is looked up at its recorded offset.
    """
    reads: tuple[Callable[[], tuple[npt.NDArray[Any], bytes | None]], ...] = (
        lambda: guard.cell_and_chunk(maps, *at),
        lambda: (guard.cell_at(path, maps, offset), None),
    )
    for read in reads:
        try:
            found = read()
        except ArchiveError:
            continue
        if guard.crc32(found[0]) == checksum:
            return found
    return None
