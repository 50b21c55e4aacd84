"""Execution on a Ray cluster: tasks of the analysis are Ray tasks, and lost ones are recomputed."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..analysis.tasks import Task, Worker
from ..config import ExecutionConfig
from ..errors import OnnxinfoError, ResourceError, UsageError
from ..torch_graph.full_precision import full_precision
from .base import AHEAD, Engine, ahead
from .worker_spec import WorkerSpec, describe_worker

T = TypeVar("T")

#: Number of retries of a task whose worker is lost.
RETRIES = 5


@dataclass(frozen=True)
class RayExecutor:
    """Workers of a Ray cluster.

    Attributes
    ----------
    device
        Device kind of the workers, ``cuda`` or ``cpu``.
    threads
        Cores per worker.
    most
        Maximum number of tasks in flight.
    """

    device: str
    threads: int
    most: int
    _spec: Any = None
    _perform: Any = None

    def put(self, spec: WorkerSpec) -> RayExecutor:
        """Put model and samples into the object store, once for all workers."""
        import ray

        remote: Any = ray.remote(num_cpus=self.threads, num_gpus=int(self.device == "cuda"), max_retries=RETRIES)(
            _perform
        )
        return replace(self, _spec=[ray.put(spec)], _perform=remote)

    def map(self, tasks: Iterable[Task[T]]) -> Iterator[tuple[Task[T], T]]:
        """See :class:`.base.Engine`."""
        import ray

        for task, reference in ahead(tasks, self._submit, _first, self.most):
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                raise cause if isinstance(cause, OnnxinfoError) else error from None
            except ray.exceptions.RayError as error:
                raise ResourceError(
                    f"Ray lost a worker {RETRIES + 1} times ({type(error).__name__}); what is finished is kept: look "
                    f"at the cluster, then run again to go on"
                ) from None
            yield task, outcome

    def _submit(self, task: Task[Any]) -> Any:
        return self._perform.remote(self._spec, task)


@contextlib.contextmanager
def open_ray(execution: ExecutionConfig, worker: Worker) -> Iterator[Engine]:
    """Execute on a Ray cluster."""
    with tempfile.TemporaryDirectory() as folder, _joined(execution) as cluster:
        spec = describe_worker(worker, Path(folder), device=cluster.device, threads=cluster.threads)
        yield cluster.put(spec.in_memory())


@contextlib.contextmanager
def _joined(execution: ExecutionConfig) -> Iterator[RayExecutor]:
    """Connect to a Ray cluster within a with block.

    Raises
    ------
    UsageError
        Ray is not installed, there is no cluster at the address, or it lacks the resources for a worker.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("engine ray needs Ray; install it by: pip install 'onnxinfo[ray]'") from None
    joined = not ray.is_initialized()
    if joined:
        try:
            ray.init(address=execution.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"no Ray cluster at {execution.ray_address or 'this machine'}: {reason}") from None
    try:
        yield _engine(execution, dict(ray.cluster_resources()))  # type: ignore[no-untyped-call]
    finally:
        if joined:
            ray.shutdown()


def _engine(execution: ExecutionConfig, there: dict[str, float]) -> RayExecutor:
    device = execution.device
    if ":" in device:
        raise UsageError(f"Ray chooses among the GPUs itself; use device cuda or auto, not {device}")
    kind = ("cuda" if there.get("GPU") else "cpu") if device == "auto" else device
    threads = execution.threads or 1
    room = int(there.get("GPU", 0)) if kind == "cuda" else int(there.get("CPU", 0)) // threads
    if room < 1:
        need = "a GPU" if kind == "cuda" else f"{threads} cores"
        raise UsageError(f"no worker fits into the Ray cluster: {need} wanted, it has {_listing(there)}")
    # Ray starts tasks as soon as there is room; the number of workers is limited by submitting fewer tasks.
    return RayExecutor(kind, threads, execution.workers or AHEAD * room)


def _listing(there: dict[str, float]) -> str:
    return f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"


def _first(references: Sequence[Any]) -> Any:
    import ray

    return ray.wait(list(references), num_returns=1)[0][0]


# Most recent analysis in this process, and its worker.
_made: tuple[str, Worker] | None = None


def _perform(spec: list[Any], task: Task[T]) -> T:
    """Perform a task in a Ray process, which is kept for further tasks."""
    global _made
    import ray

    (reference,) = spec
    with full_precision():
        if _made is None or _made[0] != reference.hex():
            _made = reference.hex(), ray.get(reference).worker()
        return task.perform(_made[1])
