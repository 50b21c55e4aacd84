"""Going on with less where a device's memory does not suffice."""

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
    """Process blocks of samples; if memory runs out, halve the number of inputs evaluated at once and continue.

    Where it does not suffice for a single input, activations are computed again for the backward pass.

    Parameters
    ----------
    job
        Its ``batch_size`` is halved.
    blocks
        Positions of samples. One that is larger than the new batch size is cut.
    work
        Of a block that memory did not suffice for, all is done again.

    Raises
    ------
    ResourceError
        Memory does not suffice for one input at a time.
    """
    pending = deque(blocks)
    while pending:
        block = pending.popleft()
        if not _fits(work, block):
            # Outside of any handler: an exception's frames hold on to what filled the memory.
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
        logger.warning("memory of %s ran out; activations are computed again from here on", job.device)
        return [block]
    job.batch_size = max(1, job.batch_size // 2)
    logger.warning("memory of %s ran out; inputs evaluated at once from here on: %d", job.device, job.batch_size)
    size = min(len(block), job.batch_size)
    return [block[start : start + size] for start in range(0, len(block), size)]
