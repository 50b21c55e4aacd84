"""Calls into native code that can be interrupted, and that end after a time limit.

Python's signal handlers run in the main thread, and not while that is inside native code: a model that never ends would
not even heed Ctrl-C.
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

#: Seconds that a call may take.
_LIMIT: ContextVar[float] = ContextVar("time limit", default=600.0)
#: Seconds that a call which was asked to stop has for it.
PATIENCE = 5.0


def current_limit() -> float:
    """Return the number of seconds that a call may take here."""
    return _LIMIT.get()


def set_limit(seconds: float) -> None:
    """Limit each call from now on, as :func:`time_limit` does within a context."""
    _LIMIT.set(seconds)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit each call into ONNX Runtime within the context to a number of seconds."""
    token = _LIMIT.set(seconds)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def interruptible(call: Callable[[], T], stop: Callable[[], None]) -> T:
    """Make a call in a thread of its own, so that this one hears signals.

    Parameters
    ----------
    call
        The call.
    stop
        Asks the call to end. It is left behind if it does not within :data:`PATIENCE`.

    Returns
    -------
    object
        What the call returns.

    Raises
    ------
    ModelError
        The call takes longer than the time limit.
    BaseException
        Whatever the call raises, or a signal's handler.
    """
    done: Future[T] = Future()
    thread = threading.Thread(target=_complete, args=(done, call), daemon=True)
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
            stop()
            thread.join(PATIENCE)


def _complete(done: Future[T], call: Callable[[], T]) -> None:
    try:
        done.set_result(call())
    except BaseException as error:
        done.set_exception(error)
