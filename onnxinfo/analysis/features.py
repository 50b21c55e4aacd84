"""Features of a layer at all samples, as metrics of a whole representation need them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ..errors import UsageError
from ..metrics.linear_probe import FEWEST
from ..text import numbered
from .job import Job
from .memory import for_each


def features_of(job: Job, layer: int) -> npt.NDArray[np.float32]:
    """Return the feature of a layer at all samples, (samples, entries).

    Parameters
    ----------
    job
        Network and samples.
    layer
        Position of the layer.
    """
    samples, parts = range(len(job.provider)), dict[int, npt.NDArray[np.float32]]()
    network = job.network.part([layer])

    def add(block: list[int]) -> None:
        with torch.no_grad():
            (feature,) = network(*job.inputs(block))
        parts[block[0]] = feature.detach().reshape(len(block), -1).float().cpu().numpy()

    blocks = [list(samples[start : start + job.batch_size]) for start in range(0, len(samples), job.batch_size)]
    for_each(job, blocks, add)
    return np.concatenate([parts[start] for start in sorted(parts)])


def labels_of(job: Job, metric: str) -> npt.NDArray[np.int64]:
    """Return the samples' labels, numbered from 0.

    Raises
    ------
    UsageError
        There are none, a single class, or a class of fewer than three samples.
    """
    labels = job.provider.main.labels
    if labels is None:
        raise UsageError(f"{metric} needs to know the classes; give labels=...")
    known, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(known) < 2:
        have = "has one" if len(labels) == 1 else "have the same"
        raise UsageError(f"{metric} tells classes apart, and {numbered(len(labels), 'sample')} {have}; give others")
    if counts.min() < FEWEST:
        label = int(known[counts.argmin()])
        name = job.provider.main.classes[label] if job.provider.main.classes else label
        raise UsageError(
            f"{metric} is cross-validated, which takes at least {FEWEST} samples of each class, and '{name}' has "
            f"{counts.min()}; give more of it, or leave the class out"
        )
    return np.asarray(places.reshape(-1), dtype=np.int64)
