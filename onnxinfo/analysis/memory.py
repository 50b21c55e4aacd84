"""Retry with smaller batches if a device runs out of memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable

import torch

from ..errors import ResourceError
from ..metrics.budget import is_exhaustion
from .job import Job

logger = logging.getLogger(__name__)


def for_each(job: Job, blocks: Iterable[list[int]], work: Callable[[list[int]], None]) -> None:
    """Process blocks of samples; if memory runs out, halve the batch size and retry.

    If a single input does not fit, activations are recomputed in the backward pass.

    Parameters
    ----------
    job
        The job; its ``batch_size`` is halved.
    blocks
        Positions of samples. Blocks larger than the new batch size are split.
    work
        Work on one block; repeated in full if memory runs out.

    Raises
    ------
    ResourceError
        A single input does not fit into memory.
    """
    pending = deque(blocks)
    while pending:
        block = pending.popleft()
        if not _fits(work, block):
            # Outside any handler: the frames of an exception keep alive the tensors that filled the memory.
            pending.extendleft(reversed(_with_less(job, block)))


def _fits(work: Callable[[list[int]], None], block: list[int]) -> bool:
    try:
        work(block)
    except (RuntimeError, MemoryError) as error:
        if not is_exhaustion(error):
            raise
        return False
    return True


def _with_less(job: Job, block: list[int]) -> list[list[int]]:
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
    if job.batch_size == 1 and len(block) == 1:
        if job.network.segments > 1 or job.network.recompute(0, *job.inputs(block)) == 1:
            raise ResourceError(
                f"the memory of {job.device} does not suffice for one sample; choose fewer layers, or another "
                f"device=..."
            )
        logger.warning("%s is out of memory; activations are recomputed from here on", job.device)
        return [block]
    job.batch_size = max(1, job.batch_size // 2)
    logger.warning("%s is out of memory; batch size from here on: %d", job.device, job.batch_size)
    size = min(len(block), job.batch_size)
    return [block[start : start + size] for start in range(0, len(block), size)]
