"""Class scores of samples, from the model as it is, and the accuracy of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..graph.activations import live_bytes
from ..graph.batch_axes import SEPARATE
from ..graph.model import Model
from ..graph.scores import score_tensor
from ..inputs.sample_sets import SampleSet
from ..metrics.budget import CPU_BYTES, EVALUATED_ACTIVATIONS
from ..metrics.input_provider import InputProvider

Array = npt.NDArray[Any]
_BATCH = 32
#: ONNX Runtime's memory for an input, as a multiple of the values that must exist at once.
_COPIES = 2


class Scorer:
    """Scores of a classifier.

    Parameters
    ----------
    model
        A model as opened for an analysis.
    memory
        Limit of the activations in bytes; None: 512 MiB.

    Raises
    ------
    UsageError
        The model is not a classifier.
    """

    def __init__(self, model: Model, memory: int | None = None) -> None:
        if SEPARATE in model.batch_axes.values():
            raise UsageError("the model has no batch axis, so its outputs are not scores of samples")
        self._model, self.tensor = model, score_tensor(model)
        self._memory = CPU_BYTES if memory is None else memory
        self._sigmoid = any(node.op_type == "Sigmoid" and self.tensor in node.input for node in model.flow.nodes)

    def scores(self, samples: SampleSet, indices: Sequence[int]) -> Array:
        """Return the scores of some samples, (len(indices), classes)."""
        provider = InputProvider(self._model, samples, next(iter(samples.inputs)))
        size = self._at_once(samples)
        parts = [
            provider.batch([self.tensor], indices[start : start + size])[self.tensor]
            for start in range(0, len(indices), size)
        ]
        scores = np.concatenate(parts).astype(np.float64)
        if scores.ndim != 2 or len(scores) != len(indices):
            raise UsageError(f"the scores have shape {scores.shape}, expected a row for each of {len(indices)} samples")
        # The shape of the tensor need not be known before.
        if scores.shape[1] < 2:
            raise UsageError(f"the scores have shape {scores.shape}, expected at least two classes")
        return scores

    def _at_once(self, samples: SampleSet) -> int:
        """Number of samples whose evaluation fits into the memory; shapes need not be known in the graph."""
        stored = sum(each.batch([0]).nbytes for each in samples.inputs.values())
        taken = max(_COPIES * live_bytes(self._model.flow), EVALUATED_ACTIVATIONS * stored)
        return max(1, min(_BATCH, self._memory // max(1, taken)))

    def predict(self, scores: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the class of each row of scores and its probability; -1 and NaN where scores are not finite."""
        finite = np.asarray(np.isfinite(scores).all(axis=1))
        safe = np.where(finite[:, None], scores, 0)
        shares = safe if _are_shares(safe) else 1 / (1 + np.exp(-safe)) if self._sigmoid else _softmax(safe)
        predicted = np.where(finite, safe.argmax(axis=1), -1).astype(np.int64)
        return predicted, np.where(finite, shares.max(axis=1), np.nan)


def _are_shares(scores: Array) -> bool:
    return bool((scores >= -1e-6).all() and (np.abs(scores.sum(axis=1) - 1) < 1e-3).all())


def _softmax(scores: Array) -> Array:
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Array = grown / grown.sum(axis=1, keepdims=True)
    return shares
