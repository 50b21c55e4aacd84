"""Test in a child process whether HDF5 survives a file.

A malicious file, or damage that no checksum covers, may make the HDF5 library crash, loop forever or exhaust memory,
and take the whole process with it. Therefore a forked child first walks through every file that is opened.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable

with contextlib.suppress(ImportError):
    import resource

# CPU time of the child, and maximum wall time if it waits instead of computing.
CPU_SECONDS, WAITING_SECONDS = 8, 60
# Limit of the address space, which includes memory that is requested but not used.
MEMORY_BYTES = 1 << 30


def survives(work: Callable[[], object]) -> bool:
    """Whether `work` ends, normally or with an exception, instead of crashing, looping forever or exhausting memory.

    Parameters
    ----------
    work
        Executed in a forked child; its results and side effects are lost.

    Returns
    -------
    bool
        True without a test if processes cannot be forked.
    """
    if sys.platform != "linux":
        return True
    ended, held = os.pipe()
    with warnings.catch_warnings():
        # The child uses nothing that another thread may have locked; h5py handles its own lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _work_and_exit(work)
    os.close(held)
    waited = bool(select.select([ended], [], [], WAITING_SECONDS)[0])
    os.close(ended)
    if not waited:
        os.kill(child, signal.SIGKILL)
    try:
        status = os.waitpid(child, 0)[1]
    except ChildProcessError:
        # Processes that ignore SIGCHLD do not receive their children's exit status.
        return True
    # If the child was still waiting for something, the file is not to blame.
    return not waited or status == 0


def _work_and_exit(work: Callable[[], object]) -> None:
    code = 0
    try:
        # Garbage of the parent may wait, when it is collected, for threads that do not exist here.
        gc.disable()
        before = _peak()
        faulthandler.disable()
        # The process that reads the file reports HDF5's complaints, once.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        limit_computing(CPU_SECONDS)
        with contextlib.suppress(BaseException):
            work()
        code = int(_peak() - before > MEMORY_BYTES)
    finally:
        os._exit(code)


def limit_computing(seconds: int) -> None:
    """Terminate this process, without a core dump, after this many seconds of CPU time."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _peak() -> int:
    """Peak address space of the process, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(file.read().partition("VmPeak:")[2].split()[0]) << 10
