"""Variance of features over the samples, a normalizer that needs no gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from ..text import quoted
from .job import Job
from .memory import for_each

#: A variance below this fraction of the mean feature's squared norm is due to rounding.
_OF_ROUNDING = 1e-12


def feature_variances(job: Job, layers: Sequence[int]) -> list[float]:
    """Compute the variance of layers' features over all samples, summed over the entries of a feature.

    Parameters
    ----------
    job
        Network and samples.
    layers
        Positions of the layers.

    Returns
    -------
    list of float
        One variance per layer, in squared units of its feature.

    Raises
    ------
    UsageError
        A feature does not vary over the samples.
    """
    samples = range(len(job.provider))
    blocks = [list(samples[start : start + job.batch_size]) for start in range(0, len(samples), job.batch_size)]
    moments = [_Moments() for _ in layers]
    network = job.network.part(layers)

    def add(block: list[int]) -> None:
        x, rows = job.inputs(block)
        with torch.no_grad():
            features = network(x, rows)
        for moment, feature in zip(moments, features, strict=True):
            moment.add(feature)

    for_each(job, blocks, add)
    for layer, moment in zip(layers, moments, strict=True):
        if moment.variance <= _OF_ROUNDING * moment.square:
            raise UsageError(_without_variance(job, layer))
    return [moment.variance for moment in moments]


def _without_variance(job: Job, layer: int) -> str:
    few = "give more samples" if len(job.provider) == 1 else "leave the layer out"
    return (
        f"the feature of layer {quoted(job.layers[layer].name)} has variance 0 over {len(job.provider)} sample"
        f"{'s'[: len(job.provider) != 1]}, so its budget would be 0: {few}, or give an absolute budget=..."
    )


class _Moments:
    """Mean and variance of a feature over batches of samples, merged pairwise for numerical stability."""

    def __init__(self) -> None:
        self._count, self._spread = 0, 0.0
        self._mean = torch.zeros(())

    def add(self, feature: Tensor) -> None:
        """Add the feature (S, m) of another batch of samples."""
        wide = feature.double()
        mean, count = wide.mean(0), len(wide)
        total = self._count + count
        apart = (mean - self._mean).square().sum() if self._count else 0.0
        self._spread += float((wide - mean).square().sum() + apart * (self._count * count / total))
        self._mean = (self._mean * self._count + mean * count) / total
        self._count = total

    @property
    def variance(self) -> float:
        """Mean squared distance of the feature from its mean."""
        return self._spread / self._count

    @property
    def square(self) -> float:
        """Squared norm of the mean feature."""
        return float(self._mean.square().sum())
