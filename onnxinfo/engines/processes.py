"""Execution in several processes on this machine."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from ..analysis.tasks import Task, Worker
from ..errors import ResourceError, UsageError
from ..torch_graph.full_precision import full_precision
from .base import AHEAD, ahead
from .worker_spec import WorkerSpec

T = TypeVar("T")


class ProcessExecutor:
    """Pool of processes on this machine, each with a device; a context manager.

    Parameters
    ----------
    spec
        Specification that workers are made from.
    devices
        Devices, one per process.
    path
        File in which the specification is passed to the processes.
    """

    def __init__(self, spec: WorkerSpec, devices: Sequence[str], path: Path) -> None:
        path.write_bytes(_pickled(spec))
        context = multiprocessing.get_context("spawn")
        waiting = context.SimpleQueue()
        for device in devices:
            waiting.put(device)
        self._most = AHEAD * len(devices)
        self._pool = ProcessPoolExecutor(len(devices), context, _begin, (str(path), waiting))

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """See :class:`.base.Engine`."""
        try:
            for task, future in ahead(tasks, self._submit, _first, self._most):
                yield task, future.result()
        except BrokenProcessPool:
            raise ResourceError(
                "a worker process died, killed or out of memory; what is finished is kept: run again to go on, "
                "with fewer workers=... or a smaller memory_limit=..."
            ) from None

    def _submit(self, task: Task[Any]) -> Any:
        return self._pool.submit(_perform, task)

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        # If stopped early, do not wait for running tasks.
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


def _pickled(spec: WorkerSpec) -> bytes:
    for name, measure in spec.measures.items():
        try:
            pickle.dumps(measure)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                f"metric '{name}' cannot be sent to other processes ({error}): define its class at the top level of a "
                f"module, or use one worker"
            ) from None
    return pickle.dumps(spec)


def _first(futures: Sequence[Any]) -> Any:
    return next(iter(wait(futures, return_when=FIRST_COMPLETED).done))


# State of a worker process: its specification, its device, and the worker, which is created for the first task.
_path, _device = "", ""
_worker: Worker | None = None


def _begin(path: str, devices: Any) -> None:
    global _path, _device
    # Ctrl-C is meant for the main process, which stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _path, _device = path, devices.get()


def _perform(task: Task[T]) -> T:
    global _worker
    with full_precision():
        if _worker is None:
            spec: WorkerSpec = pickle.loads(Path(_path).read_bytes())
            _worker = spec.for_device(_device).worker()
        return task.perform(_worker)
