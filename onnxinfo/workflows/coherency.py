"""Coherency (the paper's Fig. 1): how metrics change under a rescaling that leaves the network's function unchanged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from ..analysis.settings import Report, Result
from ..archive.claim import claim_archive
from ..archive.means import pair_up, select_cells
from ..archive.reading import Run
from ..archive.reading import open as open_archive
from ..config import COHERENCY_METRICS, RESCALE_FACTOR, Config, Options, SelectionConfig, configure
from ..errors import UnprovenError, UsageError
from ..graph.model import ModelSource, load
from ..graph.rescale import rescale, select_pairs
from .analyze import check_present, run_analysis
from .given_model import given_model
from .idle import refuse_idle_keywords

#: Names of the two runs in the archive.
ORIGINAL, RESCALED = "original", "rescaled"


@dataclass(frozen=True)
class Change:
    """Change of one metric of one layer due to rescaling.

    Attributes
    ----------
    layer, metric
        Names of layer and metric.
    rescaled
        Whether the layer's feature was divided by the factor.
    before, after
        Means over the samples that have a value in both runs.
    stderr
        Standard error of the mean of ``after - before`` over samples, at least that implied by the Monte Carlo errors.
    samples
        Number of these samples.
    unproven
        Number of these samples with at least one unproven value.
    """

    layer: str
    metric: str
    rescaled: bool
    before: float
    after: float
    stderr: float
    samples: int
    unproven: int

    @property
    def difference(self) -> float:
        """``after - before``: near 0 for a coherent metric in nats."""
        return self.after - self.before

    @property
    def ratio(self) -> float:
        """``after / before``: 1 for a coherent measure of size."""
        return self.after / self.before if self.before else float("nan")


@dataclass(frozen=True)
class CoherencyResult:
    """Result of :func:`coherency`: the two runs, and the changes in order of the layers.

    Examples
    --------
    >>> original, rescaled = (onnxinfo.Result(Path("coherency.h5"), run) for run in ("original", "rescaled"))
    >>> onnxinfo.CoherencyResult(original, rescaled, changes=()).rescaled.run
    'rescaled'
    """

    original: Result
    rescaled: Result
    changes: tuple[Change, ...]


def coherency(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    *,
    example: Any = None,
    factor: float = RESCALE_FACTOR,
    pairs: Sequence[str] = (),
    progress: Report | None = None,
    **options: Unpack[Options],
) -> CoherencyResult:
    """Compute metrics and baselines of a model before and after neighboring layers are rescaled.

    Parameters
    ----------
    model, inputs, output, example
        As for :func:`onnxinfo.analyze`; the runs ``original`` and ``rescaled`` are added to the archive.
    factor
        See :func:`onnxinfo.rescale`.
    pairs
        Patterns for the tensors between rescaled layers; default: all pairs.
    progress
        As for :func:`onnxinfo.analyze`.
    **options
        All settings of :func:`onnxinfo.analyze` except the run's name; the default metrics are ``sid``, ``gradient``
        and ``gradcam``.

    Raises
    ------
    UsageError
        An option is unknown, no layers can be rescaled, or a run is named; nothing is written.
    OnnxinfoError
        As raised by :func:`onnxinfo.analyze`.

    Examples
    --------
    >>> result = onnxinfo.coherency(
    ...     "digits-cnn.onnx", "digits.npz:images", "coherency.h5", layers=["-1"], metrics=["sid"], limit=1
    ... )
    >>> [round(change.after - change.before, 6) + 0.0 for change in result.changes]
    [0.0]
    """
    config = configure(Config(selection=SelectionConfig(metrics=COHERENCY_METRICS)), options)
    refuse_idle_keywords("coherency", options, config, inputs=inputs, output=output)
    if config.out.run is not None:
        raise UsageError(f"the runs are called {ORIGINAL} and {RESCALED}: leave out the run's name")
    claim_archive(output, [model, inputs, *config.sources()])
    loaded = load(given_model(model, inputs, example))
    changed = rescale(loaded, factor, pairs)
    divided = {name for pair in select_pairs(loaded, pairs) for name in pair.between}
    runs = ((ORIGINAL, loaded), (RESCALED, changed.proto))
    check_present(changed.proto, inputs, output, configure(config, {"run": RESCALED}))
    results = []
    unproven: UnprovenError | None = None
    for name, network in runs:
        try:
            results.append(run_analysis(network, inputs, output, configure(config, {"run": name}), progress))
        except UnprovenError as error:
            results.append(error.result)
            unproven = unproven or error
    with open_archive(output) as archive:
        pair = archive[ORIGINAL], archive[RESCALED]
        changes = tuple(
            _change(pair, metric, i, layer.name in divided)
            for i, layer in enumerate(pair[0].layers)
            for metric in config.selection.metrics
        )
    before, after = results
    made = CoherencyResult(before, after, changes)
    if unproven is not None:
        raise UnprovenError(str(unproven), made)
    return made


def _change(runs: tuple[Run, Run], metric: str, layer: int, rescaled: bool) -> Change:
    found = pair_up(*(select_cells(run.values(metric), layer) for run in runs))
    return Change(
        runs[0].layers[layer].name,
        metric,
        rescaled,
        found.first,
        found.second,
        found.stderr,
        found.n,
        found.n_unproven,
    )
