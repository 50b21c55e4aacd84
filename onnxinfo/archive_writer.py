"""Writing a run, cell by cell, so that at every moment the file is readable and what is marked finished is whole.

A run's datasets are created in a new file that then takes the archive's name. From there on the file is in HDF5's
single-writer multiple-reader mode, in which only the values of cells change: first the numbers, then, once these are
on the disk, the mark that the cell is finished.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from .archive import Run
from .archive import open as open_archive
from .archive_copy import copy_run, new_archive, schema_of
from .archive_file import FLAGS_OFFSET, WriterLock, fsync, replacing, resolve
from .archive_format import (
    COMPRESSION,
    LIBVER,
    STATUS,
    LayerRow,
    Metric,
    RunSchema,
    cell_checksums,
    check_run_name,
    create_run,
    encode_attribute,
    encode_map,
    plain_text,
)
from .errors import ArchiveError, UsageError

# Left free on the disk, so that HDF5 can always write its own few blocks: a write that fails inside it is final.
SPARE_BYTES = 1 << 20

Samples = slice | Sequence[int] | npt.NDArray[np.integer[Any]]


class RunWriter:
    """The writer of one run; a context manager. Open it with :meth:`RunWriter.open`.

    Left normally, the run is marked complete if all its cells are finished; left by an exception, interrupted or
    failed.
    """

    def __init__(self, file: h5py.File, path: Path, run: str, schema: RunSchema, compression: str, lock: WriterLock):
        self._file, self._path, self._lock = file, path, lock
        self._run = run
        self._group = file[run]
        self._schema, self._compression = schema, compression
        self._metrics = {metric.name: metric for metric in schema.metrics}
        self._done = {name: self._group[f"{name}_done"][()] == 1 for name in self._metrics}
        self._normalizer = {name: self._group[f"{name}_normalizer"][()] for name in self._metrics}
        self._elapsed = float(self._group["elapsed"][()])
        self._started = time.monotonic()
        self._failed = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        run: str,
        schema: RunSchema,
        *,
        overwrite: bool = False,
        compression: str = "rounded",
    ) -> RunWriter:
        """Create a run, or go on with one of the same name, recipe, layers and samples that is not complete.

        Parameters
        ----------
        path
            The archive; it is created where it does not exist.
        run
            Name of the run.
        schema
            What the run is about.
        overwrite
            Replace a run of that name that is complete or of another recipe. It is kept as ``<name>~`` until the new
            one is complete.
        compression
            How maps are stored: ``rounded`` (float32 with 15 significand bits, deflated), ``lossless`` (float32,
            deflated), ``float16`` (deflated) or ``none``.

        Returns
        -------
        RunWriter
            Ask :meth:`finished` which cells are there already.

        Raises
        ------
        UsageError
            The run's name is taken or not possible, or the compression unknown.
        ArchiveError
            The file cannot be written, is no archive, is damaged, or another process writes to it.
        """
        check_run_name(run)
        if compression not in COMPRESSION:
            raise UsageError(f"compression '{compression}' is unknown; choose one of {', '.join(COMPRESSION)}")
        resolved = resolve(path)
        lock = WriterLock(resolved)
        try:
            _prepare(resolved, run, schema, overwrite, compression)
            file = h5py.File(resolved, "r+", libver=LIBVER)
            try:
                writer = cls(file, resolved, run, schema, compression, lock)
                file.swmr_mode = True
                file[run]["status"][()] = STATUS.index("open")
                file.flush()
            except BaseException:
                file.close()
                raise
        except OSError as error:
            lock.release()
            raise ArchiveError(f"cannot write {path}: {error}; choose a writable file") from error
        except BaseException:
            lock.release()
            raise
        return writer

    def finished(self, metric: str) -> npt.NDArray[np.bool_]:
        """Tell which cells of a metric are finished: bool of shape (layer, sample)."""
        done: npt.NDArray[np.bool_] = self._done[metric].copy()
        return done

    def normalizer(self, metric: str, layer: int) -> float:
        """Return the layer's normalizer set before, in this or an interrupted process, or NaN."""
        return float(self._normalizer[metric][layer])

    def set_normalizer(self, metric: str, layer: int, value: float) -> None:
        """Record the normalizer of a layer's constraint, before the layer's first cell.

        Raises
        ------
        ValueError
            The layer has finished cells, under another normalizer.
        ArchiveError
            The file cannot be written.
        """
        if self._done[metric][layer].any() and self._normalizer[metric][layer] != value:
            raise ValueError(f"layer {layer} has cells finished under normalizer {self._normalizer[metric][layer]}")
        self._normalizer[metric][layer] = value
        with self._writing(0):
            self._group[f"{metric}_normalizer"][layer] = value
            self._sync()

    def write(
        self,
        metric: str,
        layer: int,
        samples: Samples,
        *,
        values: Mapping[str, npt.ArrayLike],
        map: npt.ArrayLike | None = None,
    ) -> None:
        """Write cells of one layer and mark them finished. Cells that are finished already stay as they are.

        Parameters
        ----------
        metric
            Name of the metric.
        layer
            Position of the layer in the schema.
        samples
            Positions of B samples.
        values
            For each of the metric's columns (``value``, ``stderr``, ``converged``, ...), an array of shape (B,).
        map
            For a metric with maps, an array of shape (B, *sample_shape).

        Raises
        ------
        ValueError
            Something is missing, of another shape, or not finite although it converged.
        ArchiveError
            The file cannot be written; what was finished before is safe.
        """
        described = self._metrics[metric]
        indices = np.arange(len(self._schema.sample_names))[samples]
        columns = _checked_columns(described, values, len(indices))
        maps = self._checked_maps(described, map, columns, len(indices))
        new = np.nonzero(~self._done[metric][layer, indices])[0]
        with self._writing(sum(maps[i].nbytes for i in new) if maps is not None else 0):
            for i in new:
                self._write_cell(described, layer, int(indices[i]), columns, int(i), maps)
            self._group["elapsed"][()] = self._elapsed + time.monotonic() - self._started
            self._sync()
            for i in new:
                self._group[f"{metric}_done"][layer, indices[i]] = 1
            self._file.flush()
        self._done[metric][layer, indices[new]] = True

    def close(self, status: Literal["complete", "interrupted", "failed"] | None = None) -> None:
        """Close the file.

        Parameters
        ----------
        status
            How the run ended; by default complete if all cells are finished, else interrupted.
        """
        if not self._file:
            return
        complete = all(done.all() for done in self._done.values())
        if status is None or status == "complete":
            status = "complete" if complete else "interrupted"
        try:
            if not self._failed:
                with self._writing(0):
                    self._group["status"][()] = STATUS.index(status)
                    self._group["elapsed"][()] = self._elapsed + time.monotonic() - self._started
                    self._sync()
            self._file.close()
            if status == "complete":
                _drop_backup(self._path, self._run + "~")
        finally:
            self._lock.release()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.close("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def _checked_maps(
        self, metric: Metric, maps: npt.ArrayLike | None, columns: Mapping[str, npt.NDArray[Any]], count: int
    ) -> npt.NDArray[Any] | None:
        if (maps is not None) != metric.has_map:
            raise ValueError(f"metric {metric.name}: {'a map expected' if metric.has_map else 'no map expected'}")
        if maps is None:
            return None
        encoded = encode_map(maps, self._compression)
        if encoded.shape != (count, *self._schema.sample_shape):
            raise ValueError(f"maps of shape {encoded.shape}, expected {(count, *self._schema.sample_shape)}")
        finite = np.isfinite(encoded).reshape(count, -1).all(axis=1)
        if (columns["converged"].astype(bool) & ~finite).any():
            raise ValueError(f"metric {metric.name}: a map that converged is not finite")
        return encoded

    def _write_cell(
        self,
        metric: Metric,
        layer: int,
        sample: int,
        columns: Mapping[str, npt.NDArray[Any]],
        i: int,
        maps: npt.NDArray[Any] | None,
    ) -> None:
        numbers = [columns[column.name][i : i + 1] for column in metric.columns]
        for column, number in zip(metric.columns, numbers, strict=True):
            self._group[metric.dataset(column.name)][layer, sample] = number[0]
        checksum = cell_checksums(self._normalizer[metric.name][layer : layer + 1], numbers, (1, 1))
        self._group[f"{metric.name}_checksum"][layer, sample] = checksum[0, 0]
        if maps is not None:
            self._group[f"{metric.name}_map"][layer, sample] = maps[i]
            self._group[f"{metric.name}_map_checksum"][layer, sample] = zlib.crc32(maps[i])

    def _sync(self) -> None:
        """Return once everything written so far is on the disk."""
        self._file.flush()
        fsync(self._path)

    @contextlib.contextmanager
    def _writing(self, size: int) -> Iterator[None]:
        """Turn failures into an :class:`ArchiveError`, and foresee the one that HDF5 cannot recover from."""
        if self._failed:
            raise ArchiveError(f"{self._path} could not be written before; run the analysis again to go on")
        if shutil.disk_usage(self._path).free < size + SPARE_BYTES:
            raise ArchiveError(f"no space left for {self._path}; finished cells are safe: free space and run again")
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._failed = True
            detail = " ".join(str(error).split())
            raise ArchiveError(
                f"cannot write {self._path} ({detail}); finished cells are safe: remove the cause and run again"
            ) from error


