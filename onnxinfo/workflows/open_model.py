"""Models prepared for analysis: in float32, with fixed inputs as constants and known batch axes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from ..config import Config, InputConfig, SelectionConfig
from ..errors import InputError, ModelError, UsageError
from ..graph.batch_axes import SEPARATE
from ..graph.fixed_inputs import with_fixed_inputs
from ..graph.free_batch import with_batch_of_one
from ..graph.model import Model, ModelSource
from ..graph.optionals import without_optional_inputs
from ..graph.parts import existing_parts, parted_tensors, through_parts, with_parts
from ..graph.patterns import part_name
from ..inputs.arrays import open_array, split_key
from ..inputs.feeds import is_feeds
from ..inputs.sample_sets import SampleSet
from ..metrics.batch_axes import find_batch_axes, sample_axes, with_batch_axes
from ..metrics.input_provider import graph_inputs, placed
from ..torch_graph.dequantize import dequantize
from ..torch_graph.precision import to_float32
from ..torch_graph.runtime import Session
from .given_model import given_model

logger = logging.getLogger(__name__)


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
    model = given_model(model, inputs)
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


def with_chosen_parts(model: Model, chosen: SelectionConfig, present: Collection[str] = ()) -> Model:
    """Return a model with the parts of layers that are chosen, and those that a run has already.

    Parameters
    ----------
    model
        A model from :func:`open_model`.
    chosen
        Patterns of layers.
    present
        Names of a run's layers.

    Raises
    ------
    UsageError
        A chosen part does not exist.
    """
    axes = sample_axes(model, parted_tensors(model, [*chosen.layers, *present]))
    return with_parts(model, [*chosen.layers, *existing_parts(model, present, axes)], axes)


def with_moved_parts(model: Model, config: Config, present: Collection[str] = ()) -> Model:
    """Return a model as :func:`with_chosen_parts` does, in which noise on parts of layers moves the target.

    Nothing is computed from the target itself, if it is a part: its tensor leads to it.
    """
    target, patterns = config.sensitivity.target, config.selection.layers
    asked = [*patterns, *([] if target is None else [target])]
    axes = sample_axes(model, parted_tensors(model, [*asked, *present]))
    moved = [*patterns, *existing_parts(model, present, axes)]
    if target is None:
        return through_parts(model, moved, axes)
    moved = [each for each in moved if part_name(each) != part_name(target)]
    return with_parts(through_parts(model, moved, axes), target, axes)


def runnable(model: Model, samples: SampleSet) -> Model:
    """Return a model that runs: with a batch size of one, if it leaves the size open but runs only single samples.

    Exporters write a batch size that they were given as an example into reshapes, although the inputs leave it open.

    Parameters
    ----------
    model
        A model from :func:`open_model`.
    samples
        Its samples.

    Returns
    -------
    Model
        The model itself if its batch size is fixed, or if it runs two samples at once or not even one.
    """
    inputs = graph_inputs(model)
    if len(next(iter(samples.inputs.values()))) < 2 or any(each.batch is not None for each in inputs):
        return model
    try:
        session = Session(model)
    except ModelError:
        # A part that ONNX Runtime does not know may be unnecessary for the layers.
        return model

    def runs(rows: list[int]) -> bool:
        given = samples.feeds(rows)
        try:
            session.run({each.name: placed(given[each.name].astype(each.dtype), each.axis) for each in inputs})
        except (InputError, ModelError):
            return False
        return True

    if runs([0, 1]) or not runs([0]):
        return model
    logger.info("the model runs only single samples, although it leaves the batch size open")
    return with_batch_of_one(model)


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
