"""Adversarial robustness of a classifier (the paper's Appendix A), in one call."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Unpack

from ..analysis.robustness import Robustness
from ..analysis.settings import Report, Result
from ..archive.claim import claim_archive
from ..archive.means import layer_summary
from ..archive.reading import open as open_archive
from ..config import Config, Options, configure, entries
from ..errors import UnprovenError, UsageError
from ..graph.layers import list_layers, select_layers
from ..graph.model import ModelSource, load
from ..graph.scores import score_tensor
from .analyze import run_analysis
from .given_model import given_model
from .idle import refuse_idle_keywords


@dataclass(frozen=True)
class RobustnessResult:
    """Result of :func:`robustness`.

    Attributes
    ----------
    result
        Archive and run.
    value, stderr
        Mean over all samples that have a value (at least one target was reached), and its standard error.
    samples, converged
        Number of samples, and of those for which all targets were reached.
    accuracy
        Fraction of the samples classified as labeled.

    Examples
    --------
    >>> with onnxinfo.open("result.h5") as archive:
    ...     result = onnxinfo.Result(archive.path, archive.runs[0])
    >>> onnxinfo.RobustnessResult(result, value=2.3, stderr=0.2, samples=2, converged=2, accuracy=1.0).accuracy
    1.0
    """

    result: Result
    value: float
    stderr: float
    samples: int
    converged: int
    accuracy: float


def robustness(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    *,
    example: Any = None,
    progress: Report | None = None,
    **options: Unpack[Options],
) -> RobustnessResult:
    """Measure the adversarial robustness of a classifier and store it in an archive.

    Parameters
    ----------
    model, inputs, output, example, progress
        As for :func:`onnxinfo.analyze`.
    **options
        All settings of :func:`onnxinfo.analyze` except layers and metrics; ``labels``, the true classes, are required.

    Raises
    ------
    UsageError, InputError
        As raised by :class:`Robustness` and :func:`onnxinfo.analyze`; nothing is written.

    Examples
    --------
    >>> found = onnxinfo.robustness(
    ...     "digits-cnn.onnx", "digits.npz:images", "robust.h5", labels="digits.npz:labels", limit=1
    ... )
    >>> found.samples, found.accuracy
    (1, 1.0)
    """
    if given := [each.name for each in entries("selection") if each.name in options]:
        raise UsageError(f"robustness is measured at the model's scores: leave out {' and '.join(given)}")
    config = configure(Config(), options)
    own = Robustness.metric.name
    refuse_idle_keywords("robustness", options, config, inputs=inputs, output=output, metrics=[own])
    claim_archive(output, [model, inputs, *config.sources()])
    if config.input.labels is None:
        raise UsageError("robustness needs to know the right classes; give labels=...")
    loaded = load(given_model(model, inputs, example))
    scores = score_tensor(loaded)
    select_layers(list_layers(loaded, config.input.input_tensor), [scores])
    config = configure(config, {"layers": [scores], "metrics": [own]})
    unproven: UnprovenError | None = None
    try:
        result = run_analysis(loaded, inputs, output, config, progress)
    except UnprovenError as error:
        result, unproven = error.result, error
    with open_archive(result.archive) as archive:
        found = archive[result.run].values(own)
    summary = layer_summary(found)
    made = RobustnessResult(
        result,
        float(summary["value"][0]),
        float(summary["stderr"][0]),
        found["value"].shape[1],
        int(summary["n_converged"][0]),
        float(found["correct"][0].mean()),
    )
    if unproven is not None:
        raise UnprovenError(str(unproven), made)
    return made
