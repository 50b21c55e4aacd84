"""Preprocessed samples in arrays, as sent to another process or machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .samples import Samples

Array = npt.NDArray[Any]


class PreprocessedSamples(Samples):
    """Preprocessed samples of one graph input in an array.

    Parameters
    ----------
    samples
        Samples that provide names, labels, layout and unit.
    held
        All samples, preprocessed, (n, *shape); or a ``.npy`` file with them.
    """

    def __init__(self, samples: Samples, held: Array | Path) -> None:
        self.names, self.labels, self.classes = samples.names, samples.labels, samples.classes
        self.positions, self.unreadable, self.available = samples.positions, samples.unreadable, samples.available
        self.shape, self.layout, self.dtype = samples.shape, samples.layout, samples.dtype
        self.preprocessing = samples.preprocessing
        self.unit = samples.unit
        self._held = held

    def batch(self, indices: Sequence[int]) -> Array:
        """Return samples as the model takes them; see :meth:`Samples.batch`."""
        # A memory-mapped file takes memory only for samples in use, once for all processes.
        held = np.load(self._held, mmap_mode="r") if isinstance(self._held, Path) else self._held
        return np.array(held[list(indices)])


def write_memmap(samples: Samples, path: Path) -> PreprocessedSamples:
    """Write samples to a new file in batches, and return samples backed by it."""
    held = np.lib.format.open_memmap(path, "w+", samples.dtype, (len(samples), *samples.shape))
    for start in range(0, len(samples), _AT_ONCE):
        held[start : start + _AT_ONCE] = samples.batch(range(start, min(start + _AT_ONCE, len(samples))))
    held.flush()
    return PreprocessedSamples(samples, path)


_AT_ONCE = 32
