"""Orderly termination on SIGTERM, so that open files are closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def orderly_termination() -> Iterator[None]:
    """Raise ``SystemExit`` if SIGTERM arrives within the context.

    Otherwise the process would end at once, and HDF5 would consider its file as still being written. A program's own
    handler stays, and so does the default outside the main thread, because Python lets no other thread set handlers.
    """
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not free:
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
