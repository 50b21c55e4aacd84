"""The engine that computes in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from ..analysis.tasks import Task, Worker

T = TypeVar("T")


@dataclass(frozen=True)
class SerialExecutor:
    """The process that is there already, one task after the other."""

    worker: Worker

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """See :class:`.base.Engine`."""
        for task in tasks:
            yield task, task.perform(self.worker)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, for as long as a block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
