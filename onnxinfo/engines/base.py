"""Interface of engines: they compute independent tasks and yield each result as soon as it is available."""

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

#: Submitted tasks per running task, so that the next one is ready when one finishes.
AHEAD = 2


class Engine(Protocol):
    """Executes tasks."""

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """Execute tasks; yield each with its result, in order of completion.

        Raises
        ------
        ResourceError
            A worker was lost permanently.
        """


def local_workers(execution: ExecutionConfig, used: torch.device) -> tuple[list[str], int]:
    """Return the device of each worker on this machine, and the number of threads per worker.

    Parameters
    ----------
    execution
        Available resources: each worker gets its own GPU, unless one GPU is named.
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
    """Return the entries of the archive's provenance; the number of workers does not affect results."""
    is_local = execution.engine == ExecutionConfig.engine
    threads = local_workers(execution, used)[1] if is_local else execution.threads or 1
    return {"engine": execution.engine, "threads": threads}


def open_engine(execution: ExecutionConfig, worker: Worker) -> AbstractContextManager[Engine]:
    """Open an engine within a with block.

    Parameters
    ----------
    execution
        Available resources.
    worker
        Worker of this process, with prepared metrics.
    """
    opened: AbstractContextManager[Engine] = ENGINES.get(execution.engine)(execution, worker)
    return opened


def ahead(
    tasks: Iterable[Task[T]],
    submit: Callable[[Task[T]], Handle],
    first: Callable[[Sequence[Handle]], Handle],
    most: int,
) -> Iterator[tuple[Task[T], Handle]]:
    """Submit tasks, with a limit on those in flight, and yield each with its handle when it is done.

    Parameters
    ----------
    tasks
        Tasks, created lazily on submission.
    submit
        Submits a task.
    first
        Waits until one of the handles is done and returns it.
    most
        Maximum number of tasks in flight.
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
