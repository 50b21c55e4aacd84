"""A model as an analysis takes it: in float32, without inputs that take no samples, its batch axes known."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from ..config import InputConfig
from ..errors import UsageError
from ..graph.batch_axes import SEPARATE
from ..graph.fixed_inputs import with_fixed_inputs
from ..graph.model import Model, ModelSource
from ..graph.optionals import without_optional_inputs
from ..inputs.arrays import open_array, split_key
from ..inputs.feeds import is_feeds
from ..metrics.batch_axes import find_batch_axes, with_batch_axes
from ..torch_graph.precision import to_float32


def open_model(model: ModelSource, chosen: InputConfig, inputs: Any = None) -> Model:
    """Load a model and settle what its inputs are.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    chosen
        Precision, values of inputs that take no samples, and batch axes.
    inputs
        The samples; complete feeds have no batch axis.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError, InputError
        A value or a batch axis does not fit the model.
    """
    loaded = without_optional_inputs(model if chosen.keep_precision else to_float32(model))
    values = {name: _value(value) for name, value in chosen.set}
    if is_feeds(inputs):
        if chosen.batch_axis:
            raise UsageError("complete feeds have no batch axis; leave out batch_axis=...")
        fixed = with_fixed_inputs(loaded, values, {})
        return dataclasses.replace(fixed, batch_axes=dict.fromkeys(fixed.flow.inputs, SEPARATE))
    axes = find_batch_axes(loaded, dict(chosen.batch_axis), values)
    return with_batch_axes(with_fixed_inputs(loaded, values, axes), axes)


def recorded_inputs(chosen: InputConfig) -> dict[str, Any]:
    """Return what an archive's recipe holds of fixed inputs and batch axes: nothing where there are none."""
    found: dict[str, Any] = {}
    if chosen.set:
        found["set"] = {name: _recorded(_value(value)) for name, value in chosen.set}
    if chosen.batch_axis:
        found["batch_axis"] = dict(chosen.batch_axis)
    return found


def _value(value: Any) -> Any:
    """A value, read where a file is named."""
    if not isinstance(value, str | os.PathLike) or split_key(os.fspath(value)) is None:
        return value
    rows = open_array(os.fspath(value))
    return rows.read(range(len(rows)))


def _recorded(value: Any) -> str:
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.size <= _SHOWN:
        return ",".join(str(each) for each in array.ravel().tolist())
    return f"sha256 {hashlib.sha256(str(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()}"


#: Values that a recipe shows; more are known by their digest.
_SHOWN = 16
