"""Whether HDF5 survives a file, found out in a process whose death hurts nobody.

On a file made to do harm, or damaged where no checksum looks, the HDF5 library may crash, run forever or take all
memory, and the whole process with it. So whatever is opened is walked through by a forked child first.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable

with contextlib.suppress(ImportError):
    import resource

# Of the child's computing, and of waiting for one that does not compute.
CPU_SECONDS, WAITING_SECONDS = 8, 60
# Of address space: also what is only asked for counts.
MEMORY_BYTES = 1 << 30


def survives(work: Callable[[], object]) -> bool:
    """Tell whether `work` ends, well or by an exception, rather than crash the process, compute forever or take it all.

    Parameters
    ----------
    work
        Done in a forked child; what it returns or changes is lost.

    Returns
    -------
    bool
        Where processes cannot be forked, True: it is taken for granted.
    """
    if sys.platform != "linux":
        return True
    ended, held = os.pipe()
    with warnings.catch_warnings():
        # The child touches nothing that another thread may have locked: h5py itself sees to its own lock.
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
        # Who ignores the end of children is not told how they ended.
        return True
    # That it waits for something is no fault of the file's.
    return not waited or status == 0


def _work_and_exit(work: Callable[[], object]) -> None:
    code = 0
    try:
        before = _peak()
        faulthandler.disable()
        # What HDF5 complains of on the way is said once, by who reads the file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        limit_computing(CPU_SECONDS)
        with contextlib.suppress(BaseException):
            work()
        code = int(_peak() - before > MEMORY_BYTES)
    finally:
        os._exit(code)


def limit_computing(seconds: int) -> None:
    """Let this process end, without a memory image of it, when it has computed for so many seconds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def _peak() -> int:
    """Largest address space that the process had so far, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(file.read().partition("VmPeak:")[2].split()[0]) << 10
