"""The model that a workflow was given: that of a framework is exported, if need be from the first samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..graph.frameworks import framework_of
from ..graph.model import ModelSource, load
from ..inputs.objects import is_frame, plain
from ..inputs.rows import Rows


def given_model(model: ModelSource, inputs: Any = None, example: Any = None) -> ModelSource:
    """Return a model as it was given, or loaded if it is one of a framework.

    Parameters
    ----------
    model
        The model.
    inputs
        Samples; a torch module is exported from the first of them if there is no example and they are float arrays or
        tensors, which are the model's input as they are, and an estimator from a DataFrame, which tells the types of
        its columns.
    example
        See :func:`onnxinfo.load`.
    """
    if framework_of(model) is None and example is None:
        return model
    if example is None and framework_of(model) == "torch":
        example = _first(inputs)
    if (
        example is None
        and framework_of(model) == "sklearn"
        and is_frame(inputs)
        and hasattr(model, "feature_names_in_")
    ):
        example = inputs
    return load(model, example=example)


def _first(inputs: Any) -> Any:
    """Return the first samples of floats in arrays, tensors or datasets, or of a mapping to these; else None."""
    if isinstance(inputs, Mapping):
        found = {name: _first(each) for name, each in inputs.items()}
        return found if found and all(each is not None for each in found.values()) else None
    found = plain(inputs)
    if not isinstance(found, Rows | np.ndarray) or found.dtype.kind != "f" or not len(found):
        return None
    return found[:2] if isinstance(found, np.ndarray) else found.read(range(min(2, len(found))))
