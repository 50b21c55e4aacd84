"""What an engine is: it computes tasks that do not depend on each other, and yields each outcome once it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch

from ..analysis.tasks import Task, Worker
from ..config import ExecutionConfig
from ..registry import ENGINES

T = TypeVar("T")
Handle = TypeVar("Handle")

#: Tasks given out for every one that is being computed: the next is there when one is done.
AHEAD = 2


class Engine(Protocol):
    """Computes tasks."""

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """Compute tasks; with each comes its outcome, in the order in which they are finished.

        Raises
        ------
        ResourceError
            A worker was lost for good.
        """


def local_workers(execution: ExecutionConfig, used: torch.device) -> tuple[list[str], int]:
    """Return the device of each worker on this machine, and the number of threads of each.

    Parameters
    ----------
    execution
        What may be used: each worker gets a GPU of its own unless one GPU is named.
    used
        Device of this process.
    """
    there = [str(used)]
    if used.type == "cuda" and ":" not in execution.device:
        there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    count = execution.workers or len(there)
    devices = [there[i % len(there)] for i in range(count)]
    return devices, execution.threads or max(1, torch.get_num_threads() // count)


def describe_execution(execution: ExecutionConfig, used: torch.device) -> dict[str, Any]:
    """Return what the archive's provenance keeps; the number of workers changes nothing."""
    is_local = execution.engine == ExecutionConfig.engine
    threads = local_workers(execution, used)[1] if is_local else execution.threads or 1
    return {"engine": execution.engine, "threads": threads}


def open_engine(execution: ExecutionConfig, worker: Worker) -> AbstractContextManager[Engine]:
    """Make an engine ready, for as long as a block lasts.

    Parameters
    ----------
    execution
        What may be used.
    worker
        Of this process, its metrics prepared.
    """
    opened: AbstractContextManager[Engine] = ENGINES.get(execution.engine)(execution, worker)
    return opened


def ahead(
    tasks: Iterable[Task[T]],
    submit: Callable[[Task[T]], Handle],
    first: Callable[[Sequence[Handle]], Handle],
    most: int,
) -> Iterator[tuple[Task[T], Handle]]:
    """Give out tasks, never more than so many at a time, and yield each with its handle when it is done.

    Parameters
    ----------
    tasks
        Made when they are given out.
    submit
        Gives one out.
    first
        Waits until one of the handles is done and returns it.
    most
        Tasks given out at a time.
    """
    pending: dict[Handle, Task[T]] = {}
    for task in tasks:
        pending[submit(task)] = task
        if len(pending) >= most:
            done = first(list(pending))
            yield pending.pop(done), done
    while pending:
        done = first(list(pending))
        yield pending.pop(done), done
