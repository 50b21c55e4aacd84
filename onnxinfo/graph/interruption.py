"""Interruptible calls into native code, with a time limit.

Python's signal handlers run in the main thread, but not while it executes native code: a model that never finishes
would ignore even Ctrl-C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

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
        self._stopped = False

    def stop(self) -> None:
        """Ask the call to end."""
        self._stopped = True
        self._stop()

    def nested(self, call: Callable[[], T], stop: Callable[[], None]) -> T:
        """Make another call in the same thread; from now on it is this one that is asked to end.

        Raises
        ------
        ModelError
            The call was asked to end.
        """
        self._stop = stop
        if self._stopped:
            raise ModelError("the computation was interrupted")
        return call()


_THREAD = threading.local()


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
    done: Future[T] = Future()
    made = _Call(stop)
    thread = threading.Thread(target=_complete, args=(done, call, made), daemon=True)
    thread.start()
    limit = _LIMIT.get()
    try:
        return done.result(limit)
    except TimeoutError:
        if done.done():
            raise
        raise ModelError(
            f"the model was not computed within {limit:g} s, perhaps it never ends; give timeout=... for another limit"
        ) from None
    finally:
        if not done.done():
            made.stop()
            thread.join(PATIENCE)


def _complete(done: Future[T], call: Callable[[], T], made: _Call) -> None:
    _THREAD.call = made
    try:
        done.set_result(call())
    except BaseException as error:
        done.set_exception(error)
