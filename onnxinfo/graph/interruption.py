"""Interruptible calls into native code, with a time limit.

Python's signal handlers run in the main thread, but not while it executes native code: a model that never finishes
would ignore even Ctrl-C.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from ..errors import ModelError

T = TypeVar("T")

#: Time limit of a call, in seconds.
_LIMIT: ContextVar[float] = ContextVar("time limit", default=600.0)
#: Seconds that an interrupted call may take to end.
PATIENCE = 5.0


def current_limit() -> float:
    """Return the current time limit of a call, in seconds."""
    return _LIMIT.get()


def set_limit(seconds: float) -> None:
    """Limit each call from now on, like :func:`time_limit` without a context."""
    _LIMIT.set(seconds)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit each call into ONNX Runtime within the context to a number of seconds."""
    token = _LIMIT.set(seconds)
    try:
        yield
    finally:
        _LIMIT.reset(token)


class _Call:
    """A call in its own thread, and the calls that it makes in turn."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self.stopped = False

    def stop(self) -> None:
        """Ask the call to end."""
        self.stopped = True
        self._stop()

    def nested(self, call: Callable[[], T], stop: Callable[[], None]) -> T:
        """Make another call in the same thread; from now on it is this one that is asked to end.

        Raises
        ------
        ModelError
            The call was asked to end.
        """
        self._stop = stop
        if self.stopped:
            raise ModelError("the computation was interrupted")
        return call()


_THREAD = threading.local()
_Calls = SimpleQueue[tuple[Callable[[], Any], _Call] | None]
_Results = SimpleQueue[tuple[Any, BaseException | None]]


class _Worker:
    """A thread that makes one call after the other: starting a thread takes longer than many a call."""

    def __init__(self) -> None:
        self._calls: _Calls = SimpleQueue()
        self._results: _Results = SimpleQueue()
        self._process = os.getpid()
        #: Whether a call was not seen to end.
        self.busy = False
        threading.Thread(target=_work, args=(self._calls, self._results), daemon=True).start()

    def __del__(self) -> None:
        self._calls.put(None)

    @property
    def free(self) -> bool:
        """Whether the thread waits for a call; a forked process has no such thread."""
        return not self.busy and self._process == os.getpid()

    def start(self, call: Callable[[], Any], made: _Call) -> None:
        """Start a call."""
        self.busy = True
        self._calls.put((call, made))

    def wait(self, seconds: float) -> tuple[Any, BaseException | None]:
        """Wait for the call to end; return its result, and its exception if it raised one.

        Raises
        ------
        queue.Empty
            It did not end in time.
        """
        found = self._results.get(timeout=seconds)
        self.busy = False
        return found


def _work(calls: _Calls, results: _Results) -> None:
    while (given := calls.get()) is not None:
        call, made = given
        _THREAD.call = made
        found: tuple[Any, BaseException | None]
        try:
            found = call(), None
        except BaseException as error:
            found = None, error
        stopped = made.stopped
        # While it waits, the thread keeps nothing alive.
        del given, call, made, _THREAD.call
        results.put(found)
        del found
        if stopped:
            return


def interruptible(call: Callable[[], T], stop: Callable[[], None] = lambda: None) -> T:
    """Make a call in a separate thread, so that this one keeps handling signals.

    Interruptible calls that the call makes share its thread and its time limit.

    Parameters
    ----------
    call
        The call.
    stop
        Asks the call to end. If it does not end within :data:`PATIENCE`, it is abandoned.

    Returns
    -------
    object
        Result of the call.

    Raises
    ------
    ModelError
        The call exceeds the time limit.
    BaseException
        Any exception of the call, or of a signal handler.
    """
    outer: _Call | None = getattr(_THREAD, "call", None)
    if outer is not None:
        return outer.nested(call, stop)
    worker: _Worker | None = getattr(_THREAD, "worker", None)
    if worker is None or not worker.free:
        worker = _THREAD.worker = _Worker()
    made = _Call(stop)
    worker.start(call, made)
    limit = _LIMIT.get()
    try:
        result, error = worker.wait(limit)
    except Empty:
        raise ModelError(
            f"the model was not computed within {limit:g} s, perhaps it never ends; give timeout=... for another limit"
        ) from None
    finally:
        if worker.busy:
            _end(worker, made)
    try:
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]
    finally:
        # An exception's traceback would keep this frame, and the frame the exception.
        del error


def _end(worker: _Worker, made: _Call) -> None:
    """Ask a call to end, and wait for that; the thread is not used again."""
    # A signal handler may have made a call, for which there is another thread then.
    if getattr(_THREAD, "worker", None) is worker:
        del _THREAD.worker
    made.stop()
    with suppress(Empty):
        worker.wait(PATIENCE)
