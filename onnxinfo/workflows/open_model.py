"""Models prepared for analysis: in float32, with fixed inputs as constants and known batch axes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
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
from ..torch_graph.dequantize import dequantize
from ..torch_graph.precision import to_float32


def open_model(model: ModelSource, chosen: InputConfig, inputs: Any = None) -> Model:
    """Load a model, make fixed inputs constants, and determine the batch axes of the other inputs.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    chosen
        Precision, quantization, values of fixed inputs, and batch axes.
    inputs
        Samples; complete feeds have no batch axis.

    Returns
    -------
    Model
        The prepared model.

    Raises
    ------
    ModelError
        The model cannot be loaded, or not be dequantized.
    UsageError, InputError
        A value or a batch axis does not fit the model.
    """
    return dataclasses.replace(_opened(model, chosen, inputs), changes=_changes(chosen))


def _opened(model: ModelSource, chosen: InputConfig, inputs: Any) -> Model:
    loaded = without_optional_inputs(model if chosen.keep_precision else to_float32(model))
    if chosen.dequantize:
        loaded = dequantize(loaded)
    values = {name: _value(value) for name, value in chosen.set}
    if is_feeds(inputs):
        if chosen.batch_axis:
            raise UsageError("complete feeds have no batch axis; leave out batch_axis=...")
        fixed = with_fixed_inputs(loaded, values, {})
        return dataclasses.replace(fixed, batch_axes=dict.fromkeys(fixed.flow.inputs, SEPARATE))
    axes = find_batch_axes(loaded, dict(chosen.batch_axis), values)
    return with_batch_axes(with_fixed_inputs(loaded, values, axes), axes)


def recorded_inputs(chosen: InputConfig) -> dict[str, Any]:
    """Return the entries of an archive's recipe for fixed inputs and batch axes; empty if there are none."""
    found: dict[str, Any] = {}
    if chosen.set:
        found["set"] = {name: _recorded(_value(value)) for name, value in chosen.set}
    if chosen.batch_axis:
        found["batch_axis"] = dict(chosen.batch_axis)
    return found


def _changes(chosen: InputConfig) -> str:
    """Describe the settings that make the network another one than the file's."""
    names = ("keep_precision", "dequantize")
    found: dict[str, Any] = {name: True for name in names if getattr(chosen, name)}
    if chosen.set:
        found["set"] = recorded_inputs(chosen)["set"]
    return json.dumps(found, sort_keys=True) if found else ""


def _value(value: Any) -> Any:
    """Return a value, read from its file if it names one."""
    if not isinstance(value, str | os.PathLike) or split_key(os.fspath(value)) is None:
        return value
    rows = open_array(os.fspath(value))
    return rows.read(range(len(rows)))


def _recorded(value: Any) -> str:
    """Return a value as text; arrays of more than ``_SHOWN`` values as a digest."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.size <= _SHOWN:
        return ",".join(str(each) for each in array.ravel().tolist())
    return f"sha256 {hashlib.sha256(str(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()}"


#: Maximum number of values that a recipe lists; larger arrays are identified by their digest.
_SHOWN = 16
