"""Linear CKA: how similar a layer's representation of the samples is to that of another layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from ..archive.format import Metric
from ..errors import UsageError
from ..metrics.cka import FEWEST, cka_pseudovalues, gram_matrix
from .blocks import Cells, Measure, SampleBatch
from .features import features_of
from .job import Job
from .sensitivity import class_scores
from .settings import Progress, Report


class Cka(Measure):
    """Debiased linear CKA between a layer and the reference: the class scores, or else the last chosen layer.

    The value of a cell is the sample's jackknife pseudovalue, not a similarity of this sample: only means over all
    samples are CKA, corrected for its bias, with its standard error.

    Raises
    ------
    UsageError
        There are fewer than 5 samples.
    """

    metric: ClassVar[Metric] = Metric(
        "cka",
        "linear CKA with the reference layer",
        "1",
        fields=(),
        has_map=False,
    )
    needs_gradient: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        count = len(job.provider)
        if count < FEWEST:
            raise UsageError(f"cka compares distances between samples: at least {FEWEST} expected, {count} given")
        self._reference = _reference(job)
        self._values: list[npt.NDArray[np.float64]] = []

    @property
    def recipe(self) -> Mapping[str, object]:
        """The reference layer."""
        return {"cka_reference": self._reference}

    def prepare(self, report: Report) -> None:
        """Compare all layers with the reference."""
        if self._values:
            return
        names = [layer.name for layer in self.job.layers]
        reference = gram_matrix(features_of(self.job, names.index(self._reference)))
        for layer in range(len(names)):
            report(Progress("cka", layer, len(names)))
            self._values.append(cka_pseudovalues(gram_matrix(features_of(self.job, layer)), reference))
        report(Progress("cka", len(names), len(names)))

    def cells(self, batch: SampleBatch) -> Cells:
        """Look up the values of a batch."""
        value = torch.from_numpy(self._values[batch.layer][batch.indices])
        return Cells({"value": value, "stderr": torch.zeros_like(value), "converged": value.isfinite()})


def _reference(job: Job) -> str:
    """Return the name of the class scores if they are a layer of the job, else of the last layer that is no part."""
    parts = job.provider.model.parts
    names = [layer.name for layer in job.layers]
    scores = class_scores(job.provider.model)
    if scores in names:
        return scores
    return next((name for name in reversed(names) if name not in parts), names[-1])
