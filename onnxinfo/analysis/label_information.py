"""What a linear classifier can read about the labels from a layer: V-information and the accuracy of a probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch

from ..archive.format import Field, Metric
from ..metrics.linear_probe import FOLDS, Predicted, coordinates, predict_held_out, stratified_folds
from .blocks import Cells, Measure, SampleBatch
from .features import features_of, labels_of
from .job import Job
from .settings import Progress, Report

_CORRECT_CONTROL = Field("correct_control", "|u1", "1", "1 where a classifier of shuffled labels predicts these")


class VInformation(Measure):
    """Information about the label that linear classifiers use in a layer, in nats (V-information, Xu et al. 2020).

    The value of a cell is ``log q(y|x) - log q(y)``, pointwise V-information: q is trained without the sample's fold.

    Raises
    ------
    UsageError
        There are no labels, or fewer than three samples of a class.
    """

    metric: ClassVar[Metric] = Metric(
        "vinfo",
        "information about the label that a linear classifier uses",
        fields=(
            Field("control", "<f8", "nats", "the same with shuffled labels, which are independent of the samples"),
            Field("correct", "|u1", "1", "1 where the classifier predicts the label"),
            _CORRECT_CONTROL,
        ),
        has_map=False,
    )
    needs_gradient: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._labels = labels_of(job, self.metric.name)
        self._folds = min(FOLDS, int(np.bincount(self._labels).min()))
        self._found: list[tuple[Predicted, Predicted]] = []

    @property
    def recipe(self) -> Mapping[str, object]:
        """The classifier, and the number of folds."""
        return {"vinfo_family": "linear", "vinfo_folds": self._folds}

    def prepare(self, report: Report) -> None:
        """Train the classifiers of all layers."""
        if self._found:
            return
        job, labels, seed = self.job, self._labels, self.job.settings.seed
        folds = stratified_folds(labels, self._folds, seed)
        shuffled = np.random.default_rng([seed, 1]).permutation(len(labels))
        for layer in range(len(job.layers)):
            report(Progress("vinfo", layer, len(job.layers)))
            seen = coordinates(features_of(job, layer))
            own = predict_held_out(seen, labels, folds)
            # Folds go with the labels, so that each still has all classes.
            self._found.append((own, predict_held_out(seen, labels[shuffled], folds[shuffled])))
        report(Progress("vinfo", len(job.layers), len(job.layers)))

    def cells(self, batch: SampleBatch) -> Cells:
        """Look up the values of a batch."""
        own, control = self._found[batch.layer]
        numbers = own.information, control.information, own.correct.astype(np.uint8), control.correct.astype(np.uint8)
        value, of_control, correct, correct_control = (torch.from_numpy(each[batch.indices]) for each in numbers)
        return Cells(
            {
                "value": value,
                "stderr": torch.zeros_like(value),
                "converged": value.isfinite(),
                "control": of_control,
                "correct": correct,
                "correct_control": correct_control,
            }
        )


class Probe(Measure):
    """Accuracy of a cross-validated linear probe: 1 where the classifier of :class:`VInformation` is right, else 0.

    Raises
    ------
    UsageError
        As for :class:`VInformation`.
    """

    metric: ClassVar[Metric] = Metric(
        "probe",
        "accuracy of a linear probe",
        "1",
        fields=(_CORRECT_CONTROL,),
        has_map=False,
    )
    needs_gradient: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("vinfo",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        labels_of(job, self.metric.name)

    def cells(self, batch: SampleBatch) -> Cells:
        """Take the predictions of the classifiers."""
        found = batch.cells("vinfo").values
        value = found["correct"].double()
        return Cells(
            {
                "value": value,
                "stderr": torch.zeros_like(value),
                "converged": torch.ones_like(value, dtype=torch.bool),
                "correct_control": found["correct_control"],
            }
        )
