"""The local engine: this process, or several on this machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..analysis.tasks import Worker
from ..config import ExecutionConfig
from .base import Engine, local_workers
from .processes import ProcessExecutor
from .serial import SerialExecutor, threads
from .worker_spec import describe_worker


@contextlib.contextmanager
def open_local(execution: ExecutionConfig, worker: Worker) -> Iterator[Engine]:
    """Execute in this process, or in several on this machine."""
    devices, count = local_workers(execution, worker.job.device)
    if len(devices) == 1:
        with threads(count):
            yield SerialExecutor(worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        spec = describe_worker(worker, Path(folder), device=devices[0], threads=count)
        with ProcessExecutor(spec, devices, Path(folder) / "worker") as processes:
            yield processes
