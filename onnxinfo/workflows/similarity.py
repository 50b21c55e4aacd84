"""Similarity of the layers of two networks on the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from ..analysis.features import features_of
from ..analysis.job import Job
from ..analysis.settings import Progress, Report
from ..arguments import Names, names_of
from ..config import PARALLEL, Config, FlatOptions, SelectionConfig, configure, refuse_idle
from ..errors import UsageError
from ..graph.layers import Layer, choose_layers
from ..graph.model import Model, ModelSource
from ..metrics.cka import FEWEST, cka_pseudovalues, gram_matrix
from ..metrics.input_provider import InputProvider
from .computing import IN_ONE_PROCESS, computing
from .idle import refuse_idle_keywords
from .notebook import reporting
from .open_job import open_job


def similarity(
    model: ModelSource,
    other: ModelSource,
    inputs: Any,
    *,
    layers: Names = (),
    other_layers: Names | None = None,
    progress: Report | None = None,
    **options: Unpack[FlatOptions],
) -> list[dict[str, Any]]:
    """Compare each layer of a network with each layer of another one by linear CKA, debiased.

    Parameters
    ----------
    model, other
        The networks, see :func:`onnxinfo.load`; they may be the same.
    inputs
        Samples that both take, see :func:`onnxinfo.analyze`; at least 5.
    layers, other_layers
        Patterns of layers, see :func:`onnxinfo.select_layers`; default: the default layers, and for the other network
        the same patterns.
    progress
        Called with a :class:`~onnxinfo.Progress` as work is done. Default: a bar in notebooks, nothing elsewhere.
    **options
        Single settings of input and execution by flat name, such as ``limit`` or ``preset``.

    Returns
    -------
    list of dict
        One per pair of layers, in the order of the layers: layer, other_layer, cka (corrected for its bias by the
        jackknife: ``n c - (n - 1) mean(c_i)``, with ``c_i`` without sample i), stderr (the jackknife's standard error
        over samples) and n, the number of samples. Layers that do not vary have NaN.

    Raises
    ------
    UsageError
        There are fewer than 5 samples, or a pattern matches no layer.
    OnnxinfoError
        As raised by :func:`onnxinfo.analyze`.

    Examples
    --------
    >>> rows = onnxinfo.similarity(
    ...     "digits-cnn.onnx", "digits-cnn.onnx", "digits.npz:images", layers=["relu", "logits"], limit=20
    ... )
    >>> [(row["layer"], row["other_layer"], round(row["cka"], 1)) for row in rows if row["layer"] == "logits"][1]
    ('logits', 'logits', 1.0)
    """
    patterns = names_of(layers, "layers"), names_of(layers if other_layers is None else other_layers, "other_layers")
    report = reporting(progress)
    refuse_idle(options, PARALLEL, IN_ONE_PROCESS)
    base = configure(Config(), {**options}, "input", "execution")
    refuse_idle_keywords("similarity", options, base, inputs=inputs)
    with computing(base.execution.timeout):
        # Both are known to be usable before the work on one begins.
        jobs = [_opened(each, inputs, base, chosen) for each, chosen in zip((model, other), patterns, strict=True)]
        one, two = (_grams(job, report) for job in jobs)
    return [_row(name, gram, second, of_second) for name, gram in one.items() for second, of_second in two.items()]


def _opened(model: ModelSource, inputs: Any, base: Config, patterns: Sequence[str]) -> Job:
    config = configure(base, {"layers": patterns}, "selection")
    return open_job(model, inputs, config, _chooser(config.selection), _check_samples).job


def _grams(job: Job, report: Report) -> dict[str, npt.NDArray[np.float64]]:
    """Return the Gram matrix of each layer's features."""
    grams = {}
    for i, layer in enumerate(job.layers):
        report(Progress("cka", i, len(job.layers)))
        grams[layer.name] = gram_matrix(features_of(job, i))
    report(Progress("cka", len(job.layers), len(job.layers)))
    return grams


def _chooser(selection: SelectionConfig) -> Any:
    def choose(model: Model, sources: Sequence[str]) -> tuple[list[Layer], Layer]:
        _, chosen = choose_layers(model, sources, selection.layers, selection.exclude)
        return chosen, chosen[-1]

    return choose


def _check_samples(provider: InputProvider) -> None:
    if len(provider) < FEWEST:
        raise UsageError(f"cka compares distances between samples: at least {FEWEST} expected, {len(provider)} given")


def _row(name: str, gram: npt.NDArray[np.float64], other: str, of_other: npt.NDArray[np.float64]) -> dict[str, Any]:
    values = cka_pseudovalues(gram, of_other)
    return {
        "layer": name,
        "other_layer": other,
        "cka": float(values.mean()),
        "stderr": float(values.std(ddof=1) / np.sqrt(len(values))),
        "n": len(values),
    }
