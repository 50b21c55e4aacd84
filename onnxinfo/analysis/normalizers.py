"""Normalizers of the layers' budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from .job import Job
from .variance import feature_variances


class Normalizers:
    """The normalizers of a job's layers.

    Parameters
    ----------
    job
        Layers, samples and settings.
    means
        Returns ``D`` of every layer, averaged over all samples. Called only if a layer needs it.
    """

    def __init__(self, job: Job, means: Callable[[], Sequence[float]]) -> None:
        self._job, self._means = job, means

    def of(self, layer: int) -> float | None:
        """Return the normalizer of a layer, in squared units of its feature; None if each sample has its own.

        Raises
        ------
        UsageError
            The normalizer is the feature's variance, and a feature does not vary over the samples.
        """
        settings = self._job.settings_of(layer)
        if settings.normalizer == "dataset":
            return self._mean_norms[layer]
        if settings.normalizer == "feature":
            return self._variances[layer]
        return None if settings.normalizer == "sample" else settings.absolute_budget(self._outputs[layer])

    @cached_property
    def _mean_norms(self) -> Sequence[float]:
        return self._means()

    @cached_property
    def _variances(self) -> dict[int, float]:
        layers = [i for i in range(len(self._job.layers)) if self._job.settings_of(i).normalizer == "feature"]
        return dict(zip(layers, feature_variances(self._job, layers), strict=True))

    @cached_property
    def _outputs(self) -> list[int]:
        with torch.no_grad():
            return [feature.shape[1] for feature in self._job.network(*self._job.inputs([0]))]