def _checked_columns(metric: Metric, values: Mapping[str, npt.ArrayLike], count: int) -> dict[str, npt.NDArray[Any]]:
    expected = [column.name for column in metric.columns]
    if sorted(values) != sorted(expected):
        raise ValueError(f"metric {metric.name}: values {sorted(values)}, expected {sorted(expected)}")
    columns = {column.name: np.asarray(values[column.name]).astype(column.dtype) for column in metric.columns}
    for name, data in columns.items():
        if data.shape != (count,):
            raise ValueError(f"{name} of shape {data.shape}, expected {(count,)}")
    if (columns["converged"].astype(bool) & ~np.isfinite(columns["value"])).any():
        raise ValueError(f"metric {metric.name}: a value that converged is not finite")
    return columns


def _prepare(path: Path, run: str, schema: RunSchema, overwrite: bool, compression: str) -> None:
    """Leave at `path` an archive that holds the run, closed, whatever state the file was in."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if not path.exists():
        with replacing(path) as part, new_archive(part) as file:
            create_run(file, run, schema, compression=compression, created=created)
        return
    with open_archive(path) as archive:
        known = archive.runs
        resumes = run in known and _resumes(archive[run], schema, overwrite, compression)
    if resumes and _was_closed(path):
        return
    kept = {name: name for name in known}
    if run in known and not resumes:
        # What a name ending in ~ keeps is whole; a second attempt that did not end either is not worth keeping.
        kept = {name: name for name in known if name != run} | ({} if run + "~" in known else {run: run + "~"})
    with replacing(path) as part, open_archive(path) as archive, new_archive(part) as file:
        for name, new_name in kept.items():
            copy_run(archive[name], file, new_name)
        if not resumes:
            create_run(file, run, schema, compression=compression, created=created)


def _resumes(existing: Run, schema: RunSchema, overwrite: bool, compression: str) -> bool:
    """Tell whether the run is to go on with (else it is to be replaced); raise if neither may be."""
    difference = first_difference(existing, schema, compression)
    complete = all(existing.finished(metric.name).all() for metric in existing.metrics)
    if difference is None and not complete:
        return True
    if overwrite:
        return False
    reason = f"has another recipe ({difference})" if difference else "is complete"
    raise UsageError(f"run '{existing.name}' exists and {reason}; choose another --run, or replace it with --overwrite")


def first_difference(existing: Run, schema: RunSchema, compression: str) -> str | None:
    """Return in words the first thing in which a stored run and a schema differ, or None."""
    stored = schema_of(existing)
    recipes = [
        {key: encode_attribute(value) for key, value in recipe.items()} for recipe in (stored.recipe, schema.recipe)
    ]
    for key in dict.fromkeys([*recipes[1], *recipes[0]]):
        there, now = (recipe.get(key, "absent") for recipe in recipes)
        if there != now:
            return f"{key} is {there} there, {now} now"
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


def _was_closed(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(FLAGS_OFFSET + 1)
    # Only version 3 of the superblock, which archives are written with, allows reading while writing.
    return len(head) > FLAGS_OFFSET and head[8] == 3 and head[FLAGS_OFFSET] == 0


def _drop_backup(path: Path, backup: str) -> None:
    """Remove the run that a now complete one replaces."""
    with open_archive(path) as archive:
        known = archive.runs
    if backup not in known:
        return
    with replacing(path) as part, open_archive(path) as archive, new_archive(part) as file:
        for name in known:
            if name != backup:
                copy_run(archive[name], file, name)
