"""Read an archive: its runs, and their numbers as tables and labeled arrays, also while it is being written."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from .. import markup
from ..errors import ArchiveError, UnknownRunError, UsageError
from ..inputs.hdf5_chunks import MAX_CHUNK_BYTES
from ..inputs.parts import InputPart, split_parts
from ..registry import VIEWS
from ..text import printable, quoted
from . import guard
from .cards import archive_card, run_card
from .format import (
    CERTIFICATE,
    CONVERGED,
    FOREGROUND_AXES,
    FORMAT,
    INPUT_COLUMNS,
    LAYER_COLUMNS,
    STATUS,
    STDERR,
    THUMBNAIL_AXES,
    VALUE,
    VERSION,
    Field,
    Json,
    LayerRow,
    Metric,
    cell_checksums,
    decode_attribute,
    is_identifier,
)
from .sanity import ATTRIBUTE, SanityCard, card_of, correct_predictions
from .storage import close_read, is_being_written, open_to_read, open_unwritten
from .summary import Summary

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure

MAX_NAMES = 100
# Limit for the numbers of one metric in one run, which are read in one piece.
MAX_NUMBERS = 1 << 26

_KNOWN_FIELDS = {field.name: field for field in (STDERR, CONVERGED, *CERTIFICATE)}


class Run:
    """A run of an archive, read on demand.

    Attributes
    ----------
    name
        The run's name.
    layers
        The analyzed layers, in the model's order.
    sample_names, labels
        One per sample; labels is None if there are none.
    axes, sample_shape
        Names and sizes of the analysis input's dimensions, without the batch.
    inputs
        Name, axes and shape of each perturbed input if there are several; their units lie side by side along the only
        axis, see :meth:`split`. Empty if there is one.
    metrics
        The computed metrics.
    recipe
        Settings that determine the result.
    provenance
        Further recorded facts.
    created
        Date and time of the run's start, ISO 8601.
    compression
        Storage format of the maps.
    path
        The archive.
    group
        The run's group in the HDF5 file; read it through :mod:`onnxinfo.archive.guard`.

    ``print(run)`` shows the run in a few lines, with its sanity card.

    Examples
    --------
    >>> with onnxinfo.open("result.h5") as archive:
    ...     run = archive["digits-cnn"]
    ...     run.sample_names, run.map("sid", 1, 0).shape, run.values("sid")["value"].shape
    (['images[0]', 'images[1]'], (1, 8, 8), (2, 2))
    """

    def __init__(self, group: h5py.Group, path: Path, lost: dict[str, str] | None = None) -> None:
        # Metrics that cannot be read are left out and put into `lost`, with the reasons; without it, they are errors.
        self.group = group
        self.path = path
        self.name: str = group.name.lstrip("/")
        self._title = printable(f"run '{self.name}' of {path}")
        attributes = guard.attributes(group)
        check_version(attributes.get("format_version"), self._title)
        self.created = str(attributes.pop("created", ""))
        self.compression = str(attributes.pop("compression", ""))
        self.axes = tuple(self._names(attributes.pop("axes", "")))
        metrics = self._names(attributes.pop("metrics", ""))
        self.recipe, self.provenance = _split_recipe(attributes)
        self.layers = self._read_layers()
        self.sample_names = guard.texts(guard.dataset(group, "sample_name", [None], ["S"]))
        self.labels = self._read_labels()
        self.sample_shape = tuple(self._axis_size(axis) for axis in self.axes)
        if math.prod(self.sample_shape) * 4 > MAX_CHUNK_BYTES:
            raise ArchiveError(f"{self._title} has samples of shape {self.sample_shape}; not an archive of onnxinfo")
        self.inputs = self._read_inputs()
        self.metrics = tuple(self._read_metrics(metrics, lost))

    def __fspath__(self) -> str:
        """Return the archive's path, so that a run can be given where an archive is expected."""
        return os.fspath(self.path)

    @property
    def tags(self) -> dict[str, str]:
        """Tags that the run was given, by key."""
        stored = self.provenance.get("tags")
        return {str(key): str(value) for key, value in stored.items()} if isinstance(stored, Mapping) else {}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers and samples."""
        return len(self.layers), len(self.sample_names)

    @property
    def parts(self) -> tuple[InputPart, ...]:
        """Name, axes and shape of every perturbed input, also if there is only one."""
        if self.inputs:
            return self.inputs
        return (InputPart(str(self.recipe.get("perturbed", "input")), self.axes, self.sample_shape),)

    @property
    def status(self) -> str:
        """State of the run: complete, running, interrupted, failed, or incomplete.

        Incomplete means that the writer stopped without recording why.
        """
        stored = self._stored_status()
        finished = all(self.finished(metric.name).all() for metric in self.metrics)
        if stored == "open":
            return "running" if is_being_written(self.path) else "complete" if finished else "incomplete"
        return stored

    @property
    def is_closed(self) -> bool:
        """Whether the writer finished all cells and marked the run as complete."""
        return self._stored_status() == "complete"

    @property
    def elapsed(self) -> float:
        """Seconds spent on the run so far."""
        return float(guard.array(guard.dataset(self.group, "elapsed", [], ["<f8"])))

    @property
    def size(self) -> int:
        """Size of the run's data in the file, in bytes."""
        names = guard.members(self.group)
        found = [guard.member(self.group, name, h5py.Dataset) for name in names]
        with guard.damaged(self.group.name):
            return sum(int(item.id.get_storage_size()) for item in found if item is not None)

    @property
    def unit(self) -> npt.NDArray[np.float64]:
        """Standard deviation of the input, broadcastable to `sample_shape`: the unit of sigma."""
        found = guard.member(self.group, "input_unit", h5py.Dataset)
        varying = [] if found is None else str(guard.attribute(found, "axes") or "").split()
        shape = [size if axis in varying else 1 for axis, size in zip(self.axes, self.sample_shape, strict=True)]
        unit = guard.array(guard.dataset(self.group, "input_unit", [size for size in shape if size > 1], ["<f8"]))
        return unit.reshape(shape)

    @property
    def unit_names(self) -> list[str] | None:
        """Names of the input's units along its only axis, such as a table's columns, or None."""
        stored = self.stored_unit_names
        if not self.inputs:
            return stored
        made = [name for part in self.inputs for name in part.unit_names()]
        return made if stored is None else [own or other for own, other in zip(stored, made, strict=True)]

    @property
    def stored_unit_names(self) -> list[str] | None:
        """Names of the units as stored: empty where the position in one of several inputs says more."""
        if guard.member(self.group, "unit_name", h5py.Dataset) is None:
            return None
        return guard.texts(guard.dataset(self.group, "unit_name", [*self.sample_shape], ["S"]))

    def split(self, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Split values of all units, such as a map, into those of each perturbed input.

        Parameters
        ----------
        values
            Shape (..., *sample_shape).

        Returns
        -------
        dict
            By name of the input, (..., *its shape); the values themselves if noise was added to one input.

        Examples
        --------
        >>> with onnxinfo.open("result.h5") as archive:
        ...     run = archive["digits-cnn"]
        ...     {name: part.shape for name, part in run.split(run.map("sid", 1, 0)).items()}
        {'image': (1, 8, 8)}
        """
        return split_parts(values, self.inputs) if self.inputs else {self.parts[0].name: values}

    @property
    def thumbnails(self) -> npt.NDArray[np.uint8] | None:
        """Thumbnails of the samples, uint8 of shape (sample, y, x, 3), or None."""
        if guard.member(self.group, "thumbnail", h5py.Dataset) is None:
            return None
        return guard.array(guard.dataset(self.group, "thumbnail", [self.shape[1], None, None, 3], ["|u1"]))

    @property
    def foreground(self) -> npt.NDArray[np.uint8] | None:
        """Object masks, 1 inside, 0 outside: uint8 of shape (sample, y, x), or None. All 0: no object in the sample."""
        if guard.member(self.group, "foreground", h5py.Dataset) is None:
            return None
        sides = [self._axis_size(axis) for axis in FOREGROUND_AXES]
        return guard.array(guard.dataset(self.group, "foreground", [self.shape[1], *sides], ["|u1"]))

    @property
    def predicted(self) -> npt.NDArray[np.int64] | None:
        """Class that the model predicts for each sample, -1 if its scores are not finite; None if not recorded."""
        return self._predictions("predicted", "<i8")

    @property
    def probability(self) -> npt.NDArray[np.float64] | None:
        """Probability of each sample's predicted class, NaN if its scores are not finite; None if not recorded."""
        return self._predictions("probability", "<f8")

    @property
    def sanity(self) -> SanityCard | None:
        """What the model received and what it made of it; None in archives of earlier versions."""
        return card_of(self.provenance.get(ATTRIBUTE), self.predicted, self.probability)

    @property
    def correct(self) -> npt.NDArray[np.float64] | None:
        """Whether each sample is classified as labeled: 1, 0, or NaN if its label is not a class of the model.

        None without labels or predictions, and if it is unknown which class a label stands for.
        """
        card = self.sanity
        if self.labels is None or card is None or card.predicted is None or not card.labeled:
            return None
        found = correct_predictions(self.labels, card.predicted, card.classes)
        # Labels that are words stand for the classes in alphabetical order, as they did for the recorded accuracy.
        return found if abs(np.nanmean(found) - card.accuracy) < 1e-6 else None

    def __repr__(self) -> str:
        layers, samples = self.shape
        metrics = ", ".join(metric.name for metric in self.metrics)
        return f"<{self._title}: layers: {layers}, samples: {samples}, metrics: {metrics}>"

    def __str__(self) -> str:
        layers, samples = self.shape
        metrics = ", ".join(metric.name for metric in self.metrics)
        first = f"run {printable(self.name)}: {layers} layers, {samples} samples, metrics {metrics}, {self.status}"
        return "\n".join([first, *(self.sanity.lines() if self.sanity else [])])

    def _repr_html_(self) -> str:
        state = "closed"
        if self.group:
            try:
                return run_card(self)
            except ArchiveError as error:
                state = f"damaged: {error}"
        return markup.card("Run", self.name, markup.facts([("archive", self.path), ("state", state)]))

    def summary(self) -> Summary:
        """Say in sentences what the numbers show; see :func:`onnxinfo.summary`.

        Examples
        --------
        >>> with onnxinfo.open("result.h5") as archive:
        ...     archive["digits-cnn"].summary().sentences[0]
        'Run digits-cnn: sid of 2 layers on 2 samples.'
        """
        found: Summary = VIEWS.get("summary")(self)
        return found

    def metric(self, name: str) -> Metric:
        """Return a metric of the run.

        Raises
        ------
        UsageError
            The run does not have this metric.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        names = ", ".join(metric.name for metric in self.metrics)
        raise UsageError(f"{self._title} has no metric '{printable(name)}'; it has {names}")

    def finished(self, metric: str) -> npt.NDArray[np.bool_]:
        """Tell which cells of a metric are finished: bool of shape (layer, sample)."""
        done = np.asarray(guard.array(self._cells(f"{self.metric(metric).name}_done", ["|u1"])) == 1)
        if self._stored_status() == "complete" and not done.all():
            raise ArchiveError(f"{self._title} is marked complete but lacks cells; it is damaged")
        return done

    def retried(self, metric: str) -> npt.NDArray[np.bool_]:
        """Tell which cells of a metric get more passes, or got them, as they were unproven: bool, (layer, sample)."""
        name = f"{self.metric(metric).name}_retried"
        if guard.member(self.group, name, h5py.Dataset) is None:
            return np.zeros(self.shape, dtype=bool)
        return np.asarray(guard.array(self._cells(name, ["|u1"])) == 1)

    def normalizer(self, metric: str) -> npt.NDArray[np.float64]:
        """Return the constraint's normalizer of each layer: float64 of shape (layer,).

        It is NaN if it is not recorded, or if the layer has no finished cell, whose checksum would protect it.
        """
        name = f"{self.metric(metric).name}_normalizer"
        stored = guard.array(guard.dataset(self.group, name, self.shape[:1], ["<f8"]))
        known: npt.NDArray[np.float64] = np.where(self.finished(metric).any(1), stored, np.nan)
        return known

    def values(self, metric: str, layers: range | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the per-cell numbers of a metric.

        Parameters
        ----------
        metric
            Name of the metric.
        layers
            Consecutive positions of layers; default: all. Only their numbers are read.

        Returns
        -------
        dict
            ``value``, ``stderr``, ``converged`` (bool), ``done`` (bool) and the metric's further fields, each of shape
            (layer, sample). Unfinished cells hold NaN, 0 or False.

        Raises
        ------
        ArchiveError
            The data of a finished cell are damaged.
        """
        described = self.metric(metric)
        chosen = slice(0, self.shape[0]) if layers is None else slice(layers.start, layers.stop)
        done = self.finished(metric)[chosen]
        normalizer = self.normalizer(metric)[chosen]
        columns = [
            guard.rows(self._cells(described.dataset(column.name), [column.dtype]), chosen)
            for column in described.columns
        ]
        stored = guard.rows(self._cells(f"{metric}_checksum", ["<u4"]), chosen)
        bad = done & (cell_checksums(normalizer, columns, done.shape) != stored)
        if bad.any():
            layer, sample = np.argwhere(bad)[0]
            raise self._mismatch(metric, chosen.start + layer, sample)
        values: dict[str, npt.NDArray[Any]] = {"done": done}
        for column in described.columns:
            # Each column as stored is freed when its values are made, so that the numbers are not in memory twice.
            masked = np.where(done, columns.pop(0), np.nan if column.dtype == "<f8" else 0)
            values[column.name] = masked.astype(column.dtype, copy=False)
        values["converged"] = values["converged"] == 1
        return values

    def map(self, metric: str, layer: int, sample: int) -> npt.NDArray[np.float32]:
        """Return the map of one layer and sample.

        Parameters
        ----------
        metric
            Name of a metric with maps.
        layer, sample
            Positions in `layers` and `sample_names`.

        Returns
        -------
        ndarray
            float32 of shape `sample_shape`; all NaN if the cell is unfinished.

        Raises
        ------
        ArchiveError
            The map is damaged.
        UsageError
            The run does not have this metric, or the metric has no maps.
        """
        one: npt.NDArray[np.float32] = self.maps(metric, layer, [sample])[0]
        return one

    def maps(self, metric: str, layer: int, samples: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return the maps of one layer and several samples (default: all); much faster than one by one.

        Parameters
        ----------
        metric
            Name of a metric with maps.
        layer
            Position in `layers`.
        samples
            Positions of B samples in `sample_names`.

        Returns
        -------
        ndarray
            float32 of shape (B, *sample_shape); all NaN where a cell is unfinished.

        Raises
        ------
        ArchiveError
            A map is damaged.
        UsageError
            The run does not have this metric, or the metric has no maps.
        """
        if not self.metric(metric).has_map:
            raise UsageError(f"metric '{metric}' of {self._title} has no maps")
        chosen = np.arange(self.shape[1])[slice(None) if samples is None else [*samples]]
        done = self.finished(metric)[layer, chosen]
        stored = guard.array(self._cells(f"{metric}_map_checksum", ["<u4"]))[layer]
        maps = np.full((len(chosen), *self.sample_shape), np.nan, dtype=np.float32)
        cells = guard.cells(self.map_dataset(metric), layer, chosen[done].tolist())
        for position, sample, data in zip(np.nonzero(done)[0], chosen[done], cells, strict=True):
            if guard.crc32(data) != stored[sample]:
                raise self._mismatch(f"{metric} map", layer, int(sample))
            maps[position] = data
        return maps

    def table(self, per: Literal["layer", "sample", "input", "unit"]) -> dict[str, list[Any]]:
        """Return the run's numbers as columns; see :meth:`Archive.to_dataframe`."""
        from .table import run_table

        return run_table(self, per)

    def to_dataframe(self, per: Literal["layer", "sample", "input", "unit"] = "layer") -> pandas.DataFrame:
        """Return the run's finished numbers as a tidy table; see :meth:`Archive.to_dataframe`.

        Examples
        --------
        >>> with onnxinfo.open("result.h5") as archive:
        ...     archive["digits-cnn"].to_dataframe()["layer"].tolist()
        ['relu', 'logits']
        """
        import pandas

        return pandas.DataFrame(self.table(per))

    def plot(self, kind: str = "curve", output: str | os.PathLike[str] | None = None, **options: Any) -> Figure:
        """Draw a plot of this run, which notebooks show; see :func:`onnxinfo.plot`.

        Examples
        --------
        >>> with onnxinfo.open("result.h5") as archive:
        ...     figure = archive["digits-cnn"].plot("maps", layers=["logits"])
        >>> len(figure.axes) > 1
        True
        """
        drawn: Figure = VIEWS.get("plot")(self, kind, output, **options)
        return drawn

    def report(self, output: str | os.PathLike[str] = "report.html", **options: Any) -> Path:
        """Write a page about this run; see :func:`onnxinfo.report`.

        Examples
        --------
        >>> with onnxinfo.open("result.h5") as archive:
        ...     archive["digits-cnn"].report("run.html", title="Digits").name
        'run.html'
        """
        written: Path = VIEWS.get("report")(self, output, **options)
        return written

    def to_xarray(self) -> xarray.Dataset:
        """Return the run as labeled arrays; maps are read lazily."""
        from .labeled import run_dataset

        return run_dataset(self)

    def map_dataset(self, metric: str) -> h5py.Dataset:
        """Return the validated dataset of a metric's maps; read it with :func:`.guard.cells`."""
        return guard.dataset(self.group, f"{metric}_map", [*self.shape, *self.sample_shape], ["<f4", "<f2"])

    def _predictions(self, name: str, dtype: str) -> npt.NDArray[Any] | None:
        if guard.member(self.group, name, h5py.Dataset) is None:
            return None
        return guard.array(guard.dataset(self.group, name, [self.shape[1]], [dtype]))

    def _stored_status(self) -> str:
        code = int(guard.array(guard.dataset(self.group, "status", [], ["|u1"])))
        if code >= len(STATUS):
            raise ArchiveError(f"{self._title} has unknown status {code}; it is damaged")
        return STATUS[code]

    def _mismatch(self, what: str, layer: int, sample: int) -> ArchiveError:
        where = printable(self.layers[layer].name)
        return ArchiveError(
            f"{what} of layer '{where}', sample {sample} in {self._title} is damaged (checksum); "
            "onnxinfo.recover(...) keeps what is whole"
        )

    def _names(self, text: str | int | float | None) -> list[str]:
        names = str(text or "").split()
        if len(names) > MAX_NAMES or not all(is_identifier(name) for name in names):
            raise ArchiveError(f"{self._title} lists '{printable(str(text)[:80])}', expected names; it is damaged")
        return names

    def _cells(self, name: str, dtypes: list[str]) -> h5py.Dataset:
        return guard.dataset(self.group, name, self.shape, dtypes)

    def _read_layers(self) -> tuple[LayerRow, ...]:
        def column(name: str) -> list[Any]:
            dtypes = ["<i8"] if name in ("layer_index", "depth", "parameters") else ["S"]
            found = guard.dataset(self.group, name, [None], dtypes)
            return guard.texts(found) if dtypes == ["S"] else guard.array(found).tolist()

        columns = {name: column(name) for name in LAYER_COLUMNS}
        if len({len(values) for values in columns.values()}) != 1 or not columns["layer"]:
            raise ArchiveError(f"{self._title} has layer columns of different lengths; it is damaged")
        keys = ("name", *(name.removeprefix("layer_") for name in LAYER_COLUMNS[1:]))
        return tuple(LayerRow(**dict(zip(keys, row, strict=True))) for row in zip(*columns.values(), strict=True))

    def _read_labels(self) -> npt.NDArray[np.int64] | list[str] | None:
        if guard.member(self.group, "label", h5py.Dataset) is None:
            return None
        found = guard.dataset(self.group, "label", [len(self.sample_names)], ["<i8", "S"])
        return guard.texts(found) if found.dtype.kind == "S" else guard.array(found)

    def _read_inputs(self) -> tuple[InputPart, ...]:
        if guard.member(self.group, "input", h5py.Dataset) is None:
            return ()
        names = guard.texts(guard.dataset(self.group, "input", [None], ["S"]))
        axes, shapes = (guard.texts(guard.dataset(self.group, name, [len(names)], ["S"])) for name in INPUT_COLUMNS[1:])
        parts = []
        for name, own, shape in zip(names, axes, shapes, strict=True):
            sizes = shape.split("x") if shape else []
            if not all(size.isdecimal() and len(size) < 10 for size in sizes) or len(sizes) != len(own.split()):
                raise ArchiveError(f"{self._title} has an input of shape '{printable(shape[:80])}'; it is damaged")
            parts.append(InputPart(name, tuple(self._names(own)), tuple(map(int, sizes))))
        if self.sample_shape != (sum(part.size for part in parts),) or len(set(names)) < len(names):
            raise ArchiveError(f"{self._title} has inputs that do not fit its samples; it is damaged")
        return tuple(parts)

    def _axis_size(self, axis: str) -> int:
        found = guard.member(self.group, axis, h5py.Dataset)
        if found is None or found.ndim != 1:
            raise ArchiveError(f"{self._title} lacks the dimension '{axis}'; it is damaged")
        return int(found.shape[0])

    def _read_metrics(self, names: Sequence[str], lost: dict[str, str] | None) -> Iterator[Metric]:
        for name in names:
            try:
                yield self._read_metric(name)
            except ArchiveError as error:
                if lost is None:
                    raise
                lost[name] = str(error)

    def _read_metric(self, name: str) -> Metric:
        value = self._cells(name, ["<f8"])
        names = self._names(guard.attribute(value, "fields"))
        if names[:2] != ["stderr", "converged"]:
            raise ArchiveError(f"{self._title}: {name} has the fields {names}, expected stderr, converged and others")
        if len(names) * len(self.layers) * len(self.sample_names) > MAX_NUMBERS:
            raise ArchiveError(f"{self._title}: {name} has more than {MAX_NUMBERS} numbers; not an archive of onnxinfo")
        fields = tuple(_KNOWN_FIELDS.get(field) or self._read_field(name, field) for field in names[2:])
        units = str(guard.attribute(value, "units") or "")
        long_name = str(guard.attribute(value, "long_name") or "").removesuffix(f", {VALUE.long_name}")
        has_map = guard.member(self.group, f"{name}_map", h5py.Dataset) is not None
        return Metric(name, long_name, units, fields, has_map)

    def _read_field(self, metric: str, name: str) -> Field:
        found = self._cells(f"{metric}_{name}", ["<f8", "<i8", "|u1"])
        units, long_name = (str(guard.attribute(found, key) or "") for key in ("units", "long_name"))
        flags = str(guard.attribute(found, "flag_meanings") or "")
        return Field(name, found.dtype.str, units, long_name, tuple(self._names(flags)))


class Archive(Mapping[str, Run]):
    """An HDF5 archive open for reading; a context manager, and a mapping from run names to runs.

    Archives compare by identity. An unknown name raises :class:`UnknownRunError`, which is a `KeyError`.

    Untrusted files are safe to open: links are not followed, nothing is executed, sizes are checked before memory is
    allocated, and numbers with a wrong checksum raise :class:`ArchiveError`.

    Examples
    --------
    >>> with onnxinfo.open("result.h5") as archive:
    ...     list(archive), archive["digits-cnn"].shape, len(archive.to_dataframe(per="sample"))
    (['digits-cnn'], (2, 2), 4)
    """

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.path = path
        self.file = file
        if guard.attribute(file, "format") != FORMAT:
            raise ArchiveError(f"{path} is an HDF5 file, but not an archive of onnxinfo")
        check_version(guard.attribute(file, "format_version"), str(path))

    def __fspath__(self) -> str:
        """Return the archive's path, so that an opened archive can be given where a path is expected."""
        return os.fspath(self.path)

    def __repr__(self) -> str:
        shown = printable(self.path)
        if not self.file:
            return f"<closed archive {shown}>"
        try:
            return f"<archive {shown}: {', '.join(map(quoted, self.runs)) or 'no runs'}>"
        except ArchiveError:
            return f"<damaged archive {shown}>"

    def _repr_html_(self) -> str:
        state = "closed"
        if self.file:
            try:
                return archive_card(self)
            except ArchiveError as error:
                state = f"damaged: {error}"
        return markup.card("Archive", self.path, markup.facts([("state", state)]))

    @property
    def history(self) -> tuple[str, ...]:
        """What was done to the file, oldest first: date, version and change. Empty if the file does not say it."""
        found = None
        with contextlib.suppress(ArchiveError):
            found = guard.attribute(self.file, "history")
        return tuple(found.splitlines()) if isinstance(found, str) else ()

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs, oldest first."""
        return tuple(name for name in guard.members(self.file) if self._is_run(name))

    def __getitem__(self, name: str) -> Run:
        return self._run(name, None)

    def rescued(self, name: str) -> tuple[Run, dict[str, str]]:
        """Return a run without the metrics that are not described readably, and the reasons by name of the metric."""
        lost: dict[str, str] = {}
        return self._run(name, lost), lost

    def _run(self, name: str, lost: dict[str, str] | None) -> Run:
        if name not in self.runs:
            known = ", ".join(self.runs) or "none"
            raise UnknownRunError(printable(f"{self.path} has no run '{name}'; it has {known}"))
        title = printable(f"run '{name}' of {self.path}")
        with guard.damaged(title):
            group = guard.member(self.file, name, h5py.Group)
            if group is None:
                raise ArchiveError(f"{title} is damaged: it is not a group; try onnxinfo.recover(...)")
            return Run(group, self.path, lost)

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __contains__(self, name: object) -> bool:
        return name in self.runs

    # Compare by identity: comparing two archives by value would read their runs.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def to_xarray(self) -> xarray.DataTree:
        """Return all runs as an :class:`xarray.DataTree` with one node per run; maps are read lazily."""
        import xarray

        return xarray.DataTree.from_dict({f"/{name}": self[name].to_xarray() for name in self.runs})

    def table(self, per: Literal["layer", "sample", "input", "unit"] = "layer") -> dict[str, list[Any]]:
        """Return the columns of :meth:`to_dataframe` as lists, without importing pandas."""
        from .table import stack

        return stack([self[name].table(per) for name in self.runs], per)

    def to_dataframe(self, per: Literal["layer", "sample", "input", "unit"] = "layer") -> pandas.DataFrame:
        """Return the finished numbers of all runs as a tidy table.

        Parameters
        ----------
        per
            ``sample``: one row per run, layer, sample and metric. ``layer``: one row per run, layer and metric, with
            the mean over all samples that have a value, its standard error from the spread between samples (at least
            the error that the samples' Monte Carlo errors imply), and ``converged`` only if all samples are. ``input``:
            that mean over the units of each perturbed input. ``unit``: that mean for every unit of inputs with a single
            axis, such as the columns of a table.

        Returns
        -------
        pandas.DataFrame
            Columns run, layer, layer_index, op, depth; per sample also sample, sample_name, label; metric, value,
            stderr; gap, an upper limit of how far the value may lie below the optimum (NaN if unknown); mark, the
            reason why it is proven or not (a name in ``onnxinfo.archive.format.MARKS``; per layer the number of
            unproven samples by reason, such as ``2 gap, 1 dead``; None if not recorded); converged; per layer also n,
            the number of finished samples, n_converged, and n_missing, the number without a value, which do not enter
            the mean. Per input: its name, and neither gap nor mark. Per unit: also unit, its position among all, and
            unit_name.
        """
        import pandas

        return pandas.DataFrame(self.table(per))

    def close(self) -> None:
        """Close the file."""
        close_read(self.file)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _is_run(self, name: str) -> bool:
        try:
            group = guard.member(self.file, name, h5py.Group)
            return group is not None and guard.attribute(group, "format") == FORMAT
        except ArchiveError:
            # A damaged run is listed, so that it does not disappear silently.
            return True


def open(path: str | os.PathLike[str]) -> Archive:
    """Open an archive for reading, also while a run is being written or after its writer crashed.

    Parameters
    ----------
    path
        An HDF5 file written by ``onnxinfo analyze``.

    Returns
    -------
    Archive
        The archive; close it, or use it in a ``with`` statement.

    Raises
    ------
    ArchiveError
        The file does not exist, is not an archive, is damaged, or was written by a newer version of onnxinfo.

    Examples
    --------
    >>> with onnxinfo.open("result.h5") as archive:
    ...     table = archive.to_dataframe(per="layer")
    >>> table["layer"].tolist()
    ['relu', 'logits']
    """
    return _archive(open_to_read(Path(path)), Path(path))


def open_locked(path: Path) -> Archive:
    """Open an archive for reading as :func:`open` does, while holding its lock: nobody is writing it.

    Raises
    ------
    ArchiveError
        As :func:`open` does.
    """
    return _archive(open_unwritten(path), path)


def _archive(file: h5py.File, path: Path) -> Archive:
    try:
        return Archive(file, path)
    except BaseException:
        close_read(file)
        raise


def check_version(version: str | int | float | None, what: str) -> None:
    """Raise :class:`ArchiveError` unless this reader supports the format's version."""
    if not isinstance(version, int) or version < 1:
        raise ArchiveError(f"{what} has no valid format_version; the file is damaged")
    if version > VERSION:
        raise ArchiveError(f"{what} has format version {version}, this onnxinfo reads up to {VERSION}; update onnxinfo")


def _split_recipe(attributes: dict[str, str | int | float]) -> tuple[dict[str, Json], dict[str, Json]]:
    listed = decode_attribute(attributes.pop("recipe", "[]"))
    keys = [key for key in listed if isinstance(key, str)] if isinstance(listed, list) else []
    for key in ("format", "format_version", "coordinates"):
        attributes.pop(key, None)
    recipe = {key: decode_attribute(attributes.pop(key)) for key in keys if key in attributes}
    return recipe, {key: decode_attribute(value) for key, value in attributes.items()}


__all__ = ["THUMBNAIL_AXES", "Archive", "Run", "open"]
