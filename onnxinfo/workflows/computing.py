"""The conditions under which every command computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..graph.interruption import time_limit
from ..torch_graph.full_precision import full_precision

#: Where settings of workers have no effect.
IN_ONE_PROCESS = "on a measurement in one process"


@contextlib.contextmanager
def computing(timeout: float) -> Iterator[None]:
    """Limit the time of one batch in ONNX Runtime, in seconds, and compute in float32 on every device."""
    with time_limit(timeout), full_precision():
        yield
