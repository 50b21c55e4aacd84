"""Memory and disk that an analysis takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..analysis.job import Job
from ..archive.format import SMALL_MAP_BYTES, Metric, chunk_bytes, encode_map
from ..metrics.budget import activation_bytes

#: Bytes of a run beside its cells, and of a cell beside its numbers and its map.
RUN_BYTES, CELL_BYTES = 60_000, 30
#: Number of values whose size represents a whole map.
SAMPLED_VALUES = 2**16


def peak_memory(job: Job) -> int:
    """Peak of the memory so far in bytes, of the GPU's if there is one; 0 where it is unknown (Windows)."""
    if job.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(job.device))
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    # In kilobytes, except on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def expected_memory(job: Job) -> int:
    """Peak of the memory to expect in bytes, without a probe: the peak so far, and the activations of a batch."""
    peak = peak_memory(job)
    return peak and peak + activation_bytes(job.network, *job.inputs([0]), job.batch_size, job.memory)


def disk_bytes(metrics: Mapping[str, Metric], cells: Mapping[str, int], map_bytes: float) -> float:
    """Size in bytes of cells in an archive.

    Parameters
    ----------
    metrics
        The metrics, by name.
    cells
        Number of cells, by metric.
    map_bytes
        Size of a cell's map.
    """
    return sum(
        count * (CELL_BYTES + sum(np.dtype(each.dtype).itemsize for each in metrics[name].columns))
        + count * map_bytes * metrics[name].has_map
        for name, count in cells.items()
    )


def typical_map_bytes(shape: Sequence[int], compression: str) -> float:
    """Size in bytes of a stored map without structure: that of log-normal noise."""
    size = math.prod(shape)
    noise = np.random.default_rng(0).lognormal(size=min(size, SAMPLED_VALUES)).astype(np.float32)
    stored = encode_map(noise, compression)
    if size * stored.itemsize <= SMALL_MAP_BYTES:
        return size * stored.itemsize
    return len(chunk_bytes(stored, compression)) * size / noise.size
