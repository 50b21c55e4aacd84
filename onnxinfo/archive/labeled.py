"""A run as an :class:`xarray.Dataset` with lazily read maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray
from xarray.backends import BackendArray
from xarray.core import indexing

from ..inputs.parts import InputPart
from .format import FOREGROUND_AXES, LAYER_COLUMNS, THUMBNAIL_AXES, Field, Json, Metric, encode_attribute
from .table import Tabular


class Labellable(Tabular, Protocol):
    """Source of labeled arrays; see :class:`onnxinfo.Run`."""

    axes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    inputs: tuple[InputPart, ...]
    created: str
    recipe: dict[str, Json]
    provenance: dict[str, Json]

    @property
    def unit(self) -> npt.NDArray[np.float64]:
        """Standard deviation of the input."""

    @property
    def thumbnails(self) -> npt.NDArray[np.uint8] | None:
        """Pictures of the samples."""

    @property
    def foreground(self) -> npt.NDArray[np.uint8] | None:
        """Masks of the samples' objects."""

    @property
    def predicted(self) -> npt.NDArray[np.int64] | None:
        """Predicted class of each sample."""

    @property
    def probability(self) -> npt.NDArray[np.float64] | None:
        """Probability of the predicted class of each sample."""

    def normalizer(self, metric: str) -> npt.NDArray[np.float64]:
        """Return ``D`` of each layer."""

    def maps(self, metric: str, layer: int, samples: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return maps of a layer."""


class _Maps(BackendArray):
    """All maps of a metric, (layer, sample, *axes), read cell by cell by the safe reader."""

    def __init__(self, run: Labellable, metric: str) -> None:
        self._run, self._metric = run, metric
        self.shape = (*run.shape, *run.sample_shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[np.float32]:
        support = indexing.IndexingSupport.OUTER
        return np.asarray(indexing.explicit_indexing_adapter(key, self.shape, support, self._read))

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.float32]:
        layers, samples = (np.arange(size)[part] for size, part in zip(self.shape[:2], key[:2], strict=True))
        inner = tuple(key[2:])
        wanted = [int(sample) for sample in np.atleast_1d(samples)]
        cells = [
            [_outer(each, inner) for each in self._run.maps(self._metric, int(layer), wanted)]
            for layer in np.atleast_1d(layers)
        ]
        sizes = [np.arange(size)[part] for size, part in zip(self.shape[2:], inner, strict=True)]
        shape = [part.shape for part in (layers, samples, *sizes)]
        return np.array(cells, dtype=np.float32).reshape(sum(shape, ()))


def _outer(values: npt.NDArray[np.float32], key: tuple[Any, ...]) -> npt.NDArray[np.float32]:
    """Index each axis independently, from the last so that the others keep their positions."""
    for axis in reversed(range(len(key))):
        values = values[(slice(None),) * axis + (key[axis],)]
    return values


def run_dataset(run: Labellable) -> xarray.Dataset:
    """Return a run as labeled arrays over (layer, sample, ...); unfinished cells are NaN, 0 or False."""
    columns = {
        name: ("layer", [getattr(row, name.removeprefix("layer_")) for row in run.layers]) for name in LAYER_COLUMNS[1:]
    }
    coordinates: dict[str, Any] = {
        "layer": [row.name for row in run.layers],
        "sample": np.arange(run.shape[1]),
        **columns,
        "sample_name": ("sample", run.sample_names),
    }
    if run.labels is not None:
        coordinates["label"] = ("sample", run.labels)
    if run.predicted is not None:
        coordinates |= {"predicted": ("sample", run.predicted), "probability": ("sample", run.probability)}
    if run.inputs:
        coordinates["input"] = [part.name for part in run.inputs]
        coordinates["input_axes"] = ("input", [" ".join(part.axes) for part in run.inputs])
        coordinates["input_shape"] = ("input", ["x".join(map(str, part.shape)) for part in run.inputs])
    if run.unit_names is not None:
        coordinates["unit_name"] = (run.axes, run.unit_names)
    variables: dict[str, Any] = {}
    for metric in run.metrics:
        variables |= _metric_variables(run, metric)
    unit = run.unit
    varying = [axis for axis, size in zip(run.axes, unit.shape, strict=True) if size > 1]
    variables["input_unit"] = (
        varying,
        unit.reshape([size for size in unit.shape if size > 1]),
        {"units": "model input"},
    )
    if run.thumbnails is not None:
        variables["thumbnail"] = (("sample", *THUMBNAIL_AXES), run.thumbnails)
    if run.foreground is not None:
        variables["foreground"] = (("sample", *FOREGROUND_AXES), run.foreground)
    attributes = {key: encode_attribute(value) for key, value in {**run.provenance, **run.recipe}.items()}
    return xarray.Dataset(variables, coordinates, {"run": run.name, "created": run.created, **attributes})


def _metric_variables(run: Labellable, metric: Metric) -> dict[str, Any]:
    values = run.values(metric.name)
    attributes = {"units": metric.units, "long_name": metric.long_name}
    variables: dict[str, Any] = {}
    for column in metric.columns:
        described = attributes if column.name == "value" else _described(column)
        variables[metric.dataset(column.name)] = (("layer", "sample"), values[column.name], described)
    variables[f"{metric.name}_done"] = (("layer", "sample"), values["done"])
    variables[f"{metric.name}_normalizer"] = (("layer",), run.normalizer(metric.name))
    if metric.has_map:
        lazy = indexing.LazilyIndexedArray(_Maps(run, metric.name))
        variables[f"{metric.name}_map"] = xarray.Variable(("layer", "sample", *run.axes), lazy, attributes)
    return variables


def _described(column: Field) -> dict[str, Any]:
    flags = {"flag_values": np.arange(len(column.flags), dtype=np.uint8), "flag_meanings": " ".join(column.flags)}
    return {"units": column.units, "long_name": column.long_name, **(flags if column.flags else {})}
