"""Execution in this process."""

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
    """Executes tasks one by one in this process."""

    worker: Worker

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """See :class:`.base.Engine`."""
        for task in tasks:
            yield task, task.perform(self.worker)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Set the number of torch threads within a with block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
