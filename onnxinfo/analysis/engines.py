"""Where an analysis is computed: in this process, in several of this machine, or on a cluster of Ray's.

Each computes tasks that do not depend on each other, and gives back what came of them as soon as it is there.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from ..config import ExecutionConfig
from ..errors import ResourceError, UsageError
from ..registry import ENGINES
from .request import Request, request
from .tasks import Task, Worker

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


@contextlib.contextmanager
def open_local(execution: ExecutionConfig, worker: Worker) -> Iterator[Engine]:
    """Compute in this process, or in several of this machine."""
    devices, threads = local_workers(execution, worker.job.device)
    if len(devices) == 1:
        with _threads(threads):
            yield Here(worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        asked = request(worker, Path(folder), device=devices[0], threads=threads)
        with Processes(asked, devices, Path(folder) / "request") as processes:
            yield processes


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Here:
    """The process that is there already, one task after the other."""

    worker: Worker

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """See :class:`Engine`."""
        for task in tasks:
            yield task, task.perform(self.worker)


class Processes:
    """Several processes of this machine, each with a device. A context manager.

    Parameters
    ----------
    asked
        What workers are made from.
    devices
        One for each process.
    path
        Where the request is written for them.
    """

    def __init__(self, asked: Request, devices: Sequence[str], path: Path) -> None:
        path.write_bytes(_pickled(asked))
        context = multiprocessing.get_context("spawn")
        waiting = context.SimpleQueue()
        for device in devices:
            waiting.put(device)
        self._most = AHEAD * len(devices)
        self._pool = ProcessPoolExecutor(len(devices), context, _begin, (str(path), waiting))

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """See :class:`Engine`."""
        try:
            for task, future in ahead(tasks, self._submit, _first, self._most):
                yield task, future.result()
        except BrokenProcessPool:
            raise ResourceError(
                "a worker process died, killed or out of memory; what is finished is kept: run again to go on, "
                "with fewer --workers or less --memory-limit"
            ) from None

    def _submit(self, task: Task[Any]) -> Any:
        return self._pool.submit(_perform, task)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        # Who stops early does not wait for what is being computed.
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def _pickled(asked: Request) -> bytes:
    for name, measure in asked.measures.items():
        try:
            pickle.dumps(measure)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"metric '{name}' cannot be sent to other processes ({error}): define its class at the top level of a "
                f"module, or use one worker"
            ) from None
    return pickle.dumps(asked)


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


def _first(futures: Sequence[Any]) -> Any:
    return next(iter(wait(futures, return_when=FIRST_COMPLETED).done))


# Of a worker process: what it is made from, its device, and the worker once it has something to do.
_path, _device = "", ""
_worker: Worker | None = None


def _begin(path: str, devices: Any) -> None:
    global _path, _device
    # Whoever presses Ctrl-C means the analysis; its process sees to the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _path, _device = path, devices.get()


def _perform(task: Task[T]) -> T:
    global _worker
    if _worker is None:
        asked: Request = pickle.loads(Path(_path).read_bytes())
        _worker = asked.on(_device).worker()
    return task.perform(_worker)
