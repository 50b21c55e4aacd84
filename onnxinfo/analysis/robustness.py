"""Adversarial robustness (the paper's Appendix A): distance to the nearest input of a wrong class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..archive.format import Field, Metric
from ..errors import InputError, UsageError
from ..graph.scores import score_tensor
from ..inputs.deviation import evenly_spread
from ..metrics.network import Network
from .blocks import Cells, Measure, SampleBatch
from .job import Job

#: Number of wrong classes targeted per sample, the most probable ones.
TARGETS = 20
#: Carlini and Wagner's attack: steps of the search for its constant, and iterations per step.
SEARCH_STEPS, ITERATIONS = 7, 12
#: Bisection steps to find where each perturbation crosses the decision boundary.
BISECTIONS = 10


class Robustness(Measure):
    """Mean L2 norm of the smallest perturbations that move a sample to each of its most probable wrong classes.

    Perturbations are found by Carlini and Wagner's targeted L2 attack (from the Adversarial Robustness Toolbox),
    measured in standard deviations of the input, and shrunk until they barely suffice. Perturbed inputs may leave the
    range of the samples by as much as its width. A misclassified sample has distance 0 to its predicted class. If a
    target is not reached, the mean is over the others, and the cell is not converged.

    Raises
    ------
    UsageError
        There are no labels, the model has inputs that are not perturbed, its scores are not the only analyzed layer, or
        the toolbox is not installed.
    InputError
        A label is not one of the model's classes.
    """

    metric: ClassVar[Metric] = Metric(
        "robustness",
        "mean L2 norm of the smallest perturbations to the most probable wrong classes",
        "standard deviations of the input",
        fields=(
            Field("targets", "<i8", "1", "wrong classes that were tried"),
            Field("reached", "<i8", "1", "wrong classes that were reached"),
            Field("smallest", "<f8", "standard deviations of the input", "smallest of the norms"),
            Field("correct", "|u1", "1", "1 where the unperturbed sample is classified as labelled"),
        ),
        has_map=False,
    )

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        labels = job.provider.main.labels
        if labels is None:
            raise UsageError("robustness needs to know the right classes; give labels=...")
        names, scores = [layer.name for layer in job.layers], score_tensor(job.provider.model)
        if names != [scores] or job.network.conditioning_inputs:
            raise UsageError(
                "robustness is of a classifier without other inputs than those that noise is added to, at its scores "
                "alone; use onnxinfo.robustness(...), or fix the others by set=..."
            )
        with torch.no_grad():
            classes = job.network.part([0])(*job.inputs([0]))[0].shape[1]
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise InputError(f"label {wrong[0]} is out of range, the model has {classes} classes, 0 to {classes - 1}")
        self._labels, self._classes = labels, classes
        _ = self._made

    @property
    def recipe(self) -> Mapping[str, object]:
        """The attack and its effort."""
        return {
            "attack": "carlini-wagner-l2",
            "attack_targets": TARGETS,
            "attack_search_steps": SEARCH_STEPS,
            "attack_iterations": ITERATIONS,
            "attack_bisections": BISECTIONS,
        }

    @cached_property
    def _made(self) -> tuple[Any, Any]:
        """The attack and the classifier that it attacks."""
        return _attack_on(self.job, self.job.network.part([0]), self._classes)

    @property
    def _classifier(self) -> Any:
        return self._made[1]

    @property
    def _attack(self) -> Any:
        """The attack, with the batch size that currently fits into memory."""
        self._made[0].set_params(batch_size=self.job.batch_size)
        return self._made[0]

    def cells(self, batch: SampleBatch) -> Cells:
        """Attack a batch of samples."""
        labels = self._labels[batch.indices]
        unit = self.job.unit
        x = (batch.x / unit).cpu().numpy()
        scores = self._classifier.predict(x, batch_size=self.job.batch_size)
        targets = _wrong_classes(scores, labels)
        count = targets.shape[1]
        originals = np.repeat(x, count, axis=0)
        perturbation = self._attack.generate(originals, y=targets.ravel()) - originals
        share, found = self._least_share(originals, perturbation, targets.ravel())
        norms = share * np.linalg.norm(perturbation.reshape(len(perturbation), -1), axis=1)
        norms = np.where(found, norms, np.nan).reshape(-1, count)
        return Cells({name: torch.from_numpy(column) for name, column in _summary(norms, scores, labels).items()})

    def _least_share(
        self, x: npt.NDArray[Any], perturbation: npt.NDArray[Any], targets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Fraction of each perturbation needed to reach its target, by bisection; and whether the full one reaches it.

        The attack's last steps are coarse near the target, so it overshoots the boundary.
        """

        def reached(share: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
            moved = x + share.reshape(-1, *(1 for _ in x.shape[1:])) * perturbation
            scores = self._classifier.predict(moved.astype(np.float32), batch_size=self.job.batch_size)
            hit: npt.NDArray[np.bool_] = scores.argmax(1) == targets
            return hit

        enough, too_little = np.ones(len(x)), np.zeros(len(x))
        found = reached(enough)
        for _ in range(BISECTIONS):
            middle = (enough + too_little) / 2
            hit = reached(middle)
            enough, too_little = np.where(hit, middle, enough), np.where(hit, too_little, middle)
        return enough, found


class _Standardized(nn.Module):
    """The scores as a function of the input in standard deviations."""

    def __init__(self, network: Network, unit: Tensor) -> None:
        super().__init__()
        self._network, self._unit = network, unit

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self._network(x * self._unit, rows)[0]


def _attack_on(job: Job, network: Network, classes: int) -> tuple[Any, Any]:
    try:
        from .attack import carlini_wagner
    except ImportError:
        raise UsageError(
            "robustness needs the Adversarial Robustness Toolbox; install it by: pip install 'onnxinfo[robustness]'"
        ) from None
    unit = job.unit
    shown = job.inputs(evenly_spread(len(job.provider)))[0] / unit
    low, high = float(shown.min()), float(shown.max())
    return carlini_wagner(
        _Standardized(network, unit),
        job.shape,
        classes,
        # The attack cannot move values at the bounds; without the margin, black and white pixels would be there.
        bounds=(low - (high - low), high + (high - low)),
        search_steps=SEARCH_STEPS,
        iterations=ITERATIONS,
        batch=job.batch_size,
        cuda=job.device.type == "cuda",
    )


def _wrong_classes(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Most probable wrong classes of each sample, (S, at most TARGETS)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    wrong = np.stack([row[row != label] for row, label in zip(order, labels, strict=True)])
    return wrong[:, :TARGETS]


def _summary(
    norms: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[Any]]:
    reached = np.isfinite(norms).sum(1)
    total = np.where(reached > 0, np.nansum(norms, axis=1, dtype=np.float64), np.nan)
    return {
        "value": total / np.maximum(reached, 1),
        "stderr": np.zeros(len(norms)),
        "converged": reached == norms.shape[1],
        "targets": np.full(len(norms), norms.shape[1]),
        "reached": reached,
        "smallest": np.where(np.isnan(norms), np.inf, norms).min(1).astype(np.float64),
        "correct": scores.argmax(1) == labels,
    }
