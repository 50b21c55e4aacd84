"""Whether HDF5 survives a file, found out in a process whose death hurts nobody.

On a file made to do harm, or damaged where no checksum looks, the HDF5 library may crash or run forever, and takes the
whole process with it. So whatever is opened is walked through by a forked child first.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import warnings
from collections.abc import Callable

# Of the child's computing, and of waiting for one that does not compute.
CPU_SECONDS, WAITING_SECONDS = 8, 60


def survives(work: Callable[[], object]) -> bool:
    """Tell whether `work` ends, well or by an exception, rather than crash the process or compute forever.

    Where processes cannot be forked, it is taken for granted.
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
    if not select.select([ended], [], [], WAITING_SECONDS)[0]:
        # It waits for something: no fault of the file's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ended)
        return True
    os.close(ended)
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _work_and_exit(work: Callable[[], object]) -> None:
    import faulthandler
    import resource

    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        work()
    finally:
        os._exit(0)
