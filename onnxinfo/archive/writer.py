"""Write a run cell by cell, such that the file is readable at any moment and finished cells are complete.

A run's datasets are created in a new file that then takes the archive's name. From then on the file is in HDF5's
single-writer multiple-reader mode, in which only the values of cells change: first the numbers, then, once these are
on disk, the mark that the cell is finished.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import ArchiveError, UsageError
from ..replacing import fsync, resolve
from ..text import quoted
from . import guard
from .format import (
    COMPRESSION,
    STATUS,
    Json,
    Metric,
    RunSchema,
    cell_checksums,
    check_run_name,
    chunk_bytes,
    decode_attribute,
    encode_map,
    put_chunk,
    whole_maps,
)
from .prepare import BACKUP, Request, finish, prepare
from .reading import Run
from .storage import WriterLock, abandon, open_to_write, reserve, trim

logger = logging.getLogger(__name__)

# Free space kept on the disk, so that HDF5 can always write its own small blocks: a failed write inside HDF5 is final.
SPARE_BYTES = 1 << 18
INDEX_BYTES_PER_CHUNK = 32

Samples = slice | Sequence[int] | npt.NDArray[np.integer[Any]]


class RunWriter:
    """Writer of one run; a context manager. Open it with :meth:`RunWriter.open`.

    On normal exit, the run is marked complete if all its cells are finished; after an exception, interrupted or
    failed.
    """

    def __init__(self, file: h5py.File, path: Path, run: str, schema: RunSchema, compression: str, lock: WriterLock):
        self._file, self._path, self._lock = file, path, lock
        self._run = run
        self._group = file[run]
        self._schema, self._compression = schema, compression
        self._datasets: dict[str, h5py.Dataset] = {}
        self._metrics = {metric.name: metric for metric in schema.metrics}
        self._done = {name: self._group[f"{name}_done"][()] == 1 for name in self._metrics}
        self._normalizer = {name: self._group[f"{name}_normalizer"][()] for name in self._metrics}
        self._elapsed = float(self._group["elapsed"][()])
        self._started = time.monotonic()
        self._failed = False
        self._end = int(file.id.get_filesize())
        self._spare = SPARE_BYTES + INDEX_BYTES_PER_CHUNK * sum(done.size for done in self._done.values())

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
        """Create a run, or continue one with the same name and recipe, which grows by new layers, samples and metrics.

        If the schema's provenance says ``retry_unproven``, cells that are unproven now, but may be proven by more
        passes, are unfinished in it; see :meth:`retried`.

        Parameters
        ----------
        path
            The archive; created if missing.
        run
            Name of the run.
        schema
            Description of the run.
        overwrite
            Replace a run of that name that is complete or has another recipe. It is kept as ``<name>~`` until the new
            one is complete.
        compression
            Storage of maps: ``rounded`` (float32 with 15 significand bits, deflated), ``lossless`` (float32, deflated),
            ``float16`` (deflated) or ``none``.

        Returns
        -------
        RunWriter
            The writer; :meth:`finished` tells which cells exist already.

        Raises
        ------
        UsageError
            The run's name is taken or invalid, or the compression is unknown.
        ArchiveError
            The file cannot be written, is not an archive, is damaged, or another process is writing to it.
        """
        check_run_name(run)
        if compression not in COMPRESSION:
            raise UsageError(f"compression '{compression}' is unknown; choose one of {', '.join(COMPRESSION)}")
        resolved = resolve(path)
        lock = WriterLock(resolved)
        try:
            prepare(resolved, run, Request(schema, compression, overwrite))
            file = open_to_write(resolved)
            try:
                writer = cls(file, resolved, run, schema, compression, lock)
                reserve(file, writer._end + writer._spare)
                file.swmr_mode = True
                writer._put("status", (), STATUS.index("open"))
                file.flush()
            except ArchiveError:
                file.close()
                raise
            except BaseException:
                abandon(file)
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

    def retried(self, metric: str) -> npt.NDArray[np.bool_]:
        """Tell which cells of a metric get more passes, or got them: bool of shape (layer, sample)."""
        name = f"{metric}_retried"
        none: npt.NDArray[np.bool_] = np.zeros_like(self._done[metric])
        return self._group[name][()] == 1 if name in self._group else none

    @property
    def former(self) -> Run | None:
        """The run that this one replaces when it is complete, if there is one."""
        name = self._run + BACKUP
        return Run(self._file[name], self._path) if name in self._file else None

    def other(self, run: str) -> Run | None:
        """Return another run of the archive; None if there is none of that name."""
        return Run(self._file[run], self._path) if run in self._file else None

    def recorded(self, name: str) -> Json:
        """Return a value recorded in the recipe or provenance when the run was started, or None.

        Parameters
        ----------
        name
            Name of an attribute of the run. Its value is untrusted: check it before use.
        """
        value = guard.attributes(self._group).get(name)
        return None if value is None else decode_attribute(value)

    def normalizer(self, metric: str, layer: int) -> float:
        """Return the layer's normalizer set earlier, in this or an interrupted process, or NaN."""
        return float(self._normalizer[metric][layer])

    def set_normalizer(self, metric: str, layer: int, value: float) -> None:
        """Record the normalizer of a layer's constraint, before the layer's first cell.

        Raises
        ------
        ValueError
            The layer has finished cells with another normalizer.
        ArchiveError
            The file cannot be written.
        """
        if self._done[metric][layer].any() and self._normalizer[metric][layer] != value:
            raise ValueError(f"layer {layer} has cells finished under normalizer {self._normalizer[metric][layer]}")
        self._normalizer[metric][layer] = value
        with self._writing():
            self._put(f"{metric}_normalizer", layer, value)
            # On disk with the first cell, before its mark.
            self._file.flush()

    def write(
        self,
        metric: str,
        layer: int,
        samples: Samples,
        *,
        values: Mapping[str, npt.ArrayLike],
        map: npt.ArrayLike | None = None,
    ) -> None:
        """Write cells of one layer and mark them finished. Cells that are already finished are left unchanged.

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
            A value is missing, has the wrong shape, or is not finite although it converged.
        ArchiveError
            The file cannot be written; cells finished earlier are safe.
        """
        described = self._metrics[metric]
        indices = np.arange(len(self._schema.sample_names))[samples]
        columns = _checked_columns(described, values, len(indices))
        maps = self._checked_maps(described, map, columns, len(indices))
        new = np.nonzero(~self._done[metric][layer, indices])[0]
        with self._writing():
            for at in _consecutive(indices, new):
                if maps is not None:
                    self._write_maps(metric, layer, indices[at], maps[at])
                self._write_cells(described, layer, indices[at], {k: data[at] for k, data in columns.items()})
            self._put("elapsed", (), self._elapsed + time.monotonic() - self._started)
            self._sync()
            for at in _consecutive(indices, new):
                self._put(f"{metric}_done", (layer, _span(indices[at])), 1)
            self._file.flush()
        self._done[metric][layer, indices[new]] = True

    def close(self, status: Literal["complete", "interrupted", "failed"] | None = None) -> None:
        """Close the file.

        Parameters
        ----------
        status
            Final status of the run; by default complete if all cells are finished, else interrupted.
        """
        if not self._file:
            return
        complete = all(done.all() for done in self._done.values())
        if status is None or status == "complete":
            status = "complete" if complete else "interrupted"
        try:
            if not self._failed:
                with self._writing():
                    self._put("status", (), STATUS.index(status))
                    self._put("elapsed", (), self._elapsed + time.monotonic() - self._started)
                    self._sync()
                    self._file.close()
                    trim(self._path)
                    fsync(self._path)
                if status == "complete":
                    self._finish()
        finally:
            if self._failed:
                abandon(self._file)
            self._lock.release()

    def _finish(self) -> None:
        try:
            finish(self._path, self._run)
        except ArchiveError as error:
            # Every number is on disk and marked; only the layout stays that of a file that is being written.
            logger.warning(
                "run %s is complete, but %s: some programs other than onnxinfo cannot read its maps until "
                "onnxinfo.recover(...) rewrites the archive",
                quoted(self._run),
                error,
            )

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.close("interrupted" if issubclass(kind, (KeyboardInterrupt, SystemExit)) else "failed")

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
        if (columns["converged"].astype(bool) & ~whole_maps(encoded, self._schema.recipe)).any():
            raise ValueError(f"metric {metric.name}: a map that converged is not finite")
        return encoded

    def _write_cells(
        self, metric: Metric, layer: int, samples: npt.NDArray[Any], columns: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        where = (layer, _span(samples))
        for column in metric.columns:
            self._put(metric.dataset(column.name), where, columns[column.name])
        numbers = [columns[column.name][None] for column in metric.columns]
        checksums = cell_checksums(self._normalizer[metric.name][layer : layer + 1], numbers, (1, len(samples)))
        self._put(f"{metric.name}_checksum", where, checksums[0])

    def _write_maps(self, metric: str, layer: int, samples: npt.NDArray[Any], maps: npt.NDArray[Any]) -> None:
        target = self._dataset(f"{metric}_map")
        where = (layer, _span(samples))
        if target.chunks is None:
            self._put(f"{metric}_map", where, maps)
        else:
            # Deflated here and not by HDF5, so that the required space is known before HDF5 writes.
            chunks = [chunk_bytes(each, self._compression) for each in maps]
            self._end += sum(map(len, chunks))
            reserve(self._file, self._end + self._spare)
            offsets = [put_chunk(target, (layer, int(i)), chunk) for i, chunk in zip(samples, chunks, strict=True)]
            self._put(f"{metric}_map_offset", where, offsets)
        self._put(f"{metric}_map_checksum", where, [zlib.crc32(each.tobytes()) for each in maps])

    def _put(self, name: str, where: Any, data: Any) -> None:
        self._dataset(name)[where] = data

    def _dataset(self, name: str) -> h5py.Dataset:
        if name not in self._datasets:
            self._datasets[name] = self._group[name]
        return self._datasets[name]

    def _sync(self) -> None:
        """Return once everything written so far is on disk."""
        self._file.flush()
        fsync(self._path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Convert failures to an :class:`ArchiveError`, after which nothing more is written."""
        if self._failed:
            raise ArchiveError(f"{self._path} could not be written before; run the analysis again to go on")
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._failed = True
            detail = " ".join((getattr(error, "strerror", None) or str(error)).split())
            raise ArchiveError(
                f"cannot write {self._path} ({detail}); finished cells are safe: remove the cause and run again"
            ) from error


def _consecutive(indices: npt.NDArray[Any], chosen: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Split positions in `indices` wherever the indices are not consecutive."""
    return [part for part in np.split(chosen, np.nonzero(np.diff(indices[chosen]) != 1)[0] + 1) if len(part)]


def _span(samples: npt.NDArray[Any]) -> slice:
    return slice(int(samples[0]), int(samples[-1]) + 1)


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
