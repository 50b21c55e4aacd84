"""The engine of this machine: this process, or several."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..analysis.tasks import Worker
from ..config import ExecutionConfig
from .base import Engine, local_workers
from .processes import Processes
from .request import request
from .serial import Here, threads


@contextlib.contextmanager
def open_local(execution: ExecutionConfig, worker: Worker) -> Iterator[Engine]:
    """Compute in this process, or in several of this machine."""
    devices, count = local_workers(execution, worker.job.device)
    if len(devices) == 1:
        with threads(count):
            yield Here(worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        asked = request(worker, Path(folder), device=devices[0], threads=count)
        with Processes(asked, devices, Path(folder) / "request") as processes:
            yield processes
