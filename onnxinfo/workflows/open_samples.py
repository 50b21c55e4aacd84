"""Samples as an analysis opens them, and again in another layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..analysis.sanity import Reopen
from ..config import InputConfig
from ..graph.model import Model
from ..inputs.foreground import crops_of, open_foreground
from ..inputs.sample_sets import SampleSet
from ..metrics.input_provider import open_samples_of


def open_analyzed(model: Model, inputs: Any, chosen: InputConfig, crops: Mapping[str, Any] | None = None) -> SampleSet:
    """Open the samples of all graph inputs of a model.

    Parameters
    ----------
    model
        A model as opened for an analysis.
    inputs
        The samples.
    chosen
        How they are read.
    crops
        Boxes to crop images to; default: those of the foreground.
    """
    if crops is None:
        objects = None if chosen.foreground is None else open_foreground(chosen.foreground)
        crops = crops_of(objects, chosen.crop_to_box)
    return open_samples_of(
        model, inputs, **chosen.reading(), **{"labels": chosen.labels, "limit": chosen.limit, **crops}
    )


def reopening(model: Model, inputs: Any, chosen: InputConfig, crops: Mapping[str, Any] | None = None) -> Reopen:
    """Return a function that opens the samples with another layout and limit; parameters as for `open_analyzed`."""

    def reopen(layout: str, limit: int) -> SampleSet:
        return open_analyzed(model, inputs, replace(chosen, layout=layout, limit=limit), crops)

    return reopen
